"""The start of `mdlm` and of `python -m mdlm_min`: stop signals have their handler before anything slow is imported."""

import sys

from mdlm_min.run.signals import end_at_stop_signals, ignore_stop_signals, say_stopped


def main() -> int:
    """Run the command in sys.argv; returns its exit code."""
    end_at_stop_signals()
    from mdlm_min.cli.main import main as command

    try:
        return command()
    except KeyboardInterrupt:  # from a run that has written its checkpoint
        return say_stopped()
    finally:
        ignore_stop_signals()  # the result stands, whatever comes while the interpreter ends


if __name__ == "__main__":
    sys.exit(main())

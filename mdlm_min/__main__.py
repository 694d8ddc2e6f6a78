"""The start of `mdlm` and of `python -m mdlm_min`: stop signals have their handler before anything slow is imported."""

import io
import os
import sys
from pathlib import Path

from mdlm_min.run.signals import end_at_stop_signals, ignore_stop_signals, say_stopped

READER_GONE = 141  # what a shell reports for a program that a broken pipe ended


def main() -> int:
    """Run the command in sys.argv; returns its exit code."""
    end_at_stop_signals()
    _prepare_output()
    from mdlm_min.cli.main import main as command

    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # an error in writing the output is met here, not while the interpreter ends
    except KeyboardInterrupt:  # from a run that has written its checkpoint
        return say_stopped()
    except BrokenPipeError:  # the reader of the output has ended, as `| head` does
        _drop_output()
        return READER_GONE
    except OSError as error:  # a full disk, most often: what reads and writes files names them itself
        _drop_output()
        print(f"mdlm: {error.filename or 'the output'} cannot be written or read: {error.strerror}", file=sys.stderr)
        return 3
    finally:
        ignore_stop_signals()  # the result stands, whatever comes while the interpreter ends


def _prepare_output() -> None:
    """A character that the output's encoding lacks, as in a path that is no text, is escaped. A closed output is none."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is left to write goes nowhere: the interpreter would meet the same error again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

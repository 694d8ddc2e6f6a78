"""The `mdlm` command: its parsers put together, and its errors as one line and an exit code.

Every Makefile target of the suite is one line of it.
"""

import argparse
import errno
import os
import sys
from pathlib import Path

from mdlm_min.cli import (
    compare,
    contest,
    evaluate,
    evidence,
    experiments,
    finetune,
    generate,
    judge,
    pretraining,
    sample,
    train,
    window,
)
from mdlm_min.cli.command import CommandParser
from mdlm_min.run.errors import InputError, RunError

OUR_PACKAGES = ("mdlm_min", "baselines")
GROUPS = (experiments, contest, evidence, judge, compare, train, sample, finetune, generate, window, pretraining, evaluate)
NO_MEMORY = ("OutOfMemoryError", "can't allocate memory")  # torch's words, on a GPU and on a CPU; it need not be imported here
EPILOG = """exit codes: 0 done; 1 a verdict or a golden number has moved (verify); 2 bad input; 3 a run failed; 130 stopped.
examples:
  mdlm run parity                      the cpu tier of 01_parity, all cores, then its verdicts
  mdlm run parity --tier smoke         the same machinery in seconds
  mdlm run parity --arms all --seeds 5 every arm, five seeds; finished runs are kept
  mdlm train --text corpus.txt         a small model of your text, and what it writes
  mdlm sample runs/train/corpus        more of its text
  mdlm finetune --data talk.jsonl --start runs/train/corpus   answers, learned from conversations
  mdlm generate LLADA --chat --prompt "Why is the sky blue?" --block-length 32   an answer, shown as it is written
  mdlm window --text corpus.txt        the mask rates that F.4 predicts for your corpus
  mdlm plan 8b_pt --gpus 8 --gpu h100  memory, hours and what to change before a large run
  mdlm eval FOLDER --tasks arc_easy    benchmarks by lm-eval; arc_easy_local reads MDLM_DATA
  mdlm contest --schedule my.py:Mine   a mask schedule of your own, ranked among those of the field
  mdlm verify                          every claim's verdict, recomputed from results/
  mdlm report                          results/report.md and results/report.html
  mdlm compare runs/middle runs/uniform   two ways to train, over the seeds of both
  mdlm judge wikitext_bins table.csv   the same verdicts on runs of your own trainer; --columns says what they need"""


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="mdlm", description="Run, verify and report the experiments of mdlm-min.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--root", type=Path, metavar="DIR",
        help="checkout of mdlm-min, with its experiments and results (default: $MDLM_ROOT, or the checkout that this command "
        "belongs to, or the one around the working directory)",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add_parsers(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """One command; returns its exit code. Raises KeyboardInterrupt after a stop signal (see __main__.py)."""
    try:
        arguments = _parser().parse_args(argv)
        if arguments.root:
            os.environ["MDLM_ROOT"] = str(arguments.root.resolve())  # read when run/environment.py is imported, by a handler
        return int(arguments.handler(arguments))
    except InputError as error:
        print(f"mdlm: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in OUR_PACKAGES:
            raise
        print(f"mdlm: {error.name} is not installed, and this command needs it", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"mdlm: a path is too long: {str(error.filename)[:40]}...; allowed: names of at most 255 bytes", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"mdlm: {error}", file=sys.stderr)
        return 3
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in f"{type(error).__name__} {error}" for sign in NO_MEMORY):
            raise
        print(
            "mdlm: memory: this takes more than the machine has; allowed: what fits, such as a smaller model or batch",
            file=sys.stderr,
        )
        return 2

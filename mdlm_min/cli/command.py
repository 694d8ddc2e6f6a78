"""What the commands have in common. A file of cli/ has one group of them: `add_parsers(commands)` beside the handlers."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_command(commands: Any, name: str, text: str, handler: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    """A new command of the `commands` that `ArgumentParser.add_subparsers` returned. `handler` returns the exit code.

    A handler imports what it needs when it is called: `mdlm --help` then starts at once.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(handler=handler)
    return parser


def folder_path(text: str) -> Path:
    """The type of an argument that names a folder: an empty text is none, not the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name is not allowed; allowed: the path of a folder")
    return Path(text)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments that select the runs of an experiment."""
    from mdlm_min.evidence.plan_file import TIERS

    parser.add_argument("experiment", help="such as 01_parity, or parity; see `mdlm list`")
    parser.add_argument("--tier", default="cpu", help=f"one of {', '.join(TIERS)} (default: cpu)")
    parser.add_argument("--arms", default="", help="comma-separated arms, or all (default: the tier's own choice)")
    parser.add_argument("--cells", default="", help="comma-separated cells of the tier's grid (default: all)")
    parser.add_argument("--seeds", type=int, default=0, help="number of seeds, from the tier's first (default: the tier's own)")


def text_name(text: str) -> str:
    """The name of a corpus without its folder and ending, for a folder of its runs. Never empty, and never a path."""
    return Path(text).resolve().name.split(".")[0] or "text"

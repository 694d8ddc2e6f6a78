"""What the commands have in common. A file of cli/ has one group of them: `add_parsers(commands)` beside the handlers."""

import argparse
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mdlm_min.data.tokenizer import is_unicode
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError

if TYPE_CHECKING:
    from mdlm_min.run.run_folder import RunFolder

TOKENIZER = "bpe:512"  # of a text, unless it is said: what is predicted for a text and what trains on it read the same tokens
BATCH = 8  # texts generated together, unless it is said
MOST_THREADS = 4096  # torch takes no number beyond 32 bits, and no machine has more cores


class CommandParser(argparse.ArgumentParser):
    """A parser to which a wrong command line is bad input like any other: an InputError of one line that says what is allowed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options["allow_abbrev"] = False  # a shortened name may mean another option tomorrow
        super().__init__(*arguments, **options)
        self.register("type", int, lambda text: _number(int, text, "a whole number"))
        self.register("type", float, lambda text: _number(float, text, "a number"))

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Raises InputError for what no argument of this parser is: before a missing one, which it may have been meant for."""
        texts = sys.argv[1:] if args is None else args
        for text in itertools.takewhile(lambda text: text != "--", texts if self._subparsers is None else texts[:1]):
            name = text.partition("=")[0]
            if text.startswith("--") and " " not in name and name not in self._option_string_actions:
                self._refuse(text)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return found, unknown

    def _refuse(self, text: str) -> NoReturn:
        options = ", ".join(name for action in self._actions for name in action.option_strings[-1:])
        self.error(f"{shown(text)} is unknown; allowed: {options}")

    def error(self, message: str) -> NoReturn:
        """Raise InputError: argparse's message, and where to read more."""
        raise InputError(f"{message.removeprefix('argument ')} (see `{self.prog} --help`)")


def _number(kind: Callable[[str], Any], text: str, allowed: str) -> Any:
    """The number that a text is."""
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not allowed; allowed: {allowed}") from error


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
    if not is_unicode(text):  # safetensors takes no other path
        raise argparse.ArgumentTypeError(f"{text!r} is no UTF-8; allowed: the path of a folder in UTF-8")
    return Path(text)


def source_name(text: str) -> str:
    """The type of an argument that names a source of data: an empty text is none, not the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name is not allowed")
    return text


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments that select the runs of an experiment."""
    from mdlm_min.evidence.plan_file import TIERS

    parser.add_argument("experiment", help="such as 01_parity, or parity; see `mdlm list`")
    parser.add_argument("--tier", default="cpu", help=f"one of {', '.join(TIERS)} (default: cpu)")
    parser.add_argument("--arms", default="", help="comma-separated arms, or all (default: the tier's own choice)")
    parser.add_argument("--cells", default="", help="comma-separated cells of the tier's grid (default: all)")
    parser.add_argument("--seeds", type=int, default=0, help="number of seeds, from the tier's first (default: the tier's own)")


def add_text(parser: argparse.ArgumentParser) -> None:
    """The argument that names a corpus (data/text.py)."""
    text = (
        "a folder or file of plain text (.txt, .tokens, .raw) or JSON lines with a field text (.jsonl), also .gz, or "
        "wikitext-2, wikitext-103, or one of these with -raw"
    )
    parser.add_argument("--text", required=True, type=source_name, help=text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The argument that `use_threads` reads."""
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")


def use_threads(threads: int) -> None:
    """Let torch compute with so many. Raises InputError for none, and for more than any machine has."""
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads: {threads} is not allowed; at least 1, at most {MOST_THREADS}")
    import torch

    torch.set_num_threads(threads)


@contextmanager
def fields_as_options(**renamed: str) -> Iterator[None]:
    """A field of a configuration, such as data.length, is named in an InputError as the command's option is: length, or what
    `renamed` says."""
    try:
        yield
    except InputError as error:
        field = re.match(r"(?:data|model|train|engine)\.(\w+):", str(error))
        if field is None:
            raise
        raise InputError(f"{renamed.get(field[1], field[1])}:{str(error)[field.end() :]}") from error


def say_if_unfinished(path: Path) -> None:
    """Say on stderr that a run has not reached its end, and at which step the state is that is used."""
    from mdlm_min.training.checkpoint import checkpoints, step_of

    found = checkpoints(path / "checkpoints")
    if found and not (path / "finished.json").exists():
        print(f"note: {path} is not finished; this is its state at step {step_of(found[-1])}", file=sys.stderr)


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that no table can hold."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed: {seed} is not allowed; a whole number from 0 to 2^63 - 1")


def _check_weights_are_kept() -> None:
    """Raise InputError where no checkpoint would be written."""
    from mdlm_min.training.loop import checkpoint_seconds
    from mdlm_min.training.optimizer import TrainConfig

    if math.isinf(checkpoint_seconds(TrainConfig())):
        allowed = "a number of seconds: the weights are used when the run is finished"
        raise InputError(f"MDLM_CHECKPOINT_SECONDS: inf is not allowed with this command; {allowed}")


@contextmanager
def trained_run(
    path: Path,
    seed: int,
    settings: dict[str, Any],
    run: Callable[[dict[str, Any], int, "RunFolder", Callable[[str], None]], None],
    needs_weights: bool = True,
) -> "Iterator[RunFolder]":
    """The run folder `path`, locked, in which `run` has trained these settings: now, or before. Raises InputError
    where the weights are needed afterwards and would not be kept, and where its files were altered after the run."""
    from mdlm_min.run.progress import open_display
    from mdlm_min.run.run_folder import open_run
    from mdlm_min.training.checkpoint import checkpoints

    check_seed(seed)
    config = {"seed": seed, **settings}
    with open_run(path, config) as folder:
        if folder.is_finished(config):
            print(f"{path}: this run is finished already")
        else:
            if needs_weights:
                _check_weights_are_kept()
            threads = {start["threads"] for start in folder.read_json("environment.json")["starts"] if "threads" in start}
            if len(threads) > 1 and checkpoints(folder.checkpoints) and settings["device"] == "cpu":
                counts = " and ".join(map(str, sorted(threads)))
                print(f"{path}: its starts have {counts} threads: the run is not bit for bit what one number would give")
            with open_display(1) as display:
                display.update(path.name, "reading the data")  # the first step may be many seconds away
                run(settings, seed, folder, lambda line: display.update(path.name, line))
                display.end(path.name, "is trained")
        if altered := folder.altered():
            raise InputError(f"{altered}; delete {path} to train again")
        yield folder


def text_name(text: str) -> str:
    """The name of a corpus without its folder and, where it is a file, without its ending, for a folder of its runs. Never empty,
    and never a path."""
    path = Path(text).resolve()
    return (Path(path.name.removesuffix(".gz")).stem if path.is_file() else path.name) or "text"

"""`mdlm sample`: text from a trained run, written from nothing, continued from a prompt, or filled in where it has gaps."""

import argparse
import itertools
import sys
from typing import TYPE_CHECKING, Any

from mdlm_min.cli.command import BATCH, check_seed, folder_path, say_if_unfinished
from mdlm_min.run.errors import InputError

if TYPE_CHECKING:
    from mdlm_min.tasks.text_model import TextModel

STYLES = {"given": "", "filled": "bold cyan", "right": "bold green", "wrong": "bold red"}
# Remasking and temperature. Of a small model's texts those by low confidence read best; at temperature 1 they can get stuck in
# repetition, at 0 they always do. Filling in: what is most probable.
WRITING, FILLING = ("low-confidence", 0.7), ("low-confidence", 0.0)


def add_parsers(commands: Any) -> None:
    """`mdlm sample`."""
    text = "Print text from a trained run or a released LLaDA: written, continued from --prompt, or filled in at --infill's gaps."
    parser: argparse.ArgumentParser = commands.add_parser("sample", help=text, description=text)
    parser.add_argument("run", type=folder_path, help="a run folder, such as runs/train/corpus, or a released LLaDA folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="text to begin with")
    what.add_argument(
        "--infill",
        help="text with gaps: [MASK] is one token, n underscores (at least 2) are n; with subwords the space before a gap "
        "is part of it",
    )
    parser.add_argument("--length", type=int, help="tokens per text, prompt included (default: as many as the model can read)")
    parser.add_argument("--steps", type=int, help="steps, at most as many forward passes (default: one per token)")
    parser.add_argument("--temperature", type=float, help="0 for the most probable tokens (default: 0.7; 0 with --infill)")
    parser.add_argument("--remasking", help="low-confidence (default), margin, entropy, random or ancestral")
    parser.add_argument("--count", type=int, default=1, help="number of texts (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.set_defaults(handler=sample)


def sample(arguments: argparse.Namespace) -> int:
    """Print the chosen number of texts, batch by batch; returns the exit code."""
    from mdlm_min.diffusion.sampling import SamplingConfig
    from mdlm_min.tasks.text_model import TextModel, check_gaps

    filling = arguments.infill is not None
    check_seed(arguments.seed)
    if filling:
        check_gaps(arguments.infill)
    for name in ("count", "length"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} is not allowed; at least 1")
    if filling and arguments.length is not None:
        raise InputError(f"length: {arguments.length} is not allowed with --infill, whose text has its own length")
    remasking, temperature = FILLING if filling else WRITING
    config = SamplingConfig(
        arguments.remasking or remasking,
        1 if arguments.steps is None else arguments.steps,
        temperature if arguments.temperature is None else arguments.temperature,
    )
    model = TextModel.load(arguments.run, arguments.device)
    say_if_unfinished(arguments.run)
    template = model.template(arguments.infill) if filling else model.continuation(arguments.prompt or "", arguments.length or 0)
    steps = template.count(model.mask_token) if arguments.steps is None else arguments.steps
    config = SamplingConfig(config.remasking, steps, config.temperature)
    rules = model.rules_behind(arguments.prompt or "")
    for first in range(0, arguments.count, BATCH):
        batch = range(first, min(first + BATCH, arguments.count))
        made = model.generate([template] * len(batch), config, arguments.seed, rules, items=batch)
        for index, filled in zip(batch, made.tokens.tolist(), strict=True):
            if arguments.count > 1:
                print(f"--- {index + 1} of {arguments.count}")
            show(model, template, filled, marked=filling)
        sys.stdout.flush()
    return 0


def show(model: "TextModel", template: list[int], filled: list[int], truth: list[int] | None = None, marked: bool = True) -> None:
    """Print a filled-in text. What was filled in is coloured in a terminal and in [brackets] elsewhere; given the `truth`, wrong
    tokens are followed by a slash and what stood there."""
    kinds = (
        [_kind(model, *row) for row in zip(template, filled, truth or filled, strict=True)] if marked else ["given"] * len(filled)
    )
    if truth is None:
        kinds = ["filled" if kind == "right" else kind for kind in kinds]
    parts = []
    for kind, group in itertools.groupby(range(len(filled)), key=lambda index: kinds[index]):
        places = list(group)
        said = model.decode([filled[place] for place in places])
        if kind == "wrong" and truth:
            said += "/" + model.decode([truth[place] for place in places])
        parts.append((said, kind))
    print_parts(parts)


def _kind(model: "TextModel", wanted: int, found: int, right: int) -> str:
    return "given" if wanted != model.mask_token else "right" if found == right else "wrong"


def print_parts(parts: list[tuple[str, str]]) -> None:
    """Print text in parts (text, kind): coloured in a terminal, all but the given ones in brackets elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if console.is_terminal:
        console.print(Text.assemble(*((text, STYLES[kind]) for text, kind in parts)))
    else:
        print("".join(text if kind == "given" else f"[{text}]" for text, kind in parts))

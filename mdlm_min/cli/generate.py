"""`mdlm generate`: answers of a run or a released LLaDA, with all settings of generation, and what they cost.

A single answer appears in a terminal as its tokens are fixed. The cost goes to standard error, so that the text can be piped.
Answers to a file of prompts are kept batch by batch: the same command goes on where it was stopped.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_min.cli.command import BATCH, add_command, check_seed, folder_path, say_if_unfinished
from mdlm_min.data.tokenizer import is_unicode
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import check_writable, own_descriptor
from mdlm_min.run.json_text import parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from mdlm_min.data.chat import ChatTemplate
    from mdlm_min.diffusion.generation_record import Generation
    from mdlm_min.diffusion.remasking import TokenRules
    from mdlm_min.diffusion.sampling import SamplingConfig
    from mdlm_min.tasks.text_model import TextModel

KEYS = ("prompt", "infill", "messages")
WRITTEN = ("answer", "tokens", "nfe")  # what each line of the output has besides those of its prompt
LENGTH = 128  # tokens of an answer, unless it is said
GIVEN, NEW, MASKED = "", "bold cyan", "dim"  # styles of tokens
SHADE, REFRESH = "\u2591", 0.1  # the sign for a masked token; seconds between two pictures


def add_parsers(commands: Any) -> None:
    """`mdlm generate`."""
    text = (
        "Generate answers to a prompt or to a file of prompts, or fill in gaps, and say what it took. NFE is the number of "
        "forward passes."
    )
    parser = add_command(commands, "generate", text, generate)
    parser.add_argument("model", type=folder_path, help="a run folder, such as runs/train/corpus, or a released LLaDA folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompt", help="text to answer or continue (with subwords, without --chat, a space at its end counts to the answer)"
    )
    what.add_argument(
        "--infill",
        help="text with gaps: [MASK] is one token, n underscores (at least 2) are n; with subwords the space before a gap "
        "is part of it",
    )
    what.add_argument(
        "--prompts", type=Path, metavar="FILE", help="JSON lines, each with prompt, infill or (with --chat) messages"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="for --prompts: the same lines, with answer, tokens and nfe")
    parser.add_argument("--batch", type=int, help=f"for --prompts: answers generated together (default: {BATCH})")
    parser.add_argument("--chat", action="store_true", help="wrap prompts in the chat template")
    parser.add_argument(
        "--length",
        type=int,
        help=f"tokens of an answer (default: {LENGTH}, or as many as the model reads behind the prompt); not with --infill",
    )
    parser.add_argument("--steps", type=int, help="steps (default: one per token)")
    parser.add_argument(
        "--block-length", type=int, default=0, help="tokens of a block, filled from left to right (default: 0, all)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) for the most probable tokens")
    parser.add_argument(
        "--remasking", default="low-confidence", help="low-confidence (default), margin, entropy, random or ancestral"
    )
    parser.add_argument("--cfg-scale", type=float, default=0.0, help="classifier-free guidance (default: 0, none)")
    parser.add_argument("--threshold", type=float, default=0.0, help="approximate: fix all tokens of at least this probability")
    parser.add_argument("--factor", type=float, default=0.0, help="approximate: fix more tokens, the surer they are, such as 1.0")
    parser.add_argument("--cache", default="none", help="approximate: keep keys and values: prefix or dual (default: none)")
    parser.add_argument("--refresh", type=int, default=0, help="renew the cache every so many passes (default: once a block)")
    ids = "token ids, comma-separated; end is the end token"
    parser.add_argument("--suppress", default="", help=f"never produced: {ids}")
    parser.add_argument("--begin-suppress", default="", help=f"not as the first token of an answer: {ids}")
    parser.add_argument("--defer", default="", help=f"fixed after all others: {ids}")
    parser.add_argument("--no-stop", action="store_true", help="suppress the end token: an answer has its full length")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="", help="float32 or bfloat16 (default: the model's own)")


@dataclass(frozen=True)
class _Request:
    """A template, where its answer starts (None: it has gaps), the line of the file that it comes from, and whether the answer
    begins with the space that the prompt ends with."""

    template: list[int]
    start: int | None
    line: dict[str, Any]
    spaced: bool = False


@dataclass(frozen=True)
class _Setting:
    """How a request is generated. It depends on no other request, and those that share it may share a batch."""

    config: "SamplingConfig"
    rules: "TokenRules"


def generate(arguments: argparse.Namespace) -> int:
    """Print an answer, or write the file of answers; returns the exit code."""
    check_seed(arguments.seed)
    if arguments.infill is not None and arguments.length is not None:
        raise InputError(f"length: {arguments.length} is not allowed with --infill, whose text has its own length")
    for name in ("length", "batch"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"{name}: {value} is not allowed; at least 1")
    if arguments.batch is not None and arguments.prompts is None:
        raise InputError(f"batch: {arguments.batch} is not allowed without --prompts: one answer is generated")
    if (arguments.prompts is None) != (arguments.output is None):
        raise InputError("output: belongs to --prompts; both or neither are given")
    if arguments.output is not None:
        if arguments.output.resolve() == arguments.prompts.resolve():
            raise InputError(f"output: {arguments.output} is the file of the prompts, which would be lost; allowed: another one")
        check_writable(arguments.output, "output")
    if arguments.chat and arguments.infill is not None:
        raise InputError("chat: is not allowed with --infill, whose text has no turns")
    own = {"prompt": arguments.prompt} if arguments.infill is None else {"infill": arguments.infill}
    lines = _read(arguments.prompts) if arguments.prompts else [(1, own)]
    config = _sampling(arguments, arguments.steps if arguments.steps is not None else 1)
    import torch

    from mdlm_min.diffusion.unmasking_steps import UnmaskingSteps
    from mdlm_min.tasks.text_model import TextModel

    model = TextModel.load(arguments.model, arguments.device, arguments.dtype)
    say_if_unfinished(arguments.model)
    chat = model.chat_template() if arguments.chat else None
    requests = [_request(model, chat, line, arguments, number) for number, line in lines]
    kinds = {(request.start is None, request.spaced) for request in requests}
    rules = {kind: _rules(model, chat, arguments, *kind) for kind in kinds}
    settings = [
        _Setting(
            config if arguments.steps is not None else replace(config, steps=request.template.count(model.mask_token)),
            rules[request.start is None, request.spaced],
        )
        for request in requests
    ]
    for (number, _), request, setting in zip(lines, requests, settings, strict=True):  # before anything is generated
        with _at_line(arguments, number):
            UnmaskingSteps(
                torch.tensor([request.template]) == model.mask_token, setting.config.block_length, setting.config.steps
            )
    if arguments.prompts:
        from mdlm_min.run.partial import one_writer

        with one_writer(arguments.output):
            cost = _write_all(model, requests, settings, arguments)
    else:
        cost = _show(model, requests[0], settings[0], arguments.seed)
    print(f"{cost} ({'exact' if config.exact else 'approximate'})", file=sys.stderr)
    return 0


def _sampling(arguments: argparse.Namespace, steps: int) -> "SamplingConfig":
    from mdlm_min.diffusion.sampling import SamplingConfig

    return SamplingConfig(
        arguments.remasking, steps, arguments.temperature, arguments.block_length, arguments.cfg_scale, arguments.threshold,
        arguments.factor, arguments.cache, arguments.refresh,
    )  # fmt: skip


def _read(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a JSONL file with their numbers. Raises InputError for a file that is missing, and for lines that are none of
    ours."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"prompts: {path} cannot be read ({error})") from error
    lines = []
    for number, one in enumerate(text.split("\n"), 1):
        if not one.strip():
            continue
        try:
            line = parse_json(one)
            written = json.dumps([[[line]]], ensure_ascii=False)  # as deep as it is ever written again
        except (ValueError, RecursionError) as error:
            raise InputError(f"prompts: {path}, line {number}: {shown(one)} is no JSON ({error})") from error
        if not isinstance(line, dict) or sum(key in line for key in KEYS) != 1:
            raise InputError(f"prompts: {path}, line {number}: {shown(line)} has not exactly one of {', '.join(KEYS)}")
        if not is_unicode(written):
            raise InputError(f"prompts: {path}, line {number}: {shown(line)} has a character that UTF-8 does not allow")
        if taken := [name for name in WRITTEN if name in line]:
            raise InputError(
                f"prompts: {path}, line {number}: {taken[0]} is a field of the output, and would be lost; allowed: other names"
            )
        lines.append((number, line))
    if not lines:
        raise InputError(f"prompts: {path} has no line")
    return lines


def _request(
    model: "TextModel", chat: "ChatTemplate | None", line: dict[str, Any], arguments: argparse.Namespace, number: int
) -> _Request:
    from mdlm_min.data.chat import check_messages
    from mdlm_min.tasks.text_model import check_gaps

    with _at_line(arguments, number):
        if "messages" in line:
            if chat is None:
                raise InputError("messages: need --chat")
            prompt = chat.render(check_messages(line["messages"]), add_generation_prompt=True)
        else:
            key = "infill" if "infill" in line else "prompt"
            text = line[key]
            if not isinstance(text, str):
                raise InputError(f"{key}: {shown(text)} is no text")
            if key == "infill":
                if chat is not None:
                    raise InputError("infill: is not allowed with --chat; its text has no turns")
                check_gaps(text)
                return _Request(model.template(text), None, line)
            if chat is None:
                prompt = model.before_gap(text)
            else:
                prompt = chat.render(check_messages([{"role": "user", "content": text}]), add_generation_prompt=True)
        spaced = chat is None and model.leaves_space(line["prompt"])
        return _Request(model.with_answer(prompt, _length(model, len(prompt), arguments)), len(prompt), line, spaced)


def _length(model: "TextModel", prompt: int, arguments: argparse.Namespace) -> int:
    """Tokens of an answer: what was asked for, or LENGTH, or where the model reads fewer as many as it does, in whole blocks if
    one is read."""
    room, block = model.length - prompt, arguments.block_length or 1
    if room < 1:
        raise InputError(f"prompt: it has {prompt} tokens; allowed: fewer than the {model.length} that this model can read")
    if arguments.length is not None:
        return int(arguments.length)
    return min(LENGTH, room // block * block or room)


@contextmanager
def _at_line(arguments: argparse.Namespace, number: int) -> Iterator[None]:
    """Says of bad input which line of the file it is."""
    try:
        yield
    except (InputError, ValueError) as error:
        raise InputError(f"prompts: {arguments.prompts}, line {number}: {error}" if arguments.prompts else str(error)) from error


def _rules(
    model: "TextModel", chat: "ChatTemplate | None", arguments: argparse.Namespace, gaps: bool, spaced: bool
) -> "TokenRules":
    """Roles of tokens in an answer, which begins with a space where it is `spaced`, or, where a text has `gaps`, in these:
    nothing ends there."""
    ends = set() if model.end_token is None else {model.end_token}
    ends |= set() if chat is None else {chat.special.end, chat.special.end_turn}
    given = {
        name: _ids(name, getattr(arguments, name), ends, model.model.config.outputs)
        for name in ("suppress", "begin_suppress", "defer")
    }
    if spaced:
        given["begin_suppress"] |= model.inside_words()
    if arguments.no_stop or gaps:
        return model.rules(suppress=given["suppress"] | ends, begin_suppress=given["begin_suppress"], defer=given["defer"])
    return model.rules(stop=ends, **given)


def _ids(name: str, text: str, ends: set[int], vocabulary: int) -> set[int]:
    found: set[int] = set()
    for word in text.split(",") if text else ():
        if word == "end" and ends:
            found |= ends
        elif word.isascii() and word.isdecimal() and len(word) < 10 and int(word) < vocabulary:
            found.add(int(word))
        else:
            what = "is not allowed: this model has no end token" if word == "end" else "is not a token id"
            allowed = f"numbers from 0 to {vocabulary - 1}{', or end' if ends else ''}, separated by commas"
            raise InputError(f"{name.replace('_', '-')}: {shown(word)} {what}; allowed: {allowed}")
    return found


def _text(model: "TextModel", request: _Request, tokens: list[int], count: int) -> str:
    """What is said: the answer before its stop token, or the whole text that had gaps."""
    if request.start is None:
        pairs = zip(request.template, tokens, strict=False)
        return model.decode([token for was, token in pairs if was != model.mask_token or token not in model.suppressed])
    return model.decode([token for token in tokens[request.start : request.start + count] if token not in model.suppressed])


def _show(model: "TextModel", request: _Request, setting: _Setting, seed: int) -> "Generation":
    with _live(model, request) as watch:
        made = model.generate([request.template], setting.config, seed, setting.rules, watch=watch)
    print(_text(model, request, made.tokens[0].tolist(), made.answers[0]))
    return made


@contextmanager
def _live(model: "TextModel", request: _Request) -> Iterator["Callable[[Tensor], None] | None"]:
    """What shows the tokens of the one row so far, in a terminal; the picture is gone at the end."""
    from mdlm_min.run.progress import can_redraw

    if not can_redraw():
        yield None
        return
    import time

    from rich.live import Live
    from rich.text import Text

    from mdlm_min.run.live_display import SteadyConsole

    last = float("-inf")
    with Live(console=SteadyConsole(highlight=False), auto_refresh=False, transient=True) as live:

        def watch(tokens: "Tensor") -> None:
            nonlocal last
            if time.monotonic() - last >= REFRESH:
                last = time.monotonic()
                parts = picture(model, request.template, tokens[0].tolist(), request.start or 0)
                live.update(Text.assemble(*parts), refresh=True)

        yield watch


def picture(model: "TextModel", template: list[int], tokens: list[int], start: int) -> list[tuple[str, str]]:
    """A text from position `start` on, part by part with its style: given, fixed, still masked."""
    styles = [
        GIVEN if wanted != model.mask_token else MASKED if token == model.mask_token else NEW
        for wanted, token in zip(template, tokens, strict=False)
    ]
    parts = []
    for style, group in itertools.groupby(range(start, len(template)), key=lambda place: styles[place]):
        some = [tokens[place] for place in group]
        if style == NEW:
            some = [token for token in some if token not in model.suppressed]
        parts.append((SHADE * len(some) if style == MASKED else model.decode(some), style))
    return parts


def _write_all(
    model: "TextModel", requests: list[_Request], settings: list[_Setting], arguments: argparse.Namespace
) -> "Generation":
    """Answers in batches, written in the order of the file. Returns the cost of all, those of earlier starts included."""
    import torch

    from mdlm_min.diffusion.generation_record import Generation
    from mdlm_min.run.partial import Partial
    from mdlm_min.run.progress import open_display

    partial = Partial(arguments.output, _configuration(model, requests, arguments))
    done = partial.records
    batches = [batch for batch in _batches(requests, settings, arguments.batch or BATCH) if not done.keys() >= {*batch}]
    if done:
        print(f"{partial.path}: {len(done)} of {len(requests)} answers are kept", file=sys.stderr)
    with open_display(len(batches), sys.stderr if own_descriptor(arguments.output) == 1 else None) as display:
        for number, batch in enumerate(batches, 1):
            setting = settings[batch[0]]
            templates = [requests[index].template for index in batch]
            made = model.generate(templates, setting.config, arguments.seed, setting.rules, items=batch)
            rows = zip(batch, made.tokens.tolist(), made.passes, made.answers, strict=True)
            found = {
                index: dict(zip(WRITTEN, (_text(model, requests[index], row, count), count, nfe), strict=True))
                for index, row, nfe, count in rows
            }
            partial.add({index: {"seconds": made.seconds / len(batch), "said": said} for index, said in found.items()})
            display.end(f"batch {number}", str(made))
    lines = [{**request.line, **done[index]["said"]} for index, request in enumerate(requests)]
    partial.finish("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    seconds = sum(record["seconds"] for record in done.values())
    return Generation(torch.empty(0, dtype=torch.int64), [one["nfe"] for one in lines], [one["tokens"] for one in lines], seconds)


def _batches(requests: list[_Request], settings: list[_Setting], size: int) -> Iterator[list[int]]:
    """Numbers of requests with the same setting, of similar length."""
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].template))
    for setting in dict.fromkeys(settings):
        same = [index for index in order if settings[index] == setting]
        for first in range(0, len(same), size):
            yield same[first : first + size]


def _configuration(model: "TextModel", requests: list[_Request], arguments: argparse.Namespace) -> dict[str, Any]:
    """All that answers depend on: the options, with hashes for the model and the prompts."""
    from mdlm_min.model.identity import weights_sha256

    free = ("handler", "command", "root", "output", "batch", "prompt", "infill")
    options = {name: value for name, value in vars(arguments).items() if name not in free}
    hashed = {
        "model": f"{weights_sha256(model.model)} {model.tokenizer.identity}",
        "prompts": json.dumps([request.line for request in requests]),
    }
    return options | {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in hashed.items()}

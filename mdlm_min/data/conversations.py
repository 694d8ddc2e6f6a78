"""Conversations to fine-tune on: read, checked, cut into samples, and split.

A source is a file or a folder of JSON lines (.jsonl, also .gz) whose records hold `messages`; a hub data set of such records
("allenai/tulu-3-sft-personas-math-filtered"), through `datasets`; "gsm8k"; or "arithmetic:STEPS". A sample is a prompt, which is
never masked, and an answer, which is trained on:

  answers = last   the last answer of the assistant, given all before it; what follows it is left out;
  answers = each   every answer, as a sample of its own. Never several in one sequence: the model reads in both directions, so an
                   earlier answer would be learned with later turns in sight, which it never sees when it writes.

What follows an answer's end of turn, and whether that is part of the answer:

  padding = eos    end tokens up to the batch's longest sample, in the loss (LLaDA): the model learns where to stop;
  padding = one    one end token, in the loss; padding behind it is invisible;
  padding = none   no end token; padding is invisible.

The split is by the hash of what is asked before the first answer: records with one opening are on one side, whatever their number
and order, and whatever the system's turn says. (Taking the test rows from the first rows, as the training rows, is a known trap.)
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from mdlm_min.data.arithmetic import arithmetic, is_arithmetic
from mdlm_min.data.chat import ChatTemplate, Message, check_messages
from mdlm_min.data.exercises import Exercise, gsm8k, json_lines
from mdlm_min.data.samples import is_hub_name, json_files
from mdlm_min.data.text import find_path
from mdlm_min.run.config import OneOf, Range, check_fields, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.json_text import parse_json
from mdlm_min.run.random_streams import stream

UNHEEDED = ("weight", "tools", "functions")  # fields of a record that ask for what fine-tuning does not do
NAMED = 20  # malformed records that are named in the record of a run
MOST_HELD_OUT = 64  # openings, where nothing is said


@dataclass(frozen=True)
class ChatConfig:
    """What is read, and how. `length` is the most tokens of a sample; `held_out` openings are kept from training; up to a share
    `malformed` of the records may be so. `tokenizer` is for new weights alone: otherwise it comes with the weights."""

    source: str = "gsm8k"
    length: Annotated[int, Range(2, 1e7)] = 1024
    answers: Annotated[str, OneOf(("last", "each"))] = "last"
    padding: Annotated[str, OneOf(("eos", "one", "none"))] = "eos"
    malformed: Annotated[float, Range(0, 1, open_most=True)] = 0.01
    held_out: Annotated[int, Range(1)] = 64
    tokenizer: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "data.")


@dataclass(frozen=True)
class Sample:
    """Tokens of a prompt, header of the answer included, and of the answer; both int32, one dimension."""

    prompt: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True)
class ChatBatch:
    """tokens, int64 [count, length]; of each row how many are the prompt's, and how many there are before its padding, int64
    [count]."""

    tokens: Tensor
    prompts: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Record:
    """A conversation and where it stands, or what is wrong with it."""

    where: str
    messages: list[Message]
    exercise: Exercise | None = None
    problem: str = ""


class Conversations:
    """The samples of a source. `train` and `held_out` have no opening in common; `exercises` are the held-out ones, where the
    source has exercises. `report` says what became of the records, `sha256` is of all tokens in order."""

    def __init__(self, config: ChatConfig, template: ChatTemplate) -> None:
        """Raises InputError for a source that cannot be read, that has too many malformed records, or too few openings."""
        self.config, self.template = config, template
        self.truncated = self.too_long = 0
        malformed: list[str] = []
        by_opening: dict[bytes, list[Record]] = {}
        for record in read_records(config.source):
            if problem := record.problem or _problem(record.messages):
                malformed.append(f"{record.where}: {problem}")
            else:
                by_opening.setdefault(_opening(record.messages), []).append(record)
        count = len(malformed) + sum(map(len, by_opening.values()))
        if not count:
            raise InputError(f"data.source: {shown(config.source)} has no record; allowed: at least one conversation a line")
        if len(malformed) > config.malformed * count:
            raise InputError(
                f"data.source: {len(malformed)} of {count} records are malformed, and malformed = {config.malformed} allows "
                f"fewer: {'; '.join(malformed[:3])}"
            )
        if len(by_opening) == 1:
            raise InputError(
                f"data.source: the conversations of {shown(config.source)} all begin with the same messages up to the first "
                "answer; allowed: at least two beginnings, of which one is held out"
            )
        if len(by_opening) <= config.held_out:
            allowed = f"fewer than {len(by_opening)}, the number of different beginnings (the messages up to the first answer)"
            raise InputError(f"data.held_out: {config.held_out} is not allowed; {allowed}")
        kept_out = set(sorted(by_opening)[: config.held_out])
        self.train: list[Sample] = []
        self.held_out: list[Sample] = []
        self.exercises: list[Exercise] = []
        digest = hashlib.sha256(config.padding.encode())
        for opening, records in by_opening.items():
            side = self.held_out if opening in kept_out else self.train
            for record in records:
                for sample in self._samples(record.messages):
                    side.append(sample)
                    digest.update(f"{len(sample.prompt)} {len(sample.answer)} {opening in kept_out}".encode())
                    digest.update(sample.prompt.tobytes() + sample.answer.tobytes())
                if record.exercise and opening in kept_out:
                    self.exercises.append(record.exercise)
        if not self.train or not self.held_out:
            raise InputError(
                f"data.length: {config.length} is not allowed; no prompt to train on, or none held out, leaves room for an answer"
            )
        self.sha256 = digest.hexdigest()
        self.report: dict[str, Any] = {
            "records": count, "malformed": len(malformed), "malformed_records": malformed[:NAMED],
            "samples": len(self.train), "held_out_samples": len(self.held_out),
            "truncated": self.truncated, "too_long": self.too_long,
        }  # fmt: skip

    def _samples(self, messages: list[Message]) -> Iterator[Sample]:
        """The samples of a conversation; answers are cut, and counted, where they do not fit."""
        places = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        for place in places[-1:] if self.config.answers == "last" else places:
            prompt = self.template.render(messages[:place], add_generation_prompt=True)
            answer = self.template.content(messages[place]["content"])
            if self.config.padding == "one":
                answer.append(self.template.special.end)
            room = self.config.length - len(prompt)
            self.too_long += room <= 0
            self.truncated += 0 < room < len(answer)
            if room > 0:
                yield Sample(np.asarray(prompt, np.int32), np.asarray(answer[:room], np.int32))

    def batch(self, seed: int, step: int, size: int) -> ChatBatch:
        """The batch of a step: `size` training samples, each once in an epoch, in a random order of its own for each epoch."""
        count = len(self.train)
        places = (divmod(place, count) for place in range(step * size, (step + 1) * size))
        chosen = [self.train[int(_order(seed, epoch, count)[index])] for epoch, index in places]
        return collated(chosen, self.config.padding, self.template.special.end)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch's samples. It is kept: to draw it takes longer than a small step where there are many samples."""
    return torch.randperm(count, generator=stream(seed, "order", epoch))


def collated(samples: Sequence[Sample], padding: str, end: int) -> ChatBatch:
    """Samples as one batch, filled up with end tokens, which belong to the answers with padding = eos."""
    lengths = torch.tensor([len(sample.prompt) + len(sample.answer) for sample in samples])
    width = int(lengths.max())
    tokens = torch.full((len(samples), width), end, dtype=torch.int64)
    for row, sample in zip(tokens, samples, strict=True):
        whole = np.concatenate((sample.prompt, sample.answer))
        row[: len(whole)] = torch.from_numpy(whole)
    prompts = torch.tensor([len(sample.prompt) for sample in samples])
    return ChatBatch(tokens, prompts, torch.full_like(lengths, width) if padding == "eos" else lengths)


def default_held_out(source: str) -> int:
    """Openings to keep from training where nothing is said: a tenth of the source's, from 1 to 64."""
    found: set[bytes] = set()
    for record in read_records(source):
        if not (record.problem or _problem(record.messages)):
            found.add(_opening(record.messages))
        if len(found) >= 10 * MOST_HELD_OUT:  # a hub's data set is not read to its end
            break
    return min(MOST_HELD_OUT, max(1, len(found) // 10))


def read_records(source: str) -> Iterator[Record]:
    """Every record of a source, in order. Raises InputError where the source is nowhere to be found or cannot be read."""
    if is_arithmetic(source):
        for number, exercise in enumerate(arithmetic(source), start=1):
            yield Record(f"{source} exercise {number}", conversation_of(exercise), exercise)
    elif source == "gsm8k":
        for where, found in gsm8k():
            yield Record(where, [], problem=found) if isinstance(found, str) else Record(where, conversation_of(found), found)
    elif files := json_files(source):
        for path in files:
            for where, line in json_lines(path):
                yield _record(where, line)
    elif is_hub_name(source):
        yield from _hub_records(source)
    else:
        wrong = "is no file or folder of JSON lines" if find_path(source) else "is not there"
        raise InputError(
            f"data.source: {shown(source)} {wrong}; allowed: a file or folder of .jsonl (.gz), a hub data set's name, "
            "gsm8k, arithmetic:STEPS"
        )


def conversation_of(exercise: Exercise) -> list[Message]:
    """The exercise as one question and one answer."""
    return [{"role": "user", "content": exercise.question}, {"role": "assistant", "content": exercise.answer}]


def _record(where: str, line: bytes) -> Record:
    try:
        return _checked(where, parse_json(line))
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested too deeply
        return Record(where, [], problem=f"no JSON ({' '.join(str(error).split())})")


def _checked(where: str, record: Any) -> Record:
    if not isinstance(record, dict) or "messages" not in record:
        return Record(where, [], problem="no field messages")
    if asked := next((name for name in UNHEEDED if record.get(name) not in (None, [], {}, "", 1)), None):
        return Record(where, [], problem=f"{asked}: {shown(record[asked])} cannot be honoured")
    try:
        return Record(where, check_messages(record["messages"]))
    except ValueError as error:
        return Record(where, [], problem=str(error))


def _hub_records(name: str) -> Iterator[Record]:
    try:
        import datasets

        records = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub's client raises many kinds, none of them for us to tell apart
        raise InputError(
            f"data.source: {name!r} cannot be had from the hub ({type(error).__name__}); "
            "give a .jsonl file with a field messages in its place"
        ) from error
    for number, record in enumerate(records):
        yield _checked(f"{name} row {number}", record)


def _problem(messages: list[Message]) -> str:
    """What keeps a conversation from being trained on; empty where nothing does."""
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        return "no answer of the assistant"
    return "" if all(answer.strip() for answer in answers) else "an empty answer of the assistant"


def _opening(messages: list[Message]) -> bytes:
    """Hash of what stands before the first answer, but for the system's turn: a question is on one side under every system's."""
    first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    asked = [message for message in messages[:first] if message["role"] != "system"] or messages[:first]
    said = [[message["role"], message["content"].strip()] for message in asked]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).digest()

"""Pre-training data as samples without end, whose position is a small JSON value.

Documents come one after the other, each closed by the end token, and are cut into samples of `length` tokens; a sample may
hold the end of one document and the start of the next. A small share of samples is shorter, of a random length, as in
LLaDA's pre-training, so that the model sees short inputs too; what a short sample does not take, the next one does. After
the last document the first one follows again.

Documents are
    a corpus of plain text (data/text.py): its training split, through the cache of tokens; it has no end token, and its
    first token follows its last;
    a folder or a file of JSON lines (.jsonl, also .gz): one record a line;
    a hub data set by name ("mlfoundations/dclm-baseline-1.0"), streamed by `datasets`.
A record without a text in `field` is corrupt: counted, and skipped while such records are few. An empty line is no record.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mdlm_min.data.text import CHUNK, HUB, TextConfig, cache_folder, data_folder, find_path, load_text
from mdlm_min.data.tokenizer import Tokenizer, check_tokenizer, find_tokenizer, is_unicode
from mdlm_min.run.config import Range, check_fields
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import open_bytes
from mdlm_min.run.json_text import parse_json
from mdlm_min.run.random_streams import stream

JSON_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
Place = dict[str, Any]


@dataclass(frozen=True)
class SamplesConfig:
    """What is read, and how it is cut.

    `shuffle` samples at a time are put into random order (1: the order of the text). `held_out` records (JSON lines, hub) are
    kept from training, for validation; a corpus of plain text has a split for that. `mask_token` and `end_token` are a released
    tokenizer's own; -1 for new ones behind the vocabulary. `vocab_size` is the model's, 0 for no more than is needed.
    """

    source: str = "wikitext-2"
    field: str = "text"
    tokenizer: str = "bytes"
    length: Annotated[int, Range(2, 1e7)] = 128
    random_lengths: Annotated[float, Range(0, 1, open_most=True)] = 0.01
    corrupt: Annotated[float, Range(0, 1, open_most=True)] = 0.01
    shuffle: Annotated[int, Range(1, 1e8)] = 1
    held_out: Annotated[int, Range(0)] = 0
    mask_token: Annotated[int, Range(-1, 1e7)] = -1
    end_token: Annotated[int, Range(-1, 1e7)] = -1
    vocab_size: Annotated[int, Range(0, 1e7)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        check_tokenizer(self.tokenizer)


class Documents(Protocol):
    """Documents in a fixed order."""

    def read(self, place: Place | None) -> Iterator[tuple[np.ndarray | None, Place]]:
        """Tokens of each document after `place` (None: from the start), None for a corrupt one, and the place behind it."""


@dataclass(frozen=True)
class TokenArray:
    """Tokens of a plain text, handed out in pieces."""

    tokens: np.ndarray

    def read(self, place: Place | None) -> Iterator[tuple[np.ndarray | None, Place]]:
        """See Documents."""
        for start in range(place["token"] if place else 0, len(self.tokens), CHUNK):
            yield self.tokens[start : start + CHUNK], {"token": min(start + CHUNK, len(self.tokens))}


@dataclass(frozen=True)
class JsonLines:
    """Records of JSON lines, in the order of the files' names."""

    files: tuple[Path, ...]
    field: str
    tokenizer: Tokenizer
    end_token: int

    def read(self, place: Place | None) -> Iterator[tuple[np.ndarray | None, Place]]:
        """See Documents. Raises InputError for a file that cannot be read to its end."""
        first, line = (place["file"], place["line"]) if place else (0, 0)
        for index in range(first, len(self.files)):
            path = self.files[index]
            with open_bytes(path) as file:
                for number, data in enumerate(file, start=1):
                    if number > line and data.strip():
                        yield self._tokens(data), {"file": index, "line": number}
            line = 0

    def _tokens(self, data: bytes) -> np.ndarray | None:
        try:
            return _document(parse_json(data), self.field, self.tokenizer, self.end_token)
        except (ValueError, RecursionError):  # neither UTF-8 nor JSON, or nested too deeply
            return None


@dataclass(frozen=True)
class HubRecords:
    """Records of a hub data set, streamed; its place is what `datasets` calls the state of an iterable data set."""

    name: str
    field: str
    tokenizer: Tokenizer
    end_token: int

    def read(self, place: Place | None) -> Iterator[tuple[np.ndarray | None, Place]]:
        """See Documents. Raises InputError where the hub is out of reach."""
        records = self._open()
        if place:
            records.load_state_dict(place["hub"])
        for record in records:
            yield _document(record, self.field, self.tokenizer, self.end_token), {"hub": records.state_dict()}

    def _open(self) -> Any:
        try:
            import datasets

            return datasets.load_dataset(self.name, split="train", streaming=True)
        except Exception as error:  # the hub's client raises many kinds, none of them for us to tell apart
            raise InputError(
                f"data.source: {self.name!r} cannot be had from the hub ({type(error).__name__}); "
                "give a folder of .jsonl files in its place, such as the data set's own shards, unpacked"
            ) from error


def _document(record: Any, field: str, tokenizer: Tokenizer, end_token: int) -> np.ndarray | None:
    """The tokens of a record's text, closed by the end token; None where it has no text in Unicode."""
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str) or not is_unicode(text):
        return None
    return np.append(tokenizer.encode(text), end_token).astype(np.int64)


@dataclass
class Batch:
    """Samples: tokens int64 [count, length], lengths int64 [count]; beyond a sample's length stand end tokens."""

    tokens: Tensor
    lengths: Tensor


class Samples:
    """Samples without end. `read` and `corrupt` count records so far, `epoch` whole passes over them."""

    def __init__(self, config: SamplesConfig, documents: Documents, end_token: int, seed: int) -> None:
        self.config, self.documents, self.end_token, self.seed = config, documents, end_token, seed
        self.restore({})

    def state(self) -> dict[str, Any]:
        """The position: that of the present window of shuffled samples, and how many of them are gone."""
        return {**self._window_start, "taken": self._taken}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position; {} is the start. The document in progress and the present window are read again."""
        self.epoch, self.read, self.corrupt = state.get("epoch", 0), state.get("read", 0), state.get("corrupt", 0)
        self._sample = state.get("sample", 0)  # samples cut so far
        self._open(state.get("place"))
        self._document, self._offset = np.zeros(0, np.int64), 0
        self._mark = self._counts()
        if offset := state.get("offset", 0):
            self._next_document()
            self._offset = offset
        self._window: list[np.ndarray] = []
        self._window_start, self._taken = self._position(), 0
        if taken := state.get("taken", 0):
            self._fill_window()
            self._taken = taken

    def take(self, count: int) -> Batch:
        """The next `count` samples. Raises RunError where too many records were corrupt, InputError for what cannot be read."""
        tokens = np.full((count, self.config.length), self.end_token, np.int64)
        lengths = []
        for row in tokens:
            if self._taken == len(self._window):
                self._window_start, self._taken = self._position(), 0
                self._fill_window()
            sample = self._window[self._taken]
            self._taken += 1
            row[: len(sample)] = sample
            lengths.append(len(sample))
        return Batch(torch.from_numpy(tokens), torch.tensor(lengths))

    def _position(self) -> dict[str, Any]:
        """Where the next sample is cut: the place in front of the document in progress, and how much of it is gone."""
        return {**self._mark, "offset": self._offset, "sample": self._sample}

    def _counts(self) -> dict[str, Any]:
        return {"place": self._place, "epoch": self.epoch, "read": self.read, "corrupt": self.corrupt}

    def _fill_window(self) -> None:
        generator = stream(self.seed, "shuffle", self._sample)
        samples = [self._cut() for _ in range(self.config.shuffle)]
        self._window = [samples[index] for index in torch.randperm(len(samples), generator=generator).tolist()]

    def _cut(self) -> np.ndarray:
        """One sample, in the order of the text."""
        length = self.config.length
        generator = stream(self.seed, "lengths", self._sample)
        if float(torch.rand((), generator=generator)) < self.config.random_lengths:
            length = int(torch.randint(1, length + 1, (), generator=generator))
        parts: list[np.ndarray] = []
        while length > 0:
            if self._offset == len(self._document):
                self._next_document()
            parts.append(self._document[self._offset : self._offset + length].astype(np.int64))
            self._offset += len(parts[-1])
            length -= len(parts[-1])
        self._sample += 1
        return np.concatenate(parts)

    def _open(self, place: Place | None) -> None:
        """Go to a place; nothing is read before it is needed."""
        self._place = place
        self._records = self._read(place)

    def _read(self, place: Place | None) -> Iterator[tuple[np.ndarray | None, Place]]:
        records = self.documents.read(place)
        for _ in range(self.config.held_out if place is None else 0):
            next(records, None)
        yield from records

    def _next_document(self) -> None:
        """Go to the next document that holds tokens; behind the last one comes the first."""
        self._mark, self._offset = self._counts(), 0
        passes = 0
        while passes < 2:
            tokens, place = next(self._records, (None, None))
            if place is None:
                passes += 1
                self.epoch += 1
                self._open(None)
                continue
            self._place = place
            self.read += 1
            if tokens is None:
                self._count_corrupt()
            elif len(tokens):
                self._document = tokens
                return
        raise InputError(f"data.source: {self.config.source!r} holds no text beyond the {self.config.held_out} records held out")

    def _count_corrupt(self) -> None:
        self.corrupt += 1
        if self.corrupt > self.config.corrupt * max(self.read, 1000):
            raise RunError(
                f"data.source: {self.corrupt} of the first {self.read} records have no text in {self.config.field!r}; "
                f"data.corrupt = {self.config.corrupt} allows fewer"
            )


@dataclass(frozen=True)
class PretrainData:
    """What a run reads: documents to train on, blocks (int64 [blocks, length]) to validate and to test on, and the vocabulary.

    `prior` is -log p of every token id by its count, float32 [vocab_size].
    """

    config: SamplesConfig
    documents: Documents
    valid: Tensor
    test: Tensor
    tokenizer: Tokenizer
    mask_token: int
    end_token: int
    vocab_size: int
    sha256: str

    def samples(self, seed: int) -> Samples:
        """Samples from the start, in the order of this seed."""
        return Samples(self.config, self.documents, self.end_token, seed)

    @property
    def prior(self) -> Tensor:
        """Unigram NLL from the counts of the blocks, one added to each."""
        counts = torch.bincount(torch.cat((self.valid, self.test)).flatten(), minlength=self.vocab_size) + 1.0
        return -(counts / counts.sum()).log()


def open_data(config: SamplesConfig) -> PretrainData:
    """Everything that a configuration reads. Raises InputError for what is not there, and for a vocabulary that is too small."""
    files = json_files(config.source)
    if files is None and not is_hub_name(config.source):
        if config.held_out:
            raise InputError(f"data.held_out: {config.held_out} is for records; plain text has a split to validate on: use 0")
        if config.field != SamplesConfig.field:
            raise InputError(
                f"data.field: {config.field!r} is for records; plain text has no fields: leave it {SamplesConfig.field!r}"
            )
        data = load_text(TextConfig(config.source, config.tokenizer, config.length))
        tokenizer = data.tokenizer
        assert tokenizer is not None  # text was tokenized by something
        documents: Documents = TokenArray(data.splits["train"])
        valid, test = data.blocks("valid", config.length), data.blocks("test", config.length)
        return PretrainData(config, documents, valid, test, tokenizer, *_vocabulary(config, tokenizer), data.sha256)
    if config.tokenizer.startswith("bpe:") or config.tokenizer == "words":
        raise InputError(f"data.tokenizer: {config.tokenizer!r} is for plain text; records need bytes, gpt2 or a tokenizer.json")
    tokenizer = find_tokenizer(config.tokenizer, list, "", cache_folder(), data_folder())
    mask_token, end_token, vocab_size = _vocabulary(config, tokenizer)
    what = config.source if files is None else "\n".join(f"{path.name} {path.stat().st_size} {_head(path)}" for path in files)
    digest = hashlib.sha256(f"{what}\n{config.field}\n{tokenizer.identity}".encode()).hexdigest()
    if files is None:
        documents = HubRecords(config.source, config.field, tokenizer, end_token)
    else:
        documents = JsonLines(tuple(files), config.field, tokenizer, end_token)
    held = _held_out(config, documents)
    middle = len(held) // 2
    return PretrainData(config, documents, held[:middle], held[middle:], tokenizer, mask_token, end_token, vocab_size, digest)


def _vocabulary(config: SamplesConfig, tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Mask token, end token, vocabulary size."""
    mask = config.mask_token if config.mask_token >= 0 else tokenizer.vocab_size
    end = config.end_token if config.end_token >= 0 else tokenizer.vocab_size + (config.mask_token < 0)
    needed = max(tokenizer.vocab_size, mask + 1, end + 1)
    if config.vocab_size and config.vocab_size < needed:
        raise InputError(f"data.vocab_size: {config.vocab_size} is not allowed; the tokenizer, mask and end need {needed}")
    if mask == end:
        raise InputError(f"data.mask_token: {mask} is the end token too; they must differ")
    return mask, end, config.vocab_size or needed


def _held_out(config: SamplesConfig, documents: Documents) -> Tensor:
    """The held-out records as blocks. Raises InputError where they fill fewer than two."""
    records = itertools.islice(documents.read(None), config.held_out)
    tokens = np.concatenate([np.zeros(0, np.int64), *(part for part, _ in records if part is not None)])
    count = len(tokens) // config.length
    if count < 2:
        raise InputError(
            f"data.held_out: {config.held_out} records hold {len(tokens)} tokens; at least {2 * config.length} are needed"
        )
    return torch.from_numpy(tokens[: count * config.length].reshape(count, config.length))


def json_files(source: str) -> list[Path] | None:
    """The files of JSON lines that a path (or a name in $MDLM_DATA) stands for, in order; None where it is something else."""
    path = find_path(source)
    if path is None:
        return None
    if not path.is_dir():
        return [path] if path.name.endswith(JSON_ENDINGS) else None
    try:
        return sorted(file for file in path.rglob("*") if file.name.endswith(JSON_ENDINGS)) or None
    except OSError as error:
        raise InputError(f"data.source: {source} cannot be searched ({error}); allowed: a folder of JSON lines alone") from error


def is_hub_name(source: str) -> bool:
    """Whether a source that is no path reads as the name of a hub data set: owner/name, and not as a file that is missing."""
    if source in HUB or find_path(source) is not None or source.endswith((".jsonl", ".jsonl.gz")):
        return False
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", source, re.ASCII) is not None


def _head(path: Path) -> str:
    """Hash of a file's first MiB: shards may be too large to be hashed whole at every start."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(1 << 20)).hexdigest()

"""Text as blocks of tokens: from the hub or from plain files, through a tokenizer, into memory-mapped arrays.

A corpus is a name or a path. A path is a folder or a file of plain text (.tokens, .raw, .txt, .text) or of JSON lines (.jsonl:
the field `text` of every record, each closed by a line end), also .gz; a name is looked for as a folder in $MDLM_DATA, and then
on the hub. A file of a folder belongs to the split that a whole word of its name says (SPLIT_WORDS); where no name says anything,
the last tenth of the text is held out, half of it each.
Tokens are kept in $MDLM_CACHE (default ~/.cache/mdlm_min), under the hash of the text and of the tokenizer.
"""

import hashlib
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from mdlm_min.data.cache import cached
from mdlm_min.data.tokenizer import Tokenizer, find_tokenizer, is_unicode
from mdlm_min.run.config import Range, check_fields, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import open_bytes, write_whole
from mdlm_min.run.json_text import parse_json
from mdlm_min.run.random_streams import stream

SPLIT_WORDS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
SPLITS = tuple(SPLIT_WORDS)
HUB = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-v1"),
    "wikitext-2-raw": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103-raw": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
}
JSON_LINES = ".jsonl"
ENDINGS = (".tokens", ".raw", ".txt", ".text", JSON_LINES)
CHUNK = 1 << 20  # bytes of text that are tokenized at a time; a chunk ends where a line ends


@dataclass(frozen=True)
class TextConfig:
    """What is read, and how: corpus name or path, tokenizer (bytes, gpt2, bpe:SIZE), tokens per block."""

    corpus: str = "wikitext-2"
    tokenizer: str = "bytes"
    length: Annotated[int, Range(2, 1e7)] = 128

    def __post_init__(self) -> None:
        check_fields(self, "data.")


def data_folder() -> Path | None:
    """$MDLM_DATA, where corpora and tokenizer files are looked for first. Raises InputError where that is no folder."""
    if not (value := os.environ.get("MDLM_DATA")):
        return None
    if not Path(value).is_dir():
        raise InputError(f"MDLM_DATA: {shown(value)} is not a folder; allowed: a folder of corpora (experiments/DATA.md)")
    return Path(value)


def in_data_folder(folder: Path | None) -> str:
    """Where a file is looked for, in words for a message."""
    return "in the folder that MDLM_DATA names" + ("" if folder else ", which is not set")


def find_path(name: str) -> Path | None:
    """The file or folder that a corpus names: a path, or a name in $MDLM_DATA; None where there is neither."""
    folders = [Path(), folder] if (folder := data_folder()) is not None else [Path()]
    # os.path.exists, unlike Path.exists, says False for a name that no file can have, such as one that is too long.
    return next((folder / name for folder in folders if name and os.path.exists(folder / name)), None)  # noqa: PTH110


def cache_folder() -> Path:
    """$MDLM_CACHE, where tokens are kept."""
    return Path(os.environ.get("MDLM_CACHE") or Path.home() / ".cache" / "mdlm_min")


@dataclass(frozen=True)
class Source:
    """Where the text of one split lies: files, read in order, from `start` to `stop` bytes of their text (None: to the end). A
    file starts a line, whether or not the one before it ends with a line end."""

    files: tuple[Path, ...]
    start: int = 0
    stop: int | None = None

    def chunks(self) -> Iterator[str]:
        """The text, about CHUNK bytes at a time, cut at line ends. Raises InputError for a file that is empty or not text."""
        position, rest, last = 0, b"", b"\n"
        for path in self.files:
            size = 0
            for data in _pieces(path):
                if size == 0 and last != b"\n":
                    data = b"\n" + data  # the line end that the file before lacks
                size, last = size + len(data), data[-1:]
                low, high = self.start - position, len(data) if self.stop is None else self.stop - position
                position += len(data)
                rest += data[max(low, 0) : max(high, 0)]
                end = rest.rfind(b"\n") + 1
                if end:
                    yield _decode(rest[:end], path)
                    rest = rest[end:]
            if size == 0:
                raise InputError(f"{path}: the file is empty; a corpus needs text")
        if rest:
            yield _decode(rest, self.files[-1])

    def sha256(self) -> str:
        """Hash of the text itself, the same for a file and its .gz."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk.encode())
        return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    """The text of a file, about CHUNK bytes at a time: without a byte order mark, its line ends as Unix has them. Raises
    InputError for what is no text."""
    with open_bytes(path) as file:
        if path.name.removesuffix(".gz").endswith(JSON_LINES):
            records = bytearray()
            for number, line in enumerate(file, start=1):
                if line.strip():
                    records += _record(line, f"{path} line {number}")
                if len(records) >= CHUNK:
                    yield bytes(records)
                    records.clear()
            if records:
                yield bytes(records)
            return
        size, held = 0, b""
        while data := file.read(CHUNK):
            if b"\0" in data:
                raise InputError(f"{path}: a zero byte at {size + data.index(0)}: this is no text; allowed: UTF-8 text")
            whole = held + (data if size else data.removeprefix(BOM_UTF8))
            size += len(data)
            held = b"\r" if whole.endswith(b"\r") else b""  # a line end may lie on the edge of two chunks
            if piece := whole.removesuffix(held).replace(b"\r\n", b"\n"):
                yield piece
        if held:
            yield held


def _record(line: bytes, where: str) -> bytes:
    """The text of a line of JSON and a line end."""
    try:
        record = parse_json(line)
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested too deeply
        raise InputError(f'{where}: no JSON; allowed: a record {{"text": "..."}} a line') from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not is_unicode(text):
        raise InputError(f'{where}: the record has no text in the field text; allowed: a record {{"text": "..."}} a line')
    return f"{text}\n".encode()


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} in {error.object[error.start : error.start + 8]!r})") from error


def find_sources(corpus: str) -> dict[str, Source]:
    """The splits of a corpus. Where names say a split, files whose names say none, as README.txt, are no part of it. Raises
    InputError where it is nowhere to be found, saying which path to give."""
    path = find_path(corpus)
    if path is None:
        if corpus not in HUB:
            there = f" ({corpus}.gz is there)" if find_path(f"{corpus}.gz") else ""
            raise InputError(
                f"data.corpus: {shown(corpus)} is neither a path nor a known name{there}; allowed: a path, {', '.join(HUB)}"
            )
        path = _from_hub(corpus)
    if not path.is_dir():
        return _cut((path,))
    try:
        files = sorted(file for file in path.iterdir() if file.name.removesuffix(".gz").endswith(ENDINGS))
    except OSError as error:
        raise InputError(f"data.corpus: {path} cannot be read ({error.strerror})") from error
    if not files:
        allowed = f"files ending in {', '.join(ENDINGS)}, also with .gz, directly in the folder"
        raise InputError(f"data.corpus: no text in {path}; allowed: {allowed}")
    named = [(file, _split_of(file)) for file in files]
    by_split = {split: tuple(file for file, found in named if found == split) for split in SPLITS}
    if not any(by_split.values()):
        return _cut(tuple(files))
    if missing := [split for split in SPLITS if not by_split[split]]:
        raise InputError(
            f"data.corpus: {path} has no file whose name says {missing[0]!r}; allowed: train, valid and test, or none"
        )
    return {split: Source(found) for split, found in by_split.items()}


def _split_of(file: Path) -> str:
    """The split that a whole word of the file's name says, or "". Raises InputError for a name that says two."""
    words = re.split(r"[\W\d_]+", file.name.lower())
    found = [split for split, names in SPLIT_WORDS.items() if any(name in words for name in names)]
    if len(found) > 1:
        raise InputError(
            f"data.corpus: the name of {file} says {' and '.join(found)}; allowed: one of {', '.join(SPLITS)}, or none"
        )
    return found[0] if found else ""


def _cut(files: tuple[Path, ...]) -> dict[str, Source]:
    """The first 90% of the text to train on, 5% each to validate and to test on, cut at line ends, except where the place lies
    within a line that began in an earlier chunk."""
    sizes = [len(chunk.encode()) for chunk in Source(files).chunks()]
    total, ends = sum(sizes), []
    for share in (0.9, 0.95):
        wanted, position = int(share * total), 0
        for chunk in Source(files).chunks():
            data = chunk.encode()
            if position + len(data) >= wanted:
                place = wanted - position
                place = data.rfind(b"\n", 0, place) + 1 or len(data[:place].decode(errors="ignore").encode())  # no half character
                ends.append(position + place)
                break
            position += len(data)
    return {
        "train": Source(files, 0, ends[0]),
        "valid": Source(files, ends[0], ends[1]),
        "test": Source(files, ends[1], None),
    }


def _from_hub(name: str) -> Path:
    """The corpus as plain files in the cache, loaded with `datasets` once. Raises InputError where there is no hub."""
    folder = cache_folder() / "hub" / name
    if not (folder / "test.txt").exists():
        repository, configuration = HUB[name]
        try:
            import datasets
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()  # its retries would bury our one line
            splits = datasets.load_dataset(repository, configuration)
        except Exception as error:  # the hub's client raises many kinds, none of them for us to tell apart
            lacks = f", and MDLM_DATA ({data}) lacks it" if (data := data_folder()) else ""
            raise InputError(
                f"data.corpus: {name!r} cannot be had from the hub ({type(error).__name__}){lacks}; "
                f"set MDLM_DATA to a folder that holds {name}/ with its train, valid and test files, or give a path"
            ) from error
        for split, hub_split in zip(SPLITS, ("train", "validation", "test"), strict=True):
            write_whole(folder / f"{split}.txt", "".join(splits[hub_split]["text"]))
    return folder


@dataclass(frozen=True)
class TextData:
    """Tokens of every split (memory-mapped, one dimension, uint16 or uint32). A block starts at a multiple of `stride`; data that
    were never text have no tokenizer."""

    splits: dict[str, np.ndarray]
    vocab_size: int
    sha256: str
    stride: int = 1
    tokenizer: Tokenizer | None = None

    def batch(self, split: str, length: int, size: int, seed: int, step: int) -> Tensor:
        """`size` blocks at random places: int64 [size, length], a pure function of (seed, step)."""
        tokens = self.splits[split]
        places = (len(tokens) - length) // self.stride + 1
        starts = torch.randint(places, (size,), generator=stream(seed, "batches", step)) * self.stride
        return torch.from_numpy(np.stack([tokens[start : start + length] for start in starts.tolist()]).astype(np.int64))

    def blocks(self, split: str, length: int) -> Tensor:
        """The whole split as consecutive blocks: int64 [blocks, length]; the last few tokens that fill no block are left out."""
        tokens = self.splits[split]
        count = len(tokens) // length
        return torch.from_numpy(tokens[: count * length].reshape(count, length).astype(np.int64))

    def unigram_nll(self) -> Tensor:
        """-log p of every token id by its count in the training split, one added to each: float32 [vocab_size], nats."""
        counts = np.bincount(self.splits["train"], minlength=self.vocab_size) + 1.0
        return torch.from_numpy(-np.log(counts / counts.sum())).float()


def load_text(config: TextConfig) -> TextData:
    """The corpus in tokens, from the cache or into it.

    Raises InputError for a corpus that cannot be found or read, and for a split shorter than a block.
    """
    if config.tokenizer == "words":
        raise InputError("data.tokenizer: 'words' has no fixed vocabulary for a model; allowed: bytes, gpt2, bpe:SIZE")
    sources = find_sources(config.corpus)
    hashes = {split: source.sha256() for split, source in sources.items()}
    tokenizer = find_tokenizer(config.tokenizer, sources["train"].chunks, hashes["train"], cache_folder(), data_folder())
    splits = {split: load_tokens(source, hashes[split], tokenizer) for split, source in sources.items()}
    for split, tokens in splits.items():
        if len(tokens) < config.length:
            raise InputError(
                f"data.length: a block is {config.length} tokens, but the {split} split of {config.corpus} has {len(tokens)}"
            )
        check_tokens(tokens, tokenizer.vocab_size, f"the {split} split of {config.corpus}")
    whole = hashlib.sha256("\n".join([*hashes.values(), tokenizer.identity]).encode()).hexdigest()
    return TextData(splits, tokenizer.vocab_size, whole, tokenizer=tokenizer)


def check_tokens(tokens: np.ndarray, vocab_size: int, where: str) -> None:
    """Raise InputError for a token id beyond the vocabulary."""
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start : start + CHUNK]
        if int(part.max()) >= vocab_size:
            place = start + int(np.argmax(part >= vocab_size))
            raise InputError(
                f"{where}: token id {tokens[place]} at {place} is beyond the vocabulary; allowed: 0 to {vocab_size - 1}"
            )


def load_tokens(source: Source, text_hash: str, tokenizer: Tokenizer) -> np.ndarray:
    """Tokens of a source whose text has this hash, memory-mapped from the cache; written there whole, in bounded memory, where
    they are missing or damaged."""
    path = cache_folder() / "tokens" / f"{text_hash[:24]}-{tokenizer.identity}.npy"
    return np.load(cached(path, lambda temporary: _write_tokens(temporary, source.chunks(), tokenizer)), mmap_mode="r")


def _write_tokens(path: Path, chunks: Iterable[str], tokenizer: Tokenizer) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    raw = path.with_suffix(".raw")
    try:
        with raw.open("wb") as file:
            for chunk in chunks:
                file.write(tokenizer.encode(chunk).astype(dtype).tobytes())
        count = raw.stat().st_size // dtype.itemsize
        if count:
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count,))
            array[:] = np.memmap(raw, dtype=dtype, mode="r")
            array.flush()
        else:
            np.save(path, np.zeros(0, dtype))
    finally:
        raw.unlink(missing_ok=True)

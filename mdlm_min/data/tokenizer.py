"""Tokenizers by the notation people write: "bytes", "gpt2", "bpe:1024", "words", or a path to a tokenizer.json.

gpt2 is GPT-2's byte-level BPE through tiktoken, from the two files encoder.json and vocab.bpe, whose checksums are
verified, or from where tiktoken downloads them; bpe:SIZE is a byte-level BPE of SIZE tokens trained on the corpus's training
split with `tokenizers`; a path names a tokenizer.json of `tokenizers`, or a folder (a released model's) that holds one; words
are lower-cased runs of letters and digits, for counting n-grams only.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mdlm_min.data.cache import cached
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256, write_whole

NAMES = (
    "bytes, gpt2, bpe:SIZE (257 to 65536), the path (with a /) of a tokenizer.json or its folder, words (to count n-grams only)"
)
# Checksums of the files as released with GPT-2.
GPT2_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


class Tokenizer(Protocol):
    """`identity` names it in file names and hashes: two tokenizers of one identity give the same tokens."""

    vocab_size: int
    identity: str

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, one dimension."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids; bytes that are no UTF-8 become replacement marks."""

    def special_id(self, name: str) -> int | None:
        """Id of a special token, such as "<|eot_id|>", which stands for no text; None where the tokenizer has none."""

    def is_text(self, token: int) -> bool:
        """Whether a text may be encoded to this id: it is one of the vocabulary, and no special token."""

    def to_json(self) -> str:
        """A tokenizer.json of `tokenizers` with the same tokens. Raises InputError where there can be none."""


class Bytes:
    """Every UTF-8 byte is a token."""

    vocab_size = 256
    identity = "bytes"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def special_id(self, name: str) -> int | None:
        return None

    def is_text(self, token: int) -> bool:
        return 0 <= token < self.vocab_size

    def to_json(self) -> str:
        return byte_level_json({bytes([byte]): byte for byte in range(256)})


class GPT2:
    """GPT-2's BPE of 50,257 tokens. Its <|endoftext|> (50256) is counted, but never read from a text."""

    vocab_size = 50257
    identity = "gpt2"

    def __init__(self, folder: Path | None) -> None:
        """From encoder.json and vocab.bpe in `folder`, or, without one, as tiktoken loads it."""
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks

        if folder is None:
            try:
                self._encoding = tiktoken.get_encoding("gpt2")
            except Exception as error:  # whatever its download raises
                raise InputError(
                    f"data.tokenizer: 'gpt2' cannot be downloaded ({type(error).__name__}); set MDLM_DATA to a folder that holds "
                    "encoder.json and vocab.bpe in gpt2-bpe/"
                ) from error
            return
        for name, expected in GPT2_FILES.items():
            if not (folder / name).exists():
                raise InputError(f"data.tokenizer: {folder / name} is missing; gpt2 needs {' and '.join(GPT2_FILES)}")
            if (found := sha256(folder / name)) != expected:
                raise InputError(
                    f"data.tokenizer: {folder / name} has SHA-256 {found}; the file released with GPT-2 has {expected}"
                )
        ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
        pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
        )

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self._encoding.encode_ordinary(text), dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        return self._encoding.decode([token for token in tokens if token != 50256])  # as a tokenizer.json's special tokens

    def special_id(self, name: str) -> int | None:
        return 50256 if name == "<|endoftext|>" else None

    def is_text(self, token: int) -> bool:
        return 0 <= token < 50256

    def to_json(self) -> str:
        return byte_level_json(self._encoding._mergeable_ranks, "<|endoftext|>")


class TrainedBPE:
    """A tokenizer read from the JSON text that `tokenizers` writes. Special tokens are never read from a text."""

    def __init__(self, text: str) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._tokenizer.encode_special_tokens = True  # a text that spells out <|mdm_mask|> must not hold a mask
        self._tokenizer.no_truncation()  # a file may ask for it, and a text would be cut without a word
        self._tokenizer.no_padding()
        self._text = text
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if not self.vocab_size:
            raise ValueError("it has no tokens")
        if lacking := _lacking_bytes(text):
            raise ValueError(f"it is byte-level, but has no token for byte {lacking[0]}: texts would lose it without a word")
        self.identity = f"bpe{self.vocab_size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        return str(self._tokenizer.decode(list(tokens)))

    def special_id(self, name: str) -> int | None:
        added = self._tokenizer.get_added_tokens_decoder()
        return next((number for number, token in added.items() if token.content == name), None)

    def is_text(self, token: int) -> bool:
        return 0 <= token < self.vocab_size and token not in self._tokenizer.get_added_tokens_decoder()

    def to_json(self) -> str:
        return self._text


def byte_level_json(ranks: Mapping[bytes, int], special: str = "") -> str:
    """tokenizer.json of a byte-level BPE, its texts cut as GPT-2 cuts them, from the id of every token: of two pairs that could
    be merged, the one of lower id is. A `special` token has the next id."""
    import tokenizers
    from tokenizers import models

    letters = _byte_letters()
    words = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
            index = pairs.index(min(pairs))
            parts[index : index + 2] = [parts[index] + parts[index + 1]]
        if len(parts) == 2:
            merges.append((words[parts[0]], words[parts[1]]))
    tokenizer = tokenizers.Tokenizer(models.BPE({words[token]: rank for token, rank in ranks.items()}, merges))
    _as_bytes(tokenizer)
    if special:
        tokenizer.add_special_tokens([special])
    return str(tokenizer.to_str())


def _byte_letters() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary, as GPT-2 has it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # they stand for themselves,
    others = [byte for byte in range(256) if byte not in printable]  # and these are the characters from 256 on
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def _lacking_bytes(text: str) -> list[int]:
    """Bytes that a byte-level BPE of that JSON text would drop from a text: none of its tokens is theirs."""
    parts = json.loads(text)
    if parts["model"].get("type") != "BPE" or '"ByteLevel"' not in json.dumps(parts.get("pre_tokenizer")):
        return []
    never = (0xC0, 0xC1, *range(0xF5, 0x100))  # in no UTF-8
    vocabulary = parts["model"]["vocab"]
    return [byte for byte, letter in _byte_letters().items() if letter not in vocabulary and byte not in never]


def _as_bytes(tokenizer: Any) -> None:
    """Cut texts as GPT-2 does, and into bytes."""
    from tokenizers import decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()


def train_bpe(chunks: Iterable[str], size: int) -> str:
    """JSON text of a byte-level BPE with `size` tokens, trained on the chunks."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    _as_bytes(tokenizer)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(chunks, trainer)
    return str(tokenizer.to_str())


class Words:
    """Lower-cased runs of letters and digits; ids in the order of first sight, so how many there are is not known beforehand."""

    vocab_size = 1 << 32
    identity = "words"

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> np.ndarray:
        ids = self._ids
        return np.asarray([ids.setdefault(word, len(ids)) for word in re.findall(r"\w+", text.lower())], dtype=np.uint32)

    def decode(self, tokens: Iterable[int]) -> str:
        words = list(self._ids)
        return " ".join(words[token] for token in tokens)

    def special_id(self, name: str) -> int | None:
        return None

    def is_text(self, token: int) -> bool:
        return 0 <= token < len(self._ids)

    def to_json(self) -> str:
        raise InputError("data.tokenizer: 'words' grows as it reads; allowed: bytes, gpt2, bpe:SIZE or a tokenizer.json")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold the text: not half a surrogate pair of JSON, nor what a byte of argv that is no UTF-8 becomes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_tokenizer(name: str) -> None:
    """Raise InputError for a name that is no tokenizer."""
    size = re.fullmatch(r"bpe:([0-9]{3,5})", name)
    trained = size is not None and 257 <= int(size[1]) <= 65536
    if name not in ("bytes", "gpt2", "words") and not trained and not _is_path(name):
        raise InputError(f"data.tokenizer: {shown(name)} is unknown; allowed: {NAMES}")


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith(".json")


def find_tokenizer(
    name: str, train_chunks: Callable[[], Iterable[str]], train_hash: str, cache: Path, data: Path | None
) -> Tokenizer:
    """The tokenizer of that name; bpe:SIZE is trained once for each text (by its hash) and kept in `cache`.

    Raises InputError for an unknown name, and for GPT-2 files that are missing or altered.
    """
    check_tokenizer(name)
    if name == "bytes":
        return Bytes()
    if name == "words":
        return Words()
    if _is_path(name):
        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        try:
            return TrainedBPE(path.read_text())
        except Exception as error:  # `tokenizers` raises plain Exception
            raise InputError(f"data.tokenizer: {path} cannot be read ({error})") from error
    if name == "gpt2":
        folder = data / "gpt2-bpe" if data is not None else None
        return GPT2(folder if folder is not None and folder.is_dir() else None)
    size = int(name.removeprefix("bpe:"))
    path = cache / "tokenizers" / f"{train_hash[:24]}-bpe{size}.json"
    return TrainedBPE(cached(path, lambda temporary: write_whole(temporary, train_bpe(train_chunks(), size))).read_text())

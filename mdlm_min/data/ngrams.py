"""How often n-grams occur: the weights w_2 .. w_6 of F.4, counted exactly, in bounded memory for a corpus of any size."""

from dataclasses import dataclass

import numpy as np

from mdlm_min.data.parity_corpus import PREFIX, make_parities
from mdlm_min.data.text import TextConfig, cache_folder, data_folder, find_sources, load_tokens
from mdlm_min.data.tokenizer import find_tokenizer
from mdlm_min.run.errors import InputError
from mdlm_min.theory.formulas import ORDERS as ORDERS

MINIMUM = 5  # F.4 discards n-grams that occur fewer than five times
_PARTITION = 1 << 24  # n-grams that are counted at a time, about 0.5 GB
_CHUNK = 1 << 20  # tokens that are hashed at a time


@dataclass(frozen=True)
class Counts:
    """Of each order, the n-grams seen at least MINIMUM times: how many different ones, and how often all of them occur."""

    types: tuple[int, ...]
    occurrences: tuple[int, ...]

    def weights(self, reading: str = "occurrences") -> tuple[float, ...]:
        """Shares of the orders, by "occurrences" (the reading that gives the published weights) or by "types".

        Raises InputError where no n-gram was seen often enough: there is nothing to have a share in.
        """
        counts = np.array(self.occurrences if reading == "occurrences" else self.types, dtype=float)
        if not counts.any():
            raise InputError(
                f"data.corpus: no sequence of {ORDERS[0]} to {ORDERS[-1]} tokens occurs {MINIMUM} times, so the text predicts "
                "no window; needed: a longer text, or a tokenizer with fewer different tokens"
            )
        return tuple((counts / counts.sum()).tolist())


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014): a bijection of 64-bit integers whose output looks random."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hashes(tokens: np.ndarray, order: int) -> np.ndarray:
    """A 64-bit hash of every n-gram of `tokens`. Two different ones share theirs with probability 2^-64."""
    count = len(tokens) - order + 1
    ids = tokens.astype(np.uint64)
    value = np.zeros(count, dtype=np.uint64)
    for offset in range(order):
        value = _mix(value + ids[offset : offset + count] + np.uint64(0x9E3779B97F4A7C15))
    return value


def count_order(tokens: np.ndarray, order: int, minimum: int = MINIMUM, partition: int = _PARTITION) -> tuple[int, int]:
    """Different n-grams of this order seen at least `minimum` times, and their occurrences.

    A corpus of more than `partition` tokens is read once for each part of the hashes, so memory stays bounded.
    """
    parts = max(1, -(-len(tokens) // partition))
    types = occurrences = 0
    for part in range(parts):
        found = []
        for start in range(0, max(0, len(tokens) - order + 1), _CHUNK):
            values = _hashes(np.asarray(tokens[start : start + _CHUNK + order - 1]), order)
            found.append(values if parts == 1 else values[values % np.uint64(parts) == part])
        values = np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)
        starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))) if len(values) else np.zeros(0, dtype=int)
        counts = np.diff(np.append(starts, len(values)))
        kept = counts[counts >= minimum]
        types, occurrences = types + len(kept), occurrences + int(kept.sum())
    return types, occurrences


def count_ngrams(tokens: np.ndarray, minimum: int = MINIMUM) -> Counts:
    """Counts of all ORDERS. `tokens` is one-dimensional, of any integer type, memory-mapped or not."""
    types, occurrences = zip(*(count_order(tokens, order, minimum) for order in ORDERS), strict=True)
    return Counts(types, occurrences)


def load_countable(config: TextConfig) -> tuple[np.ndarray, str]:
    """Tokens of a corpus's training split, the one that training reads, and the hash of its text.

    Allows "words" besides a model's tokenizers.
    """
    if config.corpus.startswith(PREFIX):
        data = make_parities(config)
        return data.splits["train"], data.sha256
    source = find_sources(config.corpus)["train"]
    digest = source.sha256()
    tokenizer = find_tokenizer(config.tokenizer, source.chunks, digest, cache_folder(), data_folder())
    return load_tokens(source, digest, tokenizer), digest

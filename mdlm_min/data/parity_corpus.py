"""A corpus whose dependency orders are known: the model of F.4 itself, a mixture of parities.

A sequence is made of groups of neighbouring bits. A group of order i holds i - 1 fair bits and their parity, so that each
of its i tokens is a function of the other i - 1 and of nothing else. The name gives the share of the tokens that belong to
each order: "parities:4", "parities:0.5*2+0.5*4". Where the groups lie is drawn once and is the same in every sequence.
"""

import hashlib
import re

import numpy as np

from mdlm_min.data.text import TextConfig, TextData
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream_seed

PREFIX = "parities:"
MOST_LENGTH = 4096  # 50,000 sequences of it fill 400 MB
SEQUENCES = {"train": 50_000, "valid": 2_000, "test": 4_000}
_ALLOWED = "parities:i or parities:w*i+w*i+..., the shares w with sum 1, the orders i from 2 to 16"


def parse_orders(corpus: str) -> dict[int, float]:
    """Share of the tokens of each order. Raises InputError naming the corpus and what is allowed."""
    shares: dict[int, float] = {}
    for term in corpus.removeprefix(PREFIX).replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:([0-9]{0,30}\.?[0-9]{1,30})\*)?([0-9]{1,2})", term)
        if match is None or not 2 <= int(match[2]) <= 16 or float(match[1] or 1) <= 0:
            raise InputError(f"data.corpus: {shown(corpus)} is no mixture of parities; allowed: {_ALLOWED}")
        shares[int(match[2])] = shares.get(int(match[2]), 0.0) + float(match[1] or 1)
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"data.corpus: the shares of {shown(corpus)} do not add up to 1; allowed: {_ALLOWED}")
    return shares


def layout(corpus: str, length: int) -> list[int]:
    """Orders of the groups of a sequence from left to right. Raises InputError where the shares do not fill
    `length` exactly, and for a length beyond MOST_LENGTH."""
    if length > MOST_LENGTH:
        raise InputError(f"data.length: {length} is not allowed; at most {MOST_LENGTH} for a mixture of parities")
    orders: list[int] = []
    for order, share in sorted(parse_orders(corpus).items()):
        groups = share * length / order
        if abs(groups - round(groups)) > 1e-6:
            raise InputError(
                f"data.length: {share:g} of {length} tokens are no whole number of groups of order {order} ({shown(corpus)})"
            )
        orders += [order] * round(groups)
    return np.random.default_rng(stream_seed(0, f"layout {corpus}", length)).permutation(orders).tolist()


def make_parities(config: TextConfig) -> TextData:
    """The corpus as tokens 0 and 1, a pure function of its name and the block length; blocks start where sequences start.

    Raises InputError for a name that is no mixture, and for a tokenizer: there is no text.
    """
    if config.tokenizer != TextConfig.tokenizer:
        raise InputError(
            f"data.tokenizer: {shown(config.tokenizer)} is not allowed; parities are tokens already: "
            f"leave it {TextConfig.tokenizer!r}"
        )
    corpus, length = config.corpus, config.length
    splits = {}
    for split, count in SEQUENCES.items():
        generator = np.random.default_rng(stream_seed(0, f"{split} {corpus}", length))
        parts = []
        for order in layout(corpus, length):
            bits = generator.integers(0, 2, (count, order - 1), dtype=np.uint16)
            parts += [bits, bits.sum(axis=1, keepdims=True, dtype=np.uint16) % 2]
        splits[split] = np.concatenate(parts, axis=1).reshape(-1)
    digest = hashlib.sha256(b"".join(tokens.tobytes() for tokens in splits.values()))
    return TextData(splits, 2, digest.hexdigest(), stride=length)

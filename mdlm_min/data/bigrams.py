"""Counts of pairs of neighbouring tokens, and the NLL of tokens given a neighbour (NLL: negative log-likelihood, in nats)."""

import numpy as np
import torch
from torch import Tensor

from mdlm_min.data.text import TextData

COUNTED = 4_000_000  # tokens of the training split whose pairs are counted for a prior
STRENGTH = 10.0  # a prior's weight of the unigrams, in counts


class PairCounts:
    """How often each token is followed by each other one in `tokens` (ids below `size`)."""

    def __init__(self, tokens: np.ndarray, size: int) -> None:
        wide = tokens.astype(np.int64)
        self.size = size
        self.pairs, self.counts = np.unique(wide[:-1] * size + wide[1:], return_counts=True)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Counts of `first` followed by `second` (int64, equal shapes)."""
        if not len(self.pairs):  # of a text of one token
            return np.zeros(first.shape, dtype=np.int64)
        wanted = first * self.size + second
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        return np.where(self.pairs[place] == wanted, self.counts[place], 0)


def token_priors(data: TextData, blocks: Tensor) -> Tensor:
    """NLL of every token of `blocks` (int64 [count, length]) given nothing, the token before it, and the token after it: float32
    [count, length, 3]. Without that neighbour in the block it is that given nothing.

    Bigrams are drawn to the unigrams: p(b | a) = (count(a b) + k p(b)) / (count(a) + k) (MacKay and Peto, 1995), from the first
    four million training tokens.
    """
    train = data.splits["train"][:COUNTED]
    pairs, single = PairCounts(train, data.vocab_size), np.bincount(train, minlength=data.vocab_size)
    unigram = data.unigram_nll().numpy()
    tokens = blocks.numpy()
    found = np.repeat(unigram[tokens][..., None], 3, axis=2)
    both = pairs(tokens[:, :-1], tokens[:, 1:])
    for column, place, given in ((1, slice(1, None), tokens[:, :-1]), (2, slice(None, -1), tokens[:, 1:])):
        chance = (both + STRENGTH * np.exp(-unigram[tokens[:, place]])) / (single[given] + STRENGTH)
        found[:, place, column] = -np.log(chance)
    return torch.from_numpy(found)

"""Surprisal counted on a training corpus: -log p of each token, alone or given the one before it. Exact, no training.

The bigram model is interpolated with the unigram model by a Dirichlet prior of strength k (MacKay and Peto, 1995):
    p(b | a) = (count(a b) + k p(b)) / (count(a) + k),    p(b) = (count(b) + 1) / (all + vocabulary)
"""

import numpy as np
import torch
from torch import Tensor

from mdlm_min.data.bigrams import PairCounts


class Surprisal:
    """Counts of a corpus (token ids, one dimension), and what they say about other tokens."""

    def __init__(self, corpus: np.ndarray, vocab_size: int, strength: float = 64.0) -> None:
        """`strength` is the default k of the bigram model."""
        train, self.strength = corpus.astype(np.int64), strength
        self.counts = np.bincount(train, minlength=vocab_size)
        self.probability = (self.counts + 1.0) / (self.counts + 1.0).sum()
        self.pairs = PairCounts(train, vocab_size)
        self.before = np.bincount(train[:-1], minlength=vocab_size)

    def given_previous(self, before: np.ndarray, tokens: np.ndarray, strength: float | None = None) -> np.ndarray:
        """-log p(token | before), float64, for arrays of token ids of the same shape."""
        k = self.strength if strength is None else strength
        seen = self.pairs(before.astype(np.int64), tokens)
        return -np.log((seen + k * self.probability[tokens]) / (self.before[before] + k))

    def unigram(self, tokens: Tensor) -> Tensor:
        """-log p of every token: int64 [rows, length] to float64, same shape."""
        return torch.from_numpy(-np.log(self.probability)[tokens.cpu().numpy()]).to(tokens.device)

    def bigram(self, tokens: Tensor) -> Tensor:
        """-log p of every token given the one before it in its row, the first one's alone. Shapes as in `unigram`."""
        ids = tokens.cpu().numpy()
        found = -np.log(self.probability)[ids]
        found[:, 1:] = self.given_previous(ids[:, :-1], ids[:, 1:])
        return torch.from_numpy(found).to(tokens.device)

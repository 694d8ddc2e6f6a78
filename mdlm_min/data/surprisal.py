"""Surprisal counted on a training corpus: -log p of each token by its frequency, p = (count + 1) / (all + vocabulary). Exact, no
training.
"""

import numpy as np
import torch
from torch import Tensor


class Surprisal:
    """Counts of a corpus (token ids, one dimension), and what they say about other tokens."""

    def __init__(self, corpus: np.ndarray, vocab_size: int) -> None:
        self.counts = np.bincount(corpus.astype(np.int64), minlength=vocab_size)
        self.probability = (self.counts + 1.0) / (self.counts + 1.0).sum()

    def unigram(self, tokens: Tensor) -> Tensor:
        """-log p of every token: int64 [rows, length] to float64, same shape."""
        return torch.from_numpy(-np.log(self.probability)[tokens.cpu().numpy()]).to(tokens.device)

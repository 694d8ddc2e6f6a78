"""Surprisal counted on a training corpus: -log p of each token by its frequency, p = (count + 1) / (all + vocabulary). Exact, no
training.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def token_counts(corpus: np.ndarray, vocab_size: int) -> np.ndarray:
    """How often each token stands in a corpus (ids, one dimension): int64 [vocabulary]."""
    return np.bincount(corpus.astype(np.int64), minlength=vocab_size)


def unigram_surprisal(counts: np.ndarray) -> Callable[[Tensor], Tensor]:
    """From counts [vocabulary] a function: tokens, int64 of any shape, to -log p of each in nats, float64, same shape."""
    nats = torch.from_numpy(-np.log((counts + 1.0) / (counts + 1.0).sum()))
    return lambda tokens: nats.to(tokens.device)[tokens]

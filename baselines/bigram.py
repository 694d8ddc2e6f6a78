"""The bigram model, interpolated with the unigram model (data/surprisal.py). Exact, no training.

The one number k, the strength of the interpolation, is chosen on the validation split from powers of two.
"""

import numpy as np

from mdlm_min.data.surprisal import Surprisal
from mdlm_min.data.text import TextData

STRENGTHS = tuple(2.0**power for power in range(-2, 13))


def bigram_loss(data: TextData, split: str) -> float:
    """NLL (negative log-likelihood) of a split in nats per token, each token given the one before it. k is the best one for the
    validation split."""
    model = Surprisal(data.splits["train"], data.vocab_size)

    def loss(name: str, strength: float) -> float:
        tokens = data.splits[name].astype(np.int64)
        return float(model.given_previous(tokens[:-1], tokens[1:], strength).mean())

    best = min(STRENGTHS, key=lambda strength: loss("valid", strength))
    return loss(split, best)

"""The bigram model, interpolated with the unigram model by a Dirichlet prior (MacKay and Peto, 1995). Exact, no training.

    p(b | a) = (count(a b) + k p(b)) / (count(a) + k)

The one number k is chosen on the validation split from powers of two.
"""

import numpy as np

from mdlm_min.data.bigrams import PairCounts
from mdlm_min.data.text import TextData

STRENGTHS = tuple(2.0**power for power in range(-2, 13))


def bigram_loss(data: TextData, split: str) -> float:
    """NLL (negative log-likelihood) of a split in nats per token, each token given the one before it. k is the best one for the
    validation split."""
    size = data.vocab_size
    train = data.splits["train"].astype(np.int64)
    pairs = PairCounts(train, size)
    before = np.bincount(train[:-1], minlength=size)
    unigram = np.exp(-data.unigram_nll().numpy().astype(np.float64))

    def losses(name: str, strengths: tuple[float, ...]) -> list[float]:
        tokens = data.splits[name].astype(np.int64)
        seen = pairs(tokens[:-1], tokens[1:])
        known, total = unigram[tokens[1:]], before[tokens[:-1]]
        return [float(-np.log((seen + strength * known) / (total + strength)).mean()) for strength in strengths]

    best = STRENGTHS[int(np.argmin(losses("valid", STRENGTHS)))]
    return losses(split, (best,))[0]

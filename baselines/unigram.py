"""The unigram model: each token has the probability of its count in the training split, plus one. Exact, no training.

It is all that masked diffusion can know at mask rate t = 1, where every token is masked. A training run first
reaches a plateau at its loss and then has to leave it.
"""

from mdlm_min.data.text import TextData


def unigram_loss(data: TextData, split: str) -> float:
    """NLL (negative log-likelihood) of a split in nats per token."""
    return float(data.unigram_nll()[data.splits[split].astype(int)].double().mean())

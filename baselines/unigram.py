"""The unigram model: every token by its count in the training split, one added to each; exact, no training.

It is what masked diffusion knows at t = 1, and the plateau that a training run has to leave.
"""

from mdlm_min.data.text import TextData


def unigram_loss(data: TextData, split: str) -> float:
    """NLL of a split in nats per token."""
    return float(data.unigram_nll()[data.splits[split].astype(int)].double().mean())

"""Which tokens are masked. A mask is a bool tensor of shape [batch, length], True where the token is hidden.

The last functions are those of information density (arXiv:2603.15803): some tokens of a sequence are marked as dense, and are
masked with priority, while the expected share of masked tokens stays t. No code of that system is public; what is our
interpretation is marked (ours).
"""

import torch
from torch import Tensor


def bernoulli(rate: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Each token of sequence i independently with probability rate[i] (Definition 3.4). Rates [batch], mask [batch, length]."""
    return torch.rand(len(rate), length, generator=generator, device=generator.device) < rate[:, None]


def one_of(positions: Tensor, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Exactly one of `positions` (int64, [choices]) per sequence, each equally likely: mask [batch, length]."""
    choice = torch.randint(len(positions), (batch,), generator=generator, device=generator.device)
    mask = torch.zeros(batch, length, dtype=torch.bool, device=generator.device)
    mask[torch.arange(batch, device=generator.device), positions.to(generator.device)[choice]] = True
    return mask


def bernoulli_each(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Each token independently with its own probability: both [batch, length]."""
    return torch.rand(probability.shape, generator=generator, device=generator.device) < probability


def first(count: Tensor, priority: Tensor) -> Tensor:
    """The count[i] tokens of highest priority in sequence i; of equals, the first. Priorities [batch, length]: mask, same
    shape."""
    order = priority.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) < count[:, None]


def exact_count(count: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Exactly count[i] of the allowed tokens (bool [batch, length]) of sequence i, every such set equally likely."""
    noise = torch.rand(allowed.shape, generator=generator, device=generator.device)
    return first(count, noise.masked_fill(~allowed, -1))


def rounded_count(rate: Tensor, sizes: Tensor | int, generator: torch.Generator) -> Tensor:
    """The product rate * sizes rounded up or down at random, so that its mean is exact: int64 [batch]."""
    wanted = rate.double() * sizes
    return (wanted + torch.rand(len(rate), generator=generator, device=generator.device, dtype=torch.float64)).floor().long()


def complement(mask: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The allowed tokens that are not masked. A mask and its complement partition the sequence (complementary priority
    masking)."""
    return ~mask if allowed is None else allowed & ~mask


def priority_probabilities(rate: Tensor, weights: Tensor) -> Tensor:
    """Mask probabilities p_i = min(1, w_i p_base) with p_base such that they sum to rate * N exactly: float64 [batch, length].

    rate: [batch], in [0, 1]. weights: [batch, length], positive; 0 for a token that may not be masked. N counts the positive
    ones. The weight of information density is w^C_i, w for a dense token and 1 for another.
    If the k largest are clipped to 1, the others share what is left: p_base = (rate N - k) / (sum of their weights). The k that
    holds is the smallest for which no other exceeds 1.
    """
    weights = weights.double()
    size = (weights > 0).sum(dim=1, keepdim=True)
    wanted = rate.double().to(weights.device)[:, None] * size
    largest = weights.sort(dim=1, descending=True).values
    left = largest.flip(1).cumsum(dim=1).flip(1)  # the weights from the k-th on, summed from the small end: none is lost
    clipped = torch.arange(weights.shape[1], device=weights.device)
    base = (wanted - clipped) / left.where(left > 0, torch.ones_like(left))
    holds = (clipped < size) & (largest * base <= 1 + 1e-12)
    smallest = holds.int().argmax(dim=1, keepdim=True)
    return (weights * base.gather(1, smallest)).clamp(0, 1)


def density_weights(marks: Tensor, weight: float, allowed: Tensor | None = None) -> Tensor:
    """w^C_i: `weight` for a marked token, 1 for another, 0 for one that may not be masked. float64 [batch, length]."""
    weights = 1 + (weight - 1) * marks.double()
    return weights if allowed is None else weights * allowed


def dense_first(rate: Tensor, marks: Tensor, generator: torch.Generator, allowed: Tensor | None = None) -> Tensor:
    """The hard variant: rate * N tokens (rounded at random), the marked ones before the others, within each at random."""
    allowed = torch.ones_like(marks) if allowed is None else allowed
    noise = torch.rand(marks.shape, generator=generator, device=generator.device)
    return first(rounded_count(rate, allowed.sum(dim=1), generator), (noise + marks).masked_fill(~allowed, -1))


def top_marks(surprisal: Tensor, share: float, allowed: Tensor | None = None) -> Tensor:
    """(ours) Marks where no annotation exists: the `share` of a sequence's allowed tokens with the highest surprisal, rounded
    to a whole number of tokens; of equals, the first. surprisal: [batch, length], nats; marks: bool, same shape."""
    allowed = torch.ones_like(surprisal, dtype=torch.bool) if allowed is None else allowed
    count = (share * allowed.sum(dim=1)).round().long()
    return first(count, surprisal.masked_fill(~allowed, -torch.inf))

"""Which tokens are masked. A mask is a bool tensor of shape [batch, length], True where the token is hidden."""

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

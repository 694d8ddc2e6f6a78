"""Exactly l of L tokens masked, l uniform on 1 .. L, weight L/l (LLaDA, arXiv:2502.09992, its Eq. 6 and likelihood code).

The number of masked tokens no longer varies at a given rate. The loss is (1/L) sum over l of the mean cost at exactly l masked
tokens: the whole bound, also where t is near 0. The mask rate of a row is l/L.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule
from mdlm_min.diffusion.masking import exact_count


class ExactCount(MaskSchedule):
    """l uniform on 1 .. L, every set of l tokens equally likely."""

    name = "exact_count"

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        u = torch.rand(context.rows, generator=generator, device=generator.device, dtype=torch.float64)
        sizes = torch.zeros_like(u) + context.sizes()
        return (((u * sizes).floor() + 1) / sizes.clamp(min=1)).float()

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        allowed = torch.ones(context.rows, context.length, dtype=torch.bool, device=generator.device)
        return exact_count((rate * context.sizes()).round().long(), context.within(allowed), generator)

    def estimates(self, context: Context) -> BoundPart | None:
        return BoundPart()

"""t from one random offset that the whole batch shares: t_i = (u + i/n) mod 1 (the sampler of VDM, arXiv:2107.00630; the
default of MD4, arXiv:2406.04329, there called antithetic).

Each t_i is uniform, and the batch covers [0,1] evenly: lower variance of the loss over t, at no cost. Linear schedule, weight
1/t. t starts at eps = .001, as LLaDA's. Estimates the bound's part on [eps,1], times 1 / (1 - eps).
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule

EPSILON = 0.001


def shared_offset(count: int, generator: torch.Generator) -> Tensor:
    """`count` numbers in [0, 1), each uniform, equally far apart on the circle: float32 [count]."""
    places = torch.arange(count, device=generator.device) / count
    return (torch.rand(1, generator=generator, device=generator.device) + places) % 1


class SharedOffset(MaskSchedule):
    """U[eps,1] from a shared offset."""

    name = "shared_offset"

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        return EPSILON + (1 - EPSILON) * shared_offset(context.rows, generator)

    def estimates(self, context: Context) -> BoundPart:
        return BoundPart(EPSILON, 1, 1 / (1 - EPSILON))

"""MDLM's log-linear schedule (arXiv:2406.07524): sigma(t) = -log(1 - (1-e) t), so t is masked at the rate (1-e) t, weight 1/t.

As in the released code: e = .001; t is stratified over the batch ("antithetic": one draw in each of its equal parts) and then
mapped to [s,1], s = .001. The weight sigma' / expm1(sigma) is 1/t, that is (1-e) / rate. The baseline of most of the field.
Estimates the bound's part on [(1-e)s, 1-e], times 1 / (1-s).
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule

NOISE_EPSILON = 0.001  # e
SAMPLING_EPSILON = 0.001  # s


class Mdlm(MaskSchedule):
    """Log-linear noise, stratified t."""

    name = "mdlm"

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        u = torch.rand(context.rows, generator=generator, device=generator.device)
        u = (u + torch.arange(context.rows, device=generator.device)) / context.rows
        return (1 - NOISE_EPSILON) * (SAMPLING_EPSILON + (1 - SAMPLING_EPSILON) * u)

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        return (1 - NOISE_EPSILON) / rate

    def estimates(self, context: Context) -> BoundPart:
        return BoundPart((1 - NOISE_EPSILON) * SAMPLING_EPSILON, 1 - NOISE_EPSILON, 1 / (1 - SAMPLING_EPSILON))

"""MIRROR (arXiv:2511.18159): each sequence is masked twice at the same t, and the two losses are averaged.

Two readings. The released code (StableDLLM) draws the second mask independently. Its README calls the two complementary and
negatively correlated: then one noise u per token gives both, {u < t} and {u > 1-t}, which is how others implement it; at t =
1/2 they partition the sequence. Both readings keep LLaDA's schedule: t ~ U[.001,1], weight 1/t, and each mask alone has rate
t. The paper reports +7 to 8% on reasoning, together with P-POTS. A pair counts as two samples. Estimates the bound's part on
[.001,1], times 1 / .999.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule

EPSILON = 0.001


class Mirror(MaskSchedule):
    """Two independent masks at the same t."""

    name = "mirror_independent"
    copies = 2

    def __init__(self) -> None:
        self.rate = MaskRate.parse(f"U[{EPSILON},1]")

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        return self.rate.sample(context.rows // 2, generator).repeat_interleave(2)

    def estimates(self, context: Context) -> BoundPart:
        return BoundPart(EPSILON, 1, 1 / (1 - EPSILON))


class MirrorComplementary(Mirror):
    """Two masks from one noise: where the first masks few tokens of low u, the second masks those of high u."""

    name = "mirror_complementary"

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        u = torch.rand(context.rows // 2, context.length, generator=generator, device=generator.device)
        half = rate[::2, None]
        # u < t and 1 - u <= t: both have probability t exactly, because 1 - u lies in (0, 1]
        return context.within(torch.stack((u < half, 1 - u <= half), dim=1).flatten(0, 1))

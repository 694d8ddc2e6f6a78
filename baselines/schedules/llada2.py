"""LLaDA2's band (arXiv:2512.15745, as dFactory trains it): t ~ U[.3,.8], the mean over masked tokens, no 1/t; complementary
masks in fine-tuning.

A reweighting. The released mean is over the masked tokens of the whole batch; ours is over those of each row, which keeps rows
independent of one another (our reading). In a pair the second row has the complement of the first row's mask, a rate of 1 - t.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, RateSchedule
from mdlm_min.diffusion.masking import bernoulli, complement


def llada2() -> RateSchedule:
    """U[.3,.8], mean over a row's masked tokens."""
    return RateSchedule(MaskRate.parse("U[0.3,0.8]"), "mean", "llada2")


class Llada2Pairs(MaskSchedule):
    """The same in pairs of a mask and its complement."""

    name = "llada2_pairs"
    copies = 2

    def __init__(self) -> None:
        self.rate = MaskRate.parse("U[0.3,0.8]")

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        rate = self.rate.sample(context.rows // 2, generator)
        return torch.stack((rate, 1 - rate), dim=1).flatten()

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        mask = bernoulli(rate[::2], context.length, generator)
        return context.within(torch.stack((mask, complement(mask)), dim=1).flatten(0, 1))

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        return context.sizes() / mask.sum(dim=1).clamp(min=1)

"""MD4's schedules and its weight -a'/(1-a) (arXiv:2406.04329), where a(t) is the share of visible tokens at time t.

    cosine      a = 1 - cos(pi/2 (1-t))
    polynomial  a = 1 - t^p
both mixed as (1 - 2e) a + e with e = .0001, as released. The mask rate is 1 - a, t comes from a shared offset, and the weight
is rate'(t) / rate, so every schedule estimates the same integral: the bound's part on [e, 1-e]. The time t is recovered from
the rate. The paper reports OpenWebText perplexity; Quokka (arXiv:2510.03280) finds linear at least as good as cosine and the
square.
"""

import math

import torch
from torch import Tensor

from baselines.schedules.shared_offset import shared_offset
from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule

EPSILON = 0.0001


class Md4(MaskSchedule):
    """Mask rate e + (1-2e) f(t): `masked` is f, `slope` is f' as a function of f's value in [0, 1]."""

    def masked(self, time: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        return EPSILON + (1 - 2 * EPSILON) * self.masked(shared_offset(context.rows, generator))

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        value = ((rate.double() - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)
        return (1 - 2 * EPSILON) * self.slope(value) / rate

    def estimates(self, context: Context) -> BoundPart:
        return BoundPart(EPSILON, 1 - EPSILON)


class Cosine(Md4):
    """Mask rate cos(pi/2 (1-t)): high rates more often."""

    name = "md4_cosine"

    def masked(self, time: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * (1 - time))

    def slope(self, value: Tensor) -> Tensor:
        return math.pi / 2 * (1 - value.square()).sqrt()


class Polynomial(Md4):
    """Mask rate t^p: low rates more often for p > 1."""

    def __init__(self, power: float = 2.0) -> None:
        self.power, self.name = power, f"md4_polynomial_{power:g}"

    def masked(self, time: Tensor) -> Tensor:
        return time**self.power

    def slope(self, value: Tensor) -> Tensor:
        return self.power * value ** (1 - 1 / self.power)

"""Frequency-informed masking (arXiv:2509.05056): rare tokens first, and mask rates with two modes, one of which moves up.

The two modes of t, the weights and the softening were read in the released code (babylm-diffusion). The rank's power, the
scaling in two cases, the growth of p and p = .02 are from a third party's re-implementation.

    token weight   w = (rank / V)^p, rank 1 for the most frequent token, p = .02; p grows from 0 over the run
    probabilities  w t / mean(w) where mean(w) > t, otherwise 1 - (1 - w)(1 - t) / (1 - mean(w)): their mean over tokens is t
    mask rates     .6 N(.12, .02) + .4 N(m, .08) cut to [0,1], m = .2 + .65 (1 - exp(-step / steps))
    loss weight    (1 / p(t))^.1 / t: the bound's weight with its derivative softened

Our reading: p is the density of the whole mixture. The code takes that of the component that was drawn, without its share of .6
or .4; the two differ by that share, and more where the modes overlap, as they do early. Cut means renormalised, where the code
clamps; the code stratifies t over the batch, ours is independent. The paper reports results near hybrids on BabyLM. A
reweighting.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import TruncatedNormal
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule
from mdlm_min.diffusion.masking import bernoulli_each

LEFT, LEFT_SHARE, RIGHT_DEVIATION = TruncatedNormal(0.12, 0.02, "N[0.12,0.02]"), 0.6, 0.08
POWER, SOFTENING = 0.02, 0.1


def informed_probabilities(rate: Tensor, weights: Tensor, allowed: Tensor) -> Tensor:
    """The probabilities above: rate [rows], weights in [0, 1] and allowed [rows, length]; float64, 0 where nothing may be
    masked."""
    weights, t = weights.double(), rate.double()[:, None]
    mean = (weights * allowed).sum(dim=1, keepdim=True) / allowed.sum(dim=1, keepdim=True).clamp(min=1)
    down = weights * t / mean.clamp(min=1e-300)
    up = 1 - (1 - weights) * (1 - t) / (1 - mean).clamp(min=1e-300)
    return torch.where(mean > t, down, torch.where(mean < 1, up, t)).clamp(0, 1) * allowed


class FrequencyInformed(MaskSchedule):
    """Rare tokens first, two modes."""

    name = "frequency_informed"
    needs = ("tokens",)

    def __init__(self, counts: np.ndarray) -> None:
        """`counts`: of every token id in the training corpus, [vocabulary]."""
        order = np.argsort(-counts, kind="stable")
        rank = np.empty(len(counts))
        rank[order] = np.arange(1, len(counts) + 1)
        self.rarity = torch.from_numpy(rank / len(counts))

    def right(self, context: Context) -> TruncatedNormal:
        """The mode that moves."""
        centre = 0.2 + 0.65 * (1 - math.exp(-min(context.step / context.steps, 1)))
        return TruncatedNormal(centre, RIGHT_DEVIATION, f"N[{centre:.3f},{RIGHT_DEVIATION}]")

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        left, right = LEFT.sample(context.rows, generator), self.right(context).sample(context.rows, generator)
        u = torch.rand(context.rows, generator=generator, device=generator.device)
        return torch.where(u < LEFT_SHARE, left, right)

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        tokens = context.need("tokens", self.name)
        power = POWER * min(context.step / context.steps, 1)
        allowed = context.within(torch.ones_like(tokens, dtype=torch.bool))
        weights = self.rarity.to(tokens.device)[tokens] ** power
        return bernoulli_each(informed_probabilities(rate, weights, allowed), generator)

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        t = rate.double()
        density = LEFT_SHARE * LEFT.density(t) + (1 - LEFT_SHARE) * self.right(context).density(t)
        return density.clamp(min=1e-6) ** -SOFTENING / t

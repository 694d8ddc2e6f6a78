"""Information density as a mask schedule (arXiv:2603.15803): dense tokens more often, in pairs of a mask and its complement.

t ~ U[0.3,0.8] per sequence and the mean over a row's masked tokens, no 1/t, as published; the tokens' probabilities are those
of masking.priority_probabilities. The marks come with the data (context.marks), or from the corpus's surprisal: the top share
of each sequence's tokens (ours). In a pair the second row has the complement of the first row's mask: a rate of 1 - t. The
loss is the mean over both rows (ours); rows of unequal size count by their allowed tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule
from mdlm_min.diffusion.masking import (
    bernoulli_each,
    complement,
    dense_first,
    density_weights,
    priority_probabilities,
    top_marks,
)
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError

WEIGHT = 2.0  # of a dense token, as published
Surprisal = Callable[[Tensor], Tensor]  # tokens [rows, length] -> nats, same shape


class InformationDensity(MaskSchedule):
    """Dense tokens are masked `density_weight` times as often as the others (soft), or before them (hard)."""

    def __init__(
        self,
        rate: MaskRate | None = None,
        density_weight: float = WEIGHT,
        hard: bool = False,
        pairs: bool = True,
        surprisal: Surprisal | None = None,
        share: float = 0.2,
        name: str = "information_density",
    ) -> None:
        """`surprisal` and `share` make marks where the data bring none. Raises InputError for a weight outside [1e-6, 1e6] (in
        float32 larger ones overflow), a weight with `hard`, which has none, a share outside [0, 1] and a rate that is no
        MaskRate."""
        if not (isinstance(density_weight, int | float) and 1e-6 <= density_weight <= 1e6):
            raise InputError(f"density_weight: {shown(density_weight)} is not allowed; a number from 1e-6 to 1e6")
        if hard and density_weight != WEIGHT:
            raise InputError(f"density_weight: {density_weight} is not allowed with hard, which masks all dense tokens first")
        if not (isinstance(share, int | float) and 0 <= share <= 1):
            raise InputError(f"share: {shown(share)} is not allowed; a number from 0 to 1")
        if surprisal is not None and not callable(surprisal):
            raise InputError(f"surprisal: {shown(surprisal)} is not allowed; a Surprisal, or None where the data bring marks")
        self.rate = MaskRate.parse("U[0.3,0.8]") if rate is None else MaskRate.checked(rate)
        self.density_weight, self.hard, self.surprisal, self.share = density_weight, hard, surprisal, share
        self.copies, self.name = 2 if pairs else 1, name
        self.needs = ("tokens",) if surprisal else ("marks",)

    def marks(self, context: Context) -> Tensor:
        """The dense tokens: the data's marks where there are any, otherwise by surprisal."""
        if context.marks is not None or self.surprisal is None:
            return context.need("marks", self.name)
        return top_marks(self.surprisal(context.need("tokens", self.name)), self.share, context.allowed)

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        rate = self.rate.sample(context.rows // self.copies, generator)
        return rate if self.copies == 1 else torch.stack((rate, 1 - rate), dim=1).flatten()

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        marks = self.marks(context)[:: self.copies]
        allowed = torch.ones_like(marks) if context.allowed is None else context.allowed[:: self.copies]
        rate = rate[:: self.copies]
        if self.hard:
            mask = dense_first(rate, marks, generator, allowed)
        else:
            mask = bernoulli_each(priority_probabilities(rate, density_weights(marks, self.density_weight, allowed)), generator)
        return mask if self.copies == 1 else torch.stack((mask, complement(mask, allowed)), dim=1).flatten(0, 1)

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        return context.sizes() / mask.sum(dim=1).clamp(min=1)

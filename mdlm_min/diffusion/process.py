"""The training process of masked diffusion: draw a mask rate, mask, weigh the loss. Runs with a mask schedule go through
mask_schedule.py, all other masked runs through here.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import MaskRate, check_generator
from mdlm_min.diffusion.masking import bernoulli, one_of
from mdlm_min.diffusion.objective import WEIGHTS, masked_loss, sequence_weights
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError


class Process(Protocol):
    """Which tokens of a batch are masked, and what the loss of the masked tokens is."""

    def mask(self, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Masks for a batch (bool, [batch, length]) and, where there are any, their mask rates ([batch])."""

    def loss(self, nll: Tensor, mask: Tensor, rate: Tensor | None, whole: tuple[int, int] | None = None) -> Tensor:
        """The batch's loss, a scalar, from the loss of each masked token ([masked], in the row-major order of `mask`)."""

    def token_weights(self, mask: Tensor, rate: Tensor | None) -> Tensor:
        """By what each token's loss counts in the batch's, [batch, length]; 0 where it is not masked."""


@dataclass(frozen=True)
class MaskedDiffusion:
    """Masked diffusion (Definitions 3.4 and 3.6): t from `rate`, each token masked with probability t, `weight` on the loss.

    `weight` is one of objective.WEIGHTS. Raises InputError for an unknown weight, for a mask rate that is always 0, and for one
    that the weight is not defined for: t = 0 under an inverse of t, a fixed rate under 1/(t p(t)).
    """

    rate: MaskRate
    weight: str = "1/t"

    def __post_init__(self) -> None:
        MaskRate.checked(self.rate)
        if self.weight not in WEIGHTS:
            raise InputError(f"weight: {shown(self.weight)} is unknown; allowed: {', '.join(WEIGHTS)}")
        if self.rate.can_be_zero and self.weight.startswith("1/"):
            raise InputError(
                f"mask_rate: {self.rate.text!r} can be t = 0, where weight {self.weight} is infinite; allowed: t > 0, or "
                f"weight none, mean"
            )
        if self.rate.highest == 0:
            raise InputError(f"mask_rate: {self.rate.text!r} masks nothing, and nothing would be learned; allowed: rates above 0")
        self._density(torch.tensor([self.rate.mean]))

    def _density(self, rate: Tensor | None) -> Tensor | None:
        return self.rate.density(rate) if rate is not None and self.weight == "1/(t p(t))" else None

    def mask(self, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Masks (bool, [batch, length]) and the mask rate of each sequence (float32, [batch]), on the generator's device. Raises
        InputError for what is no generator, and for no sequences or tokens."""
        check_generator(generator)
        for name, size in (("batch", batch), ("length", length)):
            if size < 1:
                raise InputError(f"{name}: {size} is not allowed; at least 1")
        rate = self.rate.sample(batch, generator)
        return bernoulli(rate, length, generator), rate

    def loss(
        self,
        nll: Tensor,
        mask: Tensor,
        rate: Tensor | None,
        whole: tuple[int, int] | None = None,
        divisor: Tensor | None = None,
    ) -> Tensor:
        """Training loss, a scalar: see objective.masked_loss. `nll` holds the loss of each masked token, [masked]."""
        return masked_loss(nll, mask, rate, self.weight, self._density(rate), whole, divisor)

    def token_weights(self, mask: Tensor, rate: Tensor | None) -> Tensor:
        """By what each token's loss counts in the batch's, [batch, length]; 0 where it is not masked."""
        weights = sequence_weights(mask, rate, self.weight, float(mask.shape[1]), self._density(rate))
        return mask * weights[:, None] / len(mask)


@dataclass(frozen=True)
class OneMasked:
    """Exactly one of `positions` (int64, [choices]) masked per sequence, each equally likely; its loss counts as it is.

    One position is output supervision; all secret positions are the control without noise masks (open point 7).
    """

    positions: Tensor

    def mask(self, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """Masks (bool, [batch, length]) on the generator's device. They have no mask rate."""
        return one_of(self.positions, batch, length, generator), None

    def loss(self, nll: Tensor, mask: Tensor, rate: Tensor | None = None, whole: tuple[int, int] | None = None) -> Tensor:
        """Mean over sequences of the one masked token's loss."""
        return masked_loss(nll, mask, None, "mean", whole=whole)

    def token_weights(self, mask: Tensor, rate: Tensor | None = None) -> Tensor:
        """By what each token's loss counts in the batch's, [batch, length]; 0 where it is not masked."""
        return mask * sequence_weights(mask, None, "mean", float(mask.shape[1]))[:, None] / len(mask)

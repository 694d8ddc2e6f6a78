"""P-POTS (arXiv:2511.18159): t drawn where the loss is large or noisy, and weighted back: p(t) proportional to sqrt(v(t) +
g(t)^2), weight 1/(t p(t)).

g and v are the mean and variance of a sequence's loss at rate t, its 1/t included: the p that gives the least variance of an
importance-weighted mean. The released code measures them once on a grid of t before training, fits a parametric curve, and
mixes in a share of the uniform density. Our reading: second moments E[x^2] = v + g^2 in equal bins of [.001,1], kept up to
date during training with a memory of about 100 steps, and the same mixing (share .1), which keeps every weight below 10 times
1/t. Estimates the bound's part on [.001,1] without bias, whatever the moments say.
"""

from typing import Any

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule, row_losses

EPSILON, BINS, UNIFORM, MEMORY = 0.001, 20, 0.1, 0.99
LEAST_ROWS = 8.0  # of each bin, before the moments are used


class PPots(MaskSchedule):
    """Importance sampling of t by the second moment of the loss."""

    name = "p_pots"
    needs = ("nll",)

    def __init__(self) -> None:
        self.rows, self.squares = torch.zeros(BINS, dtype=torch.float64), torch.zeros(BINS, dtype=torch.float64)

    def shares(self) -> Tensor:
        """Probability of each bin: float64 [bins]."""
        even = torch.full((BINS,), 1 / BINS, dtype=torch.float64)
        if self.rows.min() < LEAST_ROWS or not self.squares.sum() > 0:
            return even
        moment = (self.squares / self.rows).sqrt()
        return UNIFORM * even + (1 - UNIFORM) * moment / moment.sum()

    def bins(self, rate: Tensor) -> Tensor:
        """The bin of each rate: int64 [rows]."""
        return ((rate.double() - EPSILON) / (1 - EPSILON) * BINS).long().clamp(0, BINS - 1)

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        u = torch.rand(context.rows, generator=generator, device=generator.device, dtype=torch.float64)
        shares = self.shares().to(u.device)
        ends = shares.cumsum(0)
        place = torch.searchsorted(ends, u, right=True).clamp(max=BINS - 1)
        inside = (u - ends[place] + shares[place]) / shares[place]
        return (EPSILON + (1 - EPSILON) * (place + inside.clamp(0, 1)) / BINS).float()

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        density = self.shares().to(rate.device)[self.bins(rate)] * BINS / (1 - EPSILON)
        return 1 / (rate.double() * density)

    def observe(self, rate: Tensor, mask: Tensor, context: Context) -> None:
        rate, loss = row_losses(rate, mask, context, self.name)
        place, loss = self.bins(rate).cpu(), loss.cpu()
        self.rows = MEMORY * self.rows + torch.bincount(place, minlength=BINS)
        self.squares = MEMORY * self.squares + torch.bincount(place, loss.square(), minlength=BINS)

    def estimates(self, context: Context) -> BoundPart:
        return BoundPart(EPSILON, 1)

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows.tolist(), "squares": self.squares.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        try:
            rows, squares = (torch.tensor(state[name], dtype=torch.float64) for name in ("rows", "squares"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"state: no state of schedule {self.name} ({error})") from error
        self.rows, self.squares = rows, squares

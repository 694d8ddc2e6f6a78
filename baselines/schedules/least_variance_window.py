"""BD3-LM's clipped schedule (arXiv:2503.09573): t ~ U[b,w], the window whose loss varies least, weight 1/t.

As in the released code the candidates are [.001,1] and all windows of width .5, .6, .7, .8 and .9 that start at a multiple of
.05, and the variance is that of a sequence's loss sum / (t L) with t drawn from the window. The paper measures it on the
validation set and reports .3-.8 at block 16, .45-.95 at block 4, and 2 to 6 times less variance. Our reading needs no
validation set: on every tenth step (and all of the first hundred) t is drawn from [.001,1], and those losses are kept by bins
of .05, from which every candidate's variance follows; the window of the other steps is the best candidate so far. Estimates
at each step the part on its window, times 1 / width.
"""

from typing import Any

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule, row_losses

EPSILON, BINS = 0.001, 20
WIDTHS = (10, 12, 14, 16, 18)  # in bins of .05
FIRST, EVERY = 100, 10  # steps that look at the whole range
CANDIDATES = [(0, BINS), *((start, start + width) for width in WIDTHS for start in range(BINS - width + 1))]


class LeastVarianceWindow(MaskSchedule):
    """The candidate window of least loss variance, kept up to date."""

    name = "least_variance_window"
    needs = ("nll",)

    def __init__(self) -> None:
        self.moments = torch.zeros(3, BINS, dtype=torch.float64)  # rows, sum and sum of squares of the losses in each bin

    def scouts(self, step: int) -> bool:
        """Whether this step draws from the whole range."""
        return step < FIRST or step % EVERY == 0

    def window(self, step: int) -> tuple[float, float]:
        """Ends of this step's window."""
        best = (0, BINS)
        if not self.scouts(step) and self.moments[0].min() >= 2:
            mean, square = (
                self.moments[1] / self.moments[0],
                self.moments[2] / self.moments[0],
            )  # bins are equally likely in a window
            variance = {(b, w): float(square[b:w].mean() - mean[b:w].mean() ** 2) for b, w in CANDIDATES}
            best = min(CANDIDATES, key=lambda candidate: variance[candidate])
        return max(best[0] / BINS, EPSILON), best[1] / BINS

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        low, high = self.window(context.step)
        return low + (high - low) * torch.rand(context.rows, generator=generator, device=generator.device)

    def observe(self, rate: Tensor, mask: Tensor, context: Context) -> None:
        if self.scouts(context.step):
            rate, loss = row_losses(rate, mask, context, self.name)
            place = (rate * BINS).long().clamp(0, BINS - 1)
            seen = [torch.bincount(place, loss**power, minlength=BINS) for power in range(3)]
            self.moments += torch.stack(seen).cpu()

    def estimates(self, context: Context) -> BoundPart:
        low, high = self.window(context.step)
        return BoundPart(low, high, 1 / (high - low))

    def state(self) -> dict[str, Any]:
        return {"moments": self.moments.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        try:
            self.moments = torch.tensor(state["moments"], dtype=torch.float64).reshape(3, BINS)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"state: no state of schedule {self.name} ({error})") from error

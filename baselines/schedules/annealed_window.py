"""A window that moves from one interval to another over the first half of the run, its ends in a straight line: from the middle,
U[.45,.55], to the full range, U[.001,1], or back.

An entry of our own. Middle to full asks whether the early lead of the paper's window can be kept while the test's whole range
is trained on; full to middle, whether the window matters late. Weight 1/t. Estimates at each step the part on its window,
times 1 / width.
"""

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule

MIDDLE, FULL = (0.45, 0.55), (0.001, 1.0)


class AnnealedWindow(MaskSchedule):
    """From `start` to `end`, in the share `over` of the run's steps."""

    def __init__(self, start: tuple[float, float], end: tuple[float, float], name: str, over: float = 0.5) -> None:
        self.start, self.end, self.name, self.over = start, end, name, over

    def window(self, context: Context) -> tuple[float, float]:
        """Ends of this step's window."""
        done = min(context.step / (self.over * context.steps), 1.0)
        low, high = (first + (last - first) * done for first, last in zip(self.start, self.end, strict=True))
        return low, high

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        low, high = self.window(context)
        return low + (high - low) * torch.rand(context.rows, generator=generator, device=generator.device)

    def estimates(self, context: Context) -> BoundPart:
        low, high = self.window(context)
        return BoundPart(low, high, 1 / (high - low))


def middle_to_full() -> AnnealedWindow:
    """U[.45,.55] to U[.001,1]."""
    return AnnealedWindow(MIDDLE, FULL, "middle_to_full")


def full_to_middle() -> AnnealedWindow:
    """U[.001,1] to U[.45,.55]."""
    return AnnealedWindow(FULL, MIDDLE, "full_to_middle")

"""PAPL, planner-aware path learning (arXiv:2509.23405): tokens that a confident sampler would fill in first count more.

Weight of masked token i: (L/l) (1 + alpha w_i), where w is the softmax of log p(true token) / tau over the l masked tokens of
its row, taken as a constant. alpha = tau = 1, as the paper recommends to start with. l is uniform on 1 .. L, so alpha = 0 is
the whole bound. The paper reports HumanEval pass@10 +23% relative. A reweighting for alpha > 0.
"""

import torch
from torch import Tensor

from baselines.schedules.exact_count import ExactCount
from mdlm_min.diffusion.mask_schedule import BoundPart, Context, in_place


class Papl(ExactCount):
    """Exact counts, weighted by the model's confidence in the truth."""

    needs = ("nll",)

    def __init__(self, alpha: float = 1.0, tau: float = 1.0) -> None:
        self.name, self.alpha, self.tau = "papl", alpha, tau

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        log_p = -in_place(context.need("nll", self.name), mask) / self.tau
        planner = log_p.masked_fill(~mask, -torch.inf).softmax(dim=1).nan_to_num()  # a row without masked tokens has no planner
        return (1 + self.alpha * planner) / rate[:, None]

    def estimates(self, context: Context) -> BoundPart | None:
        return super().estimates(context) if self.alpha == 0 else None

"""The head and its cross-entropy, without ever holding the scores of all classes at once.

With LLaDA's vocabulary of 126,464 the scores, their log-probabilities and their gradients are by far the largest tensors of a
step. They are needed one slice of the vocabulary at a time: the forward pass keeps a running log-sum-exp, the backward pass
computes the slice's scores again. A slice's part of the head's gradient is one whole matrix product, so nothing is rounded more
often than without slices. On a CPU a slice that fits the cache is no slower for being computed twice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHOLE = 1 << 24  # up to so many scores are computed whole: they are no burden
SLICE = {"cpu": 1 << 19, "cuda": 1 << 24}  # scores in a slice: for the cache of a core; for large matrix products
LEAST_CLASSES = 512  # in a slice: thinner products are slow


class Head(nn.Linear):
    """Scores of the classes, or, given the right classes, their negative log-probabilities. No bias."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs, bias=False)
        self.slice = 0  # most scores at a time; 0: as many as suit the device

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        """Scores [..., outputs] of `x` ([..., width]); or -log p of `targets` (int64 [rows]) in nats, float32 [rows], of `x`
        ([rows, width])."""
        kind = x.device.type
        classes = classes_at_a_time(len(x), self.out_features, self.slice or SLICE[kind])
        if targets is None or classes == self.out_features:
            scores = super().forward(x)
            return scores if targets is None else F.cross_entropy(scores.float(), targets, reduction="none")
        weight = self.weight
        if torch.is_autocast_enabled(kind):
            x, weight = (part.to(torch.get_autocast_dtype(kind)) for part in (x, weight))
        return _SlicedNLL.apply(x, weight, targets, classes)


def classes_at_a_time(rows: int, outputs: int, most: int) -> int:
    """How many of the `outputs` classes a slice has, for at most about `most` scores; all of them where they are few."""
    return outputs if rows * outputs <= WHOLE else min(outputs, max(LEAST_CLASSES, most // rows))


class _SlicedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, classes: int) -> Tensor:
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)  # log of the sum of exponentials
        right = torch.zeros(len(x), dtype=torch.float32, device=x.device)
        for start in range(0, len(weight), classes):
            scores = (x @ weight[start : start + classes].T).float()
            place, inside = _place(targets, start, scores)
            right = torch.where(inside, scores.gather(1, place)[:, 0], right)
            highest = scores.amax(dim=1)
            part = scores.sub_(highest[:, None]).exp_().sum(dim=1)
            total = torch.logaddexp(total, part.double().log_() + highest)
        ctx.save_for_backward(x, weight, targets, total)
        ctx.classes = classes
        return (total - right).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        [gradient] = gradients  # float32 [rows]
        x, weight, targets, total = ctx.saved_tensors
        x_gradient = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        weight_gradient = torch.empty_like(weight)
        log_total, weighted = total.float()[:, None], (x * gradient[:, None]).to(x.dtype)
        for start in range(0, len(weight), ctx.classes):
            part = weight[start : start + ctx.classes]
            shares = (x @ part.T).float().sub_(log_total).exp_()
            place, inside = _place(targets, start, shares)
            shares.scatter_add_(1, place, -inside.float()[:, None])
            shares = shares.to(x.dtype)
            torch.mm(shares.T, weighted, out=weight_gradient[start : start + ctx.classes])
            x_gradient += shares @ part
        return (x_gradient * gradient[:, None]).to(x.dtype), weight_gradient, None, None


def _place(targets: Tensor, start: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's target lies in a slice of the classes that begins at `start`, [rows, 1], and whether it lies there."""
    place = targets - start
    return place.clamp(0, scores.shape[1] - 1)[:, None], (place >= 0) & (place < scores.shape[1])

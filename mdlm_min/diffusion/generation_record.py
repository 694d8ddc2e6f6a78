"""What generation took: forward passes, tokens per forward pass, tokens per second; and accuracy against tokens per pass."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Generation:
    """Filled-in templates and their cost.

    tokens: int64 [batch, length]. passes: each row's forward passes (NFE, the number of function evaluations; guidance takes two
    for a step, and a pass over some positions counts as one). answers: each row's answer in tokens: what was filled in before the
    first stop token. Prompt, padding and what follows the stop token are not counted. seconds: wall time of the batch.
    """

    tokens: "Tensor"
    passes: list[int]
    answers: list[int]
    seconds: float

    @property
    def tokens_per_pass(self) -> float:
        """Tokens of the answers for each forward pass of a row; 0 without passes."""
        return sum(self.answers) / sum(self.passes) if any(self.passes) else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answers per second of the whole batch."""
        return sum(self.answers) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        mean = sum(self.passes) / max(1, len(self.passes))
        return f"NFE {mean:,.4g}, {self.tokens_per_pass:.2f} tokens per forward, {self.tokens_per_second:,.1f} tokens/s"


def accuracy_under_parallelism(
    points: Sequence[tuple[float, float]], best: float, penalty: float = 3.0, tolerated: float = 5.0
) -> float:
    """AUP: weighted area under accuracy against parallelism (d3LLM, arXiv:2601.07568).

    `points`: pairs of tokens per forward pass and accuracy in percent, in any order; `best`: the highest accuracy that any
    method reached on the task, in percent. With the points ordered by parallelism r and accuracies y, those whose accuracy is
    more than `tolerated` below the first one's are left out, and

        AUP = r_1 y_1 + sum_i (r_i - r_(i-1)) (y_i w(y_i) + y_(i-1) w(y_(i-1))) / 2
        w(y) = min(exp(-penalty (1 - y / best)), 1)

    Raises ValueError without points, and for accuracies or tokens per pass that are not positive numbers.
    """
    if not points or not 0 < best <= 100 or not all(0 < r < math.inf and 0 <= y <= 100 for r, y in points):
        raise ValueError(f"points: {points} (best {best}) are not allowed; tokens per pass above 0, accuracies in percent")
    ordered = sorted(points)
    kept = [(r, y) for r, y in ordered if y >= ordered[0][1] - tolerated]

    def weighted(y: float) -> float:
        return y * min(math.exp(-penalty * (1 - y / best)), 1.0)

    steps = itertools.pairwise(kept)
    return kept[0][0] * kept[0][1] + sum((r - s) * (weighted(y) + weighted(z)) / 2 for (s, z), (r, y) in steps)

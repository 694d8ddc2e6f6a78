"""Ranks of entries that were run on the same seeds, with their uncertainty, so that a tie is called a tie.

Every pair of entries is compared by a paired t-test over seeds. An entry's rank interval counts those that are surely better and
surely worse than it, adjusted by Holm's method for its comparisons: a confidence set of its rank at 95% (the construction of
Mogstad, Romano, Shaikh and Wilhelm 2024, with Holm's method in the place of their bootstrap).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdlm_min.evidence.statistics import LEAST_SEEDS, Mean, holm

LEVEL = 0.05


@dataclass(frozen=True)
class Ranked:
    """An entry's mean score, its place by that, and the least and the largest rank that the seeds leave open."""

    name: str
    mean: float
    place: int
    best: int
    worst: int

    @property
    def text(self) -> str:
        """The rank in a table."""
        return f"{self.place}" if self.best == self.worst else f"{self.place} [{self.best}, {self.worst}]"


def ranked(scores: dict[str, np.ndarray]) -> list[Ranked]:
    """The entries, best first. `scores` has one value for each seed, lower is better, the seeds of all entries in one order.

    Fewer than LEAST_SEEDS seeds decide nothing: then every rank is open. Raises ValueError for entries of unequal seeds, and for
    a score that is not finite, which has no place in an order.
    """
    if unordered := [name for name, values in scores.items() if not np.isfinite(values).all()]:
        raise ValueError(f"{unordered[0]} has a score that is not finite and cannot be ranked")
    names = sorted(scores, key=lambda name: float(np.mean(scores[name])))
    if len({len(values) for values in scores.values()}) > 1:
        raise ValueError("entries of unequal numbers of seeds cannot be ranked by pairs")
    if names and len(scores[names[0]]) < LEAST_SEEDS:
        return [Ranked(name, float(np.mean(scores[name])), place, 1, len(names)) for place, name in enumerate(names, start=1)]
    p_values = np.ones((len(names), len(names)))
    for one, other in itertools.combinations(range(len(names)), 2):
        gap = Mean(tuple(scores[names[one]] - scores[names[other]]))
        p_values[one, other] = p_values[other, one] = two_sided(gap)
    found = []
    for index, name in enumerate(names):  # those before it have a lower mean
        others = [other for other in range(len(names)) if other != index]
        sure = [other for other, p in zip(others, holm(p_values[index, others].tolist()), strict=True) if p <= LEVEL]
        better, worse = sum(other < index for other in sure), sum(other > index for other in sure)
        found.append(Ranked(name, float(np.mean(scores[name])), index + 1, 1 + better, len(names) - worse))
    return found


def two_sided(gap: Mean) -> float:
    """Two-sided p-value of a mean of zero."""
    return min(1.0, 2 * min(gap.p_at_most(0.0), gap.p_at_least(0.0)))


def steps_to(curve: Sequence[tuple[float, float]], target: float) -> float:
    """First step at which a loss, given as (step, loss), is at most `target`, on the straight line between evaluations;
    infinity where it never is."""
    for (before, high), (step, low) in itertools.pairwise(curve):
        if low <= target:
            return step if high <= target else before + (step - before) * (high - target) / (high - low)
    return math.inf

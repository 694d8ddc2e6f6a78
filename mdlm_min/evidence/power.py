"""How many seeds would show the smallest value that matters, in four of five cases (POWER), before adjustment in a family.

For the design of further runs: no verdict rests on it. The spread of the values is taken from the seeds that are there.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from mdlm_min.evidence.statistics import LEAST_SEEDS, POWER, AllOf, Crossed, Evidence, Mean, Ratio, Share, Sooner, Times

MOST = 10**6  # of seeds; nobody trains more


def seeds_needed(evidence: Evidence, null: float, smallest: float) -> int:
    """How many seeds. 0 where these seeds say nothing of it: fewer than LEAST_SEEDS, runs that ended before it could be seen
    whether they have a property (longer runs are needed), or test items that limit what any number of seeds can show."""
    if evidence.seeds < LEAST_SEEDS:
        return 0
    match evidence:
        case AllOf():  # each part more surely, as if they were independent
            parts = [seeds_needed(part, null, smallest) for part in evidence.parts]
            sure = POWER ** (1 / len(parts))
            more = (_quantile(0.975) + _quantile(sure)) / (_quantile(0.975) + _quantile(POWER))
            return math.ceil(max(parts) * more**2) if all(parts) else 0
        case Share():
            return (
                0 if evidence.unknown else _first(lambda seeds: _power_of_share(seeds, null, smallest, evidence.level) >= POWER)
            )
        case Sooner():
            return _first(lambda seeds: _any_runs(seeds).detectable(null) <= smallest)
        case Ratio():
            return seeds_needed(Mean(tuple(np.log(evidence.values).tolist())), math.log(null), math.log(smallest))
        case Mean():
            deviation = float(np.std(evidence.values, ddof=1))
            return _first(lambda seeds: _shift(seeds - 1) * deviation / math.sqrt(seeds) <= smallest - null)
        case Crossed():
            return 0
    seen = evidence.detectable(null)
    return math.ceil(evidence.seeds * ((seen - null) / (smallest - null)) ** 2) if math.isfinite(seen) else 0


def _first(enough: Callable[[int], bool]) -> int:
    """The least number of seeds that is enough, by halving; 0 where MOST are not."""
    if not enough(MOST):
        return 0
    low, high = LEAST_SEEDS - 1, LEAST_SEEDS
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power_of_share(seeds: int, null: float, share: float, level: float) -> float:
    """With which probability the exact test at `level` shows that a share of so many seeds lies above `null`."""
    held = int(stats.binom.isf(level, seeds, null)) + 1  # the least number that it takes
    return float(stats.binom.sf(held - 1, seeds, share))


def _any_runs(seeds: int) -> Sooner:
    """So many runs of two arms, whichever: what can be seen depends on their number alone (Newcombe's interval)."""
    runs = Times((0.0,) * seeds, (True,) * seeds)
    return Sooner(runs, runs)


def _shift(freedom: int) -> float:
    """How many standard errors an effect must have for the t-test at 2.5%."""
    critical = float(stats.t.ppf(0.975, freedom))
    if freedom > 1000:
        return critical + _quantile(POWER)
    return float(optimize.brentq(lambda shift: stats.nct.sf(critical, freedom, shift) - POWER, 0, 60 * critical))


def _quantile(probability: float) -> float:
    return float(stats.norm.ppf(probability))

"""How many seeds would show the smallest value that matters, in four of five cases (POWER), before adjustment in a family.

For the design of further runs: no verdict rests on it. The spread of the values is taken from the seeds that are there.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from mdlm_min.evidence.statistics import LEAST_SEEDS, POWER, AllOf, Crossed, Evidence, Mean, Quotient, Ratio, Share, Sooner, Times

MOST = 1000  # of seeds; nobody trains more


def seeds_needed(evidence: Evidence, null: float, smallest: float, power: float = POWER) -> int:
    """How many seeds, so that they and any larger number show it with the probability `power`. 0 where these seeds say nothing
    of it (fewer than LEAST_SEEDS, runs that ended before it could be seen whether they have a property, or all of them before an
    event, so that longer runs are needed, test items that limit what any number of seeds can show), and where MOST are too
    few."""
    if evidence.seeds < LEAST_SEEDS:
        return 0
    match evidence:
        case AllOf():  # each part more surely, as if they were independent
            each = [seeds_needed(part, null, smallest, power ** (1 / len(evidence.parts))) for part in evidence.parts]
            return max(each) if all(each) else 0
        case Share():
            return 0 if evidence.unknown else _for_a_share(null, smallest, evidence.level, power)
        case Sooner() if not any((*evidence.first.seen, *evidence.second.seen)):
            return 0
        case Sooner():  # `detectable` is of POWER; other powers to first order
            more = (_quantile(0.975) + _quantile(power)) / (_quantile(0.975) + _quantile(POWER))
            needed = math.ceil(more**2 * _first(lambda seeds: _any_runs(seeds).detectable(null) <= smallest))
            return needed if needed <= MOST else 0
        case Ratio():
            return seeds_needed(Mean(tuple(np.log(evidence.values).tolist())), math.log(null), math.log(smallest), power)
        case Quotient():  # the test's own values, and what they are if the quotient is the smallest that matters
            parts, wholes = np.array(evidence.parts), np.array(evidence.wholes)
            rest = Mean(tuple((parts - null * wholes).tolist()))
            defined = math.isfinite(evidence.interval()[0])  # the wholes are surely positive
            return seeds_needed(rest, 0.0, (smallest - null) * float(np.mean(wholes)), power) if defined else 0
        case Mean():
            deviation = float(np.std(evidence.values, ddof=1))
            return _first(lambda seeds: _shift(seeds - 1, power) * deviation / math.sqrt(seeds) <= smallest - null)
        case Crossed():
            return 0
    raise TypeError(f"no power is known of {type(evidence).__name__}")


def _first(enough: Callable[[int], bool]) -> int:
    """The least number of seeds that is enough, by halving; 0 where MOST are not."""
    if not enough(MOST):
        return 0
    low, high = LEAST_SEEDS - 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _for_a_share(null: float, share: float, level: float, power: float) -> int:
    """From which number of seeds on the exact test at `level` shows with `power` that a share lies above `null`; 0 where MOST are
    not enough. The power goes up and down with the number of seeds, as what it takes is a whole number of them."""
    seeds = np.arange(LEAST_SEEDS, MOST + 1)
    held = stats.binom.isf(level, seeds, null) + 1  # the least number that it takes
    few = np.flatnonzero(stats.binom.sf(held - 1, seeds, share) < power)
    last = int(seeds[few[-1]]) if len(few) else LEAST_SEEDS - 1
    return last + 1 if last < MOST else 0


def _any_runs(seeds: int) -> Sooner:
    """So many runs of two arms, whichever: what can be seen depends on their number alone (Newcombe's interval)."""
    runs = Times((0.0,) * seeds, (True,) * seeds)
    return Sooner(runs, runs)


def _shift(freedom: int, power: float) -> float:
    """How many standard errors an effect must have for the t-test at 2.5%."""
    critical = float(stats.t.ppf(0.975, freedom))
    return float(optimize.brentq(lambda shift: stats.nct.sf(critical, freedom, shift) - power, 0, 60 * critical))


def _quantile(probability: float) -> float:
    return float(stats.norm.ppf(probability))

"""What it would take to decide: the hours of training that an undecided claim needs.

The seeds that would decide (verdicts.seeds_needed) are fresh ones: those that have been looked at decide nothing a second time.
"""

import functools
import math
import statistics
from collections.abc import Iterable, Mapping

from mdlm_min.evidence.asked import AskedTable
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.needs import made_up, trace
from mdlm_min.evidence.verdicts import Judged


def hours(judged: Mapping[str, Judged], tables: Iterable[Table]) -> dict[str, float]:
    """Claim ids, each with the hours that the seeds take which would decide: all runs of the arms that the claim cannot be judged
    without, one after another, each as long as its arm's runs took here (their median), without what they start from. Claims of
    which this is not known are left out. `judged` is by experiment."""
    by_tier = {(table.experiment, table.tier): table for table in tables}
    found = {
        claim.id: verdict.needed * _seconds_of_a_seed(by_tier[name, claim.tier], claim.id) / 3600
        for name, pairs in judged.items()
        for claim, verdict in pairs
        if verdict.needed and (name, claim.tier) in by_tier
    }
    return {claim: value for claim, value in found.items() if math.isfinite(value)}


def as_text(value: float) -> str:
    """Hours in words: "20 hours", "1 hour"; below one in one digit."""
    rounded = f"{value:.0f}" if value >= 0.95 else f"{value:.1g}"
    return f"{rounded} hour{'s' * (rounded != '1')}"


def _seconds_of_a_seed(table: Table, claim: str) -> float:
    """How long one seed of the claim's arms takes; NaN where the table lacks one of them."""
    took: dict[tuple[str, str], list[float]] = {}
    for record in table.runs.values():
        took.setdefault((record["cell"], record["config"]["arm"]), []).append(record["finished"]["seconds"])
    places = _places(table.experiment, table.tier, claim)
    return sum(statistics.median(took.get(place, [math.nan])) for place in places)


@functools.cache
def _places(experiment: str, tier: str, claim: str) -> list[tuple[str, str]]:
    """The cells and arms that a claim cannot be judged without."""
    (found,) = (one for one in Experiment(experiment).module("claims").CLAIMS if one.id == claim)
    arms = trace(found, _table_of_the_plan(experiment, tier)).arms
    return [(cell, arm) for cell, names in arms.items() for arm in names]


@functools.cache
def _table_of_the_plan(experiment: str, tier: str) -> AskedTable:
    return made_up(Experiment(experiment), tier)

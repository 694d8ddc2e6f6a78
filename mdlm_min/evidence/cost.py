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
    took = {(table.experiment, table.tier): _median_seconds(table) for table in tables}
    found = {
        claim.id: verdict.needed
        * sum(took[name, claim.tier].get(place, math.nan) for place in _places(name, claim.tier, claim.id))
        for name, pairs in judged.items()
        for claim, verdict in pairs
        if verdict.needed and (name, claim.tier) in took
    }
    return {claim: seconds / 3600 for claim, seconds in found.items() if math.isfinite(seconds)}


def shown(claim: str, found: Mapping[str, float]) -> str:
    """What `hours` found of a claim, in words; empty where it found nothing."""
    return as_text(found[claim]) if claim in found else ""


def as_text(value: float) -> str:
    """Hours in words: "20 hours", "1 hour"; below one in one digit."""
    rounded = f"{value:.0f}" if value >= 0.95 else f"{value:.1g}"
    return f"{rounded} hour{'s' * (rounded != '1')}"


def _median_seconds(table: Table) -> dict[tuple[str, str], float]:
    """How long a run of each arm of a cell takes."""
    took: dict[tuple[str, str], list[float]] = {}
    for record in table.runs.values():
        took.setdefault((record["cell"], record["config"]["arm"]), []).append(record["finished"]["seconds"])
    return {place: statistics.median(seconds) for place, seconds in took.items()}


@functools.cache
def _places(experiment: str, tier: str, claim: str) -> list[tuple[str, str]]:
    """The cells and arms that a claim cannot be judged without."""
    (found,) = (one for one in Experiment(experiment).module("claims").CLAIMS if one.id == claim)
    arms = trace(found, _table_of_the_plan(experiment, tier)).arms
    return [(cell, arm) for cell, names in arms.items() for arm in names]


@functools.cache
def _table_of_the_plan(experiment: str, tier: str) -> AskedTable:
    return made_up(Experiment(experiment), tier)

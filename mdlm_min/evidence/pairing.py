"""What of a golden table is judged: an arm counts once all seeds are there that the plan names for it, and no other seed does.

So nobody chooses when to stop, or which seeds to show, and arms that a judge pairs by seed have the same ones, within a cell and
across cells.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Place, Table, place_of
from mdlm_min.evidence.plan_file import planned_seeds


def unfinished(experiment: Experiment, table: Table) -> dict[Place, tuple[int, int]]:
    """The arms of which planned seeds are missing: how many of them are there, and how many are planned."""
    return _unfinished(planned_seeds(experiment.plan, table.tier), table)


def _unfinished(planned: dict[Place, set[int]], table: Table) -> dict[Place, tuple[int, int]]:
    there: dict[Place, set[int]] = defaultdict(set)
    for record in table.runs.values():
        there[place_of(record)].add(record["config"]["seed"])
    return {
        place: (len(seeds & planned[place]), len(planned[place]))
        for place, seeds in there.items()
        if place in planned and not planned[place] <= seeds
    }


def judged_part(experiment: Experiment, table: Table) -> Table:
    """The table's arms that have all planned seeds, with these seeds."""
    planned = planned_seeds(experiment.plan, table.tier)
    missing = _unfinished(planned, table)

    def counts(record: Mapping[str, Any]) -> bool:
        place = place_of(record)
        return place not in missing and record["config"]["seed"] in planned.get(place, ())

    return table if all(map(counts, table.runs.values())) else table.part(counts)

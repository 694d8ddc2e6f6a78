"""Judges and figures pair the runs of a cell by seed. Of a table that grows, a seed counts once each arm has it."""

from collections import defaultdict
from typing import Any

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table

Run = tuple[str, str, int]  # cell, arm, seed


def unpaired(experiment: Experiment, table: Table) -> set[Run]:
    """The runs whose seed only some of their cell's arms have. Arms that were not run at all do not count, and arms to which the
    plan gives other seeds are not paired."""
    planned: dict[tuple[str, str], list[int]] = defaultdict(list)
    for spec in experiment.runs(table.tier, "all"):
        planned[spec.cell, spec.arm].append(spec.seed)
    groups: dict[tuple[str, tuple[int, ...]], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for cell, arm, seed in map(_run, table.runs.values()):
        if (cell, arm) in planned:
            groups[cell, tuple(planned[cell, arm])][arm].add(seed)
    return {
        (cell, arm, seed)
        for (cell, _), arms in groups.items()
        for arm, seeds in arms.items()
        for seed in seeds - set[int].intersection(*arms.values())
    }


def whole_seeds(experiment: Experiment, table: Table) -> Table:
    """The table without its unpaired runs."""
    halves = unpaired(experiment, table)
    return table.part(lambda record: _run(record) not in halves) if halves else table


def _run(record: dict[str, Any]) -> Run:
    return record["cell"], record["config"]["arm"], record["config"]["seed"]

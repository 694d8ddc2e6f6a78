"""A golden table that grows: finished runs are added to it, so a long sweep can be published in pieces, from several machines.

A run is its name and its configuration. What the plan no longer names, or names in another configuration, leaves the table.
"""

from collections.abc import Sequence
from pathlib import Path

from mdlm_min.evidence import golden
from mdlm_min.evidence.experiment import Experiment, RunSpec
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.pairing import unfinished
from mdlm_min.run.errors import RunError
from mdlm_min.run.files import write_whole
from mdlm_min.run.run_folder import RunFolder, is_same_run, metrics_csv


def planned(experiment: Experiment, tier: str, seeds: int) -> list[RunSpec]:
    """Every run that the plan names: all arms, with the tier's own seeds and with the number that was asked for."""
    named = [*experiment.runs(tier, "all"), *experiment.runs(tier, "all", seeds)]
    return list({spec.name: spec for spec in named}.values())


def holds(table: Table, spec: RunSpec) -> bool:
    """Whether the table has this run."""
    return spec.name in table.runs and is_same_run(table.runs[spec.name]["config"], spec.config)


def merge(old: Table, new: Table, plan: Sequence[RunSpec], replace: bool) -> Table:
    """The runs of the plan that either table has, in the plan's order: where both have one the old one, or the new one to
    `replace` it.

    Raises RunError where an old run's curves or items are not those that the run recorded."""
    if forged := old.forged():
        raise RunError(f"{old.experiment}/{old.tier}: the curves or items of {forged[0]} are not those that its run recorded")
    runs, curves, items = {}, {}, {}
    for spec in plan:
        found = [table for table in ((new, old) if replace else (old, new)) if holds(table, spec)]
        if not found:
            continue
        name, table = spec.name, found[0]
        columns = golden.written_order(table.curves[name], table.runs[name])
        assert columns is not None, "neither an old nor a new run is forged"
        runs[name] = {**table.runs[name], "columns": columns}  # recorded, since the table's order follows from all of its runs
        curves[name] = golden.ordered(table.curves[name], columns)
        if name in table.items:
            items[name] = table.items[name]
    return Table(old.experiment, old.tier, runs, curves, items)


def take_back(table: Table, specs: list[RunSpec], runs: Path) -> int:
    """Write those of `specs` that the golden table has, and that were not begun, as finished run folders below `runs`: what takes
    its settings from them finds them. They have no checkpoints and no log. Returns how many.

    Raises RunError where a run's curves or items are not those that it recorded."""
    taken = [spec for spec in specs if holds(table, spec) and not (spec.folder(runs) / "config.json").exists()]
    if forged := set(table.forged()) & {spec.name for spec in taken}:
        raise RunError(
            f"{table.experiment}/{table.tier}: the curves or items of {forged.pop()} are not those that its run recorded"
        )
    for spec in taken:
        record, curve = table.runs[spec.name], table.curves[spec.name]
        folder = RunFolder(spec.folder(runs))
        if spec.name in table.items:
            write_whole(folder.path / "items.csv", table.items[spec.name])
        write_whole(folder.path / "metrics.csv", metrics_csv(golden.ordered(curve, golden.written_order(curve, record) or ())))
        for name in ("config", "environment", "data", "finished"):  # the last one says that it is whole
            folder.write_json(f"{name}.json", record[name])
    return len(taken)


def add_finished(specs: list[RunSpec], runs: Path, plan: Sequence[RunSpec], replace: bool) -> Table:
    """The golden table with those of `specs` that are finished below `runs`. Prints which were added, kept and dropped.

    Says which arms do not count yet, as planned seeds are missing (pairing.py).

    Raises RunError where none is finished."""
    done = [spec for spec in specs if RunFolder(spec.folder(runs)).is_finished(spec.config)]
    if not done:
        raise RunError(f"none of the {len(specs)} runs is finished in {runs}; `mdlm run` finishes them")
    old = golden.accepted(specs[0].experiment, specs[0].tier)
    table = merge(old, golden.collect(done, runs), plan, replace)
    known = {spec.name for spec in plan if holds(old, spec)}
    for name in old.runs:
        if name not in known:
            print(f"dropped: {name}: the plan no longer names this run in this configuration")
    twice = sum(holds(old, spec) for spec in done)
    fate = "replaced" if replace else "in the golden table already and left as they are there"
    print(f"{len(done) - twice} of {len(specs)} runs added, {twice} {fate}; {len(specs) - len(done)} not finished")
    for (cell, arm), (there, wanted) in unfinished(Experiment(table.experiment), table).items():
        print(f"does not count yet: {f'{cell}/' if cell else ''}{arm}, which has {there} of {wanted} planned seeds")
    return table

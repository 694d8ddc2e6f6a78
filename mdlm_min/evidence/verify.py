"""Recompute every verdict from the golden tables and say what has moved."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_min.evidence import crate, golden
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.history import prove
from mdlm_min.evidence.publishing import holds, planned
from mdlm_min.evidence.report import count_verdicts, stale
from mdlm_min.evidence.verdicts import Judged, as_json, judge_each, print_verdicts, read_accepted, read_json
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256, write_whole


def _hashes() -> dict[str, str]:
    """Every table under results/ and its hash, the published ones included."""
    paths = [
        path
        for pattern in ("*/*.csv", "*/*.json", "*/*/table.csv", "*/*/runs.json", "*/*/curves.csv.gz", "*/*/items.csv.gz")
        for path in golden.RESULTS.glob(pattern)
        if path.is_file()
    ]
    return {path.relative_to(golden.RESULTS).as_posix(): sha256(path) for path in sorted(paths)}


def _moved_verdicts(judged: Judged, set_after: Mapping[str, str]) -> list[str]:
    accepted = read_accepted()
    present = {record["id"]: record for record in json.loads(as_json(judged, set_after))}
    moved = []
    for name in sorted(accepted.keys() | present.keys()):
        old, new = accepted.get(name), present.get(name)
        if old is None or new is None:
            moved.append(f"{name}: {'not among the accepted verdicts' if old is None else 'accepted, but no longer a claim'}")
        elif changed := [key for key in new if not _same(old.get(key), new[key])]:
            moved.append(f"{name}: " + ", ".join(f"{key} was {old.get(key)!r}, is {new[key]!r}" for key in changed))
    return moved


def _same(old: Any, new: Any) -> bool:
    # The last digits of a float differ between processors and library versions; nothing that a table shows does.
    if isinstance(old, float | int) and isinstance(new, float | int):
        return math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-9)
    return bool(old == new)


def _moved_tables(tables: list[golden.Table]) -> list[str]:
    accepted: dict[str, str] = read_json(golden.RESULTS / "hashes.json", dict)
    present = _hashes()
    moved = [
        f"{name}: altered, missing or new"
        for name in sorted(accepted.keys() | present.keys())
        if accepted.get(name) != present.get(name)
    ]
    for table in tables:
        folder = golden.RESULTS / table.experiment / table.tier
        where = f"{table.experiment}/{table.tier}"
        try:
            same = table.csv() == (folder / "table.csv").read_text()
        except (OSError, ValueError):
            same = False
        if not same:
            moved.append(f"{where}/table.csv: not what its curves and runs give")
        moved += [f"{where}: the curves or items of {name} are not those that its run recorded" for name in table.forged()]
        moved += _undefined(table)
        moved += [f"{where}: {line}" for line in (*_unplanned(table), *_copies(table))]
    return moved


def _unplanned(table: golden.Table) -> list[str]:
    """Runs that the plan does not name, or names in another configuration."""
    seeds = len({record["config"]["seed"] for record in table.runs.values()})
    specs = {spec.name: spec for spec in planned(Experiment(table.experiment), table.tier, seeds)}
    unplanned = [name for name in table.runs if name not in specs or not holds(table, specs[name])]
    return [f"{name} is no run of the plan in this configuration" for name in unplanned]


def _copies(table: golden.Table) -> list[str]:
    """Runs that have the curves of another seed of their cell and arm."""
    first: dict[tuple[str, str, str], str] = {}
    lines = []
    for name, record in table.runs.items():
        key = (record["cell"], record["config"]["arm"], record["finished"]["metrics_sha256"])
        if (other := first.setdefault(key, name)) != name:
            lines.append(f"{name} has the curves of {other}")
    return lines


def _undefined(table: golden.Table) -> list[str]:
    """Runs with a metric that is not a number although it was one before, or although other seeds of the arm have one in the end.
    A metric that an arm never has is none of its own."""
    numbers = {  # of each cell and arm, the metrics that some seed has in the end
        (record["cell"], record["config"]["arm"], name)
        for run, record in table.runs.items()
        for name, value in table.curves[run][-1].items()
        if not math.isnan(value)
    }
    lines = []
    for run, record in table.runs.items():
        rows = table.curves[run]
        for name in rows[-1]:
            known = [not math.isnan(row.get(name, math.nan)) for row in rows]
            lost = (
                not all(known[known.index(True) :]) if any(known) else (record["cell"], record["config"]["arm"], name) in numbers
            )
            if lost:
                lines.append(f"{table.experiment}/{table.tier}: {name} of {run} is not a number")
                break
    return lines


def _fresh_differences(runs: Path) -> tuple[int, list[str]]:
    """Compare fresh tables below `runs` with the golden ones: the experiment's [tolerance] on each arm's mean over the
    seeds that both have. Returns how many tables were compared, and what is out of tolerance.

    Training is chaotic: on another processor or torch the same seed ends elsewhere. There, three standard errors of the
    difference are allowed on top, so that a single seed says nothing.
    """
    compared, moved = 0, []
    for path in sorted(runs.glob("*/*/runs.json")):
        name, tier = path.parent.parent.name, path.parent.name
        if not (golden.RESULTS / name / tier / "runs.json").exists():
            continue
        compared += 1
        fresh, accepted = (golden.read(folder / name / tier, name, tier) for folder in (runs, golden.RESULTS))
        same_machine = fresh.machines() == accepted.machines()
        frame = fresh.frame()
        moved += [
            f"{name}/{tier}, fresh: the curves or items of {run} are not those that its run recorded" for run in fresh.forged()
        ]
        moved += _undefined(fresh)
        keys = [key for key in ("cell", "arm", "seed", "quantity") if key in frame]
        golden_frame = accepted.frame()
        tolerance = Experiment(name).tolerance([str(name) for name in golden_frame.select_dtypes("number") if name in frame])
        both = frame.merge(golden_frame, on=[*keys, "config_sha256"], suffixes=("_fresh", "_golden"))
        if both.empty:
            moved.append(f"{name}/{tier}: no fresh run has the configuration and seed of a golden one")
        others = frame.merge(golden_frame, on=keys, suffixes=("_fresh", "_golden"))
        changed = int((others["config_sha256_fresh"] != others["config_sha256_golden"]).sum())
        if changed:
            moved.append(f"{name}/{tier}: {changed} fresh rows have another configuration than the golden ones of the same name")
        for group, rows in both.groupby([key for key in keys if key != "seed"]):
            for column, allowed in tolerance.items():
                ours, theirs = rows[f"{column}_fresh"], rows[f"{column}_golden"]
                difference = abs(ours.mean() - theirs.mean())
                error = math.sqrt((ours.var() + theirs.var()) / len(rows)) if len(rows) > 1 else math.inf
                # a theory quantity has no seeds: it is the same number everywhere
                slack = 0.0 if same_machine or "quantity" in keys else 3 * error
                undefined = ours.isna().any() != theirs.isna().any()
                endless = set(ours.index[np.isinf(ours)]) != set(theirs.index[np.isinf(theirs)])
                if undefined or endless or difference > allowed + slack:
                    where = "/".join(str(part) for part in group if part)
                    moved.append(
                        f"{name}/{tier} {where}: {column} differs by {difference:.4g} from the golden mean, allowed "
                        f"{allowed + slack:.3g}"
                    )
    return compared, moved


def verify(runs: Path | None, accept: bool) -> int:
    """Print one line per claim and what has moved; returns 1 where anything has moved.

    `runs` is a folder of fresh tables to compare with the golden ones; None for the folder "runs", if there is one.
    The accepted verdicts, results/verdicts.json, are written with `accept` only, and the crate that names them: a moved verdict
    stays moved until somebody accepts it."""
    if runs and not runs.is_dir():
        raise InputError(f"runs: {runs} is not a folder; allowed: a folder of fresh tables, as `mdlm run` writes them")
    if accept:
        crate.check_library()
    tables = golden.golden_tables()
    by_experiment, proof = judge_each(tables), prove(tables)
    judged = [pair for pairs in by_experiment.values() for pair in pairs]
    print_verdicts(judged, notes=False, set_after=proof.set_after)
    if proof.unchecked:
        print(f"the history is not checked: {proof.unchecked}. What was set after the runs is as it was accepted")
    forged = [name for table in tables for name in table.forged()]
    if accept and not forged:  # what contradicts its own run is never accepted
        write_whole(golden.RESULTS / "verdicts.json", as_json(judged, proof.set_after))
        write_whole(golden.RESULTS / "hashes.json", json.dumps(_hashes(), indent=1) + "\n")
        crate.write(tables)
    compared, fresh = _fresh_differences(runs or Path("runs"))
    if runs and not compared:
        raise InputError(f"runs: {runs} holds no table of an experiment that has a golden one (EXPERIMENT/TIER/runs.json)")
    moved = _moved_tables(tables) + proof.untraceable + _moved_verdicts(judged, proof.set_after) + fresh
    moved += stale(by_experiment, tables, proof.set_after) + crate.stale(tables)
    moved += [
        f"{claim.id}: its number is not a number"
        for claim, verdict in judged
        if verdict.verdict != "not run" and math.isnan(verdict.ours) and math.isnan(verdict.low)  # bounds alone: no seed is known
    ]
    for line in moved:
        print(f"MOVED {line}")
    counted = ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(verdict for _, verdict in judged).items())
    print(f"{len(judged)} claims: {counted}; {compared} fresh tables compared with golden ones; {len(moved)} differences")
    return 1 if moved else 0

"""Recompute every verdict from the golden tables and say what has moved."""

import json
import math
import textwrap
from pathlib import Path
from typing import Any

from mdlm_min.evidence import golden
from mdlm_min.evidence.claim import Claim, MissingArmError, Verdict
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.statistics import Evidence, decide
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256, write_whole

Judged = list[tuple[Claim, Verdict]]


def judge(experiment: Experiment, tables: dict[str, golden.Table], only: str = "") -> Judged:
    """The verdicts of an experiment's claims on the given tables (by tier); `only` one tier's claims, where given."""
    found: list[tuple[Claim, Verdict | Evidence]] = [
        (claim, _say(experiment, claim, tables.get(claim.tier)))
        for claim in experiment.module("claims").CLAIMS
        if claim.tier == (only or claim.tier)
    ]
    families: dict[tuple[str, str], list[int]] = {}
    for index, (claim, said) in enumerate(found):
        if isinstance(said, Evidence):
            families.setdefault((claim.tier, claim.family or claim.id), []).append(index)
    for members in families.values():
        evidence = [(said, claim) for claim, said in (found[index] for index in members) if isinstance(said, Evidence)]
        decisions = decide([(said, claim.least, claim.smallest) for said, claim in evidence])
        for index, (said, claim), decision in zip(members, evidence, decisions, strict=True):
            found[index] = (claim, Verdict.of(said, decision))
    return [(claim, said) for claim, said in found if isinstance(said, Verdict)]


def _say(experiment: Experiment, claim: Claim, table: golden.Table | None) -> Verdict | Evidence:
    """What the claim's judge says of its tier's table. Raises InputError for a table that it cannot read."""
    if table is None:
        return Verdict("not run", f"tier {claim.tier}: {claim.cost}")
    try:
        return claim.judge(table)
    except MissingArmError as missing:
        return Verdict("not run", f"needs the arm {missing}: ARMS=all")
    except (LookupError, ArithmeticError, TypeError, ValueError) as error:
        raise InputError(
            f"{experiment.name}/{claim.tier}: claim {claim.id} cannot be judged on this table ({type(error).__name__}: {error})"
        ) from error


def judge_all() -> Judged:
    """Every claim of every experiment on the golden tables."""
    return [
        pair for folder in experiment_folders() for pair in judge(Experiment(folder.name), golden.golden_by_tier(folder.name))
    ]


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.5g}"


def interval(verdict: Verdict) -> str:
    return "" if math.isnan(verdict.low) else f" [{number(verdict.low)}, {number(verdict.high)}]"


def strength(verdict: Verdict) -> str:
    """Of a claim about trained models: its seeds, the p-value of its null, and what Holm's method makes of that in its family."""
    if math.isnan(verdict.raw):
        return ""
    adjusted = "" if verdict.adjusted == verdict.raw else f", {verdict.adjusted:.2g} in its family"
    return f"{verdict.seeds} seed{'s' * (verdict.seeds != 1)}, p = {verdict.raw:.2g}{adjusted}"


def print_verdicts(judged: Judged, notes: bool) -> None:
    """One line per claim, with `notes` its note below it."""
    for claim, verdict in judged:
        print(
            f"{claim.id:9} {verdict.verdict:14} published {claim.published}; ours {number(verdict.ours)}{interval(verdict)} "
            f"({claim.quantity}){strength(verdict) and f'; {strength(verdict)}'}; "
            f"tolerance: {claim.tolerance}"
        )
        if notes:
            print(textwrap.fill(verdict.note, 120, initial_indent=" " * 10, subsequent_indent=" " * 10))


def as_json(judged: Judged) -> str:
    """The verdicts as they stand in results/verdicts.json; numbers that are not finite become null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    records = [
        {
            "id": claim.id, "statement": claim.statement, "kind": claim.kind, "quantity": claim.quantity,
            "published": claim.published, "tolerance": claim.tolerance, "tier": claim.tier, "verdict": verdict.verdict,
            "ours": finite(verdict.ours), "low": finite(verdict.low), "high": finite(verdict.high), "note": verdict.note,
            "smallest": finite(claim.smallest), "family": claim.family, "seeds": verdict.seeds,
            "p": finite(verdict.raw), "adjusted_p": finite(verdict.adjusted),
        }
        for claim, verdict in judged
    ]  # fmt: skip
    return json.dumps(records, indent=1) + "\n"


def _hashes() -> dict[str, str]:
    """Every table under results/ and its hash, the published ones included."""
    paths = [
        path
        for pattern in ("*/*.csv", "*/*.json", "*/*/table.csv", "*/*/runs.json", "*/*/curves.csv.gz", "*/*/items.csv.gz")
        for path in golden.RESULTS.glob(pattern)
        if path.is_file()
    ]
    return {path.relative_to(golden.RESULTS).as_posix(): sha256(path) for path in sorted(paths)}


def _moved_verdicts(judged: Judged) -> list[str]:
    path = golden.RESULTS / "verdicts.json"
    records = _read_json(path, list)
    if not all(isinstance(record, dict) and isinstance(record.get("id"), str) for record in records):
        raise InputError(f"{path}: cannot be read (a record without an id); `mdlm verify --accept` writes it again")
    accepted: dict[str, dict[str, Any]] = {record["id"]: record for record in records}
    present = {record["id"]: record for record in json.loads(as_json(judged))}
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


def _moved_tables() -> list[str]:
    accepted: dict[str, str] = _read_json(golden.RESULTS / "hashes.json", dict)
    present = _hashes()
    moved = [
        f"{name}: altered, missing or new"
        for name in sorted(accepted.keys() | present.keys())
        if accepted.get(name) != present.get(name)
    ]
    for table in golden.golden_tables():
        folder = golden.RESULTS / table.experiment / table.tier
        where = f"{table.experiment}/{table.tier}"
        try:
            same = table.csv() == (folder / "table.csv").read_text()
        except (OSError, ValueError):
            same = False
        if not same:
            moved.append(f"{where}/table.csv: not what its curves and runs give")
        moved += [f"{where}: the curves or items of {name} are not those that its run recorded" for name in table.forged()]
    return moved


def _read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(), parse_int=float)  # a whole number beyond the floats is infinite, no error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); `mdlm verify --accept` writes it again") from error
    if not isinstance(value, kind):
        raise InputError(f"{path}: cannot be read (no {kind.__name__}); `mdlm verify --accept` writes it again")
    return value


def _machines(table: golden.Table) -> set[tuple[str, str]]:
    return {(record["environment"]["torch"], record["environment"]["processor"]) for record in table.runs.values()}


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
        same_machine = _machines(fresh) == _machines(accepted)
        frame = fresh.frame()
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
                if undefined or difference > allowed + slack:
                    where = "/".join(str(part) for part in group if part)
                    moved.append(
                        f"{name}/{tier} {where}: {column} differs by {difference:.4g} from the golden mean, allowed "
                        f"{allowed + slack:.3g}"
                    )
    return compared, moved


def verify(runs: Path | None, accept: bool) -> int:
    """Print one line per claim and what has moved; returns 1 where anything has moved.

    `runs` is a folder of fresh tables to compare with the golden ones; None for the folder "runs", if there is one.
    The accepted verdicts, results/verdicts.json, are written with `accept` only: a moved verdict stays moved until
    somebody accepts it."""
    if runs and not runs.is_dir():
        raise InputError(f"runs: {runs} is not a folder; allowed: a folder of fresh tables, as `mdlm run` writes them")
    judged = judge_all()
    print_verdicts(judged, notes=False)
    forged = [name for table in golden.golden_tables() for name in table.forged()]
    if accept and not forged:  # what contradicts its own run is never accepted
        write_whole(golden.RESULTS / "verdicts.json", as_json(judged))
        write_whole(golden.RESULTS / "hashes.json", json.dumps(_hashes(), indent=1) + "\n")
    compared, fresh = _fresh_differences(runs or Path("runs"))
    if runs and not compared:
        raise InputError(f"runs: {runs} holds no table of an experiment that has a golden one (EXPERIMENT/TIER/runs.json)")
    moved = _moved_tables() + _moved_verdicts(judged) + fresh
    for line in moved:
        print(f"MOVED {line}")
    print(f"{len(judged)} claims; {compared} fresh tables compared with golden ones; {len(moved)} differences")
    return 1 if moved else 0

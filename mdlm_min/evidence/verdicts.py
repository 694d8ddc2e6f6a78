"""The verdicts: every claim judged on the golden tables, printed and recorded."""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mdlm_min.evidence import golden
from mdlm_min.evidence.claim import Claim, MissingArmError, Verdict
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.pairing import judged_part
from mdlm_min.evidence.power import seeds_needed
from mdlm_min.evidence.statistics import Evidence, Share, decide
from mdlm_min.run.errors import InputError

Judged = list[tuple[Claim, Verdict]]
NOTHING = Share(0, 0)  # what a claim that was not run has to show: it counts in its family all the same
Say = Callable[[Experiment, Claim, golden.Table | None], Verdict | Evidence]


def judge(experiment: Experiment, tables: Mapping[str, golden.Table], only: str = "", say: Say | None = None) -> Judged:
    """The verdicts of an experiment's claims on the given tables (by tier); `only` one tier's claims, where given. `say` has the
    judge speak, in the place of `_say`."""
    found: list[tuple[Claim, Verdict | Evidence]] = [
        (claim, (say or _say)(experiment, claim, tables.get(claim.tier)))
        for claim in experiment.module("claims").CLAIMS
        if claim.tier == (only or claim.tier)
    ]
    families: dict[tuple[str, str], list[int]] = {}
    for index, (claim, _) in enumerate(found):
        if claim.kind != "exact":
            families.setdefault((claim.tier, claim.family or claim.id), []).append(index)
    for (_, family), members in families.items():
        pairs = [found[index] for index in members]
        evidence = [said if isinstance(said, Evidence) else NOTHING for _, said in pairs]
        if len({said.level for said in evidence if said is not NOTHING}) > 1:
            raise InputError(f"{experiment.name}: the claims of family {family!r} have different levels; allowed: one level")
        decisions = decide([(said, claim.least, claim.smallest) for said, (claim, _) in zip(evidence, pairs, strict=True)])
        for index, said, decision in zip(members, evidence, decisions, strict=True):
            if said is not NOTHING:
                claim = found[index][0]
                needed = seeds_needed(said, claim.least, claim.smallest) if decision.verdict == "underpowered" else 0
                found[index] = (claim, Verdict.of(said, decision, needed))
    if unjudged := [claim.id for claim, said in found if not isinstance(said, Verdict)]:
        raise InputError(f"{experiment.name}: the judge of {unjudged[0]}, an exact claim, gives no verdict; allowed: a Verdict")
    return [(claim, said) for claim, said in found if isinstance(said, Verdict)]


def _say(experiment: Experiment, claim: Claim, table: golden.Table | None) -> Verdict | Evidence:
    """What the claim's judge says of its tier's table. Raises InputError for a table that it cannot read."""
    cost = f"tier {claim.tier}: {claim.cost}"
    if table is None:
        return Verdict("not run", cost)
    try:
        return claim.judge(table)
    except MissingArmError as missing:
        return Verdict("not run", cost if claim.cost else f"needs the arm {missing}: ARMS=all")
    except (LookupError, ArithmeticError, TypeError, ValueError) as error:
        raise InputError(
            f"{experiment.name}/{claim.tier}: claim {claim.id} cannot be judged on this table ({type(error).__name__}: {error})"
        ) from error


def judge_each(tables: Iterable[golden.Table]) -> dict[str, Judged]:
    """Every claim on these golden tables, by experiment: on the arms whose planned seeds are all there."""
    by_tier: dict[str, dict[str, golden.Table]] = {}
    for table in tables:
        by_tier.setdefault(table.experiment, {})[table.tier] = judged_part(Experiment(table.experiment), table)
    return {folder.name: judge(Experiment(folder.name), by_tier.get(folder.name, {})) for folder in experiment_folders()}


def number(value: float, digits: int = 3) -> str:
    """In so many digits; from 1,000 on without decimals."""
    return "-" if math.isnan(value) else f"{value:.0f}" if 999.5 <= abs(value) < math.inf else f"{value:.{digits}g}"


def value(verdict: Verdict) -> str:
    """A claim's number; in five digits where it is exact and has no interval."""
    return number(verdict.ours, 5 if math.isnan(verdict.low) else 3)


def interval(verdict: Verdict) -> str:
    return "" if math.isnan(verdict.low) else f" [{number(verdict.low)}, {number(verdict.high)}]"


def strength(verdict: Verdict) -> str:
    """Of a claim about trained models: its seeds, the p-value of its null, and what Holm's method makes of that in its family."""
    if math.isnan(verdict.raw):
        return ""
    adjusted = "" if verdict.adjusted == verdict.raw else f", {verdict.adjusted:.2g} in its family"
    return f"{verdict.seeds} seed{'s' * (verdict.seeds != 1)}, p = {verdict.raw:.2g}{adjusted}"


def print_verdicts(judged: Judged, notes: bool, set_after: Mapping[str, str] | None = None) -> None:
    """One line per claim, with `notes` its note below it. `set_after` has the claims that were set after their runs."""
    for claim, verdict in judged:
        reason = (set_after or {}).get(claim.id)
        after = f"; SET AFTER THE RUNS: {reason}" if reason else ""
        print(
            f"{claim.id:9} {verdict.verdict:14} published {claim.published}; measured {value(verdict)}{interval(verdict)} "
            f"({claim.quantity}){strength(verdict) and f'; {strength(verdict)}'}; "
            f"tolerance: {claim.tolerance}{after}"
        )
        if notes:
            print(textwrap.fill(verdict.note, 120, initial_indent=" " * 10, subsequent_indent=" " * 10))


def as_json(judged: Judged, set_after: Mapping[str, str]) -> str:
    """The verdicts as they stand in results/verdicts.json, with what was set after the runs (history.py); numbers that
    are not finite become null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    records = [
        {
            "id": claim.id, "statement": claim.statement, "kind": claim.kind, "quantity": claim.quantity,
            "published": claim.published, "tolerance": claim.tolerance, "tier": claim.tier, "verdict": verdict.verdict,
            "ours": finite(verdict.ours), "low": finite(verdict.low), "high": finite(verdict.high), "note": verdict.note,
            "smallest": finite(claim.smallest), "family": claim.family, "seeds": verdict.seeds,
            "p": finite(verdict.raw), "adjusted_p": finite(verdict.adjusted), "needed": verdict.needed,
            "set_after": set_after.get(claim.id, ""),
        }
        for claim, verdict in judged
    ]  # fmt: skip
    return json.dumps(records, indent=1) + "\n"


def read_accepted() -> dict[str, dict[str, Any]]:
    """The records of results/verdicts.json by claim id. Raises InputError for a damaged file."""
    path = golden.RESULTS / "verdicts.json"
    records = read_json(path, list)
    if not all(isinstance(record, dict) and isinstance(record.get("id"), str) for record in records):
        raise InputError(f"{path}: cannot be read (a record without an id); `mdlm verify --accept` writes it again")
    return {record["id"]: record for record in records}


def read_json(path: Path, kind: type, remedy: str = "mdlm verify --accept") -> Any:
    """A JSON file that holds a list or a dict. Raises InputError for a damaged one; the command `remedy` writes it again."""
    try:
        value = json.loads(path.read_text(), parse_int=float)  # a whole number beyond the floats is infinite, no error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); `{remedy}` writes it again") from error
    if not isinstance(value, kind):
        raise InputError(f"{path}: cannot be read (no {kind.__name__}); `{remedy}` writes it again")
    return value

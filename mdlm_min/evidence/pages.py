"""The generated parts of the committed pages: the verdicts on each experiment's page, and the findings.

An experiment's README.md has two marks, between which its verdicts stand. experiments/findings.md is the template of
results/FINDINGS.md: its sentences are written by hand; the verdicts give the numbers and the heading under which each stands, the
golden tables what `counts(tables)` of an experiment's claims.py counts in them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdlm_min.evidence import cost, golden
from mdlm_min.evidence.claim import Verdict
from mdlm_min.evidence.experiment import EXPERIMENTS, Experiment
from mdlm_min.evidence.verdicts import Judged, interval, strength, value
from mdlm_min.run.errors import InputError

SMALL = ", less than would matter"
OURS = "ours [95% interval; of a share 95% bounds, each one-sided]"
VERDICT_MARKS = ("<!-- verdicts: written by `mdlm report` -->\n", "<!-- end of verdicts -->")


def text_of(path: Path) -> str:
    """The page's text; empty where it cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def filled(path: Path, marks: tuple[str, str], text: str) -> str:
    """The page with `text` between its two marks. Raises InputError where it lacks them."""
    page = text_of(path)
    if any(page.count(mark) != 1 for mark in marks):
        raise InputError(f"{path}: the marks {marks[0].strip()} and {marks[1]} must each stand there once")
    before, start, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    return f"{before}{start}{text}{end}{after}"


def verdict_table(judged: Judged, set_after: Mapping[str, str]) -> str:
    """The verdicts of one experiment as a Markdown table, a row for each claim. `set_after` has those set after their runs."""
    rows = [f"| claim | verdict | {OURS} | seeds and p-value | published |", "| --- | --- | --- | --- | --- |"]
    for claim, verdict in judged:
        cells = (
            f"[{claim.id}](../../results/report.md#{claim.id.lower()})",
            _verdict(verdict) + ", set after the runs" * (claim.id in set_after),
            _number(verdict),
            strength(verdict),
            claim.published,
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _verdict(verdict: Verdict) -> str:
    said = f"**{verdict.verdict}**" if verdict.verdict in ("reproduced", "not reproduced") else verdict.verdict
    return said + SMALL * verdict.small


def _number(verdict: Verdict) -> str:
    return "" if verdict.verdict == "not run" else f"{value(verdict)}{interval(verdict)}"


def said(verdict: Verdict) -> str:
    """What the runs say of one claim, for a sentence: its number, interval, seeds where they are not the usual five, and whether
    it is less than would matter; or that it was not run."""
    if verdict.verdict == "not run":
        return "not run"
    ends = f" [{verdict.low:.2g}, {verdict.high:.2g}]" if math.isfinite(verdict.low) and math.isfinite(verdict.high) else ""
    seeds = f", {verdict.seeds} seed{'s' * (verdict.seeds != 1)}" if verdict.seeds not in (0, 5) else ""
    return f"{'no estimate' if math.isnan(verdict.ours) else f'{verdict.ours:.2g}'}{ends}{seeds}{SMALL * verdict.small}"


def counts(tables: Sequence[golden.Table]) -> dict[str, dict[str, int]]:
    """What experiments count in their golden tables, by the experiment's name without its number."""
    found = {table.experiment: getattr(Experiment(table.experiment).module("claims"), "counts", None) for table in tables}
    return {
        name.partition("_")[2]: count({table.tier: table for table in tables if table.experiment == name})
        for name, count in found.items()
        if count
    }


def findings(
    judged: Judged, set_after: Mapping[str, str], counted: Mapping[str, Mapping[str, int]], hours: Mapping[str, float]
) -> str:
    """results/FINDINGS.md as text. The template sees `claims`, by id, each with its `claim`, its `verdict`, whether it was
    `set_after` its runs, and the `hours` (cost.py) that would decide it, as text, and `counts`, by experiment."""
    from jinja2 import Environment, StrictUndefined, UndefinedError

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"said": said, "anchor": str.lower, "short": "{:.2g}".format}
    template = environment.from_string((EXPERIMENTS / "findings.md").read_text())
    found = {
        claim.id: {
            "claim": claim,
            "verdict": verdict,
            "set_after": claim.id in set_after,
            "hours": cost.shown(claim.id, hours),
        }
        for claim, verdict in judged
    }
    try:
        return template.render(claims=found, counts=counted)
    except UndefinedError as error:
        allowed = f"the ids of claims, and counts of {', '.join(counted)}"
        raise InputError(f"{EXPERIMENTS / 'findings.md'}: {error.message}; allowed: {allowed}") from error


def generated(
    judged: Mapping[str, Judged],
    set_after: Mapping[str, str],
    counted: Mapping[str, Mapping[str, int]],
    hours: Mapping[str, float],
) -> dict[Path, str]:
    """The experiments' pages and the findings, as they should stand by the verdicts, which are given by experiment, by `counts`
    of the tables, and by the `hours` that would decide (cost.py)."""
    pages = {}
    for name, pairs in judged.items():
        if pairs:
            path = EXPERIMENTS / name / "README.md"
            pages[path] = filled(path, VERDICT_MARKS, verdict_table(pairs, set_after))
    flat = [pair for pairs in judged.values() for pair in pairs]
    return pages | {golden.RESULTS / "FINDINGS.md": findings(flat, set_after, counted, hours)}

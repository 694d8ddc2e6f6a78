"""The pages that a reader opens: every verdict, table and figure, the paper's numbers beside ours.

report.md and the README's table are committed, report.html is built. The pages' text and looks are in templates/.
"""

import base64
import inspect
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mdlm_min.evidence import cost, figure_record, golden, pages, verdicts
from mdlm_min.evidence.claim import VERDICTS, Claim, MissingArmError, Verdict, arms_of
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.headlines import headlines, in_short
from mdlm_min.evidence.interval import Interval, place
from mdlm_min.evidence.pairing import judged_part
from mdlm_min.run.files import write_whole

README_MARKS = ("<!-- claims: written by `mdlm report` -->\n", "<!-- end of claims -->")
_PROVENANCE = ("device", "dtype", "commit", "config_sha256", "data_sha256", "log_sha256", "evaluator_sha256")


@dataclass(frozen=True)
class Card:
    """A claim, its verdict, the command that tests it, the drawing of its number, and the hours that would decide it: empty where
    none would or they are not known."""

    claim: Claim
    verdict: Verdict
    command: str
    interval: Interval | None
    hours: str

    @property
    def note(self) -> str:
        """The verdict's note, with the hours."""
        return f"{self.verdict.note}: {self.hours} of one core" if self.hours else self.verdict.note


@dataclass(frozen=True)
class Section:
    """An experiment: its figures (of which `caption` speaks), its claims, and its tables by their path as lists of cells."""

    name: str
    title: str
    caption: str
    figures: list[Path]
    cards: list[Card]
    tables: dict[str, list[list[str]]]

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict."""
        return count_verdicts(card.verdict for card in self.cards)


def draw(experiment: Experiment, tables: dict[str, golden.Table], folder: Path) -> list[Path]:
    """The experiment's figures of these tables (by tier), as PNG files in `folder`."""
    paths: list[Path] = experiment.module("claims").draw(tables, folder)
    return paths


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts of each kind there are."""
    found = Counter(verdict.verdict for verdict in verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _command(experiment: Experiment, claim: Claim, tables: dict[str, golden.Table]) -> str:
    """What tests the claim: the tier's own arms where they are enough for its judge, else all arms. Empty for a tier that is
    not in the plan."""
    if claim.tier not in experiment.plan["tiers"]:
        return ""
    command = f"mdlm run {experiment.name.partition('_')[2]} --tier {claim.tier}"
    if claim.tier in tables:
        arms, table = {spec.arm for spec in experiment.runs(claim.tier)}, tables[claim.tier]
        if set(arms_of(table)) <= arms:
            return command
        try:
            claim.judge(table.part(lambda record: record["config"]["arm"] in arms))
        except MissingArmError:
            command += " --arms all"
    return command


def _section(experiment: Experiment, tables: dict[str, golden.Table], judged: verdicts.Judged, figures: list[Path],
             hours: Mapping[str, float]) -> Section:  # fmt: skip
    return Section(
        experiment.name,
        experiment.title,
        inspect.getdoc(experiment.module("claims").draw) or "",
        figures,
        [
            Card(
                claim,
                verdict,
                _command(experiment, claim, tables),
                place(claim, verdict),
                cost.shown(claim.id, hours),
            )
            for claim, verdict in judged
        ],
        {f"results/{experiment.name}/{tier}/table.csv": _cells(table.frame()) for tier, table in tables.items()},
    )


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as text, without provenance and without an empty column of cells."""
    shown = frame.drop(columns=[name for name in _PROVENANCE if name in frame])
    shown = shown.loc[:, [name for name in shown if name != "cell" or (shown["cell"] != "").any()]]
    rows = [
        [f"{value:.6g}" if isinstance(value, float) else str(value) for value in row] for row in shown.itertuples(index=False)
    ]
    return [[str(name) for name in shown.columns], *rows]


def _render(name: str, **context: Any) -> str:
    """A template of this package, filled in. In HTML every value is escaped; in Markdown `cell` does it where it must."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mdlm_min.evidence"), autoescape=name.endswith(".html"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "anchor": str.lower,
        "cell": lambda text: str(text).replace("|", "\\|"),
        "css": lambda text: text.replace(" ", "-"),
        "value": verdicts.value,
        "strength": verdicts.strength,
        "bounds": lambda verdict: " (one seed)" if math.isinf(verdict.low) else verdicts.interval(verdict),
        "image": lambda path: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        "short": lambda text: re.sub(r"(?<=\s)\S*$", "", text[:140]).rstrip(" ,;.") + " ...",
    }
    return environment.get_template(name).render(verdicts=VERDICTS, ours=pages.OURS, **context)


def readme_table(judged: verdicts.Judged, set_after: Mapping[str, str]) -> str:
    """The README's short table: what the paper says, the verdicts at its size and scaled down, and their counts."""
    counts = count_verdicts(verdict for _, verdict in judged)
    return _render(
        "readme.md",
        in_short=in_short(judged, set_after, "results/report.md"),
        headlines=headlines(judged, set_after),
        counts=counts,
        set_after=set_after,
    )


def other_pages(
    judged: Mapping[str, verdicts.Judged], tables: list[golden.Table], set_after: Mapping[str, str]
) -> dict[Path, str]:
    """Every other page with a generated part, the README first, as it should stand. Raises InputError where one lacks its
    marks."""
    readme = golden.RESULTS.parent / "README.md"
    flat = [pair for pairs in judged.values() for pair in pairs]
    generated = pages.generated(judged, set_after, pages.counts(tables), cost.hours(judged, tables))
    return {readme: pages.filled(readme, README_MARKS, readme_table(flat, set_after))} | generated


def own_pages(tables: Iterable[golden.Table], results: Path) -> dict[Path, str]:
    """The pages of `results` that experiments write themselves, from their tables: `pages(tables)` of claims.py, by name."""
    found: dict[str, dict[str, golden.Table]] = {}
    for table in tables:
        found.setdefault(table.experiment, {})[table.tier] = table
    pages_of = {name: getattr(Experiment(name).module("claims"), "pages", None) for name in found}
    return {results / page: text for name, make in pages_of.items() if make for page, text in make(found[name]).items()}


def _context(judged: Mapping[str, verdicts.Judged], figures: Mapping[str, list[Path]], tables: Iterable[golden.Table],
             set_after: Mapping[str, str]) -> dict[str, Any]:  # fmt: skip
    """What the pages are rendered from; verdicts and figures by experiment."""
    by_tier: dict[str, dict[str, golden.Table]] = {name: {} for name in judged}
    for table in tables:
        by_tier[table.experiment][table.tier] = table
    flat, hours = [pair for pairs in judged.values() for pair in pairs], cost.hours(judged, tables)
    return {
        "sections": [_section(Experiment(name), by_tier[name], judged[name], figures.get(name, []), hours) for name in judged],
        "headlines": headlines(flat, set_after),
        "counts": count_verdicts(verdict for _, verdict in flat),
        "set_after": set_after,
    }


def write(
    folder: Path, judged: Mapping[str, verdicts.Judged], tables: list[golden.Table], set_after: Mapping[str, str]
) -> list[Path]:
    """Write the figures of the golden tables, report.md and report.html (which holds its figures) to `folder`; returns the two
    pages. `set_after` has the claims that were set after their runs."""
    figures = {}
    for name in dict.fromkeys(table.experiment for table in tables):
        drawn = {table.tier: judged_part(Experiment(name), table) for table in tables if table.experiment == name}
        figures[name] = draw(Experiment(name), drawn, folder / "figures")
    figure_record.write(folder / "figures", figures)
    context = _context(judged, figures, tables, set_after)
    written = [folder / "report.md", folder / "report.html"]
    for page in written:
        write_whole(page, _render(page.name, **context))
    return written


def stale(judged: Mapping[str, verdicts.Judged], tables: list[golden.Table], set_after: Mapping[str, str]) -> list[str]:
    """What of the committed figures and pages is not what the golden tables give, a line each. Nothing is drawn."""
    folder = golden.RESULTS
    figures = {
        name: [folder / "figures" / one for one in found] for name, found in figure_record.read(folder / "figures").items()
    }
    wanted = {folder / "report.md": _render("report.md", **_context(judged, figures, tables, set_after))}
    wanted |= other_pages(judged, tables, set_after) | own_pages(tables, folder)
    lines = figure_record.stale(folder / "figures", dict.fromkeys(table.experiment for table in tables))
    return lines + [
        f"{str(path).removeprefix(f'{folder.parent}/')}: not what the tables give; `mdlm report` writes it again"
        for path, text in wanted.items()
        if pages.text_of(path) != text
    ]


def print_gpu_queue() -> int:
    """Tiers with runs that no golden table has, most wanted first, with what the tier costs on one GPU. Returns the exit code
    0."""
    queue = []
    for path in experiment_folders():
        experiment = Experiment(path.name)
        tables = golden.golden_by_tier(experiment.name)
        for tier, plan in experiment.plan["tiers"].items():
            done = tables[tier].runs if tier in tables else {}
            specs = experiment.runs(tier)
            missing = sum(spec.name not in done for spec in specs)
            if "gpu_minutes" in plan and missing:
                queue.append((plan["worth"], experiment.name, tier, plan["gpu_minutes"], missing, len(specs), plan["why"]))
    print("worth is how much a tier is wanted, from 0 (little) to 10 (most): what its answer would add to the report")
    for worth, name, tier, minutes, missing, runs, why in sorted(queue, reverse=True):
        print(
            f"worth {worth}: mdlm run {name} --tier {tier}   {missing} of {runs} runs missing, about {minutes:g} GPU minutes "
            f"for all. {why}"
        )
    return 0

"""The pages that a reader opens: every verdict, table and figure, the paper's numbers beside ours.

report.md and the README's table are committed, report.html is built. The pages' text and looks are in templates/.
"""

import base64
import inspect
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mdlm_min.evidence import golden, verify
from mdlm_min.evidence.claim import VERDICTS, Claim, MissingArmError, Verdict
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.headlines import headlines
from mdlm_min.evidence.interval import Interval, place
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole

README_MARKS = ("<!-- claims: written by `mdlm report` -->\n", "<!-- end of claims -->")
_PROVENANCE = ("device", "dtype", "commit", "config_sha256", "data_sha256", "log_sha256")


@dataclass(frozen=True)
class Card:
    """A claim, its verdict, the command that tests it, and the drawing of its number."""

    claim: Claim
    verdict: Verdict
    command: str
    interval: Interval | None


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
        return _counts(card.verdict for card in self.cards)


def draw(experiment: Experiment, tables: dict[str, golden.Table], folder: Path) -> list[Path]:
    """The experiment's figures of these tables (by tier), as PNG files in `folder`."""
    paths: list[Path] = experiment.module("claims").draw(tables, folder)
    return paths


def _counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    found = Counter(verdict.verdict for verdict in verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _command(experiment: Experiment, claim: Claim, tables: dict[str, golden.Table]) -> str:
    """What tests the claim: the tier's own arms where they are enough for its judge, else all arms."""
    command = f"mdlm run {experiment.name.partition('_')[2]} --tier {claim.tier}"
    if claim.tier in tables:
        arms = {spec.arm for spec in experiment.runs(claim.tier)}
        table = tables[claim.tier]
        runs = {name: record for name, record in table.runs.items() if record["config"]["arm"] in arms}
        try:
            claim.judge(golden.Table(table.experiment, table.tier, runs, table.curves, table.items))
        except MissingArmError:
            command += " --arms all"
    return command


def _section(experiment: Experiment, folder: Path) -> Section:
    tables = golden.golden_by_tier(experiment.name)
    return Section(
        experiment.name,
        experiment.title,
        inspect.getdoc(experiment.module("claims").draw) or "",
        draw(experiment, tables, folder / "figures") if tables else [],
        [
            Card(claim, verdict, _command(experiment, claim, tables), place(claim, verdict))
            for claim, verdict in verify.judge(experiment, tables)
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
        "number": verify.number,
        "strength": verify.strength,
        "bounds": lambda verdict: " (one seed)" if math.isinf(verdict.low) else verify.interval(verdict),
        "image": lambda path: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        "short": lambda text: re.sub(r"(?<=\s)\S*$", "", text[:140]).rstrip(" ,;.") + " ...",
    }
    return environment.get_template(name).render(verdicts=VERDICTS, **context)


def readme_table(judged: verify.Judged) -> str:
    """The README's short table: what the paper says, the verdicts at its size and scaled down, and their counts."""
    counts = _counts(verdict for _, verdict in judged)
    return _render("readme.md", headlines=headlines(judged), counts=counts)


def write_readme(path: Path) -> None:
    """Put `readme_table` between the two marks of the README. Raises InputError where it lacks them."""
    text = path.read_text()
    if any(text.count(mark) != 1 for mark in README_MARKS):
        raise InputError(f"{path}: the marks {README_MARKS[0].strip()} and {README_MARKS[1]} must each stand there once")
    before, start, rest = text.partition(README_MARKS[0])
    _, end, after = rest.partition(README_MARKS[1])
    write_whole(path, f"{before}{start}{readme_table(verify.judge_all())}{end}{after}")


def write(folder: Path) -> list[Path]:
    """Write the figures, report.md and report.html (which holds its figures) to `folder`; returns the two pages."""
    sections = [_section(Experiment(path.name), folder) for path in experiment_folders()]
    judged = [(card.claim, card.verdict) for section in sections for card in section.cards]
    context = {
        "sections": sections,
        "headlines": headlines(judged),
        "counts": _counts(verdict for _, verdict in judged),
    }
    pages = [folder / "report.md", folder / "report.html"]
    for page in pages:
        write_whole(page, _render(page.name, **context))
    return pages


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
    for worth, name, tier, minutes, missing, runs, why in sorted(queue, reverse=True):
        print(
            f"worth {worth}: mdlm run {name} --tier {tier}   {missing} of {runs} runs missing, about {minutes:g} GPU minutes "
            f"for all. {why}"
        )
    return 0

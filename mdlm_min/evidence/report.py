"""The page that a reader opens: every verdict, table and figure, the paper's curves beside ours."""

import base64
import html
from pathlib import Path

import pandas as pd

from mdlm_min.evidence import golden, verify
from mdlm_min.evidence.claim import Claim, Verdict
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.run.files import write_whole

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}td,th{border:1px solid #ccc;padding:.2rem .5rem;text-align:left}"
    "img{max-width:100%}.reproduced{color:#006d4e}.not-reproduced{color:#a33}.underpowered{color:#8a6d00}.not-run{color:#666}"
)
_LEGEND = (
    "A claim is judged on the golden tables by a tolerance fixed before the runs. Published numbers are the paper's; ours are means over seeds "
    "with a 95% interval. Not run: the tier's cost is given, and a scaled-down claim has an id of its own."
)
_PROVENANCE = ("device", "dtype", "commit", "config_sha256", "data_sha256", "log_sha256")


def draw(experiment: Experiment, tables: dict[str, golden.Table], folder: Path) -> list[Path]:
    """The experiment's figures of these tables (by tier), as PNG files in `folder`."""
    paths: list[Path] = experiment.module("claims").draw(tables, folder)
    return paths


def _ours(verdict: Verdict) -> str:
    return verify.number(verdict.ours) + verify.interval(verdict)


def claims_table(judged: list[tuple[Claim, Verdict]]) -> list[list[str]]:
    """Header and one row a claim."""
    header = ["claim", "statement", "published", "ours [95% interval]", "quantity", "tolerance", "verdict", "note"]
    rows = [
        [
            claim.id,
            claim.statement,
            claim.published,
            _ours(verdict),
            claim.quantity,
            claim.tolerance,
            verdict.verdict,
            verdict.note,
        ]
        for claim, verdict in judged
    ]
    return [header, *rows]


def readme_table() -> str:
    """The README's short table of claims: id, statement, published, ours, verdict."""
    header = ["claim", "statement", "published", "ours [95% interval]", "verdict"]
    rows = [
        [claim.id, claim.statement, claim.published, _ours(verdict), verdict.verdict] for claim, verdict in verify.judge_all()
    ]
    return _markdown_table([header, *rows])


def write_readme(path: Path) -> None:
    """Put `readme_table` between the two marks of the README."""
    before, start, rest = path.read_text().partition("<!-- claims: written by `mdlm report` -->\n")
    _, end, after = rest.partition("<!-- end of claims -->")
    write_whole(path, f"{before}{start}{readme_table()}\n{end}{after}")


def _frame_table(frame: pd.DataFrame) -> list[list[str]]:
    shown = frame.drop(columns=[name for name in _PROVENANCE if name in frame])
    shown = shown.loc[:, [name for name in shown if name != "cell" or (shown["cell"] != "").any()]]
    cells = [
        [f"{value:.6g}" if isinstance(value, float) else str(value) for value in row] for row in shown.itertuples(index=False)
    ]
    return [[str(name) for name in shown.columns], *cells]


def _markdown_table(table: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])


def _html_table(table: list[list[str]]) -> str:
    verdicts = {"reproduced", "not reproduced", "underpowered", "not run"}

    def cell(text: str, tag: str) -> str:
        style = f' class="{text.replace(" ", "-")}"' if text in verdicts else ""
        return f"<{tag}{style}>{html.escape(text)}</{tag}>"

    rows = [
        "<tr>" + "".join(cell(text, "th" if index == 0 else "td") for text in row) + "</tr>" for index, row in enumerate(table)
    ]
    return "<table>" + "\n".join(rows) + "</table>"


def write(folder: Path) -> list[Path]:
    """Write the figures, report.md and report.html (which holds its figures) to `folder`; returns the two pages."""
    markdown = ["# mdlm-min: the claims of arXiv:2601.22450 and what our runs say", "", _LEGEND, ""]
    page = [f"<h1>mdlm-min: the claims of arXiv:2601.22450 and what our runs say</h1><p>{html.escape(_LEGEND)}</p>"]
    for path in experiment_folders():
        experiment = Experiment(path.name)
        tables = golden.golden_by_tier(experiment.name)
        judged = claims_table(verify.judge(experiment, tables))
        markdown += [f"## {experiment.name}: {experiment.title}", ""]
        page.append(f"<h2>{html.escape(experiment.name)}: {html.escape(experiment.title)}</h2>")
        if len(judged) > 1:
            markdown += [_markdown_table(judged), ""]
            page.append(_html_table(judged))
        for figure in draw(experiment, tables, folder / "figures") if tables else []:
            markdown += [f"![{figure.stem}](figures/{figure.name})", ""]
            page.append(
                f'<p><img alt="{figure.stem}" src="data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()}"></p>'
            )
        for tier, table in tables.items():
            rows = _frame_table(table.frame())
            source = f"results/{experiment.name}/{tier}/table.csv"
            markdown += [f"<details><summary>{source}</summary>", "", _markdown_table(rows), "", "</details>", ""]
            page.append(f"<details><summary>{source}</summary>{_html_table(rows)}</details>")
    write_whole(folder / "report.md", "\n".join(markdown))
    document = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>mdlm-min report</title><style>{_STYLE}</style><body>'
    write_whole(folder / "report.html", document + "\n".join(page) + "</body></html>\n")
    return [folder / "report.md", folder / "report.html"]


def print_gpu_queue() -> int:
    """Tiers with runs that no golden table has, most wanted first, with what the tier costs on one GPU. Returns the exit code 0."""
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
            f"worth {worth}: mdlm run {name} --tier {tier}   {missing} of {runs} runs missing, about {minutes:g} GPU minutes for all. {why}"
        )
    return 0

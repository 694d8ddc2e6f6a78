"""The contest's table read as leaderboards, one for each track and budget, and as advice: results/LEADERBOARD.md and
results/WHICH_SCHEDULE.md."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_min.evidence.claim import curves_of
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table, commits_of
from mdlm_min.evidence.ranking import Ranked, ranked, steps_to, two_sided
from mdlm_min.evidence.statistics import LEAST_SEEDS, Mean, holm
from mdlm_min.evidence.submission import accepted_entries
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256

TRACKS = {
    "bytes": "text in bytes",
    "BPE": "text in a BPE of 512",
    "parities": "parities of three bits",
    "answers": "answers to questions (worked sums)",
}
BUDGETS = (1, 4)
REFERENCE = "llada_0.001"  # U[0,1] with 1/t
EVALUATOR = ROOT / "mdlm_min/evaluation/contest_evaluator.py"
SUBMISSIONS = Path(__file__).parent / "submissions"
LEVEL = 0.05  # two-sided, of a board's gains adjusted together
SCORES = {  # columns of a board, where its track has them: heading, digits
    "test_nll": ("test NLL", 3),
    "test_bits_per_byte": ("bits per byte", 3),
    "chosen": ("chosen", 2),
    "written": ("written", 2),
    "gradient_noise": ("gradient noise", 2),
    "seconds": ("seconds", 0),
}


@dataclass(frozen=True)
class Line:
    """An entry on a board. `gain` is the reference's test NLL less its own, by seed; `adjusted` its two-sided p-value, by Holm's
    method over the board's entries. `steps`: at which step it reaches the reference's last validation NLL, by seed. `levels`: its
    test NLL in each tenth of t, on text."""

    ranked: Ranked
    gain: Mean
    adjusted: float
    steps: tuple[float, ...]
    last_step: float
    scores: dict[str, float]
    levels: tuple[float, ...]
    rates: tuple[float, ...]
    commits: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.ranked.name

    @property
    def is_tie(self) -> bool:
        """Whether the seeds leave it open that this is the best entry."""
        return self.ranked.best == 1

    @property
    def is_better(self) -> bool:
        """Whether its gain on the reference is above 0 beyond what the seeds can be wrong about."""
        return self.gain.estimate > 0 and self.adjusted <= LEVEL

    @property
    def is_worse(self) -> bool:
        """The same below 0."""
        return self.gain.estimate < 0 and self.adjusted <= LEVEL


def checked(table: Table) -> Table:
    """The table, all of whose runs this evaluator has judged. Raises InputError naming a run that another one has. Runs made
    elsewhere (`mdlm judge`) do not say which."""
    now = sha256(EVALUATOR)
    for name, record in table.runs.items():
        if "data" in record and record["data"].get("evaluator_sha256") != now:
            allowed = f"runs that {EVALUATOR.name} judged as it is now (SHA-256 {now[:16]})"
            raise InputError(f"{name} was judged by another evaluator; allowed: {allowed}")
    return table


def unranked(table: Table, track: str, budget: int) -> dict[str, str]:
    """Of the entries that were run but cannot be compared with the reference by seed, the name and why."""
    part = table.cell(f"track={track}_budget={budget}")
    runs: dict[str, dict[int, str]] = {}  # by entry and seed
    for name, record in part.runs.items():
        runs.setdefault(record["config"]["arm"], {})[record["config"]["seed"]] = name
    data = {name: record.get("data", {}).get("sha256") for name, record in part.runs.items()}  # made elsewhere: not known
    score = {name: part.curves[name][-1]["test_nll"] for name in part.runs}
    reference, why = runs.get(REFERENCE, {}), {}
    for arm, its in runs.items():
        if its.keys() != reference.keys():
            seeds = ", ".join(map(str, sorted(reference)))
            why[arm] = f"its seeds must be those of {REFERENCE}: {seeds or 'none was run'}"
        elif other := [seed for seed, name in its.items() if data[name] != data[reference[seed]]]:
            why[arm] = f"its data are not those of {REFERENCE} (seed {other[0]})"
        elif bad := [seed for seed, name in its.items() if not math.isfinite(score[name])]:
            why[arm] = f"its test NLL on seed {bad[0]} is {score[its[bad[0]]]}"
    return why


def board(table: Table, track: str, budget: int) -> list[Line]:
    """The board of a track at a budget, best first: the entries that are not `unranked`. Empty without the reference."""
    part = checked(table.cell(f"track={track}_budget={budget}"))
    absent = unranked(part, track, budget)
    part = part.part(lambda record: record["config"]["arm"] not in absent)
    frame = part.frame() if part.runs else None
    if frame is None or REFERENCE not in set(frame["arm"]):
        return []
    frame = frame.sort_values("seed", kind="stable")
    by_arm = {str(arm): rows for arm, rows in frame.groupby("arm", sort=False)}
    losses = {arm: rows["test_nll"].to_numpy() for arm, rows in by_arm.items()}
    gains = {arm: Mean(tuple(losses[REFERENCE] - values)) for arm, values in losses.items()}
    others = [arm for arm in gains if arm != REFERENCE]
    adjusted = dict(zip(others, holm([two_sided(gains[arm]) for arm in others]), strict=True))
    target = float(np.median([rows[-1]["valid_nll"] for rows in curves_of(part, REFERENCE)]))
    lines = []
    for entry in ranked(losses):
        arm, rows = entry.name, by_arm[entry.name]
        curves = [[(row["step"], row["valid_nll"]) for row in rows] for rows in curves_of(part, arm)]
        records = [record for record in part.runs.values() if record["config"]["arm"] == arm]
        lines.append(
            Line(
                entry,
                gains[arm],
                adjusted.get(arm, math.nan),
                tuple(steps_to(curve, target) for curve in curves),
                float(rows["last_step"].max()),
                {name: float(rows[name].mean()) for name in SCORES},
                tuple(float(rows[f"test_t{low / 10:.1f}"].mean()) for low in range(10)),
                tuple(sorted(set(rows["learning_rate"]))),
                tuple(sorted({commit for record in records for commit in commits_of(record)})),
            )
        )
    return lines


Boards = dict[tuple[str, int], list[Line]]  # by track and budget


def boards(table: Table) -> Boards:
    """Every board that has entries."""
    found = {(track, budget): board(table, track, budget) for budget in BUDGETS for track in TRACKS}
    return {place: lines for place, lines in found.items() if lines}


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def gain_text(line: Line) -> str:
    """The gain on the reference with its interval and adjusted p-value."""
    if line.name == REFERENCE:
        return "reference"
    gain, low, high = (_signed(value) for value in (line.gain.estimate, *line.gain.interval()))
    return f"{gain} [{low}, {high}], p = {line.adjusted:.2g}"


def _signed(value: float) -> str:
    """Three digits after the point, and a power of ten for what they would show as zero: the sign of a zero misleads."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:+.0e}"


def _steps(line: Line) -> str:
    """The median step at which the reference's loss is reached; a seed that never does counts as later than all."""
    middle = float(np.median(line.steps))
    return f"{middle:.0f}" if math.isfinite(middle) else f"not within {line.last_step:.0f}"


def board_text(lines: list[Line], edges: tuple[float, float]) -> str:
    """A board as a Markdown table. A learning rate that is one of `edges`, the ends of the search, is marked."""
    there = [name for name in SCORES if any(not math.isnan(line.scores[name]) for line in lines)]
    head = [
        "rank [95%]",
        "entry",
        *(SCORES[name][0] for name in there),
        "gain on U[0,1], nats",
        "steps to U[0,1]'s loss",
        "rate",
        "commit",
    ]
    rows = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for line in lines:
        rates = ", ".join(f"{rate:g}" + "*" * (rate in edges) for rate in line.rates)
        cells = [
            line.ranked.text,
            f"**{line.name}**" if line.is_tie else line.name,
            *(_number(line.scores[name], SCORES[name][1]) for name in there),
            gain_text(line),
            _steps(line),
            rates,
            " ".join(commit[:7] for commit in line.commits),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def levels_text(lines: list[Line]) -> str:
    """The test NLL of every entry in each tenth of t, folded away; empty where a track does not measure it."""
    if all(math.isnan(value) for line in lines for value in line.levels):
        return ""
    head = ["entry", *(f"t in [{low / 10:.1f},{(low + 1) / 10:.1f}]" for low in range(10))]
    rows = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    rows += [f"| {line.name} | {' | '.join(_number(value, 2) for value in line.levels)} |" for line in lines]
    return "\n<details><summary>test NLL in each tenth of t</summary>\n\n" + "\n".join(rows) + "\n\n</details>\n"


def with_submissions(table: Table, without: str = "") -> tuple[Table, dict[str, str]]:
    """The table with the records that were sent in but those of the name `without`, and of what was sent in besides the name by
    its folder."""
    records, others = accepted_entries(SUBMISSIONS, without)
    for one in records:
        table = Table(table.experiment, table.tier, {**table.runs, **one.runs}, {**table.curves, **one.curves})
    return table, others


def leaderboard_page(table: Table, found: Boards, others: Mapping[str, str] | None = None) -> str:
    """results/LEADERBOARD.md: `found` are the table's boards."""
    text = (
        "# Leaderboard of mask schedules\n\n"
        "Written by `mdlm report` from `results/07_contest`. [The contest's page](../experiments/07_contest/README.md) has the "
        "rules.\n\n"
        "- *Rank [95%]*: place by mean test NLL over seeds, and the ranks that the seeds leave open. Entries in bold may be the "
        "best: between them it is a tie. Each interval stands alone: one entry may leave open what another's excludes.\n"
        "- *Gain*: test NLL of U[0,1] (`llada_0.001`) less the entry's, paired by seed, with its 95% interval and its two-sided "
        "p-value, adjusted over the board.\n"
        "- *Steps to U[0,1]'s loss*: the median step at which its last validation NLL is reached.\n"
        "- *Chosen, written*: share of questions answered rightly by likelihood among four choices, and by what is written.\n"
        "- *Rate*: the learning rate of least validation NLL in the search. *: at an end of the searched rates.\n"
        "- *Gradient noise*: share of noise in a step's gradient after a fifth of the run; 0 is none.\n"
        f"- Evaluator: `mdlm_min/evaluation/contest_evaluator.py`, SHA-256 `{sha256(EVALUATOR)[:16]}`.\n"
    )
    for (track, budget), lines in found.items():
        rates = _track(table, track)["rates"]
        seeds = lines[0].gain.seeds
        text += (
            f"\n## {TRACKS[track]}, budget {budget}x: {lines[0].last_step:.0f} steps, {seeds} seeds\n\n"
            f"{board_text(lines, (min(rates), max(rates)))}{levels_text(lines)}"
        )
        text += "".join(f"\nNot ranked: {name}; {why}.\n" for name, why in unranked(table, track, budget).items())
    if others:
        text += "\n## Non-record: other data, budgets or settings, not ranked\n\n"
        text += "".join(
            f"- [{one}](../experiments/07_contest/submissions/{folder}/README.md)\n" for folder, one in others.items()
        )
    return text


def _track(table: Table, track: str) -> dict[str, Any]:
    """The settings of a track that was run."""
    configs = (record["config"] for record in table.runs.values())
    found: dict[str, Any] = next(config["tracks"][track] for config in configs if config["track"] == track)
    return found


def complete(found: Boards) -> Boards:
    """The boards that have every entry of the plan. On one that has few, no rank is large, and that would turn the advice."""
    plan = Experiment("contest").plan["arms"].keys()
    return {place: lines for place, lines in found.items() if plan <= {line.name for line in lines}}


def decided(found: Boards) -> Boards:
    """The boards on which some entry is surely better than the reference."""
    return {place: lines for place, lines in found.items() if any(line.is_better for line in lines)}


def advised(found: Boards) -> list[str]:
    """The entries that on every decided board are surely better than the reference and may be the best, the one of the least
    mean place there first."""
    its = [{line.name: line for line in lines if line.is_better and line.is_tie} for lines in decided(found).values()]
    names = set.intersection(*map(set, its)) if its else set()
    return sorted(names, key=lambda name: (sum(lines[name].ranked.place for lines in its), name))


def _answer(found: Boards) -> str:
    """The one answer that these boards give, or that they give none."""
    if not found:
        return "**No answer yet: no board has every entry of the contest.**"
    sure = decided(found)
    if not sure:
        return f"**No entry is surely better than U[0,1] on any of these {len(found)} boards{_worse(found)}.**"
    there, others = _places(sure), {place: lines for place, lines in found.items() if place not in sure}
    if names := [f"`{name}`" for name in advised(found)]:
        each = "Each is" if len(names) > 1 else "It is"
        text = f"**Take {' or '.join(names)} on {there}.** {each} surely better than U[0,1] there, and may be the best"
        text += f" of {len(next(iter(found.values())))}. No other entry is both on all of these."
    else:
        text = f"**No entry is both surely better than U[0,1] and perhaps the best on all of {there}: see the table.**"
    if others:
        text += f" Nothing is surely better than U[0,1] on the other {len(others)} boards{_worse(others)}."
    for name in advised(found):
        if worse := {
            place: lines for place, lines in found.items() if any(line.name == name and line.is_worse for line in lines)
        }:
            text += f" But `{name}` is surely worse than U[0,1] on {_places(worse)}."
    return text


def _worse(found: Boards) -> str:
    """That some entry is surely worse than the reference on one of these boards, where one is."""
    some = any(line.is_worse for lines in found.values() for line in lines)
    return "; [some entries](LEADERBOARD.md) are surely worse" if some else ""


def _places(found: Boards) -> str:
    """The boards by what they are trained on, each with its budgets."""
    budgets: dict[str, list[str]] = {}
    for track, budget in found:
        budgets.setdefault(track, []).append(f"{budget}x")
    return ", ".join(f"{TRACKS[track]} ({', '.join(its)})" for track, its in budgets.items())


def _written(lines: list[Line], budget: int) -> str:
    """Which entries come first by the answers themselves."""
    reference = next(line for line in lines if line.name == REFERENCE)
    parts = []
    for score, what in (("written", "the share of questions answered rightly by writing"), ("chosen", "by choosing among four")):
        first = max(lines, key=lambda line: line.scores[score])
        parts.append(f"{what} `{first.name}` ({first.scores[score]:.2f}; U[0,1] {reference.scores[score]:.2f})")
    return f"Boards are ranked by NLL. Means over seeds at {budget}x, without a test: first by {', '.join(parts)}.\n\n"


def advice_page(table: Table, found: Boards) -> str:
    """results/WHICH_SCHEDULE.md: one screen. `found` are the table's boards."""
    seeds = sorted({lines[0].gain.seeds for lines in found.values()})
    largest = max(budget for _, budget in found)
    text = (
        "# Which schedule should I train with?\n\n"
        "Written by `mdlm report` from the contest's table: small models, small budgets, a learning rate searched for each entry "
        "([rules](../experiments/07_contest/README.md), [all entries](LEADERBOARD.md)).\n\n"
        f"{_answer(complete(found))}\n\n"
        "A *board* is the entries on one kind of data at one *budget* (of steps), ranked by test NLL. *Rank 2 [1, 25]*: second "
        "by the mean over seeds, and the seeds leave the ranks 1 to 25 open (95%). *Surely*: p <= .05, adjusted over the "
        "board.\n\n"
        "`signal_rich_window` is the paper's U[.45,.55] (`mdlm train --mask-rate 'U[0.45,0.55]' --weight 1/t`). "
        "`predicted_window` is the window that `mdlm window --text FILE "
        "--tokenizer T` predicts from your training tokens: a good one on text, though it often misses the best (W5). Both have "
        "the weight 1/t, as has U[0,1] (`llada_0.001`: U[.001,1]). With U[.45,.55] it makes no sure difference at "
        "batch 32; at batch 256 the window without it is .02 nats worse, less than would matter (bytes, one learning rate, "
        "[seen afterwards](../experiments/03_wikitext_lasting/README.md)). "
        "The defaults of `mdlm train`, U[.2,.5] without the weight, come from a search of their own: 80 seconds on one core, "
        "the least bits per byte (mdlm_min/cli/train.py); they are no entry here.\n\n"
        "| you train on | steps x batch | best by the mean | surely better than U[0,1] | may be the best too | "
        "gain of the best over U[0,1], nats per token [95%] | and the paper's U[.45,.55] |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for (track, budget), lines in found.items():
        first, others = lines[0], [line for line in lines[1:] if line.is_tie]
        sure = sum(line.is_better for line in lines)
        tied = f"{len(others)}{', U[0,1] among them' if any(line.name == REFERENCE for line in others) else ''}"
        window = next((line for line in lines if line.name == "signal_rich_window"), None)
        paper = "" if window is None else f"rank {window.ranked.text}, {gain_text(window)}"
        steps = f"{first.last_step:.0f} x {_track(table, track)['batch']} ({budget}x)"
        cells = (TRACKS[track], steps, f"`{first.name}`", f"{sure} of {len(lines) - 1}", tied, gain_text(first), paper)
        text += f"| {' | '.join(cells)} |\n"
    answers = [(lines, budget) for (track, budget), lines in found.items() if track == "answers"]
    text += "\n" + (_written(*answers[-1]) if answers else "")
    text += (
        f"How sure: {' or '.join(map(str, seeds))} seeds each, 95% intervals. P-values are adjusted over the entries of a board, "
        "not over the boards, and both kinds of text are one corpus: its boards are no replications of each other. The rule of "
        "the answer was written after the runs. The best of many looks better than it is: its interval is not adjusted for "
        "having been chosen, and entries just below may do as well. Rates were searched with one seed. How far that may be off, "
        "and what other seeds say of U[.45,.55] against U[0,1], which no board counts, is on [the contest's page]"
        "(../experiments/07_contest/README.md#limits). "
        if seeds[0] >= LEAST_SEEDS
        else f"**Fewer than {LEAST_SEEDS} seeds: nothing here is decided.** "
    )
    later = f" {largest}x uses the learning rates searched at 1x." if largest > 1 else " A gain at 1x may be an early lead."
    return text + (
        "What the table does not say: models beyond .16 million parameters, other data, other batches, budgets beyond "
        f"{largest}x.{later}\n"
    )


def pages(table: Table) -> dict[str, str]:
    """The generated pages of results/, by name; none where there is no board."""
    table, others = with_submissions(table)
    found = boards(table)
    if not found:
        return {}
    return {"LEADERBOARD.md": leaderboard_page(table, found, others), "WHICH_SCHEDULE.md": advice_page(table, found)}

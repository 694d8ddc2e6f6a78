"""Does the window's gain last (L1 to L4), is it the window or the weight (N5), what do neighbours' schedules do (N1 to N4)?"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, arms_of, by_seed, curves_of, in_cell, quarter
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import Evidence, Mean, Quotient, Ratio
from mdlm_min.run.run_folder import Row

ARMS = {
    "uniform": "U[0,1]",
    "middle": "U[.45,.55]",
    "clipped": "U[.1,1]",
    "band": "U[.3,.8]",
    "bell": "N[.5,.2]",
}
GAIN = 0.264  # nats that the paper's window gains (W2)
FIG7 = 1.37  # times the window's steps that the paper's U[0,1] needs to equal loss


def label(arm: str) -> str:
    """An arm as a reader knows it."""
    name, _, weight = arm.partition("_")
    return ARMS[name] + (", no 1/t" if weight else "")


def steps_to(rows: list[Row], loss: float) -> float:
    """The step at which the validation loss first falls to `loss`, by linear interpolation between evaluations; infinity where it
    never does."""
    for before, after in itertools.pairwise(rows):
        if after["valid_loss"] <= loss:
            fall = before["valid_loss"] - after["valid_loss"]
            share = (before["valid_loss"] - loss) / fall if fall > 0 else 1.0
            return before["step"] + min(max(share, 0.0), 1.0) * (after["step"] - before["step"])
    return float("inf")


def step_ratios(table: Table, rival: str, arm: str) -> list[float]:
    """Steps of `rival` to its final validation loss over the steps of `arm` to the same loss, seed by seed.

    Where `arm` never gets there, the two change places: its final loss is what both are timed to. So each ratio is measured."""
    ratios = []
    for theirs, ours in zip(curves_of(table, rival), curves_of(table, arm), strict=True):
        steps = steps_to(ours, theirs[-1]["valid_loss"])
        ratios.append(
            theirs[-1]["step"] / steps if np.isfinite(steps) else steps_to(theirs, ours[-1]["valid_loss"]) / ours[-1]["step"]
        )
    return ratios


@dataclass(frozen=True)
class Trend:
    """Straight lines in the logarithm of the tokens through the gap of validation loss, one for each seed, from a quarter of the
    run on: their slopes per doubling of the tokens, and their gaps at the last step."""

    slopes: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def closes(self) -> Quotient | None:
        """Doublings of the tokens from the last step to where the lines are at zero; None where they do not fall."""
        falls = tuple(-slope for slope in self.slopes)
        return Quotient(self.ends, falls) if np.mean(falls) > 0 < np.mean(self.ends) else None


def trend(table: Table, rival: str, arm: str) -> Trend:
    """How the gap of validation loss between two arms changes with each doubling of the tokens."""
    slopes, ends = [], []
    for theirs, ours in zip(curves_of(table, rival), curves_of(table, arm), strict=True):
        last = theirs[-1]["step"]
        pairs = [(row["step"], row["valid_loss"] - mine["valid_loss"]) for row, mine in zip(theirs, ours, strict=True)]
        late = np.array([(np.log2(step / last), gap) for step, gap in pairs if step >= last / 4])
        slope, end = np.polyfit(late[:, 0], late[:, 1], 1)
        slopes.append(float(slope))
        ends.append(float(end))
    return Trend(tuple(slopes), tuple(ends))


def _gap(table: Table, rival: str, arm: str) -> np.ndarray:
    return by_seed(table, rival, "test_loss") - by_seed(table, arm, "test_loss")


def _losses_text(table: Table, *arms: str) -> str:
    return ", ".join(f"{label(arm)} {by_seed(table, arm, 'test_loss').mean():.3f}" for arm in arms)


def _below(arm: str, rival: str = "uniform") -> Judge:
    def judge(table: Table) -> Evidence:
        """The arm's test loss at the end is below its rival's."""
        return Mean(tuple(_gap(table, rival, arm)), f"Test loss: {_losses_text(table, rival, arm)}")

    return judge


def _sooner(arm: str, rival: str = "uniform") -> Judge:
    def judge(table: Table) -> Evidence:
        """The arm reaches its rival's final loss in fewer steps."""
        ratios = step_ratios(table, rival, arm)
        note = f"{_losses_text(table, rival, arm)}; ratio of each seed {', '.join(f'{value:.2f}' for value in ratios)}"
        return Ratio(tuple(ratios), note)

    return judge


def judge_window(table: Table) -> Evidence:
    """N5: the share of the gain that is left where no arm has the weight 1/t."""
    gain, left = _gap(table, "uniform", "middle"), _gap(table, "uniform_unweighted", "middle_unweighted")
    note = (
        f"Test loss: {_losses_text(table, 'uniform', 'middle', 'uniform_unweighted', 'middle_unweighted')}; of a gain of "
        f"{gain.mean():.3f} nats {left.mean():.3f} are left without the weight"
    )
    return Quotient(tuple(left), tuple(gain), note)


def judge_kept(table: Table) -> Evidence:
    """L4: the gap of validation loss at the end as a share of the gap after a quarter of the steps, in the same runs."""
    gaps = []
    for uniform, middle in zip(curves_of(table, "uniform"), curves_of(table, "middle"), strict=True):
        gaps.append([theirs["valid_loss"] - ours["valid_loss"] for theirs, ours in zip(uniform, middle, strict=True)])
    quarters = [values[len(values) // 4] for values in gaps]
    ends = [values[-1] for values in gaps]
    note = f"Gap of validation loss after a quarter of the steps {np.mean(quarters):.3f}, at the end {np.mean(ends):.3f}"
    return Quotient(tuple(ends), tuple(quarters), note)


_ABOVE = "interval above 0"
_CELLS = {"bytes": "bytes", "BPE": "BPE", "bytes-long": "bytes", "BPE-long": "BPE", "bytes-batch-256": "bytes, batch 256"}


def _family(name: str, cell: str) -> str:
    """The runs of two seeds are a family of their own: they cannot decide, and cost the others nothing."""
    return f"{name}, long" if cell.endswith("-long") else name


_COSTS = {
    "bytes": "30 runs of five minutes on one core",
    "BPE": "20 runs of five minutes on one core",
    "bytes-long": "8 runs of 20 minutes on one core",
    "BPE-long": "8 runs of 20 minutes on one core",
    "bytes-batch-256": "20 runs of five minutes on one core",
}


def _tokens(cell: str) -> str:
    return "23M tokens" if cell.endswith("-long") else "5.7M tokens"


def _difference(id: str, statement: str, arm: str, rival: str, cell: str, family: str, published: str = "(ours)") -> Claim:
    return Claim(
        id=id,
        statement=f"{statement}; {_CELLS[cell]}, {_tokens(cell)}",
        kind="statistical",
        quantity=f"test loss, {label(rival)} - {label(arm)}",
        published=published,
        tolerance=_ABOVE,
        tier="cpu",
        judge=in_cell(_below(arm, rival), cell),
        cost=_COSTS[cell],
        scale="difference",
        smallest=quarter(GAIN),
        family=_family(family, cell),
    )


def _times(
    id: str, statement: str, arm: str, rival: str, cell: str, published: str, family: str, paper: float, effect: float = 0.0
) -> Claim:
    """A quarter of the `effect` would matter: by default the paper's."""
    return Claim(
        id=id,
        statement=f"{statement}; {_CELLS[cell]}, {_tokens(cell)}",
        kind="statistical",
        quantity=f"steps to equal loss, {label(rival)} / {label(arm)}",
        published=published,
        tolerance="interval above 1",
        tier="cpu",
        judge=in_cell(_sooner(arm, rival), cell),
        cost=_COSTS[cell],
        scale="ratio",
        paper=paper,
        smallest=quarter(effect or paper, 1.0),
        family=_family(family, cell),
    )


def _shares(cell: str) -> list[Claim]:
    common = {
        "kind": "statistical", "tolerance": _ABOVE, "tier": "cpu", "cost": _COSTS[cell], "scale": "share", "null": 0.0,
        "smallest": 0.25,
    }  # fmt: skip
    where = f"{_CELLS[cell]}, {_tokens(cell)}"
    return [
        Claim(
            id=f"N5-{cell}",
            statement=f"Part of the window's gain is the window, not the weight 1/t; {where}",
            quantity="share of the gain left without 1/t",
            published="(ours)",
            judge=in_cell(judge_window, cell),
            family=_family("window or weight", cell),
            **common,
        ),
        Claim(
            id=f"L4-{cell}",
            statement=f"Part of the gain after a quarter of the steps is left at the end; {where}",
            quantity="gap at the end / gap after a quarter",
            published="(ours)",
            judge=in_cell(judge_kept, cell),
            family=_family("kept", cell),
            **common,
        ),
    ]


_WINDOW = "The window is ahead of U[0,1]"
CLAIMS = [
    *(_difference(f"L1-{cell}", f"{_WINDOW} at the end", "middle", "uniform", cell, "lasting") for cell in _CELLS),
    *(
        _difference(
            f"L2-{cell}", f"{_WINDOW} without 1/t in either", "middle_unweighted", "uniform_unweighted", cell, "unweighted"
        )
        for cell in _CELLS
    ),
    *(
        _times(
            f"L3-{cell}", "The window needs fewer steps to equal loss", "middle", "uniform", cell, "1.37 (Fig 7)", "steps", FIG7
        )
        for cell in _CELLS
    ),
    *(claim for cell in _CELLS for claim in _shares(cell)),
    _times(
        "N1", "Without 1/t U[0,1] needs fewer steps (arXiv:2602.15014)", "uniform_unweighted", "uniform", "bytes",
        "12% fewer", "neighbours", 1.136,
    ),
    _times(
        "N2", "A bell-shaped t needs fewer steps (arXiv:2605.13026: a quarter)", "bell", "uniform", "bytes", "4", "neighbours",
        4.0,
    ),
    _difference(
        "N3", "A larger epsilon lowers the loss (a public record at 33M)", "clipped", "uniform", "bytes", "neighbours",
        "\"biggest win\"",
    ),
    _difference("N4", "LLaDA2's band beats U[0,1] (arXiv:2512.15745)", "band", "uniform", "bytes", "neighbours", "as stated"),
    *(
        _difference(
            f"{id}-unweighted", f"{text} without 1/t in either", f"{arm}_unweighted", "uniform_unweighted", "bytes",
            "neighbours without the weight",
        )
        for id, text, arm in (
            ("N2", "A bell-shaped t lowers the loss", "bell"),
            ("N3", "A larger epsilon lowers the loss", "clipped"),
            ("N4", "LLaDA2's band beats U[0,1]", "band"),
        )
    ),
    *(
        _times(f"{id}-steps", text, arm, "uniform", "bytes", "(ours)", "neighbours, steps", math.nan, FIG7)
        for id, text, arm in (
            ("N3", "A larger epsilon needs fewer steps to equal loss", "clipped"),
            ("N4", "LLaDA2's band needs fewer steps to equal loss", "band"),
        )
    ),
]  # fmt: skip


COLOUR = {"uniform": 3, "middle": 2, "clipped": 4, "band": 5, "bell": 6}
SETTING = {"": "black", "long": figure.COLOURS[0], "batch-256": figure.COLOURS[1]}  # by what follows the corpus in a cell's name
WEIGHTS = {"": "with the weight 1/t", "_unweighted": "without the weight"}


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Per tier, the window's gap to U[0,1] against tokens; the same in every setting, with its trend, and of its neighbours; and
    the validation loss of every schedule (mean over seeds) in every setting."""
    paths = []
    for tier, table in tables.items():
        there = dict.fromkeys(record["cell"] for record in table.runs.values())
        cells = [cell for cell in there if {"uniform", "middle"} <= set(arms_of(table.cell(cell))) and "search" not in cell]
        if not cells:
            continue
        corpora = list(dict.fromkeys(cell.partition("-")[0] for cell in cells))
        paths.append(_draw_gap(table, corpora, folder / f"03_wikitext_lasting_{tier}.png"))
        fig, axes = figure.grid(len(corpora) + 1, 2, width=5.6, height=3.8)
        for column, (suffix, text) in enumerate(WEIGHTS.items()):
            for ax, corpus in zip(axes[:, column], corpora, strict=False):
                named = [cell for cell in cells if cell.partition("-")[0] == corpus]
                _draw_window(ax, table, named, suffix)
                ax.set_title(f"U[0,1] - U[.45,.55], {corpus or 'all'}, {text}")
            _draw_neighbours(axes[-1, column], table.cell(cells[0]), suffix)
            axes[-1, column].set_title(f"U[0,1] - every schedule, {cells[0] or 'all'}, {text}")
        fig.suptitle(
            "Heavy: mean of five seeds; two: each. Dotted: fitted from a quarter on, after the runs;\n"
            "they reach zero so many doublings after the end, outside the data. 2x: to equal loss U[0,1] needs twice the steps.",
            fontsize=9.5,
        )
        paths.append(figure.save(fig, folder / f"03_wikitext_lasting_settings_{tier}.png"))
        fig, axes = figure.grid(-(-len(cells) // 2), 2, width=5.2, height=3.4)
        for ax, cell in zip(axes.flat, cells, strict=False):
            _draw_losses(ax, table.cell(cell), cell)
        for ax in axes.flat[len(cells) :]:
            ax.set_visible(False)
        figure.legend_below(fig, 3)
        paths.append(figure.save(fig, folder / f"03_wikitext_lasting_losses_{tier}.png"))
    return paths


def _millions(table: Table) -> float:
    """Million tokens of a step."""
    config = next(iter(table.runs.values()))["config"]
    return float(config["batch"] * config["data"]["length"] / 1e6)


def _numbers(table: Table, rival: str, arm: str) -> str:
    """Steps to equal loss, the slope and where the lines close, each with its interval over seeds where there is one."""
    line, ratio = trend(table, rival, arm), Ratio(tuple(step_ratios(table, rival, arm)))
    slope = Mean(line.slopes)
    said = f"{ratio.estimate:.2f}x{_between(ratio, '.2f')}, {slope.estimate:+.3f}{_between(slope, '+.3f')} a doubling"
    return said + (f", zero {line.closes.estimate:.1f}{_between(line.closes, '.1f', 0.0)} later" if line.closes else "")


def _between(evidence: Evidence, form: str, least: float = -math.inf) -> str:
    low, high = evidence.interval()
    low = max(low, least)
    return f" [{low:{form}}, {high:{form}}]" if evidence.seeds > 1 and np.isfinite([low, high]).all() else ""


def _draw_gap(table: Table, corpora: list[str], path: Path) -> Path:
    """For each corpus, with the weight and without, the window's gap: mean, every seed and range; longer runs each."""
    fig, axes = figure.grid(1, len(corpora), width=5.0, height=3.6)
    for ax, corpus in zip(axes.flat, corpora, strict=True):
        for (suffix, text), colour in zip(WEIGHTS.items(), (figure.COLOURS[1], figure.COLOURS[0]), strict=True):
            rival, arm = f"uniform{suffix}", f"middle{suffix}"
            part = table.cell(corpus)
            if not {rival, arm} <= set(arms_of(part)):
                continue
            ratio = Ratio(tuple(step_ratios(part, rival, arm)))
            said = f"{text}: {ratio.estimate:.1f}x{_between(ratio, '.1f')}"
            figure.seed_band(ax, _gaps(part, rival, arm), "gap", colour, said, np.mean)
            longer = table.cell(f"{corpus}-long")
            if {rival, arm} <= set(arms_of(longer)):
                for gap in _gaps(longer, rival, arm):
                    ax.plot(gap["step"], gap["gap"], "--", color=colour, linewidth=1.1)
        ax.set_title(f"U[0,1] - U[.45,.55] in {corpus or 'all'}")
        _finish(ax, 9.0)
    fig.suptitle(
        "How far U[0,1] is behind the window. Heavy: mean over seeds; thin: each seed; dashed: each seed of longer runs.\n"
        "2x: U[0,1] needs twice the steps to equal loss, with the 95% interval over seeds.",
        fontsize=9.0,
    )
    return figure.save(fig, path)


def _draw_window(ax: figure.Axes, table: Table, cells: list[str], suffix: str) -> None:
    """The window's gap in every setting of one corpus: steps and batch."""
    rival, arm = f"uniform{suffix}", f"middle{suffix}"
    for cell in cells:
        part, colour = table.cell(cell), SETTING[cell.partition("-")[2]]
        if {rival, arm} <= set(arms_of(part)):
            seeds, last = len(curves_of(part, arm)), curves_of(part, arm)[0][-1]["step"]
            batch = next(iter(part.runs.values()))["config"]["batch"]
            name = f"{last:,.0f} steps of {batch}, {seeds} seeds\n{_numbers(part, rival, arm)}"
            figure.seed_band(ax, _gaps(part, rival, arm), "gap", colour, name, np.mean)
            _draw_trend(ax, part, rival, arm, colour)
    _finish(ax)


def _draw_neighbours(ax: figure.Axes, table: Table, suffix: str) -> None:
    """Every schedule's gap to U[0,1] (mean of the seeds), both with the weight or both without; with it also U[0,1] without."""
    rival = f"uniform{suffix}"
    others = [arm for arm in arms_of(table) if arm.endswith("_unweighted") == bool(suffix) and arm != rival]
    for arm in [*others, *(["uniform_unweighted"] if not suffix and "uniform_unweighted" in arms_of(table) else [])]:
        colour = figure.COLOURS[COLOUR[arm.partition("_")[0]]]
        gaps = pd.concat(_gaps(table, rival, arm)).groupby("step")["gap"].mean()
        ax.plot(gaps.index, gaps, color=colour, linewidth=1.8, label=f"{label(arm)}\n{_numbers(table, rival, arm)}")
        _draw_trend(ax, table, rival, arm, colour)
    _finish(ax)


def _gaps(table: Table, rival: str, arm: str) -> list[pd.DataFrame]:
    """The gap of validation loss of every seed; "step" are million tokens."""
    scale = _millions(table)
    return [
        pd.DataFrame({"step": row["step"] * scale, "gap": row["valid_loss"] - mine["valid_loss"]}
                     for row, mine in zip(theirs, ours, strict=True) if row["step"] > 0)
        for theirs, ours in zip(curves_of(table, rival), curves_of(table, arm), strict=True)
    ]  # fmt: skip


def _draw_trend(ax: figure.Axes, table: Table, rival: str, arm: str, colour: str) -> None:
    line, last = trend(table, rival, arm), curves_of(table, arm)[0][-1]["step"] * _millions(table)
    tokens = np.geomspace(last / 4, last, 50)
    ax.plot(tokens, np.mean(line.ends) + np.mean(line.slopes) * np.log2(tokens / last), ":", color=colour, linewidth=2.2)


def _finish(ax: figure.Axes, size: float = 7.0) -> None:
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.set(xlabel="million tokens", ylabel="gap of validation loss, nats", xscale="log")
    _mark_tokens(ax)
    low, high = ax.get_ylim()
    lines = sum(text.count("\n") + 1 for text in ax.get_legend_handles_labels()[1])
    ax.set_ylim(low, low + (high - low) / (1 - 0.055 * lines))  # room for the legend above the curves
    ax.legend(fontsize=size, loc="upper left", frameon=False)


def _mark_tokens(ax: figure.Axes) -> None:
    """Plain numbers on a logarithmic axis of million tokens."""
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.3, 0.5, 1, 2, 3, 5, 10, 20) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)


def _draw_losses(ax: figure.Axes, table: Table, cell: str) -> None:
    for arm in arms_of(table):
        mean = pd.concat([pd.DataFrame(rows) for rows in curves_of(table, arm)]).groupby("step")["valid_loss"].mean().iloc[1:]
        style = "--" if arm.endswith("_unweighted") else "-"
        colour = figure.COLOURS[COLOUR[arm.partition("_")[0]]]
        ax.plot(mean.index * _millions(table), mean, style, color=colour, linewidth=1.3, label=label(arm))
    ax.set(xlabel="million tokens", ylabel="validation loss, nats per token", xscale="log", title=f"validation loss, {cell}")
    _mark_tokens(ax)

"""Does the window's gain last (L1 to L4), is it the window or the weight (N5), what do neighbours' schedules do (N1 to N4)?"""

import itertools
import math
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
TOKENS = 64  # of a block
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


def trend(table: Table, rival: str, arm: str) -> tuple[Mean, float]:
    """How the gap of validation loss changes with each doubling of the tokens, by a straight line in their logarithm from a
    quarter of the run on, seed by seed; and the mean gap of those lines at the last step."""
    slopes, ends = [], []
    for theirs, ours in zip(curves_of(table, rival), curves_of(table, arm), strict=True):
        last = theirs[-1]["step"]
        pairs = [(row["step"], row["valid_loss"] - mine["valid_loss"]) for row, mine in zip(theirs, ours, strict=True)]
        late = np.array([(np.log2(step / last), gap) for step, gap in pairs if step >= last / 4])
        slope, end = np.polyfit(late[:, 0], late[:, 1], 1)
        slopes.append(float(slope))
        ends.append(float(end))
    return Mean(tuple(slopes)), float(np.mean(ends))


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


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Per tier, a row for each setting: the gap between U[0,1] and the window against tokens, with and without the weight 1/t
    (median, every seed, range), with a straight line in the logarithm of the tokens from a quarter of the run on and its 95%
    interval over seeds; and the validation loss of every schedule (mean over seeds)."""
    paths = []
    for tier, table in tables.items():
        there = dict.fromkeys(record["cell"] for record in table.runs.values())
        cells = [cell for cell in there if {"uniform", "middle"} <= set(arms_of(table.cell(cell))) and "search" not in cell]
        if not cells:
            continue
        fig, axes = figure.grid(len(cells), 2, width=5.2, height=3.6)
        for row, cell in zip(axes, cells, strict=True):
            _draw_gap(row[0], table.cell(cell), cell)
            _draw_losses(row[1], table.cell(cell), cell)
        figure.legend_below(fig, 3)
        paths.append(figure.save(fig, folder / f"03_wikitext_lasting_{tier}.png"))
    return paths


LINES = "heavy: median of the seeds; dashed: mean of their fits, made after the runs"


def _draw_gap(ax: figure.Axes, table: Table, cell: str) -> None:
    batch = next(iter(table.runs.values()))["config"]["batch"]
    for suffix, colour, text in (("", "black", "with 1/t"), ("_unweighted", "grey", "without 1/t")):  # no schedule's colour
        rival, arm = f"uniform{suffix}", f"middle{suffix}"
        if not {rival, arm} <= set(arms_of(table)):
            continue
        pairs = zip(curves_of(table, rival), curves_of(table, arm), strict=True)
        gaps = [
            pd.DataFrame({"step": row["step"] * batch * TOKENS / 1e6, "gap": row["valid_loss"] - mine["valid_loss"]}
                         for row, mine in zip(theirs, ours, strict=True) if row["step"] > 0)
            for theirs, ours in pairs
        ]  # fmt: skip
        figure.seed_band(ax, gaps, "gap", colour, f"U[0,1] - U[.45,.55], {text}")
        slope, end = trend(table, rival, arm)
        low, high = slope.interval()
        last = float(gaps[0]["step"].iloc[-1])
        tokens = np.linspace(last / 4, last, 50)
        line = f"{slope.estimate:+.3f} [{low:+.3f}, {high:+.3f}] nats per doubling"
        if not np.isfinite(low):
            line = f"{slope.estimate:+.3f} nats per doubling, one seed"
        ax.plot(tokens, end + slope.estimate * np.log2(tokens / last), "--", color=colour, linewidth=2, label=line)
    ax.axhline(0, color="grey", linewidth=0.8)
    ratio = Ratio(tuple(step_ratios(table, "uniform", "middle"))).estimate
    ax.set(xlabel="million tokens", ylabel="gap of validation loss, nats")
    ax.set_title(f"does the gain last? {cell}: to equal loss U[0,1] needs {ratio:.1f} times the steps\n{LINES}", fontsize=9)
    ax.legend(fontsize=7)


def _draw_losses(ax: figure.Axes, table: Table, cell: str) -> None:
    batch = next(iter(table.runs.values()))["config"]["batch"]
    for arm in arms_of(table):
        curves = [
            pd.DataFrame(rows).assign(tokens=lambda rows: rows["step"] * batch * TOKENS / 1e6) for rows in curves_of(table, arm)
        ]
        mean = pd.concat(curves).groupby("tokens")["valid_loss"].mean()
        dashed = arm.endswith("_unweighted")
        colour = figure.COLOURS[COLOUR[arm.partition("_")[0]]]
        ax.plot(mean.index[1:], mean.iloc[1:], "--" if dashed else "-", color=colour, linewidth=1.3, label=label(arm))
    ax.set(xlabel="million tokens", ylabel="validation loss, nats per token", xscale="log", title=f"validation loss, {cell}")
    ticks = [tick for tick in (0.3, 0.5, 1, 2, 3, 5, 10, 20) if tick <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)

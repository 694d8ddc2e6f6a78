"""P1 to P4 at the paper's size, the same claims on two cells of two cores' size, and the control of open point 7.

T_mem and T_gen are the first steps from which train and validation accuracy stay at .99 for three evaluations; a run
that never gets there counts as its last step, so a ratio with it is a bound.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import (
    Claim,
    Judge,
    Verdict,
    above_one,
    arms_of,
    curves_of,
    every_seed,
    in_cell,
    rows_of,
    share_interval,
    steps_text,
)
from mdlm_min.evidence.golden import Table, published

FIG2 = {"output": "out_sup", "md_0.1": "md_0.1", "md_0.2": "md_0.2", "md_0.3": "md_0.3", "md_0.4": "md_0.4"}
MIDDLE, ENDS = ("md_0.2", "md_0.246", "md_0.3"), ("md_0.1", "md_0.4")
DELAYED, PROMPT, FELL = 5.0, 1.2, 0.05


def _times(table: Table, arm: str) -> np.ndarray:
    """T_gen of every seed; the last step where it was not reached."""
    rows = rows_of(table, arm)
    return np.where(np.isfinite(rows["t_gen"]), rows["t_gen"], rows["last_step"]).astype(float)


def _before_output(table: Table, arm: str, name: str) -> Verdict:
    """Whether `arm` generalises before output supervision."""
    note = (
        f"T_gen of output supervision {steps_text(rows_of(table, 'output')['t_gen'])}; of {name} "
        f"{steps_text(rows_of(table, arm)['t_gen'])}"
    )
    return above_one(_times(table, "output") / _times(table, arm), note)


def judge_p1(table: Table) -> Verdict:
    """Grokking: T_gen at least five times T_mem in every seed."""
    rows = rows_of(table, "output")
    note = f"T_mem {steps_text(rows['t_mem'])}; T_gen {steps_text(rows['t_gen'])} of at most {rows['last_step'].max():.0f} steps"
    return every_seed(np.isfinite(rows["t_mem"]) & (rows["t_gen"] >= DELAYED * rows["t_mem"]), note)


def judge_p2(table: Table) -> Verdict:
    """No delay: T_gen at most 1.2 times T_mem in every seed of U[0,.2]."""
    rows = rows_of(table, "md_0.2")
    note = f"T_mem {steps_text(rows['t_mem'])}; T_gen {steps_text(rows['t_gen'])}"
    return every_seed(np.isfinite(rows["t_gen"]) & (rows["t_gen"] <= PROMPT * rows["t_mem"]), note)


def judge_earlier(table: Table) -> Verdict:
    """Masked diffusion U[0,.2] generalises before output supervision."""
    return _before_output(table, "md_0.2", "U[0,.2]")


def judge_p3(table: Table) -> Verdict:
    """The better of the two end windows against the mean of the middle ones, in log T_gen."""
    middle = np.mean([np.log(_times(table, arm)) for arm in MIDDLE], axis=0)
    ends = {arm: np.log(_times(table, arm)) for arm in ENDS}
    nearest = min(ends, key=lambda arm: float(ends[arm].mean()))
    means = "; ".join(f"{arm} {np.exp(np.log(_times(table, arm)).mean()):.0f}" for arm in (*MIDDLE, *ENDS))
    return above_one(
        np.exp(ends[nearest] - middle),
        f"Geometric mean of T_gen: {means}. The ratio is that of the better end window, {nearest}, to the middle three",
    )


def judge_p4(table: Table) -> Verdict:
    """Every seed of the end windows fails, falls back by .05 or never generalises; every seed of the middle ones holds."""

    def unstable(arm: str) -> pd.Series:
        rows = rows_of(table, arm)
        return ~np.isfinite(rows["t_gen"]) | (rows["best_validation"] - rows["final_validation"] > FELL)

    ends = pd.concat([unstable(arm) for arm in ENDS])
    middle = pd.concat([unstable(arm) for arm in MIDDLE])
    finals = "; ".join(
        f"{arm} {', '.join(f'{value:.2f}' for value in rows_of(table, arm)['final_validation'])}" for arm in (*ENDS, *MIDDLE)
    )
    share, low, high = share_interval(int(ends.sum()), len(ends))
    note = (
        f"Unstable: {ends.sum()} of {len(ends)} runs of the end windows, {middle.sum()} of {len(middle)} of the middle "
        f"ones. Final validation accuracy: {finals}"
    )
    holds = share == 1 and not middle.any()
    return Verdict("reproduced" if holds else "not reproduced", note, share, low, high)


def judge_control(table: Table) -> Verdict:
    """Were the noise masks what helps, masked diffusion would generalise before the control without them."""
    secret, masked = _times(table, "secret"), np.min([_times(table, arm) for arm in MIDDLE], axis=0)
    note = (
        f"T_gen of the k+1 control {steps_text(rows_of(table, 'secret')['t_gen'])}; of the best middle window of each seed "
        f"{steps_text(masked)}. The control masks one secret "
        "token at a time and nothing else: no noise regime, one masked token a sequence"
    )
    return above_one(secret / masked, note)


def judge_targets(table: Table) -> Verdict:
    """The k+1 targets alone, without noise masks, remove the delay of output supervision."""
    return _before_output(table, "secret", "the k+1 control")


def judge_weight(table: Table) -> Verdict:
    """P_S belongs to the unweighted loss: were it the guide, weight 1/t would be slower on the same window."""
    weighted, unweighted = _times(table, "md_0.246"), _times(table, "md_0.246_none")
    times = "; ".join(
        f"{name} {steps_text(rows_of(table, arm)['t_gen'])}"
        for name, arm in (("1/t", "md_0.246"), ("none", "md_0.246_none"), ("mean", "md_0.246_mean"))
    )
    return above_one(weighted / unweighted, f"T_gen on U[0,.246] by weight: {times}")


def judge_fixed(table: Table) -> Verdict:
    """Corollary 4.8's rate against the window that the paper runs nearest to its optimum."""
    fixed, window = _times(table, "md_t_1_7"), _times(table, "md_0.246")
    return above_one(
        window / fixed,
        f"T_gen of t = 1/7 {steps_text(rows_of(table, 'md_t_1_7')['t_gen'])}; of U[0,1] "
        f"{steps_text(rows_of(table, 'md_1')['t_gen'])}; of U[0,.246] {steps_text(rows_of(table, 'md_0.246')['t_gen'])}",
    )


_COST = (
    "11 arms, 5 seeds, 20,000 steps (output supervision 400,000): about 5 hours of one GPU once the network is fixed by "
    "the gpu tier of 01_parity_map"
)
_SHARE = "share of seeds"
_EARLIER = "ratio of T_gen, geometric mean"


@dataclass(frozen=True)
class _Question:
    """A claim as it is asked of every cell: the paper's words, what is measured, what the paper has for it."""

    statement: str
    quantity: str
    published: str
    tolerance: str
    judge: Judge
    scale: str
    kind: str = "statistical"
    paper: float = math.nan


_FASTER = "95% interval above 1"
QUESTIONS = {
    "P1": _Question(
        "Output supervision groks",
        f"{_SHARE} that grok",
        "T_gen / T_mem = 492",
        "T_gen >= 5 T_mem in every seed",
        judge_p1,
        "share",
    ),
    "P2": _Question(
        "Masked diffusion (U[0,.2]) generalises with little or no delay",
        f"{_SHARE} without delay",
        "T_gen / T_mem = 1.003",
        "T_gen <= 1.2 T_mem in every seed",
        judge_p2,
        "share",
    ),
    "P2b": _Question(
        "Masked diffusion (U[0,.2]) generalises before output supervision",
        f"{_EARLIER}, output / masked",
        "54",
        _FASTER,
        judge_earlier,
        "ratio",
        paper=54,
    ),
    "P3": _Question(
        "Fastest near U[0,0.246], the argmax of P_S (U[0,.285] at k = 5)",
        f"{_EARLIER}, end / middle windows",
        "1.8; .4 never",
        _FASTER,
        judge_p3,
        "ratio",
        "ordinal",
        1.8,
    ),
    "P4": _Question(
        "The boundary windows are unstable, the middle ones are not",
        f"{_SHARE} of end windows unstable",
        "2 of 2",
        "all of them, none of the middle",
        judge_p4,
        "share",
        paper=1,
    ),
    "P6": _Question(
        "The k+1 targets without noise masks generalise before output supervision (open point 7)",
        f"{_EARLIER}, output / control",
        "(ours)",
        _FASTER,
        judge_targets,
        "ratio",
    ),
    "P7": _Question(
        "The noise regime helps: masked diffusion generalises before the k+1 control without it (open point 7)",
        f"{_EARLIER}, control / masked",
        "(ours)",
        _FASTER,
        judge_control,
        "ratio",
    ),
    "P8": _Question(
        "The unweighted loss, which maximising P_S fits, generalises before weight 1/t (open point 1)",
        f"{_EARLIER}, 1/t / none",
        "(ours)",
        _FASTER,
        judge_weight,
        "ratio",
    ),
    "P9": _Question(
        "A fixed rate near that of Cor 4.8 generalises before U[0,.246] (open point 2)",
        f"{_EARLIER}, U[0,.246] / fixed",
        "(ours)",
        _FASTER,
        judge_fixed,
        "ratio",
    ),
}


def _claim(name: str, suffix: str, where: str, tier: str, cell: str, cost: str = "") -> Claim:
    question = QUESTIONS[name]
    return Claim(
        name + suffix,
        f"{question.statement}; {where}",
        question.kind,
        question.quantity,
        question.published,
        question.tolerance,
        tier,
        in_cell(question.judge, cell),
        cost,
        question.scale,
        question.paper,
    )


CLAIMS = [
    *(_claim(name, "", "(20,6), N=2,000", "paper", "", _COST) for name in ("P1", "P2", "P3", "P4")),
    *(_claim(name, "-N600", "(12,5), N=600, one layer", "cpu", "train_samples=600") for name in QUESTIONS),
    *(_claim(name, "-N300", "(12,5), N=300, one layer", "cpu", "train_samples=300") for name in QUESTIONS),
]


LABELS = {
    "output": "output supervision",
    "secret": "k+1 control",
    "md_t_1_7": "t = 1/7",
    "md_0.246_none": "U[0,.246], no weight",
    "md_0.246_mean": "U[0,.246], weight 1 / mean t",
}
MORE = ("md_0.246", "md_1", "md_t_1_7", "md_0.246_none", "md_0.246_mean")  # open points 1 and 2, in a figure of their own


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """For each tier: training and validation accuracy per arm with seed bands, a column a cell, beside Fig 2 as published;
    and, where they were run, the loss weights and other rates (ARMS=all)."""
    paths = []
    for tier, table in tables.items():
        there = arms_of(table)
        paths.append(_draw(table, [arm for arm in there if arm not in MORE[1:]], folder / f"01_parity_{tier}.png"))
        if set(MORE[1:]) & set(there):
            paths.append(_draw(table, [arm for arm in MORE if arm in there], folder / f"01_parity_{tier}_weights.png"))
    return paths


def _label(arm: str) -> str:
    return LABELS.get(arm) or f"U[0,{arm.removeprefix('md_').removeprefix('0')}]"


def _draw(table: Table, arms: list[str], path: Path) -> Path:
    cells = list(dict.fromkeys(record["cell"] for record in table.runs.values()))
    fig, axes = figure.grid(2, len(cells) + 1, sharey=True)
    for column, cell in enumerate(cells):
        part = table.cell(cell)
        for row, metric in enumerate(("train_accuracy", "validation_accuracy")):
            for index, arm in enumerate(arms):
                curves = [pd.DataFrame(rows) for rows in curves_of(part, arm)]
                figure.seed_band(axes[row, column], curves, metric, figure.COLOURS[index], _label(arm))
        data = next(iter(part.runs.values()))["config"]["data"]
        seeds = len({record["config"]["seed"] for record in part.runs.values()})
        axes[0, column].set_title(
            f"ours: ({data['n']},{data['k']}), N={data['train_samples']}, {seeds} seeds (median, each, range)"
        )
    for row, panel in enumerate(("train", "val")):
        paper = published(f"fig2_parity_{panel}")
        for arm, name in FIG2.items():
            shared = arm in arms
            colour, label = (
                (figure.COLOURS[arms.index(arm)], _label(arm)) if shared else ("grey", "paper's arms, in the other figure")
            )
            axes[row, -1].plot(paper["step"], paper[name], color=colour, label=label, **figure.PUBLISHED)
        axes[row, 0].set(ylabel=f"{'training' if row == 0 else 'validation'} accuracy", ylim=(0.4, 1.02))
    axes[0, -1].set_title("paper, Fig 2: (20,6), N=2,000, one seed, smoothed")
    for ax in axes[1]:
        ax.set_xlabel("step")
    figure.legend_below(fig, 7)
    return figure.save(fig, path)

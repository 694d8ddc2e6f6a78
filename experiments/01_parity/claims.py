"""P1 to P4 at the paper's size, the same claims on two cells of two cores' size, and the control of open point 7.

T_mem and T_gen are the first steps from which train and validation accuracy stay at .99 for three evaluations. A run that ends
without one of them is censored: "never" is not a number, and a run that could still grok has not been seen to grok.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, arms_of, curves_of, in_cell, quarter, rows_of
from mdlm_min.evidence.golden import Table, published
from mdlm_min.evidence.statistics import LEAST_SEEDS, AllOf, Evidence, Share, Sooner, Times

FIG2 = {"output": "out_sup", "md_0.1": "md_0.1", "md_0.2": "md_0.2", "md_0.3": "md_0.3", "md_0.4": "md_0.4"}
MIDDLE, ENDS = ("md_0.2", "md_0.246", "md_0.3"), ("md_0.1", "md_0.4")
CHOSEN = "md_0.3"  # the window that generalised in most of the seeds 1 to 5 at (20,6), on the network nearest to Fig 2
DELAYED, PROMPT = 5.0, 1.2
LEARNED, FELL = 0.6, 0.05


def _times(table: Table, arm: str, name: str = "t_gen") -> Times:
    """T_gen (or T_mem) of every seed, censored at the run's last step."""
    rows = rows_of(table, arm)
    return Times.of(rows[name], rows["last_step"])


def _sooner(first: str, second: str, names: tuple[str, str]) -> Judge:
    def judge(table: Table) -> Evidence:
        """Whether a run of the first arm generalises before a run of the second."""
        return _compared(_times(table, first), _times(table, second), names)

    return judge


def _compared(first: Times, second: Times, names: tuple[str, str]) -> Sooner:
    log_rank = Sooner(first, second).log_rank()
    note = (
        f"T_gen of {names[0]} {first.text()}; of {names[1]} {second.text()}. Log-rank test of the two curves: p = {log_rank:.2g}"
    )
    return Sooner(first, second, note)


def _texts(table: Table, arm: str) -> str:
    return f"T_mem {_times(table, arm, 't_mem').text()}; T_gen {_times(table, arm).text()}"


def judge_p1(table: Table) -> Evidence:
    """Grokking: T_gen at least five times T_mem, and reached. A run that ended before it generalised is unknown."""
    rows = rows_of(table, "output")
    held = np.isfinite(rows["t_gen"]) & (rows["t_gen"] >= DELAYED * rows["t_mem"])
    unknown = ~np.isfinite(rows["t_gen"])
    failed = ~held & ~unknown
    return Share(int(held.sum()), int(failed.sum()), int(unknown.sum()), _texts(table, "output"))


def judge_delay(table: Table) -> Evidence:
    """The delay alone: at five times T_mem the run has not generalised. Known of a run that never does, too."""
    rows = rows_of(table, "output")
    horizon = DELAYED * rows["t_mem"]
    held = (rows["t_gen"] >= horizon) & (rows["last_step"] >= horizon)
    unknown = ~np.isfinite(rows["t_gen"]) & ~held
    failed = ~held & ~unknown
    return Share(int(held.sum()), int(failed.sum()), int(unknown.sum()), _texts(table, "output"))


def judge_p2(table: Table) -> Evidence:
    """No delay: U[0,.2] generalises, with T_gen at most 1.2 times T_mem. A run that memorised and ended later than that without
    generalising has failed; one that did neither is unknown."""
    rows = rows_of(table, "md_0.2")
    held = np.isfinite(rows["t_gen"]) & (rows["t_gen"] <= PROMPT * rows["t_mem"])
    unknown = ~np.isfinite(rows["t_gen"]) & ~(rows["last_step"] > PROMPT * rows["t_mem"])
    failed = ~held & ~unknown
    return Share(int(held.sum()), int(failed.sum()), int(unknown.sum()), _texts(table, "md_0.2"))


def judge_p2c(table: Table) -> Evidence:
    """The same rule of U[0,.3]. It is written out again, as judge_p2 is older than its runs and stays as it is."""
    rows = rows_of(table, CHOSEN)
    held = np.isfinite(rows["t_gen"]) & (rows["t_gen"] <= PROMPT * rows["t_mem"])
    unknown = ~np.isfinite(rows["t_gen"]) & ~(rows["last_step"] > PROMPT * rows["t_mem"])
    failed = ~held & ~unknown
    return Share(int(held.sum()), int(failed.sum()), int(unknown.sum()), _texts(table, CHOSEN))


def judge_p3(table: Table) -> Evidence:
    """A seed of the middle windows generalises before a seed of an end window. The middle's time is the median of the three
    windows, one for each seed. Both ends have to be later."""
    rows = [rows_of(table, arm) for arm in MIDDLE]
    median = Times.of(np.median([frame["t_gen"] for frame in rows], axis=0), rows[0]["last_step"])
    return AllOf(tuple(_compared(median, _times(table, arm), ("the middle windows (median)", _label(arm))) for arm in ENDS))


def judge_p4(table: Table) -> Evidence:
    """A run falls if its validation accuracy ends .05 below its best, and the best was .6 or more; it stays if it generalised and
    does not fall. A seed has what Fig 2 shows if both end windows fall and the middle ones stay. It fails where a middle window
    falls or an end window stays; it is unknown otherwise, as where nothing was learned in time."""
    rows = {arm: rows_of(table, arm) for arm in (*ENDS, *MIDDLE)}
    fell = {
        arm: ((frame["best_validation"] >= LEARNED) & (frame["best_validation"] - frame["final_validation"] > FELL)).to_numpy()
        for arm, frame in rows.items()
    }
    stayed = {arm: np.isfinite(frame["t_gen"].to_numpy()) & ~fell[arm] for arm, frame in rows.items()}
    failed = np.any([fell[arm] for arm in MIDDLE] + [stayed[arm] for arm in ENDS], axis=0)
    held = np.all([fell[arm] for arm in ENDS] + [stayed[arm] for arm in MIDDLE], axis=0)
    finals = "; ".join(
        f"{_label(arm)} {', '.join(f'{value:.2f}' for value in rows[arm]['final_validation'])}" for arm in (*ENDS, *MIDDLE)
    )
    counts = ", ".join(f"{_label(arm)} {int(fell[arm].sum())} and {int(stayed[arm].sum())}" for arm in (*ENDS, *MIDDLE))
    note = f"Of {len(held)} seeds, that fell, and that generalised and stayed: {counts}. Final validation accuracy: {finals}"
    return Share(int(held.sum()), int(failed.sum()), int((~held & ~failed).sum()), note)


_COST = "7 arms, 5 seeds, 20,000 steps on each of two networks: about 4 hours of two cores with one layer, 5 with two"
_COST_FRESH = "3 arms, 16 seeds, 20,000 steps: about 5 hours of two cores"
_COST_104 = "3 arms, 104 seeds, 12,000 steps: about 3 hours of two cores"
_COST_8 = "5 arms, 8 seeds, 12,000 steps: half an hour of two cores"
_COST_110 = "5 arms, 110 seeds, until they generalise: about 3 hours of two cores"
_SHARE = "share of seeds"
_FIRST = "probability to generalise first"
_EXPECTED = "interval above 1/2"


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
    family: str = ""


def _race(statement: str, quantity: str, first: str, second: str, names: tuple[str, str], value: str = "(ours)") -> _Question:
    """A question about which of two arms generalises first."""
    text = f"{_FIRST}: {quantity}"
    return _Question(statement, text, value, _EXPECTED, _sooner(first, second, names), "probability", family="races")


QUESTIONS = {
    "P1": _Question(
        "Output supervision groks",
        f"{_SHARE} that grok",
        "T_gen / T_mem = 492",
        "T_gen >= 5 T_mem, reached within the run; interval above 1/2",
        judge_p1,
        "share",
        paper=1.0,
    ),
    "P1b": _Question(
        "Output supervision memorises long before it generalises, if it ever does",
        f"{_SHARE} not generalised at 5 T_mem",
        "T_gen / T_mem = 492",
        "interval above 1/2",
        judge_delay,
        "share",
        paper=1.0,
    ),
    "P2": _Question(
        "Masked diffusion (U[0,.2]) generalises with little or no delay",
        f"{_SHARE} without delay",
        "T_gen / T_mem = 1.003",
        "T_gen <= 1.2 T_mem; interval above 1/2",
        judge_p2,
        "share",
        paper=1.0,
    ),
    "P2b": _race(
        "Masked diffusion (U[0,.2]) generalises before output supervision",
        "masked",
        "md_0.2",
        "output",
        ("U[0,.2]", "output supervision"),
        "54 times sooner",
    ),
    "P2c": _Question(
        "Masked diffusion in the window that did best on five other seeds (U[0,.3]) generalises with little or no delay",
        f"{_SHARE} without delay",
        "(ours)",
        "T_gen <= 1.2 T_mem; interval above 1/2",
        judge_p2c,
        "share",
        family="P2",
    ),
    "P2d": _race(
        "Masked diffusion in the window that did best on five other seeds (U[0,.3]) generalises before output supervision",
        "masked, U[0,.3]",
        CHOSEN,
        "output",
        ("U[0,.3]", "output supervision"),
    ),
    "P3": _Question(
        "Fastest near U[0,0.246], the argmax of P_S (U[0,.285] at k = 5)",
        f"{_FIRST}: middle windows, against the nearer end",
        "1.8 times sooner; .4 never",
        _EXPECTED,
        judge_p3,
        "probability",
        "ordinal",
        family="races",
    ),
    "P4": _Question(
        "The boundary windows are unstable, the middle ones are not",
        f"{_SHARE} in which both ends fall and the middle stays",
        "in its one seed",
        "ends .05 below its best of .6 or more; interval above 1/2",
        judge_p4,
        "share",
        paper=1.0,
    ),
    "P6": _race(
        "The k+1 targets without noise masks generalise before output supervision (open point 7)",
        "control",
        "secret",
        "output",
        ("the k+1 control", "output supervision"),
    ),
    "P7": _race(
        "The noise regime helps: masked diffusion (U[0,.2]) generalises before the k+1 control without it (open point 7)",
        "masked",
        "md_0.2",
        "secret",
        ("U[0,.2]", "the k+1 control"),
    ),
    "P8": _race(
        "The unweighted loss, which maximising P_S fits, generalises before weight 1/t (open point 1)",
        "no weight",
        "md_0.246_none",
        "md_0.246",
        ("U[0,.246] without weight", "U[0,.246] with 1/t"),
    ),
    "P9": _race(
        "A fixed rate near that of Cor 4.8 generalises before U[0,.246] (open point 2)",
        "fixed rate",
        "md_t_1_7",
        "md_0.246",
        ("t = 1/7", "U[0,.246]"),
    ),
}
AT_K_5 = ("P1", "P1b", "P2", "P2b", "P3", "P4", "P6", "P7", "P8", "P9")
AT_K_6 = ("P1", "P1b", "P2", "P2b", "P3", "P4", "P6", "P7")  # where the plan has the seven arms of Fig 2 alone
SMALLEST = quarter(1.0, 0.5)  # of a share or a probability that the paper has at 1 and chance at 1/2


# Asked again of fresh seeds, where the first ones had left them open. P1 and P1b of the paper's own problem: after their runs.
TWICE = ("P1", "P1b", "P2", "P2b")
# Asked of fresh seeds alone, as the first ones chose the window.
OF_THE_CHOSEN = ("P2c", "P2d")


def _claim(name: str, suffix: str, where: str, tier: str, cell: str, cost: str = "") -> Claim:
    question = QUESTIONS[name]
    # Races of one place are a family. A share of seeds is asked in every place of a tier, and that is one too: five seeds in five
    # are p = .03, so of several such claims one may well be reproduced by chance.
    family = question.family or name
    if family == "races":
        family += suffix.removesuffix("-fresh").removesuffix("-104").removesuffix("-110")
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
        SMALLEST,
        family=family,
    )


CLAIMS = [
    *(
        _claim(name, suffix, f"(20,6), N=2,000, {network}", "paper", cell, _COST)
        for suffix, cell, network in (
            ("", "nearest", "the network nearest to Fig 2"),
            ("-output", "best-for-output", "the network that is best for output supervision"),
        )
        for name in AT_K_6
    ),
    *(
        _claim(
            name, "-fresh", "(20,6), N=2,000, the network nearest to Fig 2, 16 fresh seeds", "paper", "nearest-fresh", _COST_FRESH
        )
        for name in (*TWICE, *OF_THE_CHOSEN)
    ),
    *(_claim(name, "-N600", "(12,5), N=600, one layer", "cpu", "train_samples=600") for name in AT_K_5),
    *(_claim(name, "-N600-fresh", "(12,5), N=600, one layer, 24 fresh seeds", "cpu", "N600-fresh") for name in TWICE),
    *(
        _claim(name, "-N600-104", "(12,5), N=600, one layer, 104 other seeds", "cpu", "N600-104", _COST_104)
        for name in (*TWICE, "P6")
    ),
    _claim("P4", "-N600-8", "(12,5), N=600, one layer, 8 other seeds", "cpu", "N600-8", _COST_8),
    _claim("P3", "-N600-110", "(12,5), N=600, one layer, 110 other seeds", "cpu", "N600-110", _COST_110),
    *(_claim(name, "-N300", "(12,5), N=300, one layer", "cpu", "train_samples=300") for name in AT_K_5),
    *(_claim(name, "-16-6", "(16,6), N=1,200, one layer", "cpu", "16-6") for name in AT_K_6),
]


LABELS = {
    "output": "output supervision",
    "secret": "k+1 control",
    "md_t_1_7": "t = 1/7",
    "md_0.246_none": "U[0,.246], no weight",
    "md_0.246_mean": "U[0,.246], weight 1 / mean t",
}
PLACES = {  # cells that n, k, N and the number of seeds do not tell from one another
    "nearest": "nearest network",
    "nearest-fresh": "nearest network, other seeds",
    "best-for-output": "network best for output supervision",
    "nearest-400000": "nearest network, ended when it generalises",
    "N600-fresh": "other seeds",
    "N600-104": "other seeds",
    "N600-8": "other seeds, to their last step",
    "N600-110": "other seeds, ended when they generalise",
}
# Of other seeds or for longer: in a figure of their own.
AGAIN = ("nearest-fresh", "nearest-400000", "N600-fresh", "N600-104", "N600-110", "N600-8")
MORE = ("md_1", "md_t_1_7", "md_0.246_none", "md_0.246_mean")  # open points 1 and 2, beside U[0,.246], in another figure too


def counts(tables: dict[str, Table]) -> dict[str, int]:
    """Of (20,6) on the network nearest to Fig 2: in how many of the other seeds masked diffusion and output supervision
    generalise; the steps that output supervision needed where it went on; and the minutes that a seed's run takes to that step,
    and a seed of masked diffusion to three times the paper's steps, by the means of the runs here."""
    if "paper" not in tables:
        return {}
    frame = tables["paper"].frame()
    cells = {cell: frame[frame["cell"] == cell] for cell in ("nearest-fresh", "nearest-400000")}
    masked, output = (cells["nearest-fresh"][cells["nearest-fresh"]["arm"] == arm] for arm in ("md_0.2", "output"))
    further = cells["nearest-400000"]
    further = further[(further["arm"] == "output") & np.isfinite(further["t_gen"])]
    if masked.empty or output.empty or further.empty:
        return {}
    return {
        "seeds": len(masked),
        "masked_generalised": int(np.isfinite(masked["t_gen"]).sum()),
        "output_generalised": int(np.isfinite(output["t_gen"]).sum()),
        "further_least": int(further["t_gen"].min()),
        "further_most": int(further["t_gen"].max()),
        "further_minutes": round(further["seconds"].mean() / 60),
        "masked_further_minutes": round(3 * masked["seconds"].mean() / 60),
    }


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """For each tier: training and validation accuracy per arm with seed bands, a column a cell, beside Fig 2 as published; and
    the share of seeds that have not generalised, by Kaplan and Meier. In figures of their own the cells that were asked again,
    and, where they were run, the loss weights and other rates (ARMS=all)."""
    paths = []
    for tier, table in tables.items():
        cells = {name: table.cell(name) for name in dict.fromkeys(record["cell"] for record in table.runs.values())}
        first = {name: part for name, part in cells.items() if name not in AGAIN}
        again = {name: part for name, part in cells.items() if name in AGAIN}
        more = {name: part for name, part in cells.items() if set(MORE) & set(arms_of(part))}
        there = arms_of(table)
        usual = [arm for arm in there if arm not in MORE]
        for name, drawn, arms in (
            ("", first, usual),
            ("_again", again, usual),
            ("_weights", more, [arm for arm in ("md_0.246", *MORE) if arm in there]),
        ):
            if drawn:
                paths.append(_draw(drawn, arms, folder / f"01_parity_{tier}{name}.png"))
    return paths


def _label(arm: str) -> str:
    return LABELS.get(arm) or f"U[0,{arm.removeprefix('md_').removeprefix('0')}]"


def _draw(cells: dict[str, Table], arms: list[str], path: Path) -> Path:
    fig, axes = figure.grid(3, len(cells) + 1)
    for column, (name, part) in enumerate(cells.items()):
        own = [(index, arm) for index, arm in enumerate(arms) if arm in arms_of(part)]
        for row, metric in enumerate(("train_accuracy", "validation_accuracy")):
            for index, arm in own:
                curves = [pd.DataFrame(rows) for rows in curves_of(part, arm)]
                figure.seed_band(axes[row, column], curves, metric, figure.COLOURS[index], _label(arm))
        for index, arm in own:
            _draw_survival(axes[2, column], _times(part, arm), figure.COLOURS[index], _label(arm))
        axes[2, column].set(xlabel="step", ylim=(-0.02, 1.04), title="share that has not generalised (mark: run ended)")
        data = next(iter(part.runs.values()))["config"]["data"]
        seeds = len({record["config"]["seed"] for record in part.runs.values()})
        place = f"\n{PLACES[name]}" if name in PLACES else ""
        shown = "median, each, range" if seeds >= LEAST_SEEDS else "each"
        axes[0, column].set_title(f"ours: ({data['n']},{data['k']}), N={data['train_samples']:,}, {seeds} seeds ({shown}){place}")
    for row, panel in enumerate(("train", "val")):
        paper = published(f"fig2_parity_{panel}")
        for arm, name in FIG2.items():
            shared = arm in arms
            colour, label = (
                (figure.COLOURS[arms.index(arm)], _label(arm)) if shared else ("grey", "paper's arms, named in the first figure")
            )
            axes[row, -1].plot(paper["step"], paper[name], color=colour, label=label, **figure.PUBLISHED)
        axes[row, 0].set_ylabel(f"{'training' if row == 0 else 'validation'} accuracy")
        for ax in axes[row]:
            ax.set_ylim(0.4, 1.02)
    axes[2, -1].set_visible(False)
    axes[0, -1].set_title("paper, Fig 2: (20,6), N=2,000, one seed, smoothed")
    for ax in axes[1]:
        ax.set_xlabel("step")
    figure.legend_below(fig, 7)
    return figure.save(fig, path)


def _draw_survival(ax: figure.Axes, times: Times, colour: str, label: str) -> None:
    """Kaplan and Meier's curve as steps, with a mark where runs ended without generalising."""
    steps, shares = times.survival()
    last = max(times.values)
    ax.step([0.0, *steps, last], [1.0, *shares, shares[-1] if len(shares) else 1.0], where="post", color=colour, label=label)
    ended = sorted({value for value, seen in zip(times.values, times.seen, strict=True) if not seen})
    heights = [float(shares[np.searchsorted(steps, value, "right") - 1]) if np.any(steps <= value) else 1.0 for value in ended]
    ax.plot(ended, heights, "|", color=colour, markersize=8)

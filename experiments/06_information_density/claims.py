"""D1 to D4 of information-density masking: as published, and on text, on answers and on parity at two cores' size.

On parity the dense tokens are the secret ones, and the claims are our predictions: the arm with more signal masks generalises
first (theory/density_signal.py). "Reproduced" says there that a prediction came true.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, arms_of, by_seed, curves_of, in_cell, quarter, rows_of
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import Evidence, Mean, Sooner, Times
from mdlm_min.run.run_folder import Row
from mdlm_min.theory.density_signal import Signal, hard_signal, soft_signal

ARMS = {
    "uniform": "uniform",
    "uniform_pairs": "uniform, pairs",
    "density": "w = 2, soft, pairs",
    "density_single": "w = 2, soft, no pairs",
    "hard": "hard, pairs",
    "density_5": "w = 5, soft, pairs",
}
# id, statement, the arm that is claimed to be better, its rival, and the published average accuracies of the two
QUESTIONS = (
    ("D1", "Density-driven masking beats uniform masking at equal cost", "density", "uniform", (0.5919, 0.5532)),
    ("D2", "Soft priority beats masking the dense tokens first", "density", "hard", (0.5945, 0.5735)),
    ("D3", "The complement helps", "density", "density_single", (0.5945, 0.585)),
    ("D4", "Weight 2 beats weight 5", "density", "density_5", (0.5919, 0.5605)),
)
# On parity: what is predicted of D1 to D4, and of what the oracle does; the arm that generalises first, and the other
PREDICTIONS = (
    ("D1", "D1 fails: uniform masking beats density-driven masking", "uniform", "density"),
    ("D2", "D2 holds: soft priority beats masking the dense tokens first", "density", "hard"),
    ("D3", "D3 holds: the complement helps", "density", "density_single"),
    ("D4", "D4 holds: weight 2 beats weight 5", "density", "density_5"),
    ("D5", "With pairs, the oracle hurts", "uniform_pairs", "density"),
    ("D6", "Without pairs, the oracle hurts", "uniform", "density_single"),
)
LOSS = quarter(0.264)  # nats: a quarter of what the paper's window gains on text (W2); no loss is published here
SHARE = quarter(0.2)  # of written sums, as in 07_contest
FIRST = quarter(1.0, 0.5)  # of the probability to generalise first, as in 01_parity

WINDOW, N, K = (0.3, 0.8), 12, 4
SIGNALS = {
    "uniform": soft_signal(*WINDOW, N, K, 1, pairs=False),
    "uniform_pairs": soft_signal(*WINDOW, N, K, 1, pairs=True),
    "density": soft_signal(*WINDOW, N, K, 2, pairs=True),
    "density_single": soft_signal(*WINDOW, N, K, 2, pairs=False),
    "hard": hard_signal(*WINDOW, N, K, pairs=True),
    "density_5": soft_signal(*WINDOW, N, K, 5, pairs=True),
}


def _means(table: Table, column: str) -> str:
    """The mean of a column for every arm that was run."""
    return ", ".join(f"{ARMS[arm]} {by_seed(table, arm, column).mean():.3f}" for arm in ARMS if arm in arms_of(table))


@dataclass(frozen=True)
class _Scaled:
    """One cell of two cores' size: what it is, which column is judged, whether less of it is better, and the smallest effect."""

    where: str
    cell: str
    column: str
    measured: str
    smallest: float
    less: bool = True

    def judge(self, arm: str, rival: str) -> Judge:
        """Of the paired difference by which the arm is better than its rival."""

        def judge(table: Table) -> Evidence:
            difference = by_seed(table, rival, self.column) - by_seed(table, arm, self.column)
            note = f"{self.measured}: {_means(table, self.column)}"
            return Mean(tuple(difference if self.less else -difference), note[0].upper() + note[1:])

        return in_cell(judge, self.cell)

    def quantity(self, arm: str, rival: str) -> str:
        """The difference in words."""
        first, second = (rival, arm) if self.less else (arm, rival)
        return f"{self.measured}, {ARMS[first]} - {ARMS[second]}"


_BY_SURPRISAL, _BY_RULE = "marks by unigram surprisal (ours)", "marks by rule (ours)"
SCALED = {
    "bytes": _Scaled(f"WikiText-2, bytes, .35M, {_BY_SURPRISAL}", "tokenizer=bytes", "test_loss", "test loss", LOSS),
    "BPE": _Scaled(f"WikiText-2, BPE, .35M, {_BY_SURPRISAL}", "tokenizer=bpe:512", "test_loss", "test loss", LOSS),
    "arithmetic": _Scaled(
        f"worked sums in three steps, .11M, {_BY_RULE}", "track=arithmetic", "written", "share written rightly", SHARE, less=False
    ),
    "gsm8k": _Scaled(f"GSM8K's answers, bytes, .11M, {_BY_RULE}", "track=gsm8k", "test_nll", "NLL of held-out answers", LOSS),
}

# Asked again of fresh seeds, of each scale the questions that five seeds had left open and so many as the plan has could decide;
# with the first ones they are one family.
FRESH = {
    "BPE": (_Scaled(f"{SCALED['BPE'].where}, 12 fresh seeds", "BPE-fresh", "test_loss", "test loss", LOSS), ("D1", "D3")),
    "arithmetic": (
        _Scaled(
            f"{SCALED['arithmetic'].where}, 40 fresh seeds",
            "arithmetic-fresh",
            "written",
            "share written rightly",
            SHARE,
            less=False,
        ),
        ("D1", "D2", "D4"),
    ),
}

_COST_FRESH = "3 arms of 12 seeds on subwords, 4 arms of 40 on sums: about two hours of two cores"


def _times(table: Table, arm: str) -> Times:
    """T_90 of every seed, from when on the validation accuracy stays at .9, censored at the run's last step."""
    rows = rows_of(table, arm)
    return Times.of(rows["t_90"], rows["last_step"])


def _sooner(arm: str, rival: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """Whether a run of the arm generalises before a run of its rival."""
        first, second = _times(table, arm), _times(table, rival)
        shares = " and ".join(
            f"{by_seed(table, name, 'signal_share').mean():.3f} (predicted {SIGNALS[name].probability:.3f})"
            for name in (arm, rival)
        )
        note = f"T_90 of {ARMS[arm]} {first.text()}; of {ARMS[rival]} {second.text()}. Share of signal masks {shares}"
        return Sooner(first, second, note)

    return judge


def _scores(arm: str, rival: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The arm's mean accuracy over the four benchmarks is above its rival's."""
        return Mean(tuple(by_seed(table, arm, "accuracy") - by_seed(table, rival, "accuracy")))

    return judge


def _reason(arm: str, rival: str) -> str:
    """What the prediction rests on, in words."""

    def share(signal: Signal) -> str:
        return f"{signal.probability:.3f}".removeprefix("0")

    return f"as {share(SIGNALS[arm])} of its masks are signal masks, against {share(SIGNALS[rival])}"


def _scaled_claim(id: str, text: str, scaled: _Scaled, arm: str, rival: str, family: str, cost: str = "") -> Claim:
    return Claim(
        id=id,
        statement=f"{text}; {scaled.where}",
        kind="statistical",
        quantity=scaled.quantity(arm, rival),
        published="(ours)",
        tolerance="interval above 0",
        tier="cpu",
        judge=scaled.judge(arm, rival),
        cost=cost,
        scale="difference",
        smallest=scaled.smallest,
        family=family,
    )


CLAIMS = [
    *(
        Claim(
            id=id,
            statement=f"{text}; LLaDA-2.0-mini, OPC-SFT and GSM8K",
            kind="statistical",
            quantity=f"mean accuracy of HumanEval, MBPP, GSM8K, MATH500: {ARMS[arm]} - {ARMS[rival]}",
            published=f"{ours:.4f} - {theirs:.4f}" + " (at w = .5)" * (id == "D3"),
            tolerance="interval above 0",
            tier="paper",
            judge=_scores(arm, rival),
            cost="LLaDA-2.0-mini, a mixture of experts, and data that a language model has annotated: neither loads here. "
            "Their uniform arm is below the model before fine-tuning (.5810)",
            scale="difference",
            paper=ours - theirs,
            smallest=quarter(ours - theirs),
            family="density",
        )
        for id, text, arm, rival, (ours, theirs) in QUESTIONS
    ),
    *(
        _scaled_claim(f"{id}-{suffix}", text, scaled, arm, rival, f"density, {suffix}")
        for suffix, scaled in SCALED.items()
        for id, text, arm, rival, _ in QUESTIONS
    ),
    *(
        _scaled_claim(f"{id}-{suffix}-fresh", text, scaled, arm, rival, f"density, {suffix}", _COST_FRESH)
        for suffix, (scaled, asked) in FRESH.items()
        for id, text, arm, rival, _ in QUESTIONS
        if id in asked
    ),
    *(
        Claim(
            id=f"{id}-parity",
            statement=f"Predicted: {text}; ({N},{K})-parity, the secret tokens dense; {_reason(arm, rival)}",
            kind="statistical",
            quantity=f"probability to generalise first: {ARMS[arm]}, against {ARMS[rival]}",
            published="(ours)",
            tolerance="interval above 1/2",
            tier="cpu",
            judge=in_cell(_sooner(arm, rival), "track=parity"),
            scale="probability",
            smallest=FIRST,
            family="density, parity",
        )
        for id, text, arm, rival in PREDICTIONS
    ),
]


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Per tier, text in one figure and the other tasks in another, a column for each cell: above, how every arm learns; below, on
    text its test loss in each tenth of the mask rate, of answers what is judged, of every seed, and on parity T_90 against the
    predicted share of signal masks."""
    paths = []
    for tier, table in tables.items():
        cells = list(dict.fromkeys(record["cell"] for record in table.runs.values()))
        text = [cell for cell in cells if "test_loss" in _last_columns(table.cell(cell))]
        for name, group in (("text_", text), ("", [cell for cell in cells if cell not in text])):
            if group:
                path = folder / f"06_information_density_{name}{tier}.png"
                paths.append(_draw_cells({cell or tier: table.cell(cell) for cell in group}, path))
    return paths


def _last_columns(table: Table) -> Row:
    return curves_of(table, arms_of(table)[0])[0][-1]


def _draw_cells(tables: dict[str, Table], path: Path) -> Path:
    fig, axes = figure.grid(2, len(tables), width=4.6)
    for (title, table), (above, below) in zip(tables.items(), axes.T, strict=True):
        columns = _last_columns(table)
        metric = next(name for name in ("valid_loss", "valid_nll", "validation_accuracy") if name in columns)
        for index, arm in enumerate(ARMS):  # an arm has one colour, whichever arms its cell has
            if arm not in arms_of(table):
                continue
            curves = [pd.DataFrame([row for row in rows if row["step"] > 0]) for rows in curves_of(table, arm)]
            colour = figure.COLOURS[index]
            figure.seed_band(above, curves, metric, colour, ARMS[arm])
            if metric == "validation_accuracy":
                _draw_times(below, table, arm, colour)
            elif "test_loss" in columns:
                levels = pd.concat([curve.iloc[[-1]] for curve in curves]).mean()
                rates = [low / 10 for low in range(10)]
                values = [levels[f"test_t{rate:.1f}"] for rate in rates]
                below.plot([rate + 0.05 for rate in rates], values, label=ARMS[arm], color=colour)
                below.set(xlabel="mask rate t", ylabel="test loss at t, nats per token")
            else:
                _draw_scores(below, table, arm, index)
        what = "validation accuracy" if metric == "validation_accuracy" else "validation NLL, nats per token"
        above.set(xlabel="step", ylabel=what, title=f"ours, {title.replace('-fresh', ', other seeds')}")
    figure.legend_below(fig, 3)
    return figure.save(fig, path)


def _draw_times(ax: figure.Axes, table: Table, arm: str, colour: str) -> None:
    """T_90 of every seed, side by side, over the arm's predicted share of signal masks; an empty circle where a run ended without
    it."""
    times = _times(table, arm)
    for place, (value, seen) in enumerate(zip(times.values, times.seen, strict=True)):
        share = SIGNALS[arm].probability + 0.001 * (place - len(times.values) // 2)
        ax.plot(share, value, "o", color=colour, fillstyle="full" if seen else "none", alpha=0.7)
    last = max(record["config"]["tracks"]["parity"]["train"]["steps"] for record in table.runs.values())
    ax.set(xlabel="predicted share of signal masks", ylabel="T_90, steps (empty: none)", ylim=(0, 1.05 * last))


def _draw_scores(ax: figure.Axes, table: Table, arm: str, place: int) -> None:
    """What is judged of answers, of every seed, one arm a column: the share written rightly, or, where nothing is
    written, their NLL."""
    written = by_seed(table, arm, "written")
    unwritten = all(map(math.isnan, written))
    values = by_seed(table, arm, "test_nll") if unwritten else written
    ax.plot([place] * len(values), values, "o", color=figure.COLOURS[place], alpha=0.7)
    ax.set_xticks(range(len(ARMS)), [name.replace(", ", ",\n") for name in ARMS.values()], fontsize=7)
    ax.set(ylabel="answers' NLL, nats per byte" if unwritten else "share written rightly")
    if not unwritten:
        ax.set_ylim(-0.02, 1.02)

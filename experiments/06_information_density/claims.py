"""D1 to D4 of information-density masking: as published, and on text at two cores' size."""

from pathlib import Path

import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Judge, arms_of, by_seed, curves_of, in_cell, quarter
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import Evidence, Mean

ARMS = {
    "uniform": "uniform",
    "uniform_pairs": "uniform, pairs",
    "density": "w = 2, soft, pairs",
    "density_single": "w = 2, soft, no pairs",
    "hard": "hard, pairs",
    "density_5": "w = 5, soft, pairs",
}
CELLS = {"bytes": "tokenizer=bytes", "BPE": "tokenizer=bpe:512"}
# id, statement, the arm that is claimed to be better, its rival, and the published average accuracies of the two
QUESTIONS = (
    ("D1", "Density-driven masking beats uniform masking at equal cost", "density", "uniform", (0.5919, 0.5532)),
    ("D2", "Soft priority beats masking the dense tokens first", "density", "hard", (0.5945, 0.5735)),
    ("D3", "The complement helps", "density", "density_single", (0.5945, 0.585)),
    ("D4", "Weight 2 beats weight 5", "density", "density_5", (0.5919, 0.5605)),
)
SMALLEST = quarter(0.264)  # nats: a quarter of what the paper's window gains on text (W2); no loss is published here


def _below(arm: str, rival: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The arm's test loss is below its rival's."""
        means = ", ".join(
            f"{ARMS[name]} {by_seed(table, name, 'test_loss').mean():.3f}" for name in ARMS if name in arms_of(table)
        )
        return Mean(tuple(by_seed(table, rival, "test_loss") - by_seed(table, arm, "test_loss")), f"Test loss: {means}")

    return judge


def _scores(arm: str, rival: str) -> Judge:
    def judge(table: Table) -> Evidence:
        """The arm's mean accuracy over the four benchmarks is above its rival's."""
        return Mean(tuple(by_seed(table, arm, "accuracy") - by_seed(table, rival, "accuracy")))

    return judge


CLAIMS = [
    *(
        Claim(
            id=id,
            statement=f"{text}; LLaDA-2.0-mini, OPC-SFT and GSM8K",
            kind="statistical",
            quantity=f"mean accuracy of HumanEval, MBPP, GSM8K, MATH500: {ARMS[arm]} - {ARMS[rival]}",
            published=f"{ours:.4f} - {theirs:.4f}",
            tolerance="interval above 0",
            tier="paper",
            judge=_scores(arm, rival),
            cost="LLaDA-2.0-mini, a mixture of experts, and data that a language model has annotated: neither can be loaded here. "
            "Their uniform arm is below the model before fine-tuning (.5810)",
            scale="difference",
            paper=ours - theirs,
            smallest=quarter(ours - theirs),
            family="density",
        )
        for id, text, arm, rival, (ours, theirs) in QUESTIONS
    ),
    *(
        Claim(
            id=f"{id}-{label}",
            statement=f"{text}; WikiText-2, {label}, .35M, marks by unigram surprisal (ours)",
            kind="statistical",
            quantity=f"test loss, {ARMS[rival]} - {ARMS[arm]}",
            published="(ours)",
            tolerance="interval above 0",
            tier="cpu",
            judge=in_cell(_below(arm, rival), cell),
            scale="difference",
            smallest=SMALLEST,
            family=f"density, {label}",
        )
        for label, cell in CELLS.items()
        for id, text, arm, rival, _ in QUESTIONS
    ),
]


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Per tier: the validation loss of every arm, and its test loss in each tenth of the mask rate."""
    paths = []
    for tier, table in tables.items():
        cells = list(dict.fromkeys(record["cell"] for record in table.runs.values()))
        fig, axes = figure.grid(2, len(cells), width=4.6)
        for column, cell in zip(axes.T, cells, strict=True):
            part = table.cell(cell)
            for index, arm in enumerate(name for name in ARMS if name in arms_of(part)):
                curves = [pd.DataFrame([row for row in rows if row["step"] > 0]) for rows in curves_of(part, arm)]
                figure.seed_band(column[0], curves, "valid_loss", figure.COLOURS[index], ARMS[arm])
                levels = pd.concat([curve.iloc[[-1]] for curve in curves]).mean()
                rates = [low / 10 for low in range(10)]
                column[1].plot([rate + 0.05 for rate in rates], [levels[f"test_t{rate:.1f}"] for rate in rates], label=ARMS[arm],
                               color=figure.COLOURS[index])  # fmt: skip
            column[0].set(xlabel="step", ylabel="validation loss, nats per token", title=f"ours, {cell or tier}")
            column[1].set(xlabel="mask rate t", ylabel="test loss at t")
        figure.legend_below(fig, 3)
        paths.append(figure.save(fig, folder / f"06_information_density_{tier}.png"))
    return paths

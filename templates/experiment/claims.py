"""One claim and one figure. A claim reads tables; it never trains."""

from pathlib import Path

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, arms_of, by_seed, quarter
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import Evidence, Mean


def judge_fewer(table: Table) -> Evidence:
    """One difference for each seed. The rules of evidence/statistics.py decide."""
    return Mean(tuple(by_seed(table, "full", "masked_share") - by_seed(table, "window", "masked_share")))


CLAIMS = [
    Claim(
        id="X1",
        statement="The window U[0,.246] masks fewer tokens than U[0,1]",
        kind="statistical",
        quantity="share of masked tokens, U[0,1] minus window",
        published=".377",
        tolerance="interval above 0",
        tier="cpu",
        judge=judge_fewer,
        cost="seconds",
        scale="difference",
        paper=0.377,
        smallest=quarter(0.377),
    ),
]


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """One figure for each tier: a point for each seed. Returns the files."""
    paths = []
    for tier, table in tables.items():
        fig, axes = figure.grid(1, 1)
        for arm in arms_of(table):
            shares = by_seed(table, arm, "masked_share")
            axes[0, 0].plot([arm] * len(shares), shares, "o", color=figure.COLOURS[0])
        axes[0, 0].set(xlabel="arm", ylabel="share of masked tokens", ylim=(0, 1))
        paths.append(figure.save(fig, folder / f"{table.experiment}_{tier}.png"))
    return paths

"""One claim and one figure. A claim reads tables; it never trains."""

from pathlib import Path

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim, Verdict, above_zero, arms_of, by_seed
from mdlm_min.evidence.golden import Table


def judge_fewer(table: Table) -> Verdict:
    """One difference for each seed; its 95% interval over the seeds decides."""
    return above_zero(
        by_seed(table, "full", "masked_share") - by_seed(table, "window", "masked_share"), "5 seeds", "of the tokens"
    )


CLAIMS = [
    Claim(
        id="X1",
        statement="The window U[0,.246] masks fewer tokens than U[0,1]",
        kind="statistical",
        quantity="share of masked tokens, U[0,1] minus window",
        published=".377",
        tolerance="95% interval above 0",
        tier="cpu",
        judge=judge_fewer,
        cost="seconds",
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

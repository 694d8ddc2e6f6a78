"""No claim is judged here: the search finds the networks on which 01_parity judges P1 to P4, by the rules of README.md."""

from pathlib import Path

import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim
from mdlm_min.evidence.golden import Table

CLAIMS: list[Claim] = []
ARMS = {"output": "output supervision", "secret": "k+1 control", "masked": "masked diffusion U[0,.2]"}


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Training (dotted) and validation accuracy of the three arms, one panel per network."""
    paths = []
    for tier, table in tables.items():
        cells = list(dict.fromkeys(record["cell"] for record in table.runs.values()))
        fig, axes = figure.grid(-(-len(cells) // 4), 4, width=3.6, height=2.6, sharey=True)
        for ax, cell in zip(axes.flat, cells, strict=False):
            for index, (arm, label) in enumerate(ARMS.items()):
                for name, record in table.runs.items():
                    if record["cell"] == cell and record["config"]["arm"] == arm:
                        curve = pd.DataFrame(table.curves[name])
                        ax.plot(curve["step"], curve["train_accuracy"], ":", color=figure.COLOURS[index], linewidth=1)
                        ax.plot(curve["step"], curve["validation_accuracy"], color=figure.COLOURS[index], label=label)
            name = cell.replace("learning_rate", "rate").replace("_", ", ").replace("batch=0", "full batch")
            ax.set_title(name, fontsize=8)
            ax.set(xlabel="step", ylim=(0.4, 1.02))
        axes[0, 0].set_ylabel("accuracy (training dotted)")
        for ax in axes.flat[len(cells) :]:
            ax.set_visible(False)
        figure.legend_below(fig, 3)
        paths.append(figure.save(fig, folder / f"01_parity_search_{tier}.png"))
    return paths

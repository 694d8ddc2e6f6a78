"""No claim is judged here: the search finds the networks on which 01_parity judges P1 to P4, by the rules of README.md."""

from pathlib import Path

import numpy as np
import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim
from mdlm_min.evidence.golden import Table

CLAIMS: list[Claim] = []
STEPS = 20000  # of the paper
ARMS = {"output": "output supervision", "secret": "k+1 control", "masked": "masked diffusion U[0,.2]"}


CHANCE = 0.55  # validation accuracy below which a run that has ended knows nothing


def counts(tables: dict[str, Table]) -> dict[str, int]:
    """Of the networks on which an arm ended (its plain form, at the paper's steps): how many, on how many it generalised, and on
    how many masked diffusion ended at chance; and the highest validation accuracy of the others, in percent."""
    frame = pd.concat([table.frame() for table in tables.values()])
    frame = frame[frame["last_step"] <= STEPS]
    arms = {arm: frame[frame["arm"] == arm] for arm in ARMS}
    found = {arm: len(rows) for arm, rows in arms.items()}
    found |= {f"{arm}_generalised": int(np.isfinite(rows["t_gen"]).sum()) for arm, rows in arms.items()}
    ends = arms["masked"]["final_validation"]
    return found | {
        "networks": len(set(frame["cell"])),
        "masked_chance": int((ends < CHANCE).sum()),
        "masked_best": round(100 * ends.max()),
    }


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

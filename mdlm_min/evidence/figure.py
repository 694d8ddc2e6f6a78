"""Drawing for all experiments: one style, colours that stay apart for colour-blind readers, files written whole."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdlm_min.run.files import write_whole

COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#8C6D31",
    "#444444",
    "#B2DF8A",
    "#6A3D9A",
    "#F0E442",
)
PUBLISHED = {"linestyle": "--", "linewidth": 1.0}


def grid(rows: int, columns: int, width: float = 4.6, height: float = 3.2, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns]."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
    )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
    return figure, axes


def seed_band(ax: Axes, curves: Sequence[pd.DataFrame], metric: str, colour: str, label: str) -> None:
    """Median over seeds of `metric` against the step, every seed as a thin line, and their range as a faint band.

    A run that stopped early keeps its last value. The median, not the mean: seeds tend to have learned or not.
    """
    steps = sorted(set().union(*(curve["step"] for curve in curves)))
    values = np.array([np.interp(steps, curve["step"], curve[metric]) for curve in curves])
    ax.plot(steps, np.median(values, axis=0), color=colour, label=label, linewidth=1.8)
    ax.plot(steps, values.T, color=colour, alpha=0.4, linewidth=0.5)
    ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.06, linewidth=0)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG whole, without a date in it, and free the figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    write_whole(path, out.getvalue())
    return path

"""Drawing for all experiments: one style, colours that stay apart for colour-blind readers, files written whole.

matplotlib is loaded when something is drawn: claims.py imports this file, and most commands draw nothing.
"""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdlm_min.evidence.statistics import LEAST_SEEDS
from mdlm_min.run.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Any  # claims.py has it in its annotations

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


@functools.cache
def pyplot() -> Any:
    """matplotlib.pyplot, which draws to files, in the suite's style."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sizes: dict[Any, Any] = {"axes.titlesize": 10.5, "axes.labelsize": 10, "legend.fontsize": 9}
    mpl.rcParams.update(sizes | {"xtick.labelsize": 9, "ytick.labelsize": 9})
    return plt


def grid(rows: int, columns: int, width: float = 4.6, height: float = 3.2, **options: Any) -> "tuple[Figure, np.ndarray]":
    """A figure and its axes [rows, columns]."""
    figure, axes = pyplot().subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", **options
    )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.locator_params(axis="x", nbins=6)
    return figure, axes


def ordered(index: int, count: int) -> str:
    """Colour `index` of `count` that stand in an order."""
    from matplotlib.colors import to_hex

    return to_hex(pyplot().get_cmap("turbo")(0.05 + 0.9 * index / (count - 1)))


def seed_band(
    ax: "Axes", curves: Sequence[pd.DataFrame], metric: str, colour: str, label: str, middle: Callable[..., Any] = np.median
) -> None:
    """The `middle` over seeds of `metric` against the step, every seed as a thin line, fainter where there are very many, and
    their range as a faint band; of fewer than LEAST_SEEDS each seed alone.

    A run that stopped early keeps its last value. The median, if not the mean is asked for: seeds tend to have learned or not,
    and that of two would be where neither is.
    """
    if len(curves) < LEAST_SEEDS:
        for index, curve in enumerate(curves):
            ax.plot(curve["step"], curve[metric], color=colour, label=None if index else label, linewidth=1.2)
        return
    steps = sorted(set().union(*(curve["step"] for curve in curves)))
    values = np.array([np.interp(steps, curve["step"], curve[metric]) for curve in curves])
    ax.plot(steps, middle(values, axis=0), color=colour, label=label, linewidth=1.8)
    ax.plot(steps, values.T, color=colour, alpha=0.4 * min(1.0, 24 / len(curves)), linewidth=0.5)
    ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.06, linewidth=0)


def legend_below(figure: "Figure", columns: int) -> None:
    """One legend for all axes without one of their own, below them, where it hides no curve; each label once."""
    found: dict[str, Artist] = {}
    for ax in figure.axes:
        if ax.get_legend() is None:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False)


def save(figure: "Figure", path: Path) -> Path:
    """Write a PNG whole, without a date in it, and free the figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    pyplot().close(figure)
    write_whole(path, out.getvalue())
    return path

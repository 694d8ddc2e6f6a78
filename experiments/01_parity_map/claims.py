"""No claim of the paper is judged here: the map shows where each of them could hold, and gives 01_parity its problem."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Claim
from mdlm_min.evidence.golden import Table

CLAIMS: list[Claim] = []
ARMS = ("output", "secret", "masked")
NAMES = {"output": "output supervision", "secret": "control", "masked": "masked diffusion"}


def settings(table: Table) -> pd.DataFrame:
    """One row a run: its settings, T_gen (infinite where never), and the last step."""
    rows = []
    frame = table.frame().set_index(["cell", "arm", "seed"])
    for record in table.runs.values():
        config = record["config"]
        measured = frame.loc[(record["cell"], config["arm"], config["seed"])]
        rows.append(
            {
                "cell": record["cell"],
                "arm": config["arm"],
                "seed": config["seed"],
                "n": config["data"]["n"],
                "k": config["data"]["k"],
                "N": config["data"]["train_samples"],
                "layers": config["network"]["layers"],
                "width": config["network"]["width"],
                "init": config["network"]["init"],
                "rate": config["train"]["learning_rate"],
                "batch": config.get("batch", 0),
                "window": config.get("mask_rate", ""),
                "steps": config["train"]["steps"],
                "t_mem": measured["t_mem"],
                "t_gen": measured["t_gen"],
                "best": measured["best_validation"],
            }
        )
    return pd.DataFrame(rows)


def counts(tables: dict[str, Table]) -> dict[str, int]:
    """Of the cpu tier's problems at one layer of width 64: how many, in how many an arm generalises, in how many each arm is
    first, in how many it memorises without generalising, and in how many masked diffusion and output supervision are before each
    other."""
    runs = _plain(settings(tables["cpu"]))
    runs = runs[(runs["layers"] == 1) & (runs["width"] == 64)]
    times = runs.pivot(index=["n", "k", "N"], columns="arm", values="t_gen")
    there = times[np.isfinite(times).any(axis=1)]
    only = np.isfinite(runs["t_mem"]) & ~np.isfinite(runs["t_gen"])
    found = {f"{arm}_first": int((there[arm] == there.min(axis=1)).sum()) for arm in ARMS}
    found |= {f"{arm}_memorises_only": int(only[runs["arm"] == arm].sum()) for arm in ARMS}
    found |= {
        "masked_before_output": int((there["masked"] < there["output"]).sum()),
        "output_before_masked": int((there["output"] < there["masked"]).sum()),
    }
    return found | {"problems": len(times), "generalised": len(there)}


def _plain(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the map's own settings of training."""
    rate, window = runs["rate"] == 1e-3, runs["window"].isin(["", "U[0,0.2]"])
    return runs[rate & (runs["init"] == "width") & (runs["batch"] == 0) & window]


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values).mean()))


def _heat(
    ax: Any,
    values: np.ndarray,
    text: list[list[str]],
    rows: list[str],
    columns: list[int],
    title: str,
    colours: str,
    limits: tuple[float, float],
) -> None:
    ax.imshow(np.log10(values), cmap=colours, vmin=np.log10(limits[0]), vmax=np.log10(limits[1]), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if text[row][column]:
            depth = np.log10(value / limits[0]) / np.log10(limits[1] / limits[0])  # NaN where there is no colour
            dark = abs(depth - 0.5) > 0.35 if colours == "RdBu" else depth > 0.5
            ax.text(column, row, text[row][column], ha="center", va="center", fontsize=9, color="white" if dark else "black")
    ax.set_xticks(range(len(columns)), [str(column) for column in columns])
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
    ax.set(xlabel="training samples N", title=title)


def draw(tables: dict[str, Table], folder: Path) -> list[Path]:
    """T_gen of the three arms and the ratio of two of them, over problems and depths; then the other axes, one at a time."""
    paths = []
    for tier, table in tables.items():
        runs = settings(table)
        base = _plain(runs)
        networks = (
            [(1, 64), (1, 32), (2, 32), (4, 32)]
            if tier == "cpu"
            else sorted(set(zip(base["layers"], base["width"], strict=True)))
        )
        problems = [
            (layers, width, n, k)
            for layers, width in networks
            for n, k in sorted(set(zip(base["n"], base["k"], strict=True)))
            if (base[["layers", "width", "n", "k"]] == [layers, width, n, k]).all(axis=1).any()
        ]
        labels = [f"({n},{k}) {layers} layer{'s' * (layers > 1)}, {width}" for layers, width, n, k in problems]
        columns = sorted(set(base["N"]))
        values = {arm: np.full((len(problems), len(columns)), np.nan) for arm in (*ARMS, "ratio")}
        text = {arm: [["" for _ in columns] for _ in problems] for arm in values}
        for row, (layers, width, n, k) in enumerate(problems):
            for column, samples in enumerate(columns):
                here = base[(base[["layers", "width", "n", "k", "N"]] == [layers, width, n, k, samples]).all(axis=1)]
                times = {}
                for arm in ARMS:
                    found = here[here["arm"] == arm]
                    if len(found):
                        ended = np.isfinite(found["t_gen"])
                        times[arm] = (_geometric(found["t_gen"].where(ended, found["steps"])), bool(ended.all()))
                        values[arm][row, column] = times[arm][0] if ended.all() else np.nan
                        text[arm][row][column] = f"{times[arm][0]:.0f}" if ended.all() else f"> {found['steps'].iloc[0]}"
                if {"output", "masked"} <= times.keys():
                    (output, output_ended), (masked, masked_ended) = times["output"], times["masked"]
                    if output_ended or masked_ended:
                        values["ratio"][row, column] = output / masked
                        sign = "" if output_ended and masked_ended else "> " if masked_ended else "< "
                        text["ratio"][row][column] = f"{sign}{output / masked:.2g}"
                    else:
                        text["ratio"][row][column] = "neither"
        fig, axes = figure.grid(1, 4, width=4.0, height=0.34 * len(problems) + 1.6)
        longest = float(runs["steps"].max())
        titles = {
            "output": "T_gen, output supervision",
            "secret": "T_gen, k+1 control without noise",
            "masked": "T_gen, masked diffusion U[0,.2]",
        }
        for ax, arm in zip(axes[0], ARMS, strict=False):
            _heat(ax, values[arm], text[arm], labels, columns, titles[arm], "viridis_r", (longest / 60, longest))
        _heat(
            axes[0, 3],
            values["ratio"],
            text["ratio"],
            labels,
            columns,
            "T_gen ratio, output / masked\n(blue: masked diffusion first)",
            "RdBu",
            (1 / 30, 30),
        )
        for ax in axes[0, 1:]:
            ax.set_yticklabels([])
        paths.append(figure.save(fig, folder / f"01_parity_map_{tier}.png"))
        others = runs[(runs["n"] == 14) & (runs["k"] == 5) & (runs["layers"] == 1)]
        if tier == "cpu" and len(others):
            paths.append(_axes_one_at_a_time(others, folder))
    return paths


def _axes_one_at_a_time(runs: pd.DataFrame, folder: Path) -> Path:
    """Best validation accuracy and T_gen at (14, 5), one layer, for each other setting."""
    default = {"width": 64, "init": "width", "rate": 1e-3, "batch": 0, "window": "U[0,0.2]"}
    titles = {"init": "initialisation", "rate": "learning rate", "batch": "batch", "window": "window", "width": "width"}
    runs = runs[runs["steps"] == runs["steps"].max()]
    never = 1.6 * float(runs["steps"].max())
    fig, axes = figure.grid(1, len(default), width=3.2, height=3.8, sharey=True)
    for ax, name in zip(axes[0], default, strict=True):
        rest = runs[
            np.logical_and.reduce(
                [(runs[other] == value) | (runs[other] == "") for other, value in default.items() if other != name]
            )
        ]
        rest = rest[(rest["window"] != "") | (name != "window")]
        choices = sorted(set(rest[name]))
        for index, arm in enumerate(ARMS):
            for samples, marker in ((300, "o"), (600, "s")):
                found = rest[(rest["arm"] == arm) & (rest["N"] == samples)]
                if found.empty:
                    continue
                x = [choices.index(value) + (index - 1) * 0.2 + (0.05 if samples == 600 else -0.05) for value in found[name]]
                height = found["t_gen"].where(np.isfinite(found["t_gen"]), never)
                ax.plot(
                    x, height, marker, color=figure.COLOURS[index], label=f"{NAMES[arm]}, N={samples}", markersize=6, alpha=0.8
                )
        ax.set_xticks(range(len(choices)), ["all" if name == "batch" and value == 0 else str(value) for value in choices])
        ax.set(title=titles[name], yscale="log", xlim=(-0.5, len(choices) - 0.5))
        ax.axhline(float(runs["steps"].max()), color="grey", **figure.PUBLISHED)
    axes[0, 0].set_ylabel("T_gen at (14,5), one layer, steps\n(above the dashed line: never)")
    figure.legend_below(fig, 6)
    return figure.save(fig, folder / "01_parity_map_axes.png")

"""The noise of one published comparison, from its two accuracies and the number of items: by formula, and by simulation."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from scipy import stats

from mdlm_min.run.config import Range, build, check_fields
from mdlm_min.run.run_folder import Row, RunFolder

LEVEL, POWER = 0.05, 0.8  # of a two-sided test, and of the effect that it can detect


@dataclass(frozen=True)
class Settings:
    """Two accuracies on the same `items`, the second said to be higher; `floor` as in experiment.toml."""

    lower: Annotated[float, Range(0, 1)]
    higher: Annotated[float, Range(0, 1)]
    items: Annotated[int, Range(1)]
    floor: Annotated[float, Range(0, 1)] = 0.0
    trials: Annotated[int, Range(2)] = 20000

    def __post_init__(self) -> None:
        check_fields(self)


def check(settings: dict[str, Any]) -> None:
    """Raise InputError for settings that a run could not start with."""
    build(Settings, settings)


def noise(lower: float, higher: float, items: int) -> dict[str, float]:
    """gain; error: its standard error where both accuracies are of `items` independent items each (unpaired: nobody published
    which items were right); z and two-sided p; detectable: the gain that a test at 5% would see in 80% of cases."""
    gain = higher - lower
    error = math.sqrt((lower * (1 - lower) + higher * (1 - higher)) / items)
    detectable = float(stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)) * error
    return {
        "gain": gain,
        "error": error,
        "z": gain / error,
        "p": 2 * float(stats.norm.sf(abs(gain / error))),
        "detectable": detectable,
    }


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """The formulas, and the same by drawing items: the spread of the gain, and how often a gain of `detectable` is seen."""
    started = time.monotonic()
    config = build(Settings, settings)
    row: Row = {**noise(config.lower, config.higher, config.items), "items": float(config.items), "floor": config.floor}
    rng = np.random.default_rng(seed)
    low, high = (rng.binomial(config.items, p, config.trials) / config.items for p in (config.lower, config.higher))
    row["error_simulated"] = float((high - low).std())
    middle = (config.lower + config.higher) / 2
    low, high = (
        rng.binomial(config.items, middle + sign * row["detectable"] / 2, config.trials) / config.items for sign in (-1, 1)
    )
    errors = np.sqrt((low * (1 - low) + high * (1 - high)) / config.items)
    row["power_simulated"] = float(((high - low) / errors > stats.norm.ppf(1 - LEVEL / 2)).mean())
    progress(f"z {row['z']:.2f}")
    folder.finish_at_once(row, "none", time.monotonic() - started)


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """The one row."""
    return [{name: value for name, value in rows[-1].items() if name not in ("step", "seconds")}]

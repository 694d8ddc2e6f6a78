"""One arm a claim: its checks, and one table row for every quantity found in two ways."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.theory.checks import CHECKS


@dataclass(frozen=True)
class Settings:
    """How often a check that draws random networks or samples repeats itself."""

    trials: int = 400


def check(settings: dict[str, Any]) -> None:
    """Raise InputError for settings that a run could not start with."""
    if (trials := build(Settings, settings).trials) < 2:
        raise InputError(f"trials: {trials} is not allowed; at least 2")


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Run the checks of the arm that the folder is for; a metrics column a value."""
    trials = build(Settings, settings).trials
    started = time.monotonic()
    row: Row = {}
    for quantity in CHECKS[folder.read_json("config.json")["arm"]](trials, np.random.default_rng(seed)):
        row[f"{quantity.name}|formula"] = quantity.formula
        row[f"{quantity.name}|check"] = quantity.check
    progress(f"{len(row) // 2} quantities")
    folder.finish_at_once(row, "none", time.monotonic() - started)


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """One table row a quantity: the paper's formula, the independent value, their difference."""
    values = rows[0]
    names = [name.removesuffix("|formula") for name in values if name.endswith("|formula")]
    return [
        {"quantity": name, "formula": values[f"{name}|formula"], "check": values[f"{name}|check"],
         "difference": values[f"{name}|check"] - values[f"{name}|formula"]}
        for name in names
    ]  # fmt: skip

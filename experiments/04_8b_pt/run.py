"""One arm of the pre-training comparison at any size, or the cost of the paper's own.

What loads torch is imported where it is used: a table is made again without it.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import ITEM_COLUMNS, ITEM_TASKS, LEVELS

PUBLISHED = {"pretraining": (128, 4096, 15000, 20.0), "fine_tuning": (256, 1024, 1200, 6.0)}  # batch, length, steps; F.6's hours


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.tasks import pretrain

    if settings.get("kind") != "cost":
        pretrain.check(settings)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Do the run of these settings in its folder."""
    from mdlm_min.tasks import pretrain

    if settings.get("kind") != "cost":
        pretrain.run(settings, seed, folder, progress)
        return
    started = time.monotonic()
    row = cost()
    progress(f"cost: {len(row)} quantities")
    folder.finish_at_once(row, "none", time.monotonic() - started)


def cost() -> Row:
    """Operations of the published runs with logits at every position (as their framework has them) and at masked ones, and the
    share of eight H100s' peak that the published hours need."""
    from mdlm_min.model.flops import training_operations
    from mdlm_min.model.llada import LLADA_8B, parameter_count
    from mdlm_min.tasks import plan

    rate = 8 * plan.GPUS["h100"].operations
    row: Row = {"parameters": float(parameter_count(LLADA_8B))}
    for name, (batch, length, steps, hours) in PUBLISHED.items():
        shape = replace(LLADA_8B, length=length)
        tokens = float(batch * length * steps)
        for kind, asked in (("full", 1.0), ("masked", 0.5)):
            operations = steps * training_operations(shape, batch, asked)
            row[f"{name}_operations_{kind}"] = operations
            row[f"{name}_utilisation_{kind}"] = operations / (rate * hours * 3600)
        row[f"{name}_tokens"] = tokens
        row[f"{name}_utilisation_6pt"] = 6 * row["parameters"] * tokens / (rate * hours * 3600)
    return row


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: losses, zero-shot scores, skipped steps; of the cost the shares of the peak."""
    last = rows[-1]
    names = ["test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS)]
    names += [f"{task}_{name}" for task in ITEM_TASKS for name in ITEM_COLUMNS]
    names += [f"{name}_utilisation_{kind}" for name in PUBLISHED for kind in ("full", "masked")]
    return [
        {**{name: last.get(name, float("nan")) for name in names}, "skipped": last.get("skipped", 0.0), "last_step": last["step"]}
    ]

"""One arm of the pre-training comparison, at any size."""

from typing import Any

from mdlm_min import pretrain
from mdlm_min.data.items import TASKS
from mdlm_min.evidence.run_folder import Row
from mdlm_min.language import LEVELS

check = pretrain.check
run = pretrain.run


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: losses, zero-shot scores, skipped steps."""
    last = rows[-1]
    names = ["test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS)]
    names += [f"{task}_{name}" for task in TASKS for name in pretrain.ITEM_COLUMNS]
    return [
        {**{name: last.get(name, float("nan")) for name in names}, "skipped": last.get("skipped", 0.0), "last_step": last["step"]}
    ]

"""One run of this experiment: a masked diffusion model of text. What it does is all in mdlm_min.tasks.language."""

from typing import Any

from mdlm_min.run.run_folder import Row
from mdlm_min.tasks.language import LEVELS, check, run

__all__ = ["check", "run", "summarise"]


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: its losses at the end, over all mask rates and in each tenth of them."""
    names = ["test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS)]
    return [{**{name: rows[-1][name] for name in names}, "last_step": rows[-1]["step"]}]

"""One run of this experiment: a masked diffusion model of text. What it does is all in mdlm_min.tasks.language."""

from collections.abc import Callable
from typing import Any

from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import LEVELS


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.tasks import language  # loads torch, which a table that is made again does not need

    language.check(settings)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Do the run of these settings in its folder."""
    from mdlm_min.tasks import language

    language.run(settings, seed, folder, progress)


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: its losses at the end, over all mask rates and in each tenth of them."""
    names = ["test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS)]
    return [{**{name: rows[-1][name] for name in names}, "last_step": rows[-1]["step"]}]

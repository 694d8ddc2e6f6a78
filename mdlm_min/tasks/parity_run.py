"""The run.py of every experiment on parity. torch is loaded when a run is checked or begins, not when its table is made again."""

from collections.abc import Callable
from typing import Any

from mdlm_min.run.run_folder import RunFolder
from mdlm_min.tasks.summaries import summarise_parity as summarise

__all__ = ["check", "run", "summarise"]


def check(settings: dict[str, Any]) -> None:
    """See tasks/parity.py."""
    from mdlm_min.tasks import parity

    parity.check(settings)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """See tasks/parity.py."""
    from mdlm_min.tasks import parity

    parity.run(settings, seed, folder, progress)

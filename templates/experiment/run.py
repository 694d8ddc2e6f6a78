"""One run: draw masks at the arm's mask rate and count the masked tokens. Replace the counting with your measurement.

A run that trains a model needs none of this. Where the suite has the task already, import it:
`from mdlm_min.tasks.parity_run import check, run, summarise` is the whole of experiments/02_uniform_attention/run.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdlm_min.run.config import build
from mdlm_min.run.run_folder import Row, RunFolder


@dataclass(frozen=True)
class Settings:
    """The settings of experiment.toml, each with its type. An unknown name or a wrong type is an error of one line."""

    mask_rate: str
    sequences: int
    length: int


def check(settings: dict[str, Any]) -> None:
    """Raise InputError for settings with which a run could not start. All runs are checked before the first one starts."""
    from mdlm_min import MaskRate

    MaskRate.parse(build(Settings, settings).mask_rate)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Do one run in its folder. All randomness comes from the settings and the seed."""
    from mdlm_min import MaskRate, bernoulli, stream  # they load torch, which a table that is made again does not need

    started = time.monotonic()
    config = build(Settings, settings)
    generator = stream(seed, "masks")
    rate = MaskRate.parse(config.mask_rate).sample(config.sequences, generator)
    mask = bernoulli(rate, config.length, generator)
    share = mask.double().mean().item()
    progress(f"{share:.3f} of the tokens are masked")
    folder.finish_at_once({"masked_share": share}, data_sha256="none", seconds=time.monotonic() - started)


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """The run's row of the table, from its metrics over steps. This run has one evaluation."""
    return [{"masked_share": rows[-1]["masked_share"]}]

"""A run of a made table."""

from typing import Any


def made_run(cell: str, arm: str, seed: int) -> dict[str, Any]:
    """What a table has of a run besides its curves: its configuration, and the least that a table asks of the rest."""
    return {
        "cell": cell,
        "config": {"arm": arm, "seed": seed},
        "environment": {"commit": "0"},
        "data": {"sha256": "0", "device": "cpu", "dtype": "float32"},
        "finished": {"seconds": 1.0, "log_sha256": "0"},
    }

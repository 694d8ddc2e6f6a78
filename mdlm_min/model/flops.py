"""How fast a run is against what its device could do: tokens per second, and the share of a measured matmul rate."""

import functools
import math
import time
from dataclasses import dataclass

import torch

from mdlm_min.model.config import ModelConfig


@dataclass(frozen=True)
class Work:
    """One training step: tokens read, floating-point operations needed, and the device's ceiling in operations per second.
    The operations are no number where nobody knows beforehand how many tokens are masked."""

    tokens: int
    operations: float
    ceiling: float

    def describe(self, rate: float) -> str:
        """For the progress line; `rate` in steps per second."""
        share = "" if math.isnan(self.operations) else f", {self.operations * rate / self.ceiling:.0%} of the matmul rate"
        return f"{self.tokens * rate:,.0f} tokens/s{share}"


def forward_operations(config: ModelConfig, read: float, keys: float, selected: float) -> float:
    """Floating-point operations of one sequence's forward pass: `read` positions go through the blocks and attend to `keys` of
    them, or of them and of a cache; the last block's queries and MLP and the head are computed at `selected` positions.

    Counts matrix products only, 2 operations per multiply-add, attention scores included.
    """
    width = config.width
    mlp = 2 * (3 if config.mlp == "swiglu" else 2) * width * (config.mlp_width or 4 * width)
    keys_values = 2 * width * sum(config.projection_widths[1:])
    rest = 4 * width**2 + mlp + 4 * keys * width  # queries, output projection, MLP, attention
    return (config.layers - 1) * read * (keys_values + rest) + read * keys_values + selected * (rest + 2 * width * config.outputs)


def training_operations(config: ModelConfig, batch: int, selected: float) -> float:
    """Floating-point operations of one step, forward and backward (three times forward), when the share `selected` of all
    positions is scored."""
    length = config.length
    return 3.0 * batch * forward_operations(config, length, length, selected * length)


@functools.cache
def matmul_ceiling(device: str, dtype: torch.dtype, threads: int, size: int = 0) -> float:
    """Operations per second of a square matrix product on this device, the best of several; `threads` only tells results apart.

    `size` is the matrices', by default one that the device can be busy with."""
    size = size or (1024 if device == "cpu" else 8192)
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best

"""Which positions of a batch are scored, in tensors of few different sizes.

The number of masked positions differs from step to step. A kernel is compiled and kept for every new shape by oneDNN (on the
CPU), torch.compile and CUDA graphs, and the memory that goes with it grows without end. So a selection is padded to the next
of a coarse grid of sizes: its last entry is repeated. Callers get the rows of the real entries alone, so the repeated ones have
gradients of zero: outputs and gradients are those of the selection without padding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIZES_PER_OCTAVE = 16


def grid_size(count: int) -> int:
    """The least size of the grid that is at least `count`; the grid has every number up to 16, then 16 sizes per octave."""
    step = max(1, (1 << max(count - 1, 0).bit_length()) // (2 * SIZES_PER_OCTAVE))
    return -(-count // step) * step


@dataclass(frozen=True)
class Selection:
    """The positions whose scores a forward pass computes, in row-major order; `count` of them, padded to [padded] entries.

    row, column: where each is, int64 [padded]. slot: which of its row's it is; `slots`: at least as many as any row has.
    """

    count: int
    row: Tensor
    column: Tensor
    slot: Tensor
    slots: int

    @staticmethod
    def of(mask: Tensor) -> "Selection":
        """The True entries of a mask, bool [batch, length]."""
        row, column = mask.nonzero(as_tuple=True)
        count = len(row)
        if not count:
            return Selection(0, row, column, row, 0)
        slot = (mask.cumsum(dim=1) - 1)[row, column]
        repeated = torch.arange(min(grid_size(count), mask.numel()), device=mask.device).clamp(max=count - 1)
        slots = min(grid_size(int(slot.max()) + 1), mask.shape[1])
        return Selection(count, row[repeated], column[repeated], slot[repeated], slots)

    def pick(self, x: Tensor) -> Tensor:
        """[batch, length, ...] to [padded, ...]."""
        return x[self.row, self.column]

    def pack(self, x: Tensor, batch: int) -> Tensor:
        """[padded, ...] to [batch, slots, ...]: every row's entries to the left, zeros after them."""
        real = slice(self.count)
        return x.new_zeros(batch, self.slots, *x.shape[1:]).index_put((self.row[real], self.slot[real]), x[real])

    def unpack(self, packed: Tensor) -> Tensor:
        """[batch, slots, ...] to [padded, ...]."""
        return packed[self.row, self.slot]

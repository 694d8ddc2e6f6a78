"""Which positions a step of generation may fix, and how many: blocks from left to right, each over its share of the steps.

A row's wanted positions are cut into blocks of `block_length`, in their order (semi-autoregressive generation, LLaDA); 0 makes
them one block. The steps are shared among the blocks, and a block's positions among its steps, the first ones taking the
remainders. Rows go through their blocks at their own pace: nothing here depends on a row's neighbours.
"""

import torch
from torch import Tensor

from mdlm_min.run.errors import InputError


class UnmaskingSteps:
    """The place of every row in its blocks, of which `advance` tells.

    places: bool [batch, length], masked positions of the row's current block. block: int64 [batch], its number. count: int64
    [batch], how many positions this step fixes at least. left: int64 [batch], steps left in the block, this one included.
    number: int64 [batch], the step's number in all of the row's steps.
    """

    def __init__(self, wanted: Tensor, block_length: int, steps: int) -> None:
        """`wanted`: bool [batch, length]. Raises InputError for fewer steps than a row has blocks."""
        self.wanted = wanted.sum(dim=1)
        self.length = block_length or wanted.shape[1]
        self.blocks = (-(-self.wanted // self.length)).clamp(min=1)
        if steps < (most := int(self.blocks.max())):
            raise InputError(f"steps: {steps} is not allowed with {most} blocks of {block_length}; at least one for each block")
        self.block_of = ((wanted.cumsum(dim=1) - 1) // self.length).masked_fill(~wanted, -1)
        self.each, self.remainder = steps // self.blocks, steps % self.blocks
        self.block = torch.full_like(self.wanted, -1)
        self.step = torch.zeros_like(self.wanted)
        self.places, self.count, self.left, self.number = wanted, self.wanted, self.step, self.step

    def advance(self, masked: Tensor) -> None:
        """To the next step of every row, given the positions that are still masked (bool [batch, length])."""
        current = self.block_of.masked_fill(~masked, len(masked[0])).amin(dim=1)
        self.step = torch.where(current == self.block, self.step + 1, 0)
        self.block = current
        self.places = masked & (self.block_of == current[:, None])
        steps = self.each + (current < self.remainder)
        size = (self.wanted - current * self.length).clamp(0, self.length)
        self.count = size // steps + (self.step < size % steps)
        self.left = steps - self.step
        self.number = current * self.each + current.minimum(self.remainder) + self.step

"""Scores at the positions that a step asks for: by passes over everything or, approximately, over what a cache does not hold;
guided or not.

prefix  a row's keys and values left of its current block are kept from the pass at the block's start;
dual    those to the right of the block too: only the block itself is read (both Fast-dLLM, arXiv:2505.22618).
Each block starts with a pass over everything, which renews the cache. A cache is approximate: in a bidirectional model what is
kept would change as the block is filled in. With `refresh` = n every n-th pass is over everything; 1 makes the caches exact.

Classifier-free guidance (scale w) reads every row twice, once with its given tokens masked, and scores
unconditional + (w + 1) (conditional - unconditional), as LLaDA does.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mdlm_min.model.cache import KeyValueCache
from mdlm_min.run.errors import InputError

# tokens [batch, length], positions (bool, same shape) -> logits [positions, vocabulary]. By name, where they are needed only:
# padding_mask (bool, same shape, True at real tokens); cache and fresh, as of Transformer.forward.
Scorer = Callable[..., Tensor]
CACHES = ("none", "prefix", "dual")


class Reader:
    """Calls the model for the rows of a batch that need it. passes: forward passes of each row so far, int64 [batch]."""

    def __init__(
        self,
        score: Scorer,
        mask_token: int,
        wanted: Tensor,
        real: Tensor | None,
        guidance: float = 0.0,
        cache: str = "none",
        refresh: int = 0,
    ) -> None:
        """`wanted` and `real`: bool [batch, length], positions to fill in and positions that are no padding (None: all)."""
        self.score, self.mask_token, self.guidance, self.kind, self.refresh = score, mask_token, guidance, cache, refresh
        self.wanted, self.real = wanted, real
        self.passes = torch.zeros_like(wanted.sum(dim=1))
        self.cache = KeyValueCache()
        self.part: tuple[Tensor, KeyValueCache] | None = None  # rows and a copy of what is kept of them, until a row is renewed
        self.cached_block = torch.full_like(self.passes, -1)  # the block at whose start a row's cache was filled
        self.age = torch.zeros_like(self.passes)  # passes since then

    def __call__(self, tokens: Tensor, asked: Tensor, block: Tensor, block_of: Tensor) -> Tensor:
        """Scores of the asked positions (bool [batch, length]), row-major: [asked, vocabulary].

        `block` ([batch]) is each row's current block, `block_of` ([batch, length]) the block of each position (-1: none).
        """
        active = asked.any(dim=1)
        self.passes += active * (2 if self.guidance else 1)
        if self.kind == "none":
            return self._read(active, tokens, asked)
        renew = active & ((self.cached_block != block) | ((self.age + 1 >= self.refresh) if self.refresh else False))
        keep = active & ~renew
        self.age = torch.where(renew, 0, self.age + active)
        self.cached_block = torch.where(renew, block, self.cached_block)
        here = block_of == block[:, None]
        if self.kind == "prefix":
            here = here.cumsum(dim=1) > 0
            here = here if self.real is None else here & self.real
        if not keep.any():
            return self._read(renew, tokens, asked, cached=True)
        kept = self._read(keep, tokens, asked, here, cached=True)
        if not renew.any():
            return kept
        renewed = self._read(renew, tokens, asked, cached=True)
        row = asked.nonzero()[:, 0]
        scores = kept.new_empty(len(row), kept.shape[1])
        scores[keep[row]], scores[renew[row]] = kept, renewed
        return scores

    def _read(self, chosen: Tensor, tokens: Tensor, asked: Tensor, fresh: Tensor | None = None, cached: bool = False) -> Tensor:
        """Scores of the asked positions of the chosen rows (bool [batch])."""
        rows = chosen.nonzero()[:, 0]
        read = self._both(tokens, rows)
        if self.guidance:
            read[len(rows) :].masked_fill_(~self.wanted[rows], self.mask_token)
        options: dict[str, Any] = {}
        if self.real is not None and not bool(self.real[rows].all()):
            options["padding_mask"] = self._both(self.real, rows)
        if cached:
            if fresh is None:
                self.part = None  # rows are renewed: what was copied is no longer what is kept, and need not be held meanwhile
            every = (2 if self.guidance else 1) * len(chosen)
            index = torch.cat((rows, rows + len(chosen))) if self.guidance else rows
            part = KeyValueCache() if fresh is None else self.cache if len(index) == every else self._kept(index)
            options |= {"cache": part, "fresh": None if fresh is None else self._both(fresh, rows)}
        scores = self.score(read, self._both(asked, rows), **options)
        if scores.dim() != 2:
            raise InputError(f"score: shape {tuple(scores.shape)} is not allowed; allowed: [asked, vocabulary], as scores[asked]")
        if cached and fresh is None:
            self.cache.put(index, part, every)
        if not self.guidance:
            return scores
        conditional, unconditional = scores.to(torch.promote_types(scores.dtype, torch.float32)).chunk(2)
        return unconditional + (self.guidance + 1) * (conditional - unconditional)

    def _kept(self, index: Tensor) -> KeyValueCache:
        """What is kept of the rows `index`. A pass writes into the copy at its fresh positions alone, and these every pass writes
        anew, so the copy serves as long as the rows are the same."""
        if self.part is None or not torch.equal(self.part[0], index):
            self.part = None  # not two copies at a time
            self.part = index, self.cache.rows(index)
        return self.part[1]

    def _both(self, x: Tensor, rows: Tensor) -> Tensor:
        """The rows of `x`; with guidance, twice."""
        return x[torch.cat((rows, rows))] if self.guidance else x[rows]

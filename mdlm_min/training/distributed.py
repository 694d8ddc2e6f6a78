"""The processes that train one model together, over torch.distributed. Alone, each function does what it does for a group of
one."""

import torch
import torch.distributed as dist
from torch import Tensor


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def total(value: Tensor) -> Tensor:
    """Sum over the processes, the same on all."""
    if _together():
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Each flag raised on any process."""
    if not _together():
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"  # NCCL adds up what is on a GPU alone
    return tuple(bool(flag) for flag in total(torch.tensor(flags, dtype=torch.int32, device=device)))


def from_first(value: Tensor) -> Tensor:
    """The first process's values, on all; the others bring a tensor of the same shape and dtype."""
    if _together():
        dist.broadcast(value, 0)
    return value


def joined(value: Tensor, counts: list[int]) -> Tensor:
    """The processes' vectors one behind the other; process i brings counts[i] values."""
    if not _together():
        return value
    padded = value.new_zeros(max(counts))
    padded[: len(value)] = value
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

"""Random streams that never mix: each is a pure function of (seed, purpose, step).

Because a step's randomness depends on nothing that came before it, resuming a run needs no generator state, and a run
on more processes draws the same masks.
"""

import hashlib

import torch


def stream_seed(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed for `purpose` (such as "data", "masks", "weights") at `step` of the run with this `seed`."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded by `stream_seed`. Streams on different devices differ."""
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, step))

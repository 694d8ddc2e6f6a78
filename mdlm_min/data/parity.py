"""The (n, k)-parity problem of section 3.1, and its signal and noise masks (Definition 4.1).

A sequence is n uniform bits in {-1, +1} and the product of the k secret ones: n + 1 tokens. As a token, value b is
b + 1, so that 1 is the mask token, in agreement with the embedding index n'b + j of Definition 3.5.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from mdlm_min.run.config import Range, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

VOCAB_SIZE = 3
MASK_TOKEN = 1


@dataclass(frozen=True)
class ParityConfig:
    """Problem size; training and validation inputs are distinct, drawn uniformly from all 2^n."""

    n: Annotated[int, Range(1, 62)] = 20
    k: Annotated[int, Range(1, 62)] = 6
    train_samples: Annotated[int, Range(1, 1e8)] = 2000
    validation_samples: Annotated[int, Range(1, 1e8)] = 4000

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        if self.k > self.n:
            raise InputError(f"data.k: {self.k} is not allowed; at most data.n = {self.n}")
        if self.train_samples + self.validation_samples > 2**self.n:
            total = self.train_samples + self.validation_samples
            raise InputError(f"data.train_samples: {total} distinct inputs are needed, but n = {self.n} has {2**self.n}")


@dataclass(frozen=True)
class ParityData:
    """train, validation: int64 tokens [samples, n + 1], label last. secret: int64 positions of the k bits and the label."""

    train: Tensor
    validation: Tensor
    secret: Tensor

    def sha256(self) -> str:
        """Hash of all values, for the tables."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.secret):
            digest.update(part.cpu().numpy().tobytes())
        return digest.hexdigest()


def bits(numbers: Tensor, n: int) -> Tensor:
    """The n low bits of each number as -1, +1: int64 [count, n]."""
    return (numbers[:, None] >> torch.arange(n) & 1) * 2 - 1


def make_parity(config: ParityConfig, seed: int) -> ParityData:
    """Data of the run with this seed: the secret set, too, is drawn anew for each seed."""
    generator = stream(seed, "data")
    wanted = config.train_samples + config.validation_samples
    if config.n <= 24:
        numbers = torch.randperm(2**config.n, generator=generator)[:wanted]
    else:  # too many inputs to list; among this many a repeated draw is rare, and is replaced
        numbers = torch.empty(0, dtype=torch.int64)
        while len(numbers) < wanted:
            numbers = torch.cat([numbers, torch.randint(2**config.n, (wanted,), generator=generator)]).unique()
        numbers = numbers[torch.randperm(len(numbers), generator=generator)[:wanted]]
    inputs = bits(numbers, config.n)
    secret = torch.randperm(config.n, generator=generator)[: config.k].sort().values
    values = torch.cat([inputs, inputs[:, secret].prod(dim=1, keepdim=True)], dim=1)
    train, validation = (values + 1).split([config.train_samples, config.validation_samples])
    return ParityData(train, validation, torch.cat([secret, torch.tensor([config.n])]))


def is_signal(mask: Tensor, secret: Tensor) -> Tensor:
    """Definition 4.1: whether exactly one secret position is masked. Mask [batch, length]; result bool [batch]."""
    return mask[:, secret].sum(dim=1) == 1

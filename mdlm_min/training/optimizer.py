"""Optimisation: its configuration, the optimizer, what limits a gradient, and which steps are not taken."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError, RunError

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation of one run. Weight decay acts on matrices only, as in nanoGPT. The rate warms up linearly and then stays,
    or falls along a half cosine to a tenth of itself ("cosine", nanoGPT's schedule)."""

    steps: Annotated[int, Range(1, 1e10)] = 1000
    eval_every: Annotated[int, Range(1, 1e10)] = 50
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "adamw"
    learning_rate: Annotated[float, Range(0, math.inf, open_least=True, open_most=True)] = 1e-3
    beta1: Annotated[float, Range(0, 1, open_most=True)] = 0.9
    beta2: Annotated[float, Range(0, 1, open_most=True)] = 0.95
    weight_decay: Annotated[float, Range(0, math.inf, open_most=True)] = 0.1
    momentum: Annotated[float, Range(0, 1, open_most=True)] = 0.0  # of "sgd"
    warmup: Annotated[int, Range(0, 1e10)] = 0
    schedule: Annotated[str, OneOf(("constant", "cosine"))] = "constant"
    clip: Annotated[float, Range(0, math.inf, open_most=True)] = 0.0  # the gradient's norm is at most this; 0 for no limit
    unit_gradient: bool = False  # the gradient is scaled to norm 1, so that no arm takes larger steps than another
    # A step whose loss exceeds this many times the recent mean, or is not finite, is skipped; 0: none is.
    spike: Annotated[float, Range(0, math.inf, open_most=True)] = 0.0
    checkpoint_seconds: Annotated[float, Range(0, math.inf)] = 20.0  # between checkpoints; inf for none at all, to measure speed

    def __post_init__(self) -> None:
        check_fields(self, "train.")
        if self.momentum and self.optimizer != "sgd":
            raise InputError(f"train.momentum: {self.momentum} is not allowed; only with train.optimizer = sgd")
        if self.clip and self.unit_gradient:
            raise InputError(f"train.clip: {self.clip} is not allowed; 0 where train.unit_gradient is set")
        if self.schedule == "cosine" and self.warmup >= self.steps:
            raise InputError(f"train.warmup: {self.warmup} is not allowed with schedule = cosine; below steps = {self.steps}")
        if 0 < self.spike <= 1:
            raise InputError(f"train.spike: {self.spike} is not allowed; above 1, or 0 to take every step")

    @property
    def constant_rate(self) -> bool:
        """Whether every step has the same learning rate."""
        return self.schedule == "constant" and not self.warmup

    def rate_at(self, step: int) -> float:
        """Learning rate of the step after `step` steps."""
        rate = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant" or step < self.warmup:
            return rate
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


@dataclass
class SpikeGuard:
    """Which steps are taken: those whose loss is finite and at most `spike` times the mean of the recent ones.

    The mean forgets with a half-life of about 35 steps. Raises RunError after `patience` skips in a row: that is divergence.
    """

    spike: float
    patience: int = 20
    mean: float = 0.0
    weight: float = 0.0
    skipped: int = 0
    in_a_row: int = 0

    def accepts(self, loss: float) -> bool:
        """Whether a step with this loss is to be taken."""
        recent = self.mean / self.weight if self.weight > 0.2 else math.inf  # the first twelve steps have nothing to compare with
        return math.isfinite(loss) and loss <= self.spike * recent

    def state(self) -> dict[str, float]:
        """What a checkpoint must hold to continue: the arguments of a new guard besides `spike`."""
        return {"mean": self.mean, "weight": self.weight, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def record(self, loss: float, taken: bool) -> None:
        """Note what became of a step."""
        if taken:
            self.mean, self.weight, self.in_a_row = 0.98 * self.mean + 0.02 * loss, 0.98 * self.weight + 0.02, 0
            return
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.patience:
            raise RunError(
                f"{self.in_a_row} steps in a row had a loss or gradient that was not finite or {self.spike:g} times the recent "
                f"mean; "
                "lower the learning rate. The last good checkpoint is kept"
            )


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (fused) or plain SGD with the configured decay on matrices and none on vectors."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    betas, on_gpu = (config.beta1, config.beta2), matrices[0].is_cuda
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True, capturable=on_gpu)


def limit_gradient(model: nn.Module, config: TrainConfig) -> Tensor | None:
    """Clip the gradient's norm, or scale it to 1, as configured; returns the norm before, None where it was not needed."""
    if config.clip:
        return nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if config.unit_gradient or config.spike:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        for gradient in gradients if config.unit_gradient else []:
            gradient.div_(norm.clamp(min=1e-12))
        return norm
    return None

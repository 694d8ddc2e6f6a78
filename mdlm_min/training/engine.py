"""How one training step is taken: the interface, its settings, and plain torch. DeepSpeed is deepspeed_engine.py.

The loss of a step is one number for the whole batch: normalised over all of its tokens, cut into summands by rows, each
computed by some process in some pass. Gradients are therefore summed, never averaged over processes; means of local means are
another loss as soon as the processes' shares differ in their number of masked tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn

from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.training.checkpoint import Checkpoint
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig, limit_gradient, make_optimizer
from mdlm_min.training.task import Task

KINDS = ("torch", "deepspeed")
STATE = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # of AdamW and SGD, besides AdamW's count of steps


@dataclass(frozen=True)
class EngineConfig:
    """Plain torch in one process, or DeepSpeed in `processes` per node (launch.py)."""

    kind: Annotated[str, OneOf(KINDS)] = "torch"
    processes: Annotated[int, Range(1, 1e5)] = 1  # on each node
    hostfile: str = ""  # DeepSpeed's list of nodes; empty for this one
    zero: Annotated[int, Range(0, 3)] = 0  # what is partitioned: 0 nothing, 1 optimiser state, 2 gradients too, 3 weights too
    micro_batch: Annotated[int, Range(0)] = 0  # sequences of one forward pass; 0 for a process's whole share
    recompute: bool = False  # activation checkpointing: a block's activations are computed again in the backward pass
    offload: bool = False  # optimiser state in host memory (ZeRO 1 to 3)

    def __post_init__(self) -> None:
        check_fields(self, "engine.")
        if self.kind == "torch" and (self.processes, self.hostfile, self.zero, self.offload) != (1, "", 0, False):
            raise InputError("engine.kind: 'torch' is one process without ZeRO and offload; set engine.kind = deepspeed")
        if self.offload and not self.zero:
            raise InputError("engine.offload: needs engine.zero = 1, 2 or 3")

    def parts(self, batch: int, world: int) -> int:
        """Passes of one process in a step. Raises InputError where the batch cannot be cut evenly."""
        share, rest = divmod(batch, world)
        micro = self.micro_batch or share
        if self.micro_batch and not rest and share and share % micro:
            raise InputError(f"engine.micro_batch: {micro} is not allowed; a divisor of {share}, a process's share of a batch")
        if rest or not share:
            raise InputError(f"batch: {batch} cannot be cut evenly into {world} processes; allowed: a multiple of {world}")
        return share // micro


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Weights and optimiser state of an unpartitioned model, by the names of a checkpoint."""
    for name, value in model.state_dict().items():
        yield f"model.{name}", value
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"optimizer.{name}.{key}", value


def set_named_state(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Checkpoint) -> None:
    """The inverse of `named_state`, for the optimiser."""
    for name, parameter in model.named_parameters():
        keys = [key for key in (*STATE, "step") if f"optimizer.{name}.{key}" in saved]
        if keys:
            optimizer.state[parameter] = {
                key: saved[f"optimizer.{name}.{key}"].to(parameter.device if key != "step" or parameter.is_cuda else "cpu")
                for key in keys
            }


class Engine(Protocol):
    """How steps are taken and where their state lies."""

    def step(self, step: int, rate: float, guard: SpikeGuard | None) -> tuple[Tensor, bool]:
        """One step at this learning rate: the loss, and whether the step was taken. It is not where the guard refuses it, nor on
        DeepSpeed where its gradient is not finite."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights ("model.NAME") and optimiser state ("optimizer.NAME.KEY"), whole tensors, the same names on all processes."""

    def restore(self, saved: Checkpoint) -> None:
        """Take the state of a checkpoint whose weights the model has already."""


class TorchEngine:
    """One process, its gradients accumulated over the task's parts."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task, self.config = task, config
        self.optimizer = make_optimizer(task.model, config)

    def step(self, step: int, rate: float, guard: SpikeGuard | None) -> tuple[Tensor, bool]:
        """See Engine."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = None
        for part in range(self.task.parts):
            loss = self.task.part_loss(step, part)
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        norm = limit_gradient(self.task.model, self.config)
        if guard and not (guard.accepts(float(total)) and norm is not None and math.isfinite(float(norm))):
            return total, False
        self.optimizer.step()
        return total, True

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See Engine."""
        return named_state(self.task.model, self.optimizer)

    def restore(self, saved: Checkpoint) -> None:
        """See Engine."""
        set_named_state(self.task.model, self.optimizer, saved)

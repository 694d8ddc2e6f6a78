"""How one training step is taken, on plain torch or on DeepSpeed, for the one loop of train.py.

The loss of a step is one number for the whole batch: normalised over all of its tokens, cut into summands by rows, each
computed by some process in some pass. Gradients are therefore summed, never averaged over processes; means of local means are
another loss as soon as the processes' shares differ in their number of masked tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mdlm_min.run.errors import InputError
from mdlm_min.training import distributed
from mdlm_min.training.checkpoint import Checkpoint
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig, limit_gradient, make_optimizer
from mdlm_min.training.task import Task

KINDS = ("torch", "deepspeed")
STATE = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # of AdamW and SGD, besides AdamW's count of steps


@dataclass(frozen=True)
class EngineConfig:
    """Plain torch in one process, or DeepSpeed in `processes` a node (launch.py)."""

    kind: str = "torch"
    processes: int = 1  # on each node
    hostfile: str = ""  # DeepSpeed's list of nodes; empty for this one
    zero: int = 0  # what is partitioned: 0 nothing, 1 optimiser state, 2 gradients too, 3 weights too
    micro_batch: int = 0  # sequences of one forward pass; 0 for a process's whole share
    recompute: bool = False  # activation checkpointing: a block's activations are computed again in the backward pass
    offload: bool = False  # optimiser state in host memory (ZeRO 1 to 3)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"engine.kind: {self.kind!r} is unknown; allowed: {', '.join(KINDS)}")
        if self.zero not in (0, 1, 2, 3):
            raise InputError(f"engine.zero: {self.zero} is not allowed; 0 to 3")
        if self.processes < 1 or self.micro_batch < 0:
            raise InputError(
                f"engine: processes = {self.processes}, micro_batch = {self.micro_batch}; at least 1 process, and 0 or more sequences"
            )
        if self.kind == "torch" and (self.processes, self.hostfile, self.zero, self.offload) != (1, "", 0, False):
            raise InputError("engine.kind: 'torch' is one process without ZeRO and offload; set engine.kind = deepspeed")
        if self.offload and not self.zero:
            raise InputError("engine.offload: needs engine.zero = 1, 2 or 3")

    def parts(self, batch: int, world: int) -> int:
        """Passes of one process in a step. Raises InputError where the batch cannot be cut evenly."""
        share, rest = divmod(batch, world)
        micro = self.micro_batch or share
        if rest or not share or share % micro:
            raise InputError(f"batch: {batch} cannot be cut into {world} processes' passes of {micro or 1} sequences")
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
        """One step at this learning rate: the loss, and whether the step was taken (always, without a guard)."""

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
        """One step at this learning rate: the loss, and whether the step was taken (always, without a guard)."""
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


def deepspeed_config(engine: EngineConfig, train: TrainConfig, batch: int, world: int, dtype: str) -> dict[str, Any]:
    """DeepSpeed's own configuration for ours. Raises InputError for what DeepSpeed is not used for here."""
    if train.unit_gradient or train.optimizer != "adamw":
        raise InputError("engine.kind: 'deepspeed' needs train.optimizer = adamw and train.unit_gradient = false")
    parts = engine.parts(batch, world)
    zero: dict[str, Any] = {"stage": engine.zero}
    if engine.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // world // parts,
        "gradient_accumulation_steps": parts,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": dtype == "bfloat16" and engine.zero > 0},  # without ZeRO bf16 is autocast over float32 weights
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,  # progress is ours to tell
    }


class DeepSpeedEngine:
    """DeepSpeed's ZeRO over all processes. A step that must not be taken is given a gradient that is not finite, which DeepSpeed's
    own overflow handling throws away at every stage; without ZeRO, where it has none, the gradients are dropped here."""

    def __init__(self, task: Task, config: TrainConfig, engine: EngineConfig, settings: dict[str, Any]) -> None:
        """`settings` is `deepspeed_config`'s; the task's `network`, which it calls, becomes DeepSpeed's."""
        import deepspeed

        self.task, self.config, self.zero = task, config, engine.zero
        if engine.offload:
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            groups = make_optimizer(task.model, config).param_groups
            groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
            optimizer = DeepSpeedCPUAdam(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), adamw_mode=True)
        else:
            optimizer = make_optimizer(task.model, config)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(model=task.model, optimizer=optimizer, config=settings)
        if engine.zero in (1, 2):
            self.optimizer.check_grad_overflow = True  # in float32 too
        task.network = self.engine  # type: ignore[attr-defined]
        self.updates = 0

    def step(self, step: int, rate: float, guard: SpikeGuard | None) -> tuple[Tensor, bool]:
        """See Engine."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = self.task.parts
        mine = torch.zeros((), device=self.engine.device)
        total = mine
        wanted = True
        for part in range(parts):
            loss = self.task.part_loss(step, part)
            mine = mine + loss.detach()
            if part == parts - 1:
                total = distributed.total(mine)
                wanted = guard is None or guard.accepts(float(total))
            # DeepSpeed averages over processes and passes; ours are summands.
            scale = distributed.world() * parts if wanted else math.nan
            self.engine.backward(loss * scale)
            if part < parts - 1:
                self.engine.step()  # only counts the pass
        taken = self._take()
        self.updates += taken
        return total, taken

    def _take(self) -> bool:
        """DeepSpeed's step; whether it changed the weights."""
        if self.zero:
            before = self.engine.skipped_steps
            self.engine.step()
            return bool(self.engine.skipped_steps == before)
        gradients = [parameter.grad for parameter in self.task.model.parameters() if parameter.grad is not None]
        if torch.isfinite(nn.utils.get_total_norm(gradients)):  # they are summed over the processes already
            self.engine.step()
            return True
        self.engine.zero_grad()
        self.engine.micro_steps += 1  # the pass is over all the same: DeepSpeed counts them to know where a step ends
        return False

    def _link_states(self) -> None:
        """ZeRO 1 and 2 (as of 0.19) link every parameter to its optimiser state once the first group has stepped, when the groups
        behind it have no state yet. So this is done again."""
        if self.zero in (1, 2) and self.updates:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See Engine. Partitioned tensors are gathered one at a time; weights are the float32 ones that the optimiser steps."""
        if not self.zero:
            yield from named_state(self.task.model, self.optimizer)
            return
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link_states()
        for name, parameter in self.task.model.named_parameters():
            yield f"model.{name}", safe_get_full_fp32_param(parameter)
            if self.updates:
                for key in ("exp_avg", "exp_avg_sq"):
                    yield f"optimizer.{name}.{key}", safe_get_full_optimizer_state(parameter, key)
                yield f"optimizer.{name}.step", torch.tensor(float(self.updates))

    def restore(self, saved: Checkpoint) -> None:
        """See Engine. DeepSpeed makes its optimiser state in its first step, so one is taken at rate zero, then overwritten."""
        count = f"optimizer.{next(self.task.model.named_parameters())[0]}.step"  # the same for every parameter
        if count not in saved:
            return
        updates = int(saved[count])
        if not self.zero:
            set_named_state(self.task.model, self.optimizer, saved)
            self.updates = updates
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self.step(saved.record["step"], 0.0, None)
        self._link_states()
        for name, parameter in self.task.model.named_parameters():
            device = self.engine.device
            safe_set_full_fp32_param(parameter, saved[f"model.{name}"].float().to(device))
            for key in ("exp_avg", "exp_avg_sq"):
                safe_set_full_optimizer_state(parameter, saved[f"optimizer.{name}.{key}"].float().to(device), key)
        self.updates = updates
        for state in self.optimizer.optimizer.state.values():
            state["step"] = state["step"].fill_(self.updates) if isinstance(state["step"], Tensor) else self.updates

"""Training steps through DeepSpeed: ZeRO over all processes. See engine.py for the interface."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_min.run.errors import DivergedError, InputError
from mdlm_min.training import distributed
from mdlm_min.training.checkpoint import Checkpoint
from mdlm_min.training.engine import EngineConfig, named_state, set_named_state
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig, make_optimizer
from mdlm_min.training.task import Task

TRIES = 20  # batches, of which one must have a finite gradient for a run to resume; a run ends after as many skips (SpikeGuard)


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


def join_processes(device: str) -> None:
    """Make this process one of those that the launcher started, which MASTER_ADDR and MASTER_PORT bring together.

    On a CPU DeepSpeed (0.19) gives every process 66 MiB of shared memory and never takes its name away, so the memory would stay
    in use after the end. Once all processes have it open the name can go; the memory then ends with the processes, however they
    end.
    """
    import deepspeed

    deepspeed.init_distributed("nccl" if device == "cuda" else "gloo")
    torch.distributed.barrier()
    group = f"{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}"
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{group}_*"):
        buffer.unlink(missing_ok=True)


class DeepSpeedEngine:
    """DeepSpeed's ZeRO over all processes. A step that must not be taken is given a gradient that is not finite, which
    DeepSpeed's own overflow handling throws away at every stage; without ZeRO, where it has none, the gradients are dropped
    here."""

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
        """See Engine. DeepSpeed makes its optimiser state in its first step, so one is taken at rate zero, then overwritten, on
        the first of some batches that has a finite gradient: which of the task's batches it is does not matter."""
        count = f"optimizer.{next(self.task.model.named_parameters())[0]}.step"  # the same for every parameter
        if count not in saved:
            return
        updates = int(saved[count])
        if not self.zero:
            set_named_state(self.task.model, self.optimizer, saved)
            self.updates = updates
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        last = saved.record["step"]
        if not any(self.step(step, 0.0, None)[1] for step in range(last, max(last - TRIES, -1), -1)):
            raise DivergedError(
                f"no batch of {TRIES} has a finite gradient at the weights of {saved.path}; lower the learning rate"
            )
        self._link_states()
        for name, parameter in self.task.model.named_parameters():
            device = self.engine.device
            safe_set_full_fp32_param(parameter, saved[f"model.{name}"].float().to(device))
            for key in ("exp_avg", "exp_avg_sq"):
                safe_set_full_optimizer_state(parameter, saved[f"optimizer.{name}.{key}"].float().to(device), key)
        self.updates = updates
        for state in self.optimizer.optimizer.state.values():
            state["step"] = state["step"].fill_(self.updates) if isinstance(state["step"], Tensor) else self.updates

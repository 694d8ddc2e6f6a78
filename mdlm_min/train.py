"""The training loop. What is trained, on what and how it is judged is a Task; where it is recorded is a run folder."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mdlm_min.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from mdlm_min.errors import InputError, RunError
from mdlm_min.evidence.run_folder import Row, RunFolder
from mdlm_min.throughput import Work

OPTIMIZERS = ("adamw", "sgd")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation of one run. Weight decay acts on matrices only, as in nanoGPT. The rate warms up linearly and then stays,
    or falls along a half cosine to a tenth of itself ("cosine", nanoGPT's schedule)."""

    steps: int = 1000
    eval_every: int = 50
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    momentum: float = 0.0  # of "sgd"
    warmup: int = 0
    schedule: str = "constant"
    clip: float = 0.0  # the gradient's norm is at most this; 0 for no limit
    unit_gradient: bool = False  # the gradient is scaled to norm 1, so that no arm takes larger steps than another

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}: {getattr(self, name)} is not allowed; at least 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"train.optimizer: {self.optimizer!r} is unknown; allowed: {', '.join(OPTIMIZERS)}")
        if not 0 <= self.momentum < 1 or (self.momentum and self.optimizer != "sgd"):
            raise InputError(f"train.momentum: {self.momentum} is not allowed; 0 to below 1, and only with train.optimizer = sgd")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"train.schedule: {self.schedule!r} is unknown; allowed: constant, cosine")
        if not 0 <= self.clip < math.inf or (self.clip and self.unit_gradient):
            raise InputError(f"train.clip: {self.clip} is not allowed; at least 0, and 0 where train.unit_gradient is set")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"train.learning_rate: {self.learning_rate} is not allowed; above 0")

    def rate_at(self, step: int) -> float:
        """Learning rate of the step after `step` steps."""
        rate = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant" or step < self.warmup:
            return rate
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


class Task(Protocol):
    """What the loop trains. All its randomness is a function of the seed and the step."""

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""

    @property
    def work(self) -> Work | None:
        """What a step does, for the progress line; None where that is not counted."""

    def loss(self, step: int) -> Tensor:
        """Training loss at this step, a scalar with a gradient."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of the weights after `step` steps, the same names every time. Counts gathered since the last call are reset."""

    def is_done(self, rows: list[Row]) -> bool:
        """Whether to stop before the last step, given all metrics so far."""


def check_device(device: str) -> None:
    """Raise InputError for a device that is not to be had here."""
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise InputError(f"device: {device!r} is not to be had here; allowed: cpu" + ", cuda" * torch.cuda.is_available())


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (fused) or plain SGD with the configured decay on matrices and none on vectors."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def train(
    task: Task, config: TrainConfig, folder: RunFolder, progress: Progress, checkpoint_seconds: float | None = None
) -> None:
    """Train to the end, or go on from the newest checkpoint in `folder`; the metrics are the same bits either way.

    Checkpoints are taken at evaluations, at most one in `checkpoint_seconds` (default: MDLM_CHECKPOINT_SECONDS, or 20).
    Raises RunError for a loss that is not finite; the checkpoint before it is kept.
    """
    if checkpoint_seconds is None:
        checkpoint_seconds = float(os.environ.get("MDLM_CHECKPOINT_SECONDS", "20"))
    optimizer = make_optimizer(task.model, config)
    first, seconds = 0, 0.0
    if saved := checkpoints(folder.checkpoints):
        record = load_checkpoint(saved[-1], task.model, optimizer)
        first, seconds = record["step"], record["seconds"]
        folder.log(f"resumed at step {first}")
    rows = folder.keep_metrics_until(first if saved else -1)
    done = bool(rows) and (first >= config.steps or task.is_done(rows))
    total = torch.zeros((), device=next(task.model.parameters()).device)
    count = 0
    started = last_saved = last_said = time.monotonic()
    step = first
    while not done:
        if (step % config.eval_every == 0 and not (rows and rows[-1]["step"] == step)) or step == config.steps:
            loss = float(total) / count if count else math.nan
            if count and not math.isfinite(loss):
                raise RunError(
                    f"loss is {loss} between steps {step - count} and {step}; lower train.learning_rate. The last good checkpoint is kept"
                )
            total.zero_()
            count = 0
            row: Row = {"step": float(step), "loss": loss, **task.evaluate(step)}
            folder.append_metrics(row)
            rows.append(row)
            done = step >= config.steps or task.is_done(rows)
            now = time.monotonic()
            if done or now - last_saved >= checkpoint_seconds:
                last_saved = now
                save_checkpoint(folder.checkpoints, step, task.model, optimizer, {"seconds": seconds + now - started})
            if done or now - last_said >= 10 or step == first:
                last_said = now
                line = progress_line(row, config.steps, (step - first) / max(now - started, 1e-9), task.work)
                folder.log(line)
                progress(line)
        if done:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.rate_at(step)
        loss_now = task.loss(step)
        optimizer.zero_grad(set_to_none=True)
        loss_now.backward()
        limit_gradient(task.model, config)
        optimizer.step()
        total += loss_now.detach()
        count += 1
        step += 1
    seconds += time.monotonic() - started
    folder.log(f"finished at step {step}")
    folder.finish({"steps": step, "seconds": round(seconds, 3)})


def limit_gradient(model: nn.Module, config: TrainConfig) -> None:
    """Clip the gradient's norm, or scale it to 1, as configured."""
    if config.clip:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    elif config.unit_gradient:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        for gradient in gradients:
            gradient.div_(norm.clamp(min=1e-12))


def progress_line(row: Row, steps: int, rate: float, work: Work | None = None) -> str:
    """What a person wants to know of a running run; `rate` in steps per second, evaluations included."""
    left = format_seconds((steps - row["step"]) / rate if rate else math.nan)
    speed = f"  {work.describe(rate)}" if work and rate else ""
    shown = [(name, value) for name, value in row.items() if name != "step" and not math.isnan(value)][:4]  # rows can be long
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in shown)
    return f"step {row['step']:.0f}/{steps}  {rate:.1f} steps/s{speed}  {left} left at most  {metrics}"


def format_seconds(seconds: float) -> str:
    """Such as 1:02:03, or ? where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"

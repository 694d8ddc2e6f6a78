"""The training loop. What is trained, on what and how it is judged is a Task; how a step is taken is an engine's business
(engine.py); where it is recorded is a run folder."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mdlm_min.model.flops import Work
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.training import distributed
from mdlm_min.training.checkpoint import Checkpoint, checkpoints, save_checkpoint
from mdlm_min.training.engine import Engine, TorchEngine
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig
from mdlm_min.training.signals import on_stop_signals
from mdlm_min.training.task import Task
from mdlm_min.training.tensorboard_log import open_board

Progress = Callable[[str], None]


def check_device(device: str) -> None:
    """Raise InputError for a device that is not to be had here."""
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise InputError(f"device: {device!r} is not to be had here; allowed: cpu" + ", cuda" * torch.cuda.is_available())


@dataclass
class _Progress:
    """What a checkpoint records besides tensors: time spent, and the losses since the last evaluation."""

    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    guard: dict[str, float] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)


def train(
    task: Task,
    config: TrainConfig,
    folder: RunFolder,
    progress: Progress,
    engine_of: Callable[[Task, TrainConfig], Engine] | None = None,
) -> None:
    """Train to the end, or go on from the newest checkpoint in `folder`; the metrics are the same bits either way.

    Checkpoints are taken every `config.checkpoint_seconds` (MDLM_CHECKPOINT_SECONDS overrides it), at the end, and on SIGTERM,
    SIGINT or a file `stop` in the folder, upon which KeyboardInterrupt is raised. `engine_of` makes the engine (default: plain torch) once the weights are in place.
    Raises RunError for a loss that is not finite where `config.spike` does not skip it; the checkpoint before it is kept.
    """
    checkpoint_seconds = float(os.environ.get("MDLM_CHECKPOINT_SECONDS", config.checkpoint_seconds))
    saved = Checkpoint(found[-1]) if (found := checkpoints(folder.checkpoints)) else None
    before = _Progress()
    first = 0
    if saved:
        first = saved.record["step"]
        before = _Progress(**{name: saved.record[name] for name in _Progress.__dataclass_fields__})
        task.model.load_state_dict({name: saved[f"model.{name}"] for name in task.model.state_dict()})
    engine = (engine_of or TorchEngine)(task, config)
    device = next(task.model.parameters()).device
    guard = SpikeGuard(config.spike, **before.guard) if config.spike else None  # type: ignore[arg-type]
    if saved:
        engine.restore(saved)
        task.restore(before.task)
        folder.log(f"resumed at step {first}")
    rows = folder.keep_metrics_until(first if saved else -1)
    write_events = open_board(folder.path, first if saved else -1)
    done = bool(rows) and (first >= config.steps or task.is_done(rows))
    total = torch.tensor(before.loss_sum, device=device)
    count = before.loss_count
    started = last_saved = last_said = time.monotonic()
    step = first

    def mean_loss() -> float:
        loss = float(total) / count if count else math.nan
        if count and not math.isfinite(loss):
            raise RunError(
                f"loss is {loss} between steps {step - count} and {step}; lower train.learning_rate. The last good checkpoint is kept"
            )
        return loss

    def finite() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in engine.tensors():
            if not torch.isfinite(tensor).all():
                raise RunError(
                    f"{name} is not finite after {step} steps; lower train.learning_rate. The last good checkpoint is kept"
                )
            yield name, tensor

    def save() -> None:
        nonlocal last_saved
        mean_loss()
        kept = {name: value for name, value in vars(guard).items() if name not in ("spike", "patience")} if guard else {}
        record = _Progress(before.seconds + time.monotonic() - started, float(total), count, kept, task.state())
        save_checkpoint(folder.checkpoints, step, finite(), vars(record))
        last_saved = time.monotonic()

    wishes: list[bool] = []
    with on_stop_signals(lambda: wishes.append(True)):
        while not done:
            if (step % config.eval_every == 0 and not (rows and rows[-1]["step"] == step)) or step == config.steps:
                loss = mean_loss()
                total.zero_()
                count = 0
                skips = {"skipped": float(guard.skipped)} if guard else {}
                row: Row = {"step": float(step), "loss": loss, **skips, **task.evaluate(step)}
                folder.append_metrics(row)
                write_events(row)
                rows.append(row)
                done = step >= config.steps or task.is_done(rows)
                now = time.monotonic()
                if done or now - last_said >= 10 or step == first:
                    last_said = now
                    line = progress_line(row, config.steps, (step - first) / max(now - started, 1e-9), task.work)
                    folder.log(line)
                    progress(line)
            if time.monotonic() - last_said >= 10:
                last_said = time.monotonic()
                mean = {"step": float(step), "loss": mean_loss()}
                progress(progress_line(mean, config.steps, (step - first) / max(last_said - started, 1e-9), task.work))
            due = done or time.monotonic() - last_saved >= checkpoint_seconds
            due, stop = distributed.any_of(due, bool(wishes) or folder.stop_requested(), device=device)
            if (due or stop) and math.isfinite(checkpoint_seconds):
                save()
            if stop and not done:
                folder.log(f"stopped at step {step} as asked")
                folder.clear_stop_request()
                raise KeyboardInterrupt
            if done:
                break
            loss_now, taken = engine.step(step, config.rate_at(step), guard)
            if guard:
                guard.record(float(loss_now), taken)
            if taken:
                total += loss_now
                count += 1
            else:
                folder.log(f"step {step} skipped: loss {float(loss_now):.4g}")
            step += 1
    folder.log(f"finished at step {step}")
    folder.finish({"steps": step, "seconds": round(before.seconds + time.monotonic() - started, 3)})


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

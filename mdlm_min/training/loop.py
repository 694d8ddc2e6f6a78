"""The training loop. What is trained, on what and how it is judged is a Task; how a step is taken is an engine's business
(engine.py); where it is recorded is a run folder."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mdlm_min.model.flops import Work
from mdlm_min.run.errors import DivergedError, InputError
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.run.signals import on_stop_signals
from mdlm_min.run.time_left import format_seconds
from mdlm_min.training import distributed
from mdlm_min.training.checkpoint import Checkpoint, checkpoints, save_checkpoint
from mdlm_min.training.engine import Engine, TorchEngine
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig
from mdlm_min.training.task import Task
from mdlm_min.training.tensorboard_log import open_tensorboard_log

Progress = Callable[[str], None]
EngineMaker = Callable[[Task, TrainConfig], Engine]
SAY_EVERY = 2.0  # seconds between two lines of progress


def check_device(device: str) -> None:
    """Raise InputError for a device that is not available on this machine."""
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise InputError(
            f"device: {device!r} is not available on this machine; allowed: cpu" + ", cuda" * torch.cuda.is_available()
        )


def train(task: Task, config: TrainConfig, folder: RunFolder, progress: Progress, engine_of: EngineMaker = TorchEngine) -> None:
    """Train to the last step, or resume from the newest checkpoint in `folder`: see Trainer."""
    Trainer(task, config, folder, progress, engine_of).run()


class Trainer:
    """One run: steps, evaluations, checkpoints, the end. A resumed run gives the same metrics as an undisturbed one, bit for bit
    on a CPU.

    A checkpoint is written every `config.checkpoint_seconds` (MDLM_CHECKPOINT_SECONDS overrides it; none with inf), at the end,
    and upon a stop request (SIGTERM, SIGINT, or a file `stop` in the folder), after which `run` raises KeyboardInterrupt.
    `engine_of` makes the engine once the weights are in place. Raises DivergedError for a loss or gradient that is not finite
    where `config.spike` does not skip it, and keeps the checkpoint before it; InputError for a damaged checkpoint or metrics that
    are not those that it was written with.
    """

    def __init__(
        self, task: Task, config: TrainConfig, folder: RunFolder, progress: Progress, engine_of: EngineMaker = TorchEngine
    ) -> None:
        self.task, self.config, self.folder, self.progress = task, config, folder, progress
        self.checkpoint_seconds = checkpoint_seconds(config)
        self.guard = SpikeGuard(config.spike) if config.spike else None
        self.step = self.first_step = 0
        self.rows: list[Row] = []
        self.seconds_before = 0.0
        self.stop_requested = False
        found = checkpoints(folder.checkpoints)
        saved = Checkpoint(found[-1]) if found else None
        if saved:
            task.model.load_state_dict({name: saved[f"model.{name}"] for name in task.model.state_dict()})
        self.engine = engine_of(task, config)  # which may move the model
        self.loss_sum = torch.zeros((), device=next(task.model.parameters()).device)  # since the last evaluation
        self.loss_count = 0  # over how many steps
        if saved:
            self._restore(saved)
        else:
            folder.drop_metrics()
        self.write_event = open_tensorboard_log(folder.path, self.step if saved else -1)
        self.done = bool(self.rows) and (self.step >= config.steps or task.is_done(self.rows))
        self.started = self.last_saved = self.last_said = time.monotonic()

    def run(self) -> None:
        """Train until the last step or until the task is done, then mark the folder as finished."""
        with on_stop_signals(self._request_stop):
            while not self.done:
                if self._evaluation_is_due():
                    self._evaluate()
                self._say_if_due()
                self._save_if_due()
                if not self.done:
                    self._take_step()
        self.folder.log(f"finished at step {self.step}")
        self.folder.finish({"steps": self.step, "seconds": round(self._seconds(), 3)})

    def _request_stop(self) -> None:
        self.stop_requested = True

    def _seconds(self) -> float:
        """Time spent on this run, earlier starts included."""
        return self.seconds_before + time.monotonic() - self.started

    def _evaluation_is_due(self) -> bool:
        fresh = not (self.rows and self.rows[-1]["step"] == self.step)
        return (self.step % self.config.eval_every == 0 and fresh) or self.step == self.config.steps

    def _evaluate(self) -> None:
        """Write a row of metrics and find out whether this was the last one."""
        row: Row = {"step": float(self.step), "loss": self._mean_loss()}
        self.loss_sum.zero_()
        self.loss_count = 0
        if self.guard:
            row["skipped"] = float(self.guard.skipped)
        row |= self.task.evaluate(self.step)
        first, now = (found.get("valid_loss", math.nan) for found in (self.rows[0] if self.rows else row, row))
        if math.isfinite(first) and not math.isfinite(now):  # where nothing is held out it never is a number
            raise DivergedError(
                f"valid_loss is {now} after step {self.step}; lower the learning rate. The last good checkpoint is kept"
            )
        self.folder.append_metrics(row)
        self.write_event(row)
        self.rows.append(row)
        self.done = self.step >= self.config.steps or self.task.is_done(self.rows)
        if self.done or self.step == self.first_step or self._silent_for(SAY_EVERY):
            line = self._progress_line(row)
            self.folder.log(line)
            self._say(line)

    def _mean_loss(self) -> float:
        """Mean training loss since the last evaluation; not a number where there was no step."""
        if not self.loss_count:
            return math.nan
        loss = float(self.loss_sum) / self.loss_count
        if not math.isfinite(loss):
            raise DivergedError(
                f"loss is {loss} between steps {self.step - self.loss_count} and {self.step}; "
                "lower the learning rate. The last good checkpoint is kept"
            )
        return loss

    def _silent_for(self, seconds: float) -> bool:
        return time.monotonic() - self.last_said >= seconds

    def _say_if_due(self) -> None:
        if self._silent_for(SAY_EVERY):
            line = self._progress_line({"step": float(self.step), "loss": self._mean_loss()})
            self._say(line + (_last_evaluation(self.rows[-1]) if self.rows else ""))

    def _progress_line(self, row: Row) -> str:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        return progress_line(row, self.config.steps, (self.step - self.first_step) / elapsed, self.task.work)

    def _say(self, line: str) -> None:
        self.last_said = time.monotonic()
        self.progress(line)

    def _save_if_due(self) -> None:
        """Write a checkpoint when one is due on any process. Raises KeyboardInterrupt after one that a stop request asked for."""
        due = self.done or time.monotonic() - self.last_saved >= self.checkpoint_seconds
        stop = self.stop_requested or self.folder.stop_requested()
        due, stop = distributed.any_of(due, stop)
        if (due or stop) and math.isfinite(self.checkpoint_seconds):
            self._save()
        if stop and not self.done:
            kept = "" if math.isfinite(self.checkpoint_seconds) else "; train.checkpoint_seconds = inf: no state is kept"
            self.folder.log(f"stopped at step {self.step} as asked{kept}")
            if kept:
                self._say(f"stopped{kept}, and the same command begins anew")
            self.folder.clear_stop_request()
            raise KeyboardInterrupt

    def _save(self) -> None:
        self._mean_loss()  # a loss that is not finite must not reach a checkpoint
        record: dict[str, Any] = {
            "seconds": self._seconds(),
            "loss_sum": float(self.loss_sum),
            "loss_count": self.loss_count,
            "guard": self.guard.state() if self.guard else {},
            "task": self.task.state(),
            "metrics": self.folder.metrics_mark(),
        }
        save_checkpoint(self.folder.checkpoints, self.step, self._finite_tensors(), record)
        self.last_saved = time.monotonic()

    def _finite_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.engine.tensors():
            if not torch.isfinite(tensor).all():
                raise DivergedError(
                    f"{name} is not finite after {self.step} steps; lower the learning rate. The last good checkpoint is kept"
                )
            yield name, tensor

    def _restore(self, saved: Checkpoint) -> None:
        """Restore the state of a checkpoint; the weights are in place already."""
        try:
            record = {
                name: saved.record[name] for name in ("step", "seconds", "loss_sum", "loss_count", "guard", "task", "metrics")
            }
        except KeyError as error:
            raise InputError(f"checkpoint {saved.path} has no field {error}; delete {saved.path.parent} to run again") from error
        self.rows = self.folder.restore_metrics(record["metrics"])
        self.step = self.first_step = record["step"]
        self.seconds_before, self.loss_count = record["seconds"], record["loss_count"]
        self.loss_sum += record["loss_sum"]
        if self.guard:
            self.guard = SpikeGuard(self.config.spike, **record["guard"])
        self.engine.restore(saved)
        self.task.restore(record["task"])
        self.folder.log(line := f"resumed at step {self.step}")
        self._say(line)

    def _take_step(self) -> None:
        loss, taken = self.engine.step(self.step, self.config.rate_at(self.step), self.guard)
        if self.guard:
            self.guard.record(float(loss), taken)
        if taken:
            self.task.took(self.step)
            self.loss_sum += loss
            self.loss_count += 1
        elif self.guard is None:
            raise DivergedError(
                f"the gradient of step {self.step} is not finite; lower the learning rate, or set train.spike. "
                "The last good checkpoint is kept"
            )
        else:
            self.folder.log(f"step {self.step} skipped: loss {float(loss):.4g}")
        self.step += 1


def checkpoint_seconds(config: TrainConfig) -> float:
    """The configured ones, or those of MDLM_CHECKPOINT_SECONDS. Raises InputError where that is no number of seconds."""
    if (asked := os.environ.get("MDLM_CHECKPOINT_SECONDS")) is None:
        return config.checkpoint_seconds
    try:
        return replace(config, checkpoint_seconds=float(asked)).checkpoint_seconds
    except (ValueError, InputError) as error:
        raise InputError(f"MDLM_CHECKPOINT_SECONDS: {asked!r} is not allowed; a number of seconds from 0, or inf") from error


def _last_evaluation(row: Row) -> str:
    """What an evaluation has found, in short: its line of progress may have been overwritten at once."""
    shown = [(name, value) for name, value in row.items() if name not in ("step", "loss", "skipped") and not math.isnan(value)]
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in shown[:2])
    return f"  (step {row['step']:.0f}: {metrics})" if metrics else ""


def progress_line(row: Row, steps: int, rate: float, work: Work | None = None) -> str:
    """Step, speed, time left and the first metrics of a running run; `rate` in steps per second, evaluations included."""
    left = f"  {format_seconds((steps - row['step']) / rate)} left at most" if rate else ""
    speed = f"  {rate:.1f} steps/s{f'  {work.describe(rate)}' if work else ''}" if rate else ""
    shown = [(name, value) for name, value in row.items() if name != "step" and not math.isnan(value)][:4]  # rows can be long
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in shown)
    return f"step {row['step']:.0f}/{steps}{speed}{left}  {metrics}"

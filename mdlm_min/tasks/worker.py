"""One process of a run on several: what training/launch.py starts, as `python -m mdlm_min.tasks.worker TASK FOLDER`.

TASK is the name by which the launching task asked for itself; settings and seed are read from the run folder.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import locked, write_whole
from mdlm_min.run.run_folder import Follower, RunFolder, settings_of
from mdlm_min.tasks import finetune, pretrain
from mdlm_min.training import distributed
from mdlm_min.training.deepspeed_engine import DeepSpeedEngine, deepspeed_config, join_processes
from mdlm_min.training.launch import MARK
from mdlm_min.training.loop import train
from mdlm_min.training.task import Task

# Of each task: its configuration, a dataclass with train, engine, batch, dtype and device, and what makes the task of a run
# folder.
TASKS: dict[str, tuple[type[Any], Callable[[dict[str, Any], int, RunFolder], Task]]] = {
    "pretrain": (pretrain.PretrainConfig, pretrain.prepare),
    "finetune": (finetune.FinetuneConfig, finetune.prepare),
}


def work(name: str, path: Path) -> int:
    """One worker's life; returns its exit code."""
    kind, prepare = TASKS[name]
    config_json = RunFolder(path).read_json("config.json")
    settings = {name: value for name, value in settings_of(config_json).items() if name != "kind"}  # the experiment's own word
    config = build(kind, settings)
    if config.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)
    join_processes(config.device)
    first = distributed.rank() == 0
    folder = RunFolder(path) if first else Follower(path)
    _die_with_parent(first)
    try:
        with locked(path / ("workers.lock" if first else f".lock-{distributed.rank()}"), wait_seconds=30.0):
            task = prepare(settings, config_json["seed"], folder)
            ours = deepspeed_config(config.engine, config.train, config.batch, distributed.world(), config.dtype)
            folder.write_json("deepspeed.json", ours)
            train(
                task,
                config.train,
                folder,
                lambda line: print(f"{MARK}{line}", flush=True) if first else None,
                engine_of=lambda made, train_config: DeepSpeedEngine(made, train_config, config.engine, ours),
            )
    except (InputError, RunError, KeyboardInterrupt) as error:
        if not (path / "error.json").exists():
            write_whole(path / "error.json", json.dumps({"kind": type(error).__name__, "text": str(error)}))
        # After a stop every process ends by itself; a code other than 0 would make the launcher kill those that are not done yet.
        return 0 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, InputError) else 3
    return 0


def _die_with_parent(first: bool) -> None:
    """The first worker ends with the process that launched it, and the launcher ends the others: a run has one group of
    workers."""
    parent, _, node = os.environ.get("MDLM_PARENT", "").partition(" ")
    if not (first and parent and node == os.uname().nodename):
        return

    def watch() -> None:
        while True:
            try:
                os.kill(int(parent), 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = work(sys.argv[-2], Path(sys.argv[-1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: a thread of gloo may still be releasing tensors, and one that needs an interpreter that is ending aborts the
    # process
    # ("terminate called without an active exception", exit code -6), after the run itself has ended well.
    os._exit(code)

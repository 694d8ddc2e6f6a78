"""A run on several processes through DeepSpeed's launcher, on this machine or on the nodes of a hostfile.

The launching process waits, passes progress on, and asks the run to stop by leaving a file `stop` in its folder, which works on
every node and gives a large model the time to write its checkpoint. Each worker runs `python -m mdlm_min.training.launch FOLDER`. The run folder must be seen
under the same path on all nodes.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import locked, write_whole
from mdlm_min.run.run_folder import Follower, RunFolder, settings_of
from mdlm_min.training import distributed
from mdlm_min.training.engine import DeepSpeedEngine, EngineConfig, deepspeed_config
from mdlm_min.training.signals import on_stop_signals

MARK = "mdlm progress: "  # what a worker's progress line begins with, among the libraries' own output


def launch_line(engine: EngineConfig, folder: Path) -> list[str]:
    """The command that starts the workers of a run folder."""
    script = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if script is None:
        raise InputError("engine.kind: 'deepspeed' is not installed; allowed: torch, or pip install 'mdlm-min[deepspeed]'")
    nodes = ["--hostfile", engine.hostfile] if engine.hostfile else []
    return [
        sys.executable, script, *nodes, "--num_gpus", str(engine.processes), "--master_port", str(_free_port()), "--no_local_rank", "--module", "mdlm_min.training.launch", str(folder.resolve()),
    ]  # fmt: skip


def launch(engine: EngineConfig, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Start the workers and wait for their end. Raises what stopped them: InputError, RunError, or KeyboardInterrupt after a stop."""
    line = launch_line(engine, folder.path)
    for name in ("stop", "error.json"):
        (folder.path / name).unlink(missing_ok=True)
    said = f"launch: {shlex.join(line)}"
    progress(said)
    folder.log(said)
    environment = os.environ | {"MDLM_PARENT": f"{os.getpid()} {os.uname().nodename}"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"  # ninja, beside our Python
    with on_stop_signals(lambda: (folder.path / "stop").touch()), (folder.path / "launch.txt").open("a") as record:
        # In a session of its own: Ctrl-C must not reach the workers, who stop together.
        child = subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
        )  # fmt: skip
        assert child.stdout is not None
        for text in child.stdout:
            record.write(text)
            record.flush()
            if text.startswith(MARK):
                progress(text.removeprefix(MARK).rstrip())
        code = child.wait()
    (folder.path / "stop").unlink(missing_ok=True)
    if (folder.path / "error.json").exists():
        error = folder.read_json("error.json")
        raise {"InputError": InputError, "RunError": RunError}.get(error["kind"], KeyboardInterrupt)(error["text"])
    if code or not (folder.path / "finished.json").exists():
        raise RunError(
            f"a process ended (exit code {code}) before the run did; {folder.path / 'launch.txt'} says why. The last checkpoint is kept"
        )


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def work(path: Path) -> int:
    """One worker's life; returns its exit code."""
    import deepspeed
    import torch

    from mdlm_min.run.config import build
    from mdlm_min.tasks import pretrain
    from mdlm_min.training.loop import train

    config_json = RunFolder(path).read_json("config.json")
    settings = settings_of(config_json)
    config = build(pretrain.PretrainConfig, settings)
    if config.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)
    deepspeed.init_distributed("nccl" if config.device == "cuda" else "gloo")
    first = distributed.rank() == 0
    folder = RunFolder(path) if first else Follower(path)
    _die_with_parent(first)
    try:
        with locked(path / ("workers.lock" if first else f".lock-{distributed.rank()}"), wait_seconds=30.0):
            task = pretrain.prepare(settings, config_json["seed"], folder)
            ours = deepspeed_config(config.engine, config.train, config.batch, distributed.world(), config.dtype)
            folder.write_json("deepspeed.json", ours)
            train(
                task, config.train, folder, lambda line: print(f"{MARK}{line}", flush=True) if first else None,
                engine_of=lambda made, train_config: DeepSpeedEngine(made, train_config, config.engine, ours),
            )  # fmt: skip
    except (InputError, RunError, KeyboardInterrupt) as error:
        if not (path / "error.json").exists():
            write_whole(path / "error.json", json.dumps({"kind": type(error).__name__, "text": str(error)}))
        # After a stop every process ends by itself; another code than 0 would make the launcher kill those who are not there yet.
        return 0 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, InputError) else 3
    return 0


def _die_with_parent(first: bool) -> None:
    """The first worker ends with the process that launched it, and the launcher ends the others: a run has one group of workers."""
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
    sys.exit(work(Path(sys.argv[-1])))

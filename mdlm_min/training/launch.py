"""A run on several processes through DeepSpeed's launcher, on this machine or on the nodes of a hostfile.

The launching process waits, passes progress on, and asks the run to stop by leaving a file `stop` in its folder, which works on
every node and gives a large model the time to write its checkpoint. Each worker runs `python -m mdlm_min.tasks.worker TASK
FOLDER`, which is known here by its name alone: tasks import this file. The run folder must be seen under the same path on all
nodes.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mdlm_min.run.errors import DivergedError, InputError, RunError
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.run.signals import on_stop_signals
from mdlm_min.training.compile_lock import left_behind
from mdlm_min.training.engine import EngineConfig

WORKER = "mdlm_min.tasks.worker"
MARK = "mdlm progress: "  # what a worker's progress line begins with, among the libraries' own output


def launch_line(task: str, engine: EngineConfig, folder: Path) -> list[str]:
    """The command that starts the workers of a run folder; `task` is a name of the worker's TASKS."""
    script = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if script is None:
        raise InputError("engine.kind: 'deepspeed' is not installed; allowed: torch, or pip install 'mdlm-min[deepspeed]'")
    nodes = ["--hostfile", engine.hostfile] if engine.hostfile else []
    return [
        sys.executable,
        script,
        *nodes,
        "--num_gpus",
        str(engine.processes),
        "--master_port",
        str(_free_port()),
        "--no_local_rank",
        "--module",
        WORKER,
        task,
        str(folder.resolve()),
    ]


def launch(task: str, engine: EngineConfig, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Start the workers and wait for their end. Raises what stopped them: InputError, RunError, or KeyboardInterrupt after a
    stop."""
    line = launch_line(task, engine, folder.path)
    if locks := left_behind():
        raise InputError(
            f"{locks[0]}: left behind by a compilation that was killed, and every run on DeepSpeed would wait for it; delete it, "
            f"unless another machine is compiling in this folder now"
        )
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
            line,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
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
        kinds = {kind.__name__: kind for kind in (InputError, RunError, DivergedError)}
        raise kinds.get(error["kind"], KeyboardInterrupt)(error["text"])
    if code or not (folder.path / "finished.json").exists():
        raise RunError(
            f"a process ended (exit code {code}) before the run did; {folder.path / 'launch.txt'} says why. The last "
            f"checkpoint is kept"
        )


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

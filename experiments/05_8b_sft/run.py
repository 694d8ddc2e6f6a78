"""One run: the base that others start from, the base as it is, one arm of fine-tuning, or an evaluation by lm-eval's tasks.

What loads torch is imported where it is used: a table is made again without it.
"""

import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mdlm_min.evaluation.paper_tasks import PAPER_TASKS
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import locked
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import EXERCISE_COLUMNS

KINDS = ("pretrain", "finetune", "untuned", "decode", "evaluate")
TASKS = ("mmlu", "mmlu_stem", "arc_challenge", "gpqa", "gsm8k", "math")  # of Tables 2 and 3
_TASK_NAMES = (*TASKS, *(PAPER_TASKS[name].offline for name in TASKS if PAPER_TASKS[name].offline))
PATIENCE = 6 * 3600.0  # seconds to wait for another process that trains the base; it is given a minute to begin


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.tasks import finetune, pretrain
    from mdlm_min.training.loop import check_device

    kind, rest = _parts(settings)
    if kind == "pretrain":
        pretrain.check(rest)
    elif kind == "evaluate":
        check_device(rest["device"])
        if find_spec("lm_eval") is None:
            raise InputError("kind: 'evaluate' needs lm-eval, which is not installed; `make setup` installs it")
        if unknown := [name for name in rest["tasks"].split(",") if name not in _TASK_NAMES]:
            raise InputError(f"tasks: {shown(unknown[0])} is unknown; allowed: {', '.join(_TASK_NAMES)}")
        if "start_run" not in settings:
            finetune.start_folder(rest["folder"])
    else:
        finetune.check(rest)
        if kind == "decode" and not (rest.get("items") and rest.get("generation_tokens")):
            raise InputError("items, generation_tokens: 0 is not allowed where ways of writing are compared; at least 1 of both")


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Do the run of these settings in its folder."""
    from mdlm_min.tasks import finetune, pretrain

    kind, rest = _parts(settings)
    if kind == "pretrain":
        pretrain.run(rest, seed, folder, progress)
        return
    if start := settings.get("start_run"):
        rest["folder" if kind == "evaluate" else "start"] = str(_finished(folder, start, progress))
    if kind == "finetune":
        finetune.run(rest, seed, folder, progress)
    elif kind in ("untuned", "decode"):
        _measured(kind, rest, seed, folder, progress)
    else:
        _evaluate(rest, folder, progress)


def _parts(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = settings.get("kind", "finetune")
    if kind not in KINDS:
        raise InputError(f"kind: {shown(kind)} is unknown; allowed: {', '.join(KINDS)}")
    return kind, {name: value for name, value in settings.items() if name not in ("kind", "start_run")}


def _finished(folder: RunFolder, run: str, progress: Callable[[str], None]) -> Path:
    """The folder of a run of the same tier and seed, "cell/arm" or "cell/same", of the same arm, once it is finished; another
    process may be at it."""
    run = run.replace("/same", f"/{folder.path.parent.name}")
    path = folder.path.parents[2] / run / folder.path.name
    given_up = time.monotonic() + 60
    while not any((path / name).exists() for name in ("finished.json", "lock")) and time.monotonic() < given_up:
        progress(f"waits for {run}")
        time.sleep(1)
    if path.is_dir() and not (path / "finished.json").exists():
        with locked(path / "lock", PATIENCE):
            pass
    if not (path / "finished.json").exists():
        raise RunError(f"{run} is not finished, and this run starts from it; the same command without --arms finishes it first")
    return path


def _measured(kind: str, settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """The start itself: scored like the fine-tuned ones, or asked to write in every way."""
    from mdlm_min.tasks import finetune

    started = time.monotonic()
    task = finetune.prepare(settings, seed, folder)
    folder.drop_metrics()
    found = task.decode() if kind == "decode" else task.evaluate(task.config.train.steps) | {"epoch": 0.0}
    folder.append_metrics({"step": 0.0, "loss": math.nan, **found})
    progress(f"{kind}: {len(found)} quantities")
    folder.finish({"steps": 0, "seconds": round(time.monotonic() - started, 3)})


def _evaluate(settings: dict[str, Any], folder: RunFolder, progress: Callable[[str], None]) -> None:
    """The paper's tasks, by lm-eval: a row of scores, and every item's, for paired tests."""
    from mdlm_min.evaluation.run import Request, evaluate
    from mdlm_min.tasks import finetune

    started = time.monotonic()
    model = {"folder": str(finetune.start_folder(settings["folder"])), "device": settings["device"], "dtype": settings["dtype"]}
    tasks = tuple(settings["tasks"].split(","))
    log = evaluate(Request(tasks, folder.path / "evaluation", limit=settings["limit"]), model)
    folder.drop_metrics()
    folder.append_metrics({"step": 0.0, **_scores(log["scores"])})
    documents = log["request"]["documents_sha256"]
    folder.write_json("data.json", {"sha256": documents, "device": settings["device"], "dtype": settings["dtype"]})
    progress(f"evaluated: {', '.join(tasks)}")
    folder.log(f"evaluated: {', '.join(tasks)}")
    folder.finish({"steps": 0, "seconds": round(time.monotonic() - started, 3)})


def _scores(scores: dict[str, dict[str, float]]) -> Row:
    """The score of each task that the paper reports; not a number where it was not evaluated."""
    found: Row = {}
    for name in TASKS:
        task = PAPER_TASKS[name]
        values = scores.get(task.task) or scores.get(task.offline) or {}
        found[name] = next((value for key, value in values.items() if key.split(" ")[0] == task.metric), math.nan)
    return found


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: NLL of held-out answers, both scorings of the exercises, the paper's tasks. What is measured
    of each way of writing stands in the curves."""
    last = rows[-1]
    names = ["valid_loss", "valid_error", *EXERCISE_COLUMNS, "test_loss", *TASKS]
    return [{**{name: last.get(name, math.nan) for name in names}, "last_step": last["step"]}]

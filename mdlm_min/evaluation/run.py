"""One evaluation: lm-eval's tasks on a model, the scores, and a log of every item for paired tests.

A folder of results holds results.json (scores, settings, speed) and items.jsonl: for each item its task, number, hash, scores
and, for choices, the NLL of each in nats; never a text. With `log_samples`, samples_TASK.jsonl holds lm-eval's full records,
texts included. Until all is evaluated, answers are kept in answers.partial, where the same command finds them after a kill. Of
GPQA neither text nor answers are kept: its authors ask that it is not posted in the clear.
"""

import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from mdlm_min.evaluation.gen_kwargs import one_name_each, parse_gen_kwargs
from mdlm_min.evaluation.harness import MDLM
from mdlm_min.evaluation.paper_tasks import OFFLINE, PAPER_TASKS, PaperTask, is_gpqa
from mdlm_min.model.identity import weights_sha256
from mdlm_min.run.config import differences, shown
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import check_writable, locked, no_empty_folder, write_whole
from mdlm_min.run.partial import beside, one_writer
from mdlm_min.run.record_log import RecordLog

evaluator.get_git_commit_hash = lambda: None  # of the working directory: outside a checkout git's complaint is printed
HUB = ("datasets", "huggingface_hub", "requests", "httpx", "fsspec", "urllib3")  # whose errors mean that data cannot be had
GROUPS = {"paper": list(PAPER_TASKS), "paper_offline": [one.offline for one in PAPER_TASKS.values() if one.offline]}
Log = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is evaluated. `tasks`: names of lm-eval's tasks, of offline ones, of PAPER_TASKS, or of GROUPS. `limit`: items of each
    task (0: all). `shots` and `gen_kwargs` replace the task's own. `cache`: answers are kept there for other evaluations, in a
    file for each model and its settings."""

    tasks: tuple[str, ...]
    output: Path
    limit: int = 0
    shots: int | None = None
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    chat: bool = False
    include_path: str = ""
    log_samples: bool = False
    cache: str = ""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InputError(f"tasks: none is given; allowed: {allowed_tasks()}")
        if self.limit < 0:
            raise InputError(f"limit: {self.limit} is not allowed; at least 1, or 0 for all items")
        if self.shots is not None and self.shots < 0:
            raise InputError(f"shots: {self.shots} is not allowed; at least 0")
        if self.include_path and not Path(self.include_path).is_dir():
            raise InputError(f"include_path: {self.include_path} is no folder; allowed: one of lm-eval's task files (.yaml)")
        if self.output.exists() and not self.output.is_dir():
            raise InputError(f"output: {self.output} is a file; allowed: a folder")
        check_writable(self.output / "results.json", "output")
        if self.cache:
            check_writable(Path(self.cache), "cache")
        sampled = {"do_sample": True} if self.gen_kwargs.get("temperature") else {}  # a task may say so itself
        parse_gen_kwargs({**sampled, **self.gen_kwargs})
        object.__setattr__(self, "gen_kwargs", one_name_each(self.gen_kwargs))  # they replace a task's own, by whatever name


def evaluate(request: Request, settings: dict[str, Any]) -> Log:
    """Evaluate the model that `settings` (HarnessConfig's fields) describe; writes the folder and returns results.json.

    All tasks are built and checked before the first is evaluated; then the folder is locked. Raises InputError for an
    unknown task, for one whose data cannot be had or that would be asked twice with different settings, for shots or generation
    settings that one cannot have or none has a use for, for a folder that another evaluation is writing or that holds the
    results of another one, and, when its task is reached, for an item that the model cannot read.
    """
    names = list(dict.fromkeys(task for name in request.tasks for task in GROUPS.get(name, [name])))
    tasks = [_described(name) for name in names]
    model = MDLM(**settings)
    manager = _task_manager([task.task for task in tasks], request.include_path)
    documents = _check_tasks(tasks, request, manager, model)
    with no_empty_folder(request.output), locked(request.output / "lock"):
        of = _configuration(request, model, documents)
        _check_results(request.output, of)
        cache = Path(f"{request.cache}-{_digest(of['model'])}") if request.cache else None
        with one_writer(cache) if cache else nullcontext():  # the folder is locked already
            begun = RecordLog(beside(request.output / "answers"), of["model"], "output")
            model.known = RecordLog(cache, of["model"], "cache") if cache else begun
            log = _evaluate(tasks, request, manager, model, of)
            begun.remove()
            return log


class Tasks(TaskManager):  # type: ignore[misc]
    """lm-eval's tasks, each built once: what was checked is what is evaluated."""

    def __init__(self, **places: Any) -> None:
        super().__init__(**places)
        self._built: dict[str, Any] = {}

    def load(self, task_list: Any) -> Any:
        """See TaskManager."""
        key = repr(task_list)
        if key not in self._built:
            self._built[key] = super().load(task_list)
        return self._built[key]


def allowed_tasks() -> str:
    """The names that --tasks takes, in words."""
    offline = [task.offline for task in PAPER_TASKS.values() if task.offline]
    return f"{', '.join((*GROUPS, *PAPER_TASKS, *offline))}, or names of lm-eval's"


def _task_manager(names: list[str], include_path: str) -> Tasks:
    """The tasks that may be asked for: ours and those of `include_path`; lm-eval's own, whose index takes seconds, only where a
    name is not among these. Raises InputError for an unknown name."""
    places = [str(OFFLINE), *([include_path] if include_path else [])]
    for defaults in (False, True):
        manager = Tasks(include_path=places, include_defaults=defaults)
        unknown = sorted(set(names) - {*manager.all_tasks, *manager.all_groups, *manager.all_tags})
        if not unknown:
            return manager
    raise InputError(f"tasks: {shown(unknown[0])} is unknown; allowed: {allowed_tasks()}")


def _configuration(request: Request, model: MDLM, documents: str) -> Log:
    """What results depend on: the model with its settings, and what is asked of it (`documents`: their hash)."""
    free = ("folder", "batch_tokens", "batch_size")
    settings = {name: value for name, value in asdict(model.config).items() if name not in free}
    text = model.text
    settings |= {
        "weights_sha256": weights_sha256(text.model), "shape": asdict(text.model.config), "tokenizer": text.tokenizer.identity,
        "mask_token": text.mask_token, "end_token": text.end_token, "dtype": str(text.dtype), "chat": request.chat,
    }  # fmt: skip
    asked = {name: value for name, value in asdict(request).items() if name not in ("output", "log_samples", "cache")}
    asked |= {"documents_sha256": documents, "lm_eval": lm_eval.__version__}
    found: Log = json.loads(json.dumps({"model": settings, "request": asked}))
    return found


def _digest(of: Log) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def _check_results(folder: Path, of: Log) -> None:
    """Raise InputError where the folder holds the results of another evaluation: they would be lost, or stand beside ours."""
    path = folder / "results.json"
    if not path.exists():
        if left := sorted([*folder.glob("items.jsonl"), *folder.glob("samples_*.jsonl")]):
            raise InputError(
                f"output: {left[0]} is of an evaluation whose results.json is gone; delete it, or choose another output"
            )
        return
    try:
        there = json.loads(path.read_text())
        changed = differences({name: there[name] for name in of}, of)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"output: {path} is no results.json of ours ({type(error).__name__}); choose another output") from error
    if changed:
        said = [line for line in changed if "documents_sha256" not in line] or changed  # other tasks have other documents
        raise InputError(
            f"output: {path} holds the results of another evaluation ({'; '.join(said)}); delete the folder, or choose another "
            "output"
        )


def _evaluate(tasks: list[PaperTask], request: Request, manager: Tasks, model: MDLM, of: Log) -> Log:
    log: Log = {"folder": model.config.folder, **of, "scores": {}, "shots": {}, "items_cut": 0}
    items: list[Log] = []
    samples_files: list[Path] = []
    recorded: set[str] = set()  # a task may be asked for alone and in a group, as MMLU-stem in MMLU: its items count once
    if kept := len(model.known.records):
        print(f"{model.known.path}: {kept} answers are kept", file=sys.stderr)
    for task in tasks:
        found = _evaluate_task(task, request, manager, model)
        log["scores"] |= _scores(found)
        log["shots"] |= found["n-shot"]
        for name, samples in sorted(found["samples"].items()):
            if name in recorded:
                continue
            recorded.add(name)
            requests = {sample["doc_id"]: sample["arguments"] for sample in samples}  # a document is there once for each filter
            log["items_cut"] += sum(any(map(model.is_cut, several)) for several in requests.values())
            items += [_item(name, sample) for sample in samples]
            if request.log_samples and not is_gpqa(name):
                samples_files.append(request.output / f"samples_{name}.jsonl")
                _write_lines(beside(samples_files[-1]), samples)
    log["generation"] = asdict(model.speed)
    # Not before all is evaluated: a folder's files are of one evaluation. results.json says of which, and so is the first.
    write_whole(request.output / "results.json", json.dumps(log, indent=2) + "\n")
    for path in samples_files:
        beside(path).replace(path)
    _write_lines(request.output / "items.jsonl", items)
    return log


def _described(name: str) -> PaperTask:
    """A task of the paper with its shots, by either name; another one with lm-eval's own settings (shots -1)."""
    for key, task in PAPER_TASKS.items():
        if name == key:
            return task
        if name == task.offline:
            return PaperTask(task.title, name, task.shots, task.items, task.metric, name, task.gen_kwargs)
    return PaperTask(name, name, -1, 0, "")


def _shots(task: PaperTask, request: Request) -> int | None:
    return request.shots if request.shots is not None else task.shots if task.shots >= 0 else None


def _check_tasks(tasks: list[PaperTask], request: Request, manager: Tasks, model: MDLM) -> str:
    """Build all tasks; returns the hash of the documents that are asked. Raises InputError as `evaluate`."""
    digest = hashlib.sha256()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    takes_shots = generates = False
    settings: dict[str, tuple[int | None, Log]] = {}  # of each task, its shots and how it generates
    for task in tasks:
        with _data_needed(task), _own_file(task, request):
            leaves = manager.load([task.task])["tasks"]
            for name, leaf in sorted(leaves.items()):
                for document in itertools.islice(leaf.eval_docs, request.limit or None):
                    digest.update(json.dumps([name, document], sort_keys=True, default=str).encode())
        for name, leaf in leaves.items():
            shots, generation = leaf.get_config("num_fewshot"), {}
            if shots != 0:  # lm-eval never changes 0
                takes_shots = True
                given = _shots(task, request)
                _check_shots(name, leaf, given or 0)
                shots = shots if given is None else given
            if leaf.get_config("output_type") == "generate_until":
                generates = True
                own = one_name_each(leaf.get_config("generation_kwargs"))
                leaf.set_config("generation_kwargs", own)  # lm-eval replaces them by name
                generation = {**own, **task.gen_kwargs, **request.gen_kwargs}
                model.generation(generation)
            if settings.setdefault(name, (shots, generation)) != (shots, generation):
                raise InputError(
                    f"tasks: {name} is asked for alone and in a group, with {settings[name][0]} and {shots} shots or other "
                    "generation settings; allowed: once, or with --shots and --gen-kwargs for both"
                )
    names = ", ".join(task.task for task in tasks)
    if request.shots and not takes_shots:
        raise InputError(f"shots: {request.shots} is not allowed with {names}, whose prompts are fixed; allowed: without --shots")
    if request.gen_kwargs and not generates:
        raise InputError(f"gen_kwargs: not allowed with {names}: nothing is generated; allowed: without --gen-kwargs")
    return digest.hexdigest()


def _check_shots(name: str, leaf: Any, shots: int) -> None:
    same = leaf.get_config("fewshot_split") == leaf.get_config("test_split")
    most = len(list(leaf.fewshot_docs())) - same  # an item is no example of itself
    if shots > most:
        raise InputError(f"shots: {shots} is not allowed with {name}; at most {most}, the examples that it has")


def _evaluate_task(task: PaperTask, request: Request, manager: Tasks, model: MDLM) -> Log:
    with _data_needed(task), _own_file(task, request):
        found: Log | None = lm_eval.simple_evaluate(
            model,
            tasks=[task.task],
            num_fewshot=_shots(task, request),
            limit=request.limit or None,
            gen_kwargs={**task.gen_kwargs, **request.gen_kwargs} or None,
            apply_chat_template=request.chat,
            task_manager=manager,
        )
    assert found is not None  # None is for the other processes of a distributed evaluation
    return found


@contextmanager
def _own_file(task: PaperTask, request: Request) -> Iterator[None]:
    """Raises InputError for whatever goes wrong in a task of the user's own files, which nobody has tried before."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        if not request.include_path or type(error).__module__.split(".")[0] in HUB:
            raise
        reason = (str(error).strip() or "no reason given").split("\n")[0]
        raise InputError(
            f"tasks: {task.task}: its file in include_path {request.include_path} cannot be used ({type(error).__name__}: "
            f"{shown(reason)})"
        ) from error


@contextmanager
def _data_needed(task: PaperTask) -> Iterator[None]:
    """Raises InputError where data cannot be had from the hub."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConnectionError) or type(error).__module__.split(".")[0] in HUB:
            reason = str(error).strip().split("\n")[0]
            instead = f"{task.offline} with MDLM_DATA, or " if task.offline and task.offline != task.task else ""
            raise InputError(
                f"tasks: {task.task}: its data cannot be had from the hub ({type(error).__name__}: {shown(reason)}); allowed "
                f"offline: {instead}a hub cache that was filled before"
            ) from error
        raise


def _scores(found: Log) -> dict[str, dict[str, float]]:
    """Numbers of each task and group: lm-eval's "acc,none" and "acc_stderr,none" as acc and acc_stderr; other filters by name."""
    scores = {}
    for name, values in {**found["results"], **found.get("groups", {})}.items():
        numbers = {key: float(value) for key, value in values.items() if "," in key and isinstance(value, int | float)}
        scores[name] = {key.removesuffix(",none").replace(",", " "): value for key, value in numbers.items()}
        if name in found["n-samples"]:
            scores[name]["items"] = float(found["n-samples"][name]["effective"])
    return scores


def _item(task: str, sample: Log) -> Log:
    """An item's record without any text."""
    scores = {name: sample[name] for name in sample["metrics"] if isinstance(sample[name], int | float)}
    record = {"task": task, "item": sample["doc_id"], "hash": sample["doc_hash"], "filter": sample["filter"], **scores}
    answers = sample["filtered_resps"]
    if answers and all(isinstance(one, list | tuple) and isinstance(one[0], float) for one in answers):
        record["nll"] = [-one[0] for one in answers]
    return record


def _write_lines(path: Path, records: Iterable[Log]) -> None:
    write_whole(path, "".join(json.dumps(one, default=handle_non_serializable, ensure_ascii=False) + "\n" for one in records))

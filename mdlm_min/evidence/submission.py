"""An entry of the contest as one folder, which can be sent and checked: the class, its runs with curves and logs, what it is.

README.md         what it is and where it comes from, in its author's words
submission.json   see Submission
schedule.py       the file of the class
table.csv, curves.csv.gz, runs.json    the runs, as golden.py has them
logs/CELL/SEED.txt                     the log of each run
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdlm_min.evidence import golden
from mdlm_min.evidence.experiment import Experiment, RunSpec
from mdlm_min.evidence.golden import Table
from mdlm_min.run.config import build, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256, write_whole
from mdlm_min.run.json_text import parse_json

TIER = "cpu"
_README = """# {name}

What this schedule does, where it comes from, and what was searched for it: written by you.
"""


@dataclass(frozen=True)
class Submission:
    """submission.json. `schedule`: the class in schedule.py; `record`: whether it is to be ranked, which needs the contest's own
    data and budgets; `tracks` and `budgets`: what it was run on."""

    name: str
    schedule: str
    tracks: list[str]
    budgets: list[int]
    record: bool = True

    def __post_init__(self) -> None:
        for name in ("tracks", "budgets"):
            if not getattr(self, name):
                raise InputError(f"submission.json: {name}: is empty; allowed: at least one")


def cells(experiment: Experiment, tracks: list[str], budgets: list[int]) -> list[str]:
    """The cells of an entry: of each track the search, and the judged runs of each budget. Raises InputError for an unknown
    track or budget."""
    known: dict[str, Any] = experiment.plan["defaults"]["tracks"]
    for track in tracks:
        if track not in known:
            raise InputError(f"tracks: {track!r} is unknown; allowed: {', '.join(known)}")
    for budget in budgets:
        if budget not in (1, 4):
            raise InputError(f"budget: {budget} is not allowed; allowed: 1, 4")
    searches = [f"track={track}_learning_rate={rate}" for track in tracks for rate in known[track]["rates"]]
    return searches + [f"track={track}_budget={budget}" for track in tracks for budget in budgets]


def entry_runs(
    experiment: Experiment, arm: str, schedule: str, tracks: list[str], budgets: list[int], seeds: int
) -> list[RunSpec]:
    """The runs of an entry that is not in the plan. Raises InputError for a name that the plan has, or cannot have."""
    known = experiment.plan["arms"]
    if arm in known:
        raise InputError(f"schedule: the name {arm!r} is taken; allowed: another `name` in the class")
    check_name(arm)
    known[arm] = {"schedule": schedule}
    try:
        return experiment.runs(TIER, arm, seeds, only=",".join(cells(experiment, tracks, budgets)))
    finally:
        del known[arm]


def check_name(arm: str) -> None:
    """Raise InputError for a name that no entry can have: it becomes a folder, and stands on the leaderboard."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", arm):
        raise InputError(f"schedule: the name {shown(arm)} is not allowed; allowed: letters, digits and _ . + = -")


def write(folder: Path, submission: Submission, source: Path, specs: list[RunSpec], runs: Path) -> None:
    """Make the folder of an entry whose runs are finished; a README.md that is there is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    golden.collect(specs, runs).write(folder)
    shutil.copyfile(source, folder / "schedule.py")
    for spec in specs:
        write_whole(folder / "logs" / spec.cell / f"seed{spec.seed}.txt", (spec.folder(runs) / "log.txt").read_text())
    write_whole(folder / "submission.json", json.dumps(asdict(submission), indent=1) + "\n")
    if not (folder / "README.md").exists():
        write_whole(folder / "README.md", _README.format(name=submission.name))


def read(folder: Path) -> tuple[Submission, Table]:
    """A submission and its runs, all of whose records were checked: nothing of it is executed. Raises InputError naming the file
    and what is wrong. What is consistent is accepted: whoever makes up a whole run is found by running a seed again."""
    path = folder / "submission.json"
    with golden.reading(path):
        settings = parse_json(path.read_text())
        if not isinstance(settings, dict):
            raise ValueError("no JSON object")
    submission = build(Submission, settings, f"{path}: ")
    check_name(submission.name)
    readme = folder / "README.md"
    if not readme.is_file() or readme.read_text().strip() in ("", _README.format(name=submission.name).strip()):
        raise InputError(f"{readme}: is missing or was not filled in; say what the schedule does and where it comes from")
    if not (folder / "schedule.py").is_file():
        raise InputError(f"{folder / 'schedule.py'}: is missing; the file of the class {submission.schedule}")
    experiment = Experiment("contest")
    table = golden.read(folder, experiment.name, TIER)
    if not (folder / "table.csv").is_file() or (folder / "table.csv").read_text() != table.csv():
        raise InputError(f"{folder / 'table.csv'}: is not the table that the runs give")
    _check_logs(folder, table)
    if submission.record:
        _check_conditions(folder, submission, experiment, table)
    return submission, table


def _check_logs(folder: Path, table: Table) -> None:
    """Logs and curves are those of the runs, and no run is another's copy."""
    if forged := table.forged():
        raise InputError(f"{folder}: the curves of {forged[0]} are not those that its run recorded")
    seen: dict[tuple[str, str], str] = {}
    for name, record in table.runs.items():
        log = folder / "logs" / record["cell"] / f"seed{record['config']['seed']}.txt"
        if not log.is_file():
            raise InputError(f"{log}: is missing; every run has its log")
        if sha256(log) != record["finished"]["log_sha256"]:
            raise InputError(f"{log}: is not the log that the run of {name} recorded")
        if record["data"].get("schedule_sha256") != sha256(folder / "schedule.py"):
            raise InputError(f"{folder / 'schedule.py'}: is not the file that {name} was run with")
        key = (record["cell"], record["finished"]["metrics_sha256"])
        if key in seen:
            raise InputError(f"{folder}: {name} has the curves of {seen[key]}: a seed stands there twice")
        seen[key] = name


def _check_conditions(folder: Path, submission: Submission, experiment: Experiment, table: Table) -> None:
    """A record has the contest's data, budgets, seeds, search and evaluator."""
    evaluator = sha256(experiment.module("leaderboard").EVALUATOR)
    wanted = {spec.name: spec for spec in entry_runs(experiment, submission.name, "", submission.tracks, submission.budgets, 0)}
    if missing := [name for name in wanted if name not in table.runs]:
        raise InputError(f"{folder}: the run {missing[0]} is missing; a record has the search and every seed of its tracks")
    accepted = golden.accepted(experiment.name, TIER)
    data = {_place(record): record["data"]["sha256"] for record in accepted.runs.values()}
    for name, record in table.runs.items():
        if name not in wanted:
            raise InputError(f"{folder}: the run {name} is none of the contest's tracks, budgets and seeds")
        ours = {**wanted[name].config, "cell": wanted[name].cell}
        theirs = {**record["config"], "cell": record["cell"]}
        ours.pop("schedule")
        if str(theirs.pop("schedule", "")).rpartition(":")[2] != submission.schedule:
            raise InputError(f"{folder}: {name} was not run with the class {submission.schedule} that submission.json names")
        if differing := [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]:
            raise InputError(
                f'{folder}: {name} was run with other settings ({", ".join(differing)}); non-record: "record": false'
            )
        if data.get(_place(record), record["data"]["sha256"]) != record["data"]["sha256"]:
            raise InputError(f'{folder}: {name} was run on other data; non-record: "record": false')
        steps, last = ours["tracks"][ours["track"]]["train"]["steps"] * ours["budget"], table.curves[name][-1]["step"]
        if last != steps:
            raise InputError(f"{folder}: the curves of {name} end at step {last:g}; allowed: {steps}")
        if record["data"].get("evaluator_sha256") != evaluator:
            raise InputError(f"{folder}: {name} was judged by another evaluator than this contest's")
    _check_search(folder, submission, experiment, table)


def _place(record: Mapping[str, Any]) -> tuple[str, int]:
    """Where all entries have the same data and initial weights."""
    return record["cell"], record["config"]["seed"]


def _check_search(folder: Path, submission: Submission, experiment: Experiment, table: Table) -> None:
    """The judged runs use the rate with which the search has the least validation NLL."""
    for track in submission.tracks:
        rates = experiment.plan["defaults"]["tracks"][track]["rates"]
        losses = {
            rate: table.curves[f"track={track}_learning_rate={rate}/{submission.name}/seed0"][-1]["valid_nll"] for rate in rates
        }
        best = min(losses, key=lambda rate: losses[rate])
        for name, record in table.runs.items():
            if record["cell"] in [f"track={track}_budget={budget}" for budget in submission.budgets]:
                used = table.curves[name][-1]["learning_rate"]
                if used != best:
                    raise InputError(f"{folder}: {name} has the learning rate {used:g}, and the search's best is {best:g}")


def accepted_entries(folder: Path) -> tuple[list[Table], dict[str, str]]:
    """The runs of the records in a folder of submissions, and of those that are no records the name by its folder."""
    found = {path.parent.name: read(path.parent) for path in sorted(folder.glob("*/submission.json"))}
    hashes: dict[str, str] = {}
    for one, table in found.values():  # two budgets of an entry may come in two folders, which share the search
        for name, record in table.runs.items() if one.record else ():
            if hashes.setdefault(name, record["finished"]["metrics_sha256"]) != record["finished"]["metrics_sha256"]:
                raise InputError(f"{folder}: two submissions have the run {name}, and not the same one")
    records = [table for one, table in found.values() if one.record]
    return records, {folder: one.name for folder, (one, _) in found.items() if not one.record}

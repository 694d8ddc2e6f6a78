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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mdlm_min.evidence import entry_check, golden
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
    data and budgets; `tracks`, `budgets` and `seeds`: what it was run on, besides the seed of the search."""

    name: str
    schedule: str
    tracks: list[str]
    budgets: list[int]
    seeds: list[int]
    record: bool = True

    def __post_init__(self) -> None:
        for name in ("tracks", "budgets", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"submission.json: {name}: {shown(values)} is not allowed; allowed: at least one, each once")


def entry_cells(experiment: Experiment, tracks: list[str], budgets: list[int]) -> list[str]:
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
    check_name(experiment, arm)
    known = experiment.plan["arms"]
    known[arm] = {"schedule": schedule}
    try:
        return experiment.runs(TIER, arm, seeds, only=",".join(entry_cells(experiment, tracks, budgets)))
    finally:
        del known[arm]


def check_name(experiment: Experiment, arm: str) -> None:
    """Raise InputError for a name that no entry can have: it becomes a folder, and stands on the leaderboard, once."""
    if arm in experiment.plan["arms"]:
        raise InputError(f"schedule: the name {arm!r} is taken; allowed: another `name` in the class")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,63}", arm) or arm == "all":
        allowed = "up to 64 letters, digits and _ . + = -, not `all`, which stands for every arm"
        raise InputError(f"schedule: the name {shown(arm)} is not allowed; allowed: {allowed}")


def check_free(folder: Path, submission: Submission) -> None:
    """Raise InputError for a folder that holds anything but this very submission."""
    if (folder / "submission.json").exists():
        if replace(there := described(folder), seeds=submission.seeds) != submission:
            held = f"{there.name} on {', '.join(there.tracks)} at {', '.join(f'{budget}x' for budget in there.budgets)}"
            raise InputError(f"submission: {folder} holds {held}; allowed: another folder for other tracks or budgets")
    elif folder.exists() and (not folder.is_dir() or any(path.name != "README.md" for path in folder.iterdir())):
        raise InputError(f"submission: {folder} holds something else; allowed: a new folder")


def write(folder: Path, submission: Submission, source: Path, specs: list[RunSpec], runs: Path) -> None:
    """Make the folder of an entry whose runs are finished; a README.md that is there is left alone."""
    table = golden.collect(specs, runs)
    write_whole(folder / "submission.json", json.dumps(asdict(submission), indent=1) + "\n")
    table.write(folder)
    write_whole(folder / "schedule.py", source.read_bytes())
    shutil.rmtree(folder / "logs", ignore_errors=True)
    for spec in specs:
        write_whole(folder / "logs" / spec.cell / f"seed{spec.seed}.txt", (spec.folder(runs) / "log.txt").read_bytes())
    if not (folder / "README.md").exists():
        write_whole(folder / "README.md", _README.format(name=submission.name))


def described(folder: Path) -> Submission:
    """submission.json. Raises InputError naming it and what is wrong."""
    path = folder / "submission.json"
    with golden.reading(path):
        settings = parse_json(path.read_text())
        if not isinstance(settings, dict):
            raise ValueError("no JSON object")
    return build(Submission, settings, f"{path}: ")


def read(folder: Path) -> tuple[Submission, Table]:
    """A submission and its runs, all of whose records were checked: nothing of it is executed. Raises InputError naming the file
    and what is wrong. What is consistent is accepted: whoever makes up a whole run is found by running a seed again."""
    submission, experiment = described(folder), Experiment("contest")
    try:
        check_name(experiment, submission.name)
    except InputError as error:
        raise InputError(f"{folder / 'submission.json'}: {error}") from error
    for name in ("README.md", "schedule.py", "table.csv"):
        with golden.reading(folder / name):
            (folder / name).read_text()
    if (folder / "README.md").read_text().strip() in ("", _README.format(name=submission.name).strip()):
        raise InputError(f"{folder / 'README.md'}: was not filled in; say what the schedule does and where it comes from")
    table = golden.read(folder, experiment.name, TIER)
    if (folder / "table.csv").read_text() != table.csv():
        raise InputError(f"{folder / 'table.csv'}: is not the table that the runs give")
    entry_check.check_records(folder, table)
    if submission.record:
        specs = entry_runs(experiment, submission.name, "", submission.tracks, submission.budgets, 0)
        entry_check.check_conditions(folder, submission.schedule, experiment, specs, table)
    for name, found in ran_on((record["cell"], record["config"]) for record in table.runs.values()).items():
        if found != sorted(said := getattr(submission, name)):
            raise InputError(f"{folder / 'submission.json'}: {name}: {said} are not those of its judged runs, {found}")
    return submission, table


def ran_on(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """The tracks, budgets and seeds of the runs (cell and configuration) at a budget: all but those of the search."""
    judged = [config for cell, config in runs if "_budget=" in cell]
    return {f"{field}s": sorted({config[field] for config in judged}) for field in ("track", "budget", "seed")}


def accepted_entries(folder: Path, without: str = "") -> tuple[list[Table], dict[str, str]]:
    """The runs of the records in a folder of submissions, and of those that are no records the name by its folder; those of the
    name `without` are not read."""
    folders = [path.parent for path in sorted(folder.glob("*/submission.json"))]
    found = {one.name: read(one) for one in folders if not without or described(one).name != without}
    classes: dict[str, str] = {}
    metrics: dict[str, str] = {}
    for place, (one, table) in found.items():  # two budgets of an entry may come in two folders, which share the search
        now = sha256(folder / place / "schedule.py")
        if classes.setdefault(one.name, now) != now:
            raise InputError(f"{folder / place}: another submission has the name {one.name!r} and another schedule.py")
        for name, record in table.runs.items() if one.record else ():
            now = record["finished"]["metrics_sha256"]
            if metrics.setdefault(name, now) != now:
                raise InputError(f"{folder}: two submissions have the run {name}, and not the same one")
    records = [table for one, table in found.values() if one.record]
    return records, {place: one.name for place, (one, _) in found.items() if not one.record}

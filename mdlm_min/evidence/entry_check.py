"""Whether the runs of a contest entry are what they say: whole, of one another, and made on the contest's terms.

What is checked is what a run of this code gives. Numbers that are made up as a whole pass: whoever doubts them runs a seed again.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdlm_min.evidence import golden, history
from mdlm_min.evidence.experiment import Experiment, RunSpec
from mdlm_min.evidence.golden import Table, commits_of
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import Row

CLOSE = 1e-6


def check_records(folder: Path, table: Table) -> None:
    """Logs and curves are those of the runs, and no run is another's copy."""
    if forged := table.forged():
        raise InputError(f"{folder}: the curves of {forged[0]} are not those that its run recorded")
    seen: dict[tuple[str, str], str] = {}
    for name, record in table.runs.items():
        log = folder / "logs" / record["cell"] / f"seed{record['config']['seed']}.txt"
        if not log.is_file() or not log.stat().st_size:
            raise InputError(f"{log}: is missing or empty; every run has its log")
        if sha256(log) != record["finished"]["log_sha256"]:
            raise InputError(f"{log}: is not the log that the run of {name} recorded")
        if record["data"].get("schedule_sha256") != sha256(folder / "schedule.py"):
            raise InputError(f"{folder / 'schedule.py'}: is not the file that {name} was run with")
        for what in ("metrics", "log"):
            if (other := seen.setdefault((what, record["finished"][f"{what}_sha256"]), name)) != name:
                raise InputError(f"{folder}: {name} has the {what} of {other}: a seed stands there twice")


def check_conditions(folder: Path, schedule: str, experiment: Experiment, specs: list[RunSpec], table: Table) -> None:
    """A record has the contest's data, budgets, seeds, search, evaluator and sources, and numbers that a run can have.
    `schedule`: the class; `specs`: the runs of such an entry."""
    wanted = {spec.name: spec for spec in specs}
    if missing := [name for name in wanted if name not in table.runs]:
        raise InputError(f"{folder}: the run {missing[0]} is missing; a record has the search and every seed of its tracks")
    accepted = golden.accepted(experiment.name, specs[0].tier)
    evaluator = sha256(experiment.module("leaderboard").EVALUATOR)
    data = {_data_of(record): record["data"]["sha256"] for record in accepted.runs.values()}
    for name, record in table.runs.items():
        if name not in wanted:
            raise InputError(f"{folder}: the run {name} is none of the contest's tracks, budgets and seeds")
        ours = {**wanted[name].config, "cell": wanted[name].cell}
        theirs = {**record["config"], "cell": record["cell"]}
        ours.pop("schedule")
        if str(theirs.pop("schedule", "")).rpartition(":")[2] != schedule:
            raise InputError(f"{folder}: {name} was not run with the class {schedule} that submission.json names")
        if differing := [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]:
            raise InputError(
                f'{folder}: {name} was run with other settings ({", ".join(differing)}); non-record: "record": false'
            )
        if data.get(_data_of(record), record["data"]["sha256"]) != record["data"]["sha256"]:
            raise InputError(f'{folder}: {name} was run on other data; non-record: "record": false')
        if record["data"].get("evaluator_sha256") != evaluator:
            raise InputError(f"{folder}: {name} was judged by another evaluator than this contest's")
        if wrong := next(_wrong_numbers(experiment, wanted[name], record, table.curves[name], accepted), ""):
            raise InputError(f"{folder}: {name}: {wrong}")
    _check_sources(folder, table)
    _check_search(folder, experiment, specs, table)


def _data_of(record: dict[str, Any]) -> tuple[str, int]:
    """Where all entries have the same data: on answers for each seed, else on the track."""
    config = record["config"]
    return config["track"], config["seed"] if config["tracks"][config["track"]].get("kind") == "answers" else 0


def _wrong_numbers(
    experiment: Experiment, spec: RunSpec, record: dict[str, Any], rows: list[Row], accepted: Table
) -> Iterator[str]:
    """What no run of these settings gives."""
    run, last, finished = experiment.module("run"), rows[-1], record["finished"]
    searched = "learning_rate" in spec.settings
    steps, planned = [row["step"] for row in rows], run.evaluated_at(spec.settings)
    if searched and last["valid_nll"] == math.inf:  # it diverged, and ended there
        planned = planned[: len(steps)]
    if steps != planned:
        yield f"its curves have the steps {', '.join(f'{step:g}' for step in steps)}; allowed: {', '.join(map(str, planned))}"
    if finished.get("steps") != planned[-1]:
        yield f"finished.steps is {finished.get('steps')}; allowed: {planned[-1]}"
    if not 0 < finished["seconds"] < math.inf:
        yield f"finished.seconds is {finished['seconds']}; allowed: above 0"
    if (ran := (record["data"]["device"], record["data"]["dtype"])) != ("cpu", "float32"):
        yield f"it was run on {ran[0]} in {ran[1]}; allowed: cpu, float32"
    for row in rows:
        if row["valid_nll"] < 0 or not (searched or math.isfinite(row["valid_nll"])):
            yield f"valid_nll is {row['valid_nll']} at step {row['step']:g}; allowed: at least 0, finite"
    if searched:
        return
    track = spec.settings["tracks"][spec.settings["track"]]
    most_noise = run.GRADIENTS / (run.GRADIENTS - 1)  # an unbiased variance, in the mean square
    if not 0 <= last["test_nll"] < math.inf:
        yield f"test_nll is {last['test_nll']}; allowed: at least 0, finite"
    if not 0 <= last["gradient_noise"] <= most_noise + CLOSE:
        yield f"gradient_noise is {last['gradient_noise']}; allowed: 0 to {most_noise:.4f}"
    if track["kind"] == "answers":
        items = min(track["items"], track["data"]["held_out"] - track["validation_answers"])
        for score in ("chosen", "written"):
            if not (0 <= last[score] <= 1 and abs(last[score] * items - round(last[score] * items)) < CLOSE):
                yield f"{score} is {last[score]}; allowed: a share of {items} answers"
    for curve in _of_track(accepted, spec.settings["track"])[:1]:  # the same text for all: so many bytes a token
        bits = last["test_nll"] * curve[-1]["test_bits_per_byte"] / curve[-1]["test_nll"]
        if not (math.isnan(bits) or abs(last["test_bits_per_byte"] - bits) < CLOSE):
            yield f"test_bits_per_byte is {last['test_bits_per_byte']}; allowed, by its test_nll: {bits:.6f}"


def _of_track(table: Table, track: str) -> list[list[Row]]:
    return [table.curves[name] for name, record in table.runs.items() if record["config"]["track"] == track]


def _check_sources(folder: Path, table: Table) -> None:
    """Every start was made from committed sources of this history, as those of the golden tables. Where there is no history,
    nothing is known of them, and the form alone is checked."""
    known = history.History(ROOT)
    for name, record in table.runs.items():
        for commit in commits_of(record):
            if not history.COMMIT.fullmatch(commit):
                raise InputError(
                    f"{folder}: the commit of {name} is {commit!r:.60}; allowed: that of committed sources, in hexadecimal"
                )
    if not known.missing and (lines := history.untraceable(known, [table])):
        raise InputError(f"{folder}: {lines[0].partition(': ')[2]}; allowed: a commit of this repository, and its sources")


def _check_search(folder: Path, experiment: Experiment, specs: list[RunSpec], table: Table) -> None:
    """The judged runs use the rate with which the search has the least validation NLL."""
    for track in {spec.settings["track"]: None for spec in specs}:
        of_track = [spec for spec in specs if spec.settings["track"] == track]
        losses = {
            spec.settings["learning_rate"]: table.curves[spec.name][-1]["valid_nll"]
            for spec in of_track
            if "learning_rate" in spec.settings
        }
        try:
            best = experiment.module("run").best_rate(losses)
        except RunError as error:
            raise InputError(f"{folder}: {track}: {error}") from error
        for spec in of_track:
            used, asked = table.curves[spec.name][-1]["learning_rate"], spec.settings.get("learning_rate", best)
            if used != asked:
                raise InputError(f"{folder}: {spec.name} has the learning rate {used:g}, and the search's best is {asked:g}")


def copies(table: Table, accepted: Table) -> list[str]:
    """The runs whose curves are, to the last bit, those of an accepted run, each with its name."""
    known = {record["finished"]["metrics_sha256"]: name for name, record in accepted.runs.items()}
    hashes = {name: record["finished"]["metrics_sha256"] for name, record in table.runs.items()}
    return [f"{name} has the curves of {known[found]}" for name, found in hashes.items() if found in known]

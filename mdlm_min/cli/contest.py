"""`mdlm contest`: mask schedules on equal terms, those of the field and one's own."""

import argparse
import math
import os
from pathlib import Path
from typing import Any

from mdlm_min.cli.command import add_command, folder_path
from mdlm_min.run.errors import InputError


def add_parsers(commands: Any) -> None:
    """`mdlm contest`."""
    text = "Train every mask schedule, or one of your own, on the contest's tracks, and rank it."
    parser = add_command(commands, "contest", text, contest)
    parser.add_argument("--schedule", default="", help="your own: module:Class, or path/to/file.py:Class (default: all others)")
    parser.add_argument("--tracks", default="", help="comma-separated: bytes, BPE, parities, answers (default: all)")
    parser.add_argument("--budget", type=int, default=1, help="1 or 4 times the steps (default: 1)")
    parser.add_argument("--seeds", type=int, default=0, help="number of judged seeds (default: five)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one per core, with one thread each)")
    parser.add_argument("--runs", type=folder_path, default=Path("runs"), help="folder of the run folders (default: runs)")
    parser.add_argument("--missing", action="store_true", help="only the runs that the golden table lacks; the others from there")
    parser.add_argument("--submission", type=folder_path, help="write your entry as a folder to send")
    parser.add_argument("--check", type=folder_path, metavar="FOLDER", help="check such a folder, and do nothing else")


def contest(arguments: argparse.Namespace) -> int:
    """Run what is not finished, and print the boards."""
    if arguments.check:
        return _check(arguments.check)
    from mdlm_min.evidence import submission
    from mdlm_min.evidence.experiment import Experiment
    from mdlm_min.evidence.sweep import check_jobs, sweep

    if arguments.missing and arguments.schedule:
        raise InputError("missing: the golden table has no run of your own schedule; allowed: without --schedule")
    experiment = Experiment("contest")
    known = list(experiment.plan["defaults"]["tracks"])
    tracks = arguments.tracks.split(",") if arguments.tracks else known
    names = submission.entry_cells(experiment, tracks, [arguments.budget])
    if arguments.schedule:
        arm = _entered(arguments.schedule)
        specs = submission.entry_runs(experiment, arm, arguments.schedule, tracks, [arguments.budget], arguments.seeds)
        _check_kept(specs, arguments.runs, arguments.schedule)
    elif arguments.submission:
        raise InputError("submission: only with --schedule")
    else:
        arm = ""
        specs = experiment.runs(submission.TIER, "", arguments.seeds, only=",".join(names))
    if arguments.submission:
        from mdlm_min.diffusion.own_schedule import schedule_file
        from mdlm_min.diffusion.schedule_alone import name_alone

        source, kind = schedule_file(arguments.schedule), arguments.schedule.rpartition(":")[2]
        seeds = submission.ran_on((spec.cell, spec.config) for spec in specs)["seeds"]
        whole = submission.entry_runs(experiment, arm, arguments.schedule, tracks, [arguments.budget], 0)
        entry = submission.Submission(arm, kind, tracks, [arguments.budget], seeds, record=len(specs) >= len(whole))
        submission.check_free(arguments.submission, entry)
        name_alone(source, kind)
    folder = arguments.runs / experiment.name / submission.TIER
    jobs = (os.cpu_count() or 1) if arguments.jobs is None else arguments.jobs
    check_jobs(jobs)
    print(f"contest, budget {arguments.budget}x: {len(specs)} runs, {jobs} at a time, in {folder}")
    if arguments.missing:
        print(f"{_taken_back(experiment, specs, arguments.runs)} of them are taken from the golden table")
    sweep(specs, arguments.runs, jobs)
    _print_boards(experiment, specs, arguments.runs, arm)
    if arguments.submission:
        submission.write(arguments.submission, entry, source, specs, arguments.runs)
        fewer = "" if entry.record else " (with fewer seeds than the contest's it is no record and is not ranked)"
        print(f"submission: {arguments.submission}{fewer}")
        print(f"fill in its README.md, then `mdlm contest --check {arguments.submission}`")
    return 0


def _taken_back(experiment: Any, specs: list[Any], runs: Path) -> int:
    """Write the golden runs that the present evaluator judged as run folders, and return how many."""
    from mdlm_min.evidence import golden, publishing, submission
    from mdlm_min.run.files import sha256

    evaluator = sha256(experiment.module("leaderboard").EVALUATOR)
    table = golden.accepted(experiment.name, submission.TIER)
    table = table.part(lambda record: record["data"].get("evaluator_sha256") == evaluator)
    return publishing.take_back(table, specs, runs)


def _entered(spec: str) -> str:
    """The name of a schedule that keeps to the interface."""
    from mdlm_min.diffusion.own_schedule import load_schedule
    from mdlm_min.diffusion.schedule_check import validate

    schedule = load_schedule(spec)
    validate(schedule)
    return schedule.name


def _check_kept(specs: list[Any], runs: Path, schedule: str) -> None:
    """Raise InputError for runs of this name that are there and were made with another file than the schedule's is now."""
    from mdlm_min.diffusion.own_schedule import schedule_file
    from mdlm_min.run.files import sha256
    from mdlm_min.run.run_folder import RunFolder

    file = schedule_file(schedule)
    now = sha256(file)
    for spec in specs:
        folder = RunFolder(spec.folder(runs))
        if not (folder.path / "data.json").exists():
            continue
        if (before := folder.read_json("data.json", ["sha256"]).get("schedule_sha256", "")) != now:
            raise InputError(
                f"schedule: {file} is not the file that {folder.path} was run with (SHA-256 {before[:12]}, now {now[:12]}); "
                f"delete {runs / spec.experiment / spec.tier}/*/{spec.arm}, or give the class another name"
            )


def _print_boards(experiment: Any, specs: list[Any], runs: Path, arm: str) -> None:
    """The boards of these runs among the golden ones and the records sent in: in full in a file, and in a line or a few each."""
    from mdlm_min.evidence import golden, submission
    from mdlm_min.run.files import write_whole

    leaderboard = experiment.module("leaderboard")
    mine = golden.collect(specs, runs)
    others, _ = leaderboard.with_submissions(golden.accepted(experiment.name, submission.TIER), arm)  # a new try replaces its own
    table = golden.Table(experiment.name, submission.TIER, {**others.runs, **mine.runs}, {**others.curves, **mine.curves})
    found = leaderboard.boards(table)
    for (track, budget), lines in found.items():
        if f"track={track}_budget={budget}" not in {spec.cell for spec in specs}:
            continue
        absent = leaderboard.unranked(table, track, budget)
        for name, why in absent.items():
            if name == arm or not arm:
                print(f"{track} {budget}x: {name} is not ranked; {why}")
            if name == arm:
                rows = table.cell(f"track={track}_budget={budget}").frame()
                print(f"{track} {budget}x: {_beside_reference(rows, arm, leaderboard.REFERENCE)}")
        for line in lines:
            if line.name == arm or (line.is_tie and not arm):
                print(f"{track} {budget}x: {line.name} rank {line.ranked.text} of {len(lines)}; {leaderboard.gain_text(line)}")
    if not found:
        print(f"no board: {leaderboard.REFERENCE} was not run on these tracks; `mdlm contest` runs it, and every other entry")
        return
    if arm and not mine.machines() <= others.machines():
        print(
            f"{arm} ran on another processor or torch than the others, whose rounding makes of a seed another draw. U[0,1] here:"
        )
        for cell in dict.fromkeys(spec.cell for spec in specs):
            folder = runs / experiment.name / submission.TIER / cell
            print(f"  mdlm run contest --arms {leaderboard.REFERENCE} --cells {cell} --runs {runs}")
            print(f"  mdlm compare {folder / arm} {folder / leaderboard.REFERENCE} --metric test_nll")
    path = runs / experiment.name / (f"leaderboard_{arm}.md" if arm else "leaderboard.md")
    write_whole(path, leaderboard.leaderboard_page(table, found))
    print(f"boards: {path}")


def _beside_reference(rows: Any, arm: str, reference: str) -> str:
    """The test NLL of an entry that is not ranked, seed by seed, and that of U[0,1]."""
    mine, theirs = (rows[rows.arm == name].set_index("seed").test_nll for name in (arm, reference))
    said = ", ".join(f"seed {seed}: {loss:.3f} (U[0,1] {theirs.get(seed, math.nan):.3f})" for seed, loss in mine.items())
    return f"test NLL of {arm}: {said}"


def _check(folder: Path) -> int:
    """Check a submission, its class included."""
    from mdlm_min.diffusion.schedule_alone import name_alone
    from mdlm_min.evidence import entry_check, golden, submission
    from mdlm_min.evidence.history import History
    from mdlm_min.run.environment import ROOT

    found, table = submission.read(folder)
    if (name := name_alone(folder / "schedule.py", found.schedule)) != found.name:
        raise InputError(f"{folder / 'submission.json'}: name: {found.name!r} is not the class's own, {name!r}")
    for line in entry_check.copies(table, golden.accepted("07_contest", submission.TIER)):
        print(f"note: {line}")
    if found.record and (missing := History(ROOT).missing):
        print(f"note: the sources of the runs were not looked up: {missing}")
    kind = "a record" if found.record else "non-record"
    print(f"accepted as {kind}: {found.name}, {len(table.runs)} runs on {', '.join(found.tracks)}")
    return 0

"""`mdlm list`, `mdlm run` and `mdlm publish`: experiments, from their list to their golden tables."""

import argparse
import os
from pathlib import Path
from typing import Any

from mdlm_min.cli.command import add_command, add_selection, folder_path, source_name, text_name
from mdlm_min.run.errors import InputError


def add_parsers(commands: Any) -> None:
    """`mdlm list`, `mdlm run`, `mdlm publish`."""
    add_command(commands, "list", "List the experiments, their tiers, arms and run counts.", list_experiments)
    text = "Run an experiment, or resume it where it stopped; then print its verdicts and draw its figures."
    parser = add_command(commands, "run", text, run)
    add_selection(parser)
    parser.add_argument(
        "--jobs", type=int, help="runs at a time (default: the tier's own, or one per core, with one thread each)"
    )
    parser.add_argument(
        "--runs", type=folder_path, help="folder of the run folders (default: runs; with --text runs/NAME, NAME being the text's)"
    )
    parser.add_argument(
        "--text",
        type=source_name,
        help="your own corpus, a folder or file of plain text, in place of the experiment's",
    )
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard event files into the run folders too")
    parser.add_argument(
        "--processes", type=int, default=0, help="processes per node of a run on DeepSpeed (default: the tier's own)"
    )
    parser.add_argument("--hostfile", default="", help="DeepSpeed's list of nodes, for a run on several (default: this node)")
    parser.add_argument("--missing", action="store_true", help="only the runs that the golden table lacks")
    text = "Make the finished runs of a tier its golden ones in results/, with their curves and provenance."
    parser = add_command(commands, "publish", text, publish)
    add_selection(parser)
    parser.add_argument("--runs", type=folder_path, default=Path("runs"), help="folder of the run folders (default: runs)")
    parser.add_argument(
        "--finished",
        action="store_true",
        help="add the runs that are finished to the golden table, and drop those that the plan no longer names",
    )
    parser.add_argument("--replace", action="store_true", help="with --finished: runs that the golden table has are replaced too")


def list_experiments(arguments: argparse.Namespace) -> int:
    """Print every experiment with its tiers and arms, and how long the runs of the golden tables took."""
    from mdlm_min.evidence import golden
    from mdlm_min.evidence.experiment import Experiment, experiment_folders
    from mdlm_min.run.time_left import duration_text

    for folder in experiment_folders():
        experiment = Experiment(folder.name)
        print(f"{experiment.name}: {experiment.title}")
        for tier in experiment.plan["tiers"]:
            line = f"  {tier:6} {len(experiment.runs(tier)):4} runs"
            if (table := golden.RESULTS / experiment.name / tier).is_dir():
                records = golden.read_records(table).values()
                seconds = sum(record["finished"]["seconds"] for record in records)
                devices = ", ".join(sorted({record["data"]["device"] for record in records}))
                line += f"; {len(records)} in the golden table took {duration_text(seconds)} one by one ({devices})"
            print(line)
        print(f"  arms   {', '.join(experiment.plan['arms'])}")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Do the runs that were selected and are not finished; print and draw what they show."""
    from mdlm_min.evidence import golden, publishing, report, verdicts
    from mdlm_min.evidence.experiment import Experiment
    from mdlm_min.evidence.measured import measured
    from mdlm_min.evidence.pairing import judged_part
    from mdlm_min.evidence.sweep import check_jobs, sweep
    from mdlm_min.run.environment import code_version

    experiment = Experiment(arguments.experiment)
    specs = experiment.runs(arguments.tier, arguments.arms, arguments.seeds, arguments.text, arguments.cells)
    old = golden.accepted(experiment.name, arguments.tier) if arguments.missing else None
    if old:
        if arguments.text:
            raise InputError("missing: no golden table is about your own text; allowed: without --text")
        left_out = [spec for spec in specs if publishing.holds(old, spec)]
        specs = [spec for spec in specs if spec not in left_out]
        print(f"{len(left_out)} runs are in the golden table and are left out")
        if not specs:
            return 0
    if arguments.tensorboard:
        os.environ["MDLM_TENSORBOARD"] = "1"
    for spec in specs:
        _place(spec.config, arguments.processes, arguments.hostfile)
    cores, own = os.cpu_count() or 1, experiment.tier(arguments.tier).get("jobs", 0)
    jobs = (own or cores) if arguments.jobs is None else arguments.jobs
    check_jobs(jobs)
    runs = arguments.runs or Path("runs", text_name(arguments.text) if arguments.text else "")
    folder = runs / experiment.name / arguments.tier
    print(f"{experiment.name}, tier {arguments.tier}: {len(specs)} runs, {jobs} at a time, in {folder}")
    if (commit := code_version()).endswith("+changed"):
        print(
            f"sources that are not committed ({commit}): `mdlm verify` will find no commit for these runs if they are published"
        )
    sweep(specs, runs, jobs, threads=max(1, cores // own) if own else 1)
    table = golden.collect(specs, runs)
    table.write(folder)
    accepted = old or (None if arguments.text else golden.accepted(experiment.name, arguments.tier))
    found = measured(table, accepted, experiment.tolerance(table.frame().columns))
    if old:  # claims and figures are about the whole tier
        whole = publishing.merge(old, table, publishing.planned(experiment, arguments.tier, arguments.seeds), replace=False)
        table = judged_part(experiment, whole)
    for path in report.draw(experiment, {arguments.tier: table}, folder):
        print(f"figure: {path}")
    print(f"table: {folder / 'table.csv'}")
    print(*found, sep="\n", end="\n" * bool(found))
    if arguments.text:  # the claims are about the paper's corpora
        print("\n".join(experiment.module("claims").conclusions(table)))
    else:
        judged = verdicts.judge(experiment, {arguments.tier: table}, only=arguments.tier)
        verdicts.print_verdicts([pair for pair in judged if pair[1].verdict != "not run"], notes=True)
        if missing := [claim.id for claim, verdict in judged if verdict.verdict == "not run"]:
            print(f"not run, for want of other arms or cells: {', '.join(missing)}; results/report.md says what each needs")
        if not judged:
            print(f"no verdicts: no claim of {experiment.name} is about tier {arguments.tier}")
    return 0


def _place(config: dict[str, Any], processes: int, hostfile: str) -> None:
    """Put the chosen processes and nodes into a run's configuration, in place."""
    asked = {name: value for name, value in (("processes", processes), ("hostfile", hostfile)) if value}
    if asked and config.get("engine", {}).get("kind") != "deepspeed":
        raise InputError(f"{next(iter(asked))}: this tier runs on plain torch; allowed: a tier whose engine.kind is deepspeed")
    if asked:
        config["engine"] = config["engine"] | asked


def publish(arguments: argparse.Namespace) -> int:
    """Write the golden table of the runs that were selected, or add those of them that are finished to it."""
    from mdlm_min.evidence import crate, golden, publishing
    from mdlm_min.evidence.experiment import Experiment

    crate.check_library()
    experiment = Experiment(arguments.experiment)
    specs = experiment.runs(arguments.tier, arguments.arms, arguments.seeds, only=arguments.cells)
    folder = golden.RESULTS / experiment.name / arguments.tier
    if arguments.finished:
        table = publishing.add_finished(
            specs, arguments.runs, publishing.planned(experiment, arguments.tier, arguments.seeds), arguments.replace
        )
    elif arguments.replace:
        raise InputError("replace: only with --finished; without it the whole table is replaced")
    else:
        table = golden.collect(specs, arguments.runs)
    table.write(folder)
    crate.write(golden.golden_tables())
    print(f"golden: {folder}. `mdlm verify --accept` accepts the verdicts that follow from it")
    return 0

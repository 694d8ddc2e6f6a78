"""The `mdlm` command. Every Makefile target of the suite is one line of it."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mdlm_min.cli import sample, train
from mdlm_min.evidence import golden, report, verify
from mdlm_min.evidence.experiment import TIERS, Experiment, experiment_folders
from mdlm_min.evidence.sweep import sweep
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError, RunError

EPILOG = """exit codes: 0 done; 1 a verdict or a golden number has moved (verify); 2 bad input; 3 a run failed.
examples:
  mdlm run parity                      the cpu tier of 01_parity, all cores, then its verdicts
  mdlm run parity --tier smoke         the same machinery in seconds
  mdlm run parity --arms all --seeds 5 every arm, five seeds; finished runs are kept
  mdlm train --text corpus.txt         a small model of your text, and what it writes
  mdlm sample runs/train/corpus        more of its text
  mdlm window --text corpus.txt        the mask rates that F.4 predicts for your corpus
  mdlm plan 8b_pt --gpus 8 --gpu h100  memory, hours and what to change before a large run
  mdlm verify                          every claim's verdict, recomputed from results/
  mdlm report                          results/report.md and results/report.html"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mdlm", description="Run, verify and report the experiments of mdlm-min.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    runs_help = "folder of the run folders (default: runs)"
    run = command("run", "Run an experiment, or go on where it stopped; then print its verdicts and draw its figures.")
    run.add_argument("experiment", help="such as 01_parity, or parity; see `mdlm list`")
    run.add_argument("--tier", default="cpu", help=f"one of {', '.join(TIERS)} (default: cpu)")
    run.add_argument("--arms", default="", help="comma-separated arms, or all (default: the tier's own choice)")
    run.add_argument("--seeds", type=int, default=0, help="number of seeds (default: the tier's own)")
    run.add_argument("--jobs", type=int, help="runs at a time (default: the tier's own, or one a core, with one thread each)")
    run.add_argument("--runs", type=Path, default=Path("runs"), help=runs_help)
    run.add_argument(
        "--text", default="", help="your own corpus: a folder or file of plain text in the place of the experiment's"
    )
    run.add_argument("--tensorboard", action="store_true", help="write TensorBoard event files into the run folders too")
    run.add_argument("--processes", type=int, default=0, help="processes a node of a run on DeepSpeed (default: the tier's own)")
    run.add_argument("--hostfile", default="", help="DeepSpeed's list of nodes, for a run on several (default: this node)")
    publish = command(
        "publish", "Make the finished runs of a tier its golden ones in results/, with their curves and provenance."
    )
    publish.add_argument("experiment")
    publish.add_argument("--tier", default="cpu")
    publish.add_argument("--arms", default="")
    publish.add_argument("--seeds", type=int, default=0)
    publish.add_argument("--runs", type=Path, default=Path("runs"), help=runs_help)
    check = command(
        "verify", "Recompute every verdict from the golden tables, compare fresh runs with them; exit 1 if anything has moved."
    )
    check.add_argument("--runs", type=Path, default=Path("runs"), help=runs_help)
    check.add_argument("--accept", action="store_true", help="write the present verdicts and hashes as the accepted ones")
    page = command("report", "Write the page with every figure, table and verdict: report.md and report.html.")
    page.add_argument("--output", type=Path, default=golden.RESULTS, help="folder to write to (default: results)")
    predict = command(
        "window", "Predict the signal-rich window of a corpus from its n-grams, or from a short training run's gradients."
    )
    predict.add_argument(
        "--text", required=True, help="a folder or file of plain text (.txt, .tokens, .raw, also .gz), or wikitext-2"
    )
    predict.add_argument(
        "--tokenizer", default="words", help="words (default; to count only), bytes (default with --probe), gpt2, bpe:SIZE"
    )
    predict.add_argument("--probe", action="store_true", help="train a small model for --steps and measure its gradients")
    predict.add_argument("--steps", type=int, default=300, help="with --probe: training steps (default: 300, some two minutes)")
    predict.add_argument("--seed", type=int, default=0, help="with --probe: seed (default: 0)")
    predict.add_argument("--figure", type=Path, default=Path("window.png"), help="figure to write (default: window.png)")
    predict.add_argument(
        "--runs", type=Path, default=Path("runs/window"), help="with --probe: folder of the run (default: runs/window)"
    )
    out = command("export", "Write the newest checkpoint of a pre-training run as a folder in LLaDA's released form.")
    out.add_argument("run", type=Path, help="a run folder, such as runs/04_8b_pt/paper/middle/seed0")
    out.add_argument("--output", type=Path, required=True, help="folder to write")
    out.add_argument("--dtype", default="bfloat16", help="bfloat16 (default) or float32")
    size = command("plan", "Say what a run takes: memory on each GPU by part, hours, and what to change where it does not fit.")
    size.add_argument("experiment", help="one that pre-trains: 04_8b_pt")
    size.add_argument("--tier", default="paper", help=f"one of {', '.join(TIERS)} (default: paper)")
    size.add_argument("--arm", default="", help="whose settings (default: the tier's first arm)")
    size.add_argument("--gpus", type=int, default=8, help="how many GPUs (default: 8)")
    size.add_argument("--gpu", default="h100", help="a100, h100, h800, h200, b200 (default: h100)")
    size.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the GPUs' peak rate that is reached (default: 0.4)"
    )
    train.add_parsers(commands)
    sample.add_parsers(commands)
    command("list", "List the experiments, their tiers, arms and run counts.")
    command("gpu-queue", "List what has not been run, with its cost on a GPU, most wanted first.")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    experiment = Experiment(arguments.experiment)
    specs = experiment.runs(arguments.tier, arguments.arms, arguments.seeds, arguments.text)
    if arguments.tensorboard:
        os.environ["MDLM_TENSORBOARD"] = "1"
    for spec in specs:
        _place(spec.config, arguments.processes, arguments.hostfile)
    cores, own = os.cpu_count() or 1, experiment.tier(arguments.tier).get("jobs", 0)
    jobs = (own or cores) if arguments.jobs is None else arguments.jobs
    print(
        f"{experiment.name}, tier {arguments.tier}: {len(specs)} runs, {jobs} at a time, in "
        f"{arguments.runs / experiment.name / arguments.tier}"
    )
    sweep(specs, arguments.runs, jobs, threads=max(1, cores // own) if own else 1)
    folder = arguments.runs / experiment.name / arguments.tier
    table = golden.collect(specs, arguments.runs)
    table.write(folder)
    for path in report.draw(experiment, {arguments.tier: table}, folder):
        print(f"figure: {path}")
    print(f"table: {folder / 'table.csv'}")
    if arguments.text:  # the claims are about the paper's corpora
        print("\n".join(experiment.module("claims").conclusions(table)))
    else:
        verify.print_verdicts(verify.judge(experiment, {arguments.tier: table}, only=arguments.tier), notes=True)
    return 0


def _place(config: dict[str, Any], processes: int, hostfile: str) -> None:
    """Put the processes and nodes that were asked for into a run's configuration, in place."""
    asked = {name: value for name, value in (("processes", processes), ("hostfile", hostfile)) if value}
    if asked and config.get("engine", {}).get("kind") != "deepspeed":
        raise InputError(f"{next(iter(asked))}: this tier runs on plain torch; allowed: a tier whose engine.kind is deepspeed")
    if asked:
        config["engine"] = config["engine"] | asked


def _window(arguments: argparse.Namespace) -> int:
    from mdlm_min.cli import window
    from mdlm_min.data.text import TextConfig

    say = partial(print, flush=True)
    if arguments.probe:
        if arguments.steps < 3:
            raise InputError(f"steps: {arguments.steps} is not allowed; at least 3")
        tokenizer = "bytes" if arguments.tokenizer == "words" else arguments.tokenizer
        config = TextConfig(arguments.text, tokenizer, length=64)
        window.from_probe(config, arguments.steps, arguments.seed, arguments.runs, arguments.figure, say)
    else:
        window.from_ngrams(TextConfig(arguments.text, arguments.tokenizer), arguments.figure, say)
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    experiment = Experiment(arguments.experiment)
    specs = experiment.runs(arguments.tier, arguments.arms, arguments.seeds)
    folder = golden.RESULTS / experiment.name / arguments.tier
    golden.collect(specs, arguments.runs).write(folder)
    print(f"golden: {folder}. `mdlm verify --accept` accepts the verdicts that follow from it")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from mdlm_min.tasks import plan

    experiment = Experiment(arguments.experiment)
    settings = experiment.runs(arguments.tier, arguments.arm, seeds=1)[0].settings
    print(plan.describe(settings, arguments.gpus, arguments.gpu, arguments.utilisation))
    return 0


def _list() -> int:
    for folder in experiment_folders():
        experiment = Experiment(folder.name)
        print(f"{experiment.name}: {experiment.title}")
        for tier in experiment.plan["tiers"]:
            print(f"  {tier:6} {len(experiment.runs(tier)):4} runs")
        print(f"  arms   {', '.join(experiment.plan['arms'])}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """One command; returns its exit code. Raises KeyboardInterrupt after a stop signal (see __main__.py)."""
    arguments = _parser().parse_args(argv)
    try:
        if hasattr(arguments, "handler"):
            return int(arguments.handler(arguments))
        if arguments.command == "run":
            return _run(arguments)
        if arguments.command == "publish":
            return _publish(arguments)
        if arguments.command == "verify":
            return verify.verify(arguments.runs, arguments.accept)
        if arguments.command == "report":
            for path in report.write(arguments.output):
                print(path)
            if arguments.output == golden.RESULTS:
                report.write_readme(ROOT / "README.md")
            return 0
        if arguments.command == "window":
            return _window(arguments)
        if arguments.command == "plan":
            return _plan(arguments)
        if arguments.command == "export":
            from mdlm_min.tasks.pretrain import export

            export(arguments.run, arguments.output, arguments.dtype)
            print(arguments.output)
            return 0
        return _list() if arguments.command == "list" else report.print_gpu_queue()
    except InputError as error:
        print(f"mdlm: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"mdlm: {error}", file=sys.stderr)
        return 3

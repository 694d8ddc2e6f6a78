"""`mdlm judge`: the suite's verdicts on runs made elsewhere."""

import argparse
from pathlib import Path
from typing import Any

from mdlm_min.cli.command import add_command
from mdlm_min.run.errors import InputError

EPILOG = """A table is a CSV file with a row for each run: cell (where the tier has a grid), arm, seed, and what was measured.
--columns lists its columns, and which claim reads which, from the experiment itself. Some claims read more: the
metrics over steps (--curves: cell, arm, seed, step, metrics), or every test item (--items: cell, arm, seed, task,
item, scores). What was not measured is left empty. A claim that the table lacks something for is said to need it,
in one line; the others are judged by the rules for our own runs: at least five seeds, Holm's adjustment in
families, the same tolerances. Give only seeds that selected nothing, such as a learning rate.

examples:
  mdlm judge 03_wikitext_bins --columns
  mdlm judge 03_wikitext_bins my_table.csv
  mdlm judge 03_wikitext_lasting my_table.csv --curves my_curves.csv"""


def add_parsers(commands: Any) -> None:
    """`mdlm judge`."""
    from mdlm_min.evidence.plan_file import TIERS

    text = "Give this suite's verdicts on runs made elsewhere: with another trainer, or on another machine."
    parser = add_command(commands, "judge", text, judge)
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("experiment", help="such as 03_wikitext_bins, or wikitext_bins; see `mdlm list`")
    parser.add_argument("table", nargs="?", type=Path, help="CSV file with a row for each run")
    parser.add_argument("--tier", default="cpu", help=f"one of {', '.join(TIERS)}, whose claims are judged (default: cpu)")
    parser.add_argument("--curves", type=Path, metavar="CSV", help="the metrics over steps of these runs")
    parser.add_argument("--items", type=Path, metavar="CSV", help="the scores of these runs on every test item")
    parser.add_argument(
        "--columns", action="store_true", help="list the columns and arms that the claims need, and judge nothing"
    )


def judge(arguments: argparse.Namespace) -> int:
    """Print the verdicts, and for each claim that is not judged what it needs; or the columns."""
    from mdlm_min.evidence import elsewhere, judging, needs, verdicts
    from mdlm_min.evidence.experiment import Experiment

    experiment = Experiment(arguments.experiment)
    if arguments.columns:
        if given := [name for name in ("table", "curves", "items") if getattr(arguments, name)]:
            raise InputError(f"{given[0]}: with --columns nothing is judged; allowed: a table, or --columns")
        print("\n".join(needs.describe(experiment, arguments.tier)))
        return 0
    if arguments.table is None:
        raise InputError("table: is missing; needed: a CSV file, or --columns, which says what it holds")
    table = elsewhere.read(experiment, arguments.tier, arguments.table, arguments.curves, arguments.items)
    judged = judging.judge(experiment, table)
    verdicts.print_verdicts([pair for pair in judged if pair[1].verdict != "not run"], notes=True)
    lacking = [(claim, said) for claim, said in judged if said.verdict == "not run"]
    reasons: dict[str, list[str]] = {}
    for claim, said in lacking:
        reasons.setdefault(said.note, []).append(claim.id)
    for note, claims in reasons.items():
        print(f"{', '.join(claims)}: not judged: {note}")
    done = f"{len(judged) - len(lacking)} of {len(judged)} claims judged"
    print(f"{experiment.name}, tier {arguments.tier}: {len(table.runs)} runs; {done}")
    if lacking:
        tier = "" if arguments.tier == "cpu" else f" --tier {arguments.tier}"
        print(f"what the table, --curves and --items hold: mdlm judge {arguments.experiment}{tier} --columns")
    if len(lacking) == len(judged):
        raise InputError(f"table: {arguments.table} lacks something for every claim; allowed: what `--columns` says")
    if {claim.family for claim, _ in lacking} & {claim.family for claim, said in judged if said.verdict != "not run"} - {""}:
        print("a claim that is not judged counts in its family, so the p-values of the others may be larger than with it")
    return 0

"""`mdlm verify`, `mdlm report` and `mdlm gpu-queue`: what the golden tables say."""

import argparse
from typing import Any

from mdlm_min.cli.command import add_command, folder_path


def add_parsers(commands: Any) -> None:
    """`mdlm verify`, `mdlm report`, `mdlm gpu-queue`."""
    text = "Recompute every verdict from the golden tables and compare fresh runs with them; exit 1 if anything has moved."
    parser = add_command(commands, "verify", text, verify)
    parser.add_argument("--runs", type=folder_path, help="folder of fresh runs (default: runs, if it is there)")
    parser.add_argument("--accept", action="store_true", help="write the present verdicts and hashes as the accepted ones")
    text = "Write the page with every figure, table and verdict: report.md and report.html."
    parser = add_command(commands, "report", text, report)
    parser.add_argument("--output", type=folder_path, help="folder to write to (default: results)")
    text = "List what has not been run, with its cost on a GPU, most wanted first."
    add_command(commands, "gpu-queue", text, gpu_queue)


def verify(arguments: argparse.Namespace) -> int:
    """Print the verdicts and what has moved; returns 1 where anything has."""
    from mdlm_min.evidence.verify import verify

    return verify(arguments.runs, arguments.accept)


def report(arguments: argparse.Namespace) -> int:
    """Write the two pages; where they are the committed ones, also every generated part of the others, and the crate."""
    from mdlm_min.evidence import crate, golden, history, report, verdicts
    from mdlm_min.run.files import write_whole

    committed = arguments.output in (None, golden.RESULTS)
    if committed:
        crate.check_library()
    tables = golden.golden_tables()
    judged, set_after = verdicts.judge_each(tables), history.prove(tables).set_after
    for path in report.write(arguments.output or golden.RESULTS, judged, tables, set_after):
        print(path)
    for path, text in report.own_pages(tables, arguments.output or golden.RESULTS).items():
        write_whole(path, text)
    if committed:
        for path, text in report.other_pages(judged, tables, set_after).items():
            write_whole(path, text)
        crate.write(tables)
    return 0


def gpu_queue(arguments: argparse.Namespace) -> int:
    """Print the queue."""
    from mdlm_min.evidence.report import print_gpu_queue

    return print_gpu_queue()

"""`mdlm compare`: two ways to train, over the seeds of both."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdlm_min.cli.command import add_command, folder_path
from mdlm_min.run.errors import InputError

if TYPE_CHECKING:
    from mdlm_min.run.run_folder import RunFolder

EPILOG = """One seed decides nothing: a model's loss scatters over seeds by more than the "+-" of its test. Train both ways with
five seeds or more, which have chosen nothing themselves, such as a learning rate, and search as much for one way as for the
other:

  for s in 1 2 3 4 5; do
    mdlm train --text corpus.txt --mask-rate "U[0.45,0.55]" --seed $s --run runs/middle/$s
    mdlm train --text corpus.txt --mask-rate "U[0,1]" --weight 1/t --seed $s --run runs/uniform/$s
  done
  mdlm compare runs/middle runs/uniform"""


class _Run(NamedTuple):
    folder: "RunFolder"
    settings: dict[str, Any]  # all that makes the run but its seed, and a schedule's file by its hash
    data: str  # hash of the text and its tokenizer
    metrics: str  # hash of metrics.csv
    value: float


def add_parsers(commands: Any) -> None:
    """`mdlm compare`."""
    text = "Compare two ways to train, seed by seed: the mean difference with its interval over seeds."
    parser = add_command(commands, "compare", text, compare)
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("first", type=folder_path, help="a folder of finished runs that differ in their seeds alone")
    parser.add_argument("second", type=folder_path, help="another one, of the same data")
    parser.add_argument("--metric", default="test_loss", help="column of metrics.csv, after the last step (default: test_loss)")


def compare(arguments: argparse.Namespace) -> int:
    """Print both ways seed by seed, what differs between them, and the mean difference (Student's t over pairs)."""
    from mdlm_min.evidence.statistics import LEAST_SEEDS, Mean
    from mdlm_min.run.config import differences

    names = arguments.first, arguments.second
    first, second = (_runs(name, arguments.metric) for name in names)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise InputError(f"second: {names[1]} has no seed of {names[0]}; allowed: runs of the same seeds")
    one, other = first[seeds[0]], second[seeds[0]]
    known = {run.metrics: run.folder.path for run in first.values()}
    if copies := [run for run in second.values() if run.metrics in known]:
        run, copy = known[copies[0].metrics], copies[0].folder.path
        allowed = "another run, of settings that change something"
        raise InputError(f"second: {copy} has the metrics of {run} to the byte; allowed: {allowed}")
    if len({run.data for runs in (first, second) for run in runs.values()}) > 1:
        raise InputError(f"second: {names[1]} and {names[0]} are runs on different data or tokenizers; allowed: on the same")
    where = (f"in {names[0]}", f"in {names[1]}")
    changed = differences(one.settings, other.settings, names=where)
    print("\n".join(changed) or "both have the same settings")
    if len({_processor(run) for runs in (first, second) for run in runs.values()}) > 1:
        print("the runs are of several processors, whose rounding differs: for that alone a seed is another draw")
    for name, mine, theirs in ((names[0], first, second), (names[1], second, first)):
        if alone := sorted(mine.keys() - theirs.keys()):
            print(f"left out, in {name} alone: seed {', '.join(map(str, alone))}")
    for seed in seeds:
        a, b = first[seed].value, second[seed].value
        print(f"seed {seed}: {a:.4f} and {b:.4f}, difference {a - b:+.4f}")
    found = Mean(tuple(first[seed].value - second[seed].value for seed in seeds))
    low, high = found.interval()
    p = min(1.0, 2 * min(found.p_at_most(0.0), found.p_at_least(0.0)))
    said = "told apart" if low > 0 or high < 0 else "not told apart"
    said = said if len(seeds) >= LEAST_SEEDS else f"nothing decided: fewer than {LEAST_SEEDS} seeds"
    several = f"[{low:+.4f}, {high:+.4f}] (95% over {len(seeds)} seeds, p = {p:.2g})"
    interval = several if len(seeds) > 1 else "(1 seed: no interval)"
    print(f"{arguments.metric} of {names[0]} less that of {names[1]}: {found.estimate:+.4f} {interval}: {said}")
    return 0


def _runs(path: Path, metric: str) -> dict[int, _Run]:
    """The finished runs of a folder, or the one that it is, by seed. Raises InputError for none, for one that is not finished or
    lacks the metric, for runs that differ in more than their seed, and for copies of one run."""
    from mdlm_min.run.config import differences, shown
    from mdlm_min.run.run_folder import RunFolder, settings_of

    folders = [path] if (path / "config.json").exists() else sorted(file.parent for file in path.glob("*/config.json"))
    if not folders:
        raise InputError(f"{path} holds no runs; allowed: a folder of run folders, or one of them")
    found: dict[int, _Run] = {}
    for folder in map(RunFolder, folders):
        config = folder.read_json("config.json", ["seed"])
        if type(seed := config["seed"]) is not int:
            raise InputError(f"{folder.path / 'config.json'}: seed: {shown(seed)} is not allowed; a whole number")
        if not (folder.path / "finished.json").exists():
            raise InputError(f"{folder.path} is not finished; finish it, or move it elsewhere")
        if altered := folder.altered():
            raise InputError(f"{altered}; run it again, or move it elsewhere")
        row = folder.metrics()[-1]
        if not math.isfinite(value := row.get(metric, math.nan)):
            measured = ", ".join(name for name, number in row.items() if name != "step" and math.isfinite(number))
            raise InputError(f"metric: {metric!r} is not measured in {folder.path}; allowed: {measured or 'nothing there'}")
        data = folder.read_json("data.json", ["sha256"])
        settings = {name: value for name, value in settings_of(config).items() if name != "engine"}  # one step is one step on any
        if "schedule_sha256" in data:
            settings["schedule_sha256"] = data["schedule_sha256"]
        for known, one in found.items():
            if known == seed:
                raise InputError(f"{folder.path} has the seed {seed} of {one.folder.path}; allowed: one run a seed")
            if changed := differences(one.settings, settings, names=(f"in {one.folder.path}", f"in {folder.path}")):
                raise InputError(f"{folder.path}: more than the seed differs ({'; '.join(changed)})")
        metrics = folder.read_json("finished.json")["metrics_sha256"]
        if copies := [one.folder.path for one in found.values() if one.metrics == metrics]:
            raise InputError(f"{folder.path} has the metrics of {copies[0]} to the byte; allowed: a run of its own for each seed")
        found[seed] = _Run(folder, settings, data["sha256"], metrics, value)
    return found


def _processor(run: _Run) -> Any:
    return run.folder.read_json("environment.json").get("processor")

"""What each claim reads, found by judging a made-up table of the whole plan: `mdlm judge EXPERIMENT --columns`.

So the columns that a table from elsewhere needs are those that the judges ask for, and no list of them is kept by hand.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from mdlm_min.evidence import golden
from mdlm_min.evidence.asked import KEYS, AskedTable, Log, MissingDataError, Point, Read
from mdlm_min.evidence.claim import Claim, MissingArmError
from mdlm_min.evidence.columns import column
from mdlm_min.evidence.elsewhere import ITEM_KEYS, Plan, csv_text, run_name
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import LEAST_SEEDS
from mdlm_min.run.run_folder import Row

_POINTS = 12  # of a made-up curve
_SOURCES = ("table", "curves", "items")


class _AnyPoint(Point):
    """A point at which everything was measured. The numbers may be losses or shares."""

    def __missing__(self, name: str) -> float:
        return 0.5 + 0.1 / (1.0 + self.get("step", 0.0)) + 0.001 * self.run[2]


@dataclass(frozen=True)
class Need:
    """What one claim reads: the names in each source, the arms of each cell, and the arms that it reads only where they are."""

    claim: Claim
    names: dict[str, list[str]]
    arms: dict[str, list[str]]
    optional: dict[str, list[str]]


def needs(experiment: Experiment, tier: str) -> list[Need]:
    """What each claim of the tier reads. Raises InputError for an unknown tier, and for one that no claim is about."""
    table = made_up(experiment, tier)
    return [trace(claim, table) for claim in experiment.module("claims").CLAIMS if claim.tier == tier]


def made_up(experiment: Experiment, tier: str) -> AskedTable:
    """A table with every run of the plan, in which everything was measured."""
    plan, log = Plan.of(experiment, tier), Log()
    keys = [(cell, arm, config["seed"]) for (cell, arm), configs in plan.configs.items() for config in configs]
    runs = {run_name(key): {"cell": key[0], "config": {"arm": key[1], "seed": key[2]}} for key in keys}
    curves: dict[str, list[Row]] = {
        run_name(key): [_AnyPoint({"step": 100.0 * (index + 1)}, key, log) for index in range(_POINTS)] for key in keys
    }
    frame = pd.DataFrame(
        [
            {
                **dict(zip(KEYS, key, strict=True)),
                **{name: 1.0 + 0.01 * (index * place % 97) for place, name in enumerate(plan.columns, 3)},
            }
            for index, key in enumerate(keys)
        ],
        list(runs),
    )
    tasks, scores = _scored(experiment, plan)
    items = csv_text(
        [["task", "item", *scores], *([task, str(item), *("0.5" for _ in scores)] for task in tasks for item in (0, 1))]
    )
    return AskedTable.of(Table(experiment.name, tier, runs, curves, dict.fromkeys(runs, items)), frame, log)


def _scored(experiment: Experiment, plan: Plan) -> tuple[Sequence[str], Sequence[str]]:
    """The tasks of the experiment's items and their scores: `ITEMS` of its claims.py; where there is none, one task and the
    table's columns."""
    found: tuple[Sequence[str], Sequence[str]] = getattr(experiment.module("claims"), "ITEMS", (["task"], plan.columns))
    return found


def trace(claim: Claim, table: AskedTable) -> Need:
    """What the claim's judge reads of a table that lacks nothing."""
    claim.judge(table)
    reads = set(table.log.reads)
    table.log.reads.clear()
    names = {source: sorted({read.name for read in reads if read.source == source and read.name}) for source in _SOURCES}
    places = list(_places(table, reads))
    spare: list[tuple[str, str]] = []
    for place in places:  # one that cannot be left out now cannot be where less is there
        if _without(claim, table, [*spare, place]):
            spare.append(place)
    arms: dict[str, list[str]] = {}
    optional: dict[str, list[str]] = {}
    for cell, arm in places:
        (optional if (cell, arm) in spare else arms).setdefault(cell, []).append(arm)
    return Need(claim, names, arms, optional)


def _places(table: AskedTable, reads: Iterable[Read]) -> Iterator[tuple[str, str]]:
    """Cells and arms that were read, in the order of the table."""
    found = {(read.cell, read.arm) for read in reads if read.source != "items" or read.name}
    places = dict.fromkeys((record["cell"], record["config"]["arm"]) for record in table.runs.values())
    return (place for place in places if place in found)


def _without(claim: Claim, table: AskedTable, places: Collection[tuple[str, str]]) -> bool:
    """Whether the claim can be judged without these arms of these cells."""
    try:
        claim.judge(table.part(lambda record: (record["cell"], record["config"]["arm"]) not in places))
    except (MissingArmError, MissingDataError):
        return False
    finally:
        table.log.reads.clear()
    return True


def _described(name: str) -> str:
    """What a column holds."""
    known = column(name)
    return f"{known}{known.unit and f' ({known.unit})'}"


def _settings_text(experiment: Experiment, arm: str) -> str:
    """An arm's own settings; of the mask rate and its weight the defaults too."""
    defaults = {name: value for name, value in experiment.plan["defaults"].items() if name in ("mask_rate", "weight")}
    settings = {**defaults, **experiment.plan["arms"][arm]}
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items()) or "the defaults"


def describe(experiment: Experiment, tier: str) -> list[str]:
    """The lines of `mdlm judge EXPERIMENT --columns`."""
    plan, found = Plan.of(experiment, tier), needs(experiment, tier)
    lines = [f"{experiment.name}, tier {tier}", "", "TABLE.csv, one row per run:"]
    keys = [
        ("cell", f"one of {', '.join(plan.cells)}" if plan.has_grid else "empty, or no such column: the tier has no grid"),
        ("arm", f"one of {', '.join(plan.arms)}"),
        ("seed", f"a whole number, the same ones in each arm; {LEAST_SEEDS} of them decide, none of which selected anything"),
    ]
    lines += _columns(keys)
    lines += _columns(
        [(name, f"{_described(name)}{readers}") for name in plan.columns if (readers := _readers(found, "table", name))]
    )
    unread = [name for name in plan.columns if not _readers(found, "table", name)]
    lines += [f"  read by no claim, allowed: {', '.join([*unread, *golden.PROVENANCE])}"]
    for source, option, row, more in (
        ("curves", "--curves", "per run and step", ("step",)),
        ("items", "--items", "per run and test item", ITEM_KEYS),
    ):
        names = dict.fromkeys(name for need in found for name in need.names[source] if name not in (*KEYS, *more))
        if names:
            lines += ["", f"{option} {source}.csv, one row {row}: {', '.join([*KEYS[not plan.has_grid :], *more])}, and"]
            lines += _columns([(name, f"{_described(name)}{_readers(found, source, name)}") for name in names])
    lines += ["", "What an arm is (all else: the defaults of experiment.toml):"]
    lines += _columns([(arm, _settings_text(experiment, arm)) for arm in plan.arms])
    lines += ["", "What was not measured is left empty. The arms that each claim needs:"]
    arms = [(need.claim.id, text) for need in found for text in _arms_text(need)]
    return lines + _columns(arms)


def _columns(pairs: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"  {name:{width}}  {text}" for name, text in pairs]


def _readers(found: Iterable[Need], source: str, name: str) -> str:
    """By which claims a name is read; empty where by none."""
    claims = [need.claim.id for need in found if name in need.names[source]]
    return f"; read by {', '.join(claims)}" if claims else ""


def _arms_text(need: Need) -> Iterator[str]:
    for arms, more in ((need.arms, ""), (need.optional, "; for its note, where they are there")):
        for cell, names in arms.items():
            yield f"{', '.join(names)}{f' in the cell {cell}' if cell else ''}{more}"

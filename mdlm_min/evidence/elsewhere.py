"""Runs made elsewhere, by another trainer or on another machine, read from CSV files as a table that claims can judge.

TABLE.csv   one row per run: cell (where the tier has a grid), arm, seed, and the columns that the experiment's own table has
curves.csv  one row per run and step: cell, arm, seed, step, and metrics
items.csv   one row per run and test item: cell, arm, seed, task, item, and scores

An empty value was not measured, nor was "nan", as our own tables say it. A value that cannot be one is refused with its row,
counted as a spreadsheet does: the row of names is row 1.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdlm_min.evidence import golden
from mdlm_min.evidence.asked import KEYS, AskedTable, Log, NoCurve, Point, place
from mdlm_min.evidence.columns import column as known_column
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.plan_file import cells
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row, format_number

Run = tuple[str, str, int]  # cell, arm, seed
ITEM_KEYS = ("task", "item")
NOT_MEASURED = ("", "nan")
_MOST_SEED = 2**63 - 1
_NO_CHANCE = 8  # significant digits: losses of a hundred runs within .1 nats of each other are all different


@dataclass(frozen=True)
class Plan:
    """What the tier's plan knows: its cells (one without a name where it has no grid), its arms, and the runs' configurations;
    and the table's columns."""

    cells: list[str]
    arms: list[str]
    configs: dict[tuple[str, str], list[dict[str, Any]]]
    columns: list[str]

    @staticmethod
    def of(experiment: Experiment, tier: str) -> "Plan":
        """Raises InputError for an unknown tier, and for one that no claim about trained models is about."""
        specs = experiment.runs(tier, "all")
        tiers = dict.fromkeys(claim.tier for claim in experiment.module("claims").CLAIMS if claim.kind != "exact")
        if tier not in tiers:
            allowed = ", ".join(tiers) or "none: it has no such claims"
            raise InputError(f"tier: no claim of {experiment.name} on trained models is about tier {tier}; allowed: {allowed}")
        configs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for spec in specs:
            configs.setdefault((spec.cell, spec.arm), []).append(spec.config)
        grid, arms = cells(experiment.tier(tier).get("grid", [])), experiment.plan["arms"]
        return Plan(list(dict.fromkeys(cell.name for cell in grid)), list(arms), configs, _measured(experiment))

    @property
    def has_grid(self) -> bool:
        """Whether its cells have names."""
        return self.cells != [""]


class _AnyRow(dict[str, float]):
    """The metrics of a run of which everything was measured."""

    def __missing__(self, name: str) -> float:
        return 0.0

    def get(self, name: str, default: Any = None) -> Any:
        """Any metric is there."""
        return 0.0


def _measured(experiment: Experiment) -> list[str]:
    """The columns of the experiment's table that say what was measured. They are those of its golden tables; where it has none,
    what run.py's `summarise` gives."""
    frames = [table.frame() for table in golden.golden_by_tier(experiment.name).values()]
    frames = frames or [pd.DataFrame(experiment.summariser()([_AnyRow()]))]
    return [str(name) for name in pd.concat(frames).select_dtypes("number") if name not in (*KEYS, *golden.PROVENANCE)]


@dataclass
class _File:
    """One CSV file. `shown` is its name in messages."""

    path: Path
    plan: Plan
    names: list[str] = field(default_factory=list)

    def wrong(self, row: int, column: str, value: str, allowed: str) -> InputError:
        """A value that is not allowed."""
        return InputError(f"{self.path}: row {row}: {column} is {value!r:.60}; allowed: {allowed}")

    def rows(self, known: Sequence[str] | None, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Every row with its number. Raises InputError where the file cannot be read, where a column is needed, unknown (`known`
        given) or there twice, and for a row with more or fewer values."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                yield from self._rows(csv.reader(file, strict=True), known, needed)
        except (OSError, UnicodeError, csv.Error) as error:
            raise InputError(f"{self.path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error

    def _rows(
        self, reader: Iterator[list[str]], known: Sequence[str] | None, needed: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, str]]]:
        self.names = [name.strip() for name in next(reader, [])]
        if lacking := [name for name in needed if name not in self.names]:
            hint = ", separated by commas" if len(self.names) == 1 else ""
            raise InputError(f"{self.path}: row 1: there is no column {lacking[0]}; needed: {', '.join(needed)}{hint}")
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise InputError(f"{self.path}: row 1: the column {twice[0]!r:.60} is there twice")
        if known is not None and (unknown := [name for name in self.names if name not in known]):
            raise InputError(f"{self.path}: row 1: the column {unknown[0]!r:.60} is unknown; allowed: {', '.join(known)}")
        is_empty = True
        for number, values in enumerate(reader, start=2):
            if values and len(values) != len(self.names):
                raise InputError(
                    f"{self.path}: row {number}: {len(values)} values; allowed: {len(self.names)}, one for each column"
                )
            if values:
                is_empty = False
                yield number, {name: value.strip() for name, value in zip(self.names, values, strict=True)}
        if is_empty:
            raise InputError(f"{self.path}: has no rows")

    def run(self, row: int, values: Mapping[str, str]) -> Run:
        """Which run a row is about."""
        cell, arm, seed = values.get("cell", ""), values["arm"], values["seed"]
        if cell not in self.plan.cells:
            allowed = ", ".join(self.plan.cells) if self.plan.has_grid else "an empty one: the tier has no grid"
            raise self.wrong(row, "cell", cell, allowed)
        if arm not in self.plan.arms:
            raise self.wrong(row, "arm", arm, ", ".join(self.plan.arms))
        if not (seed.isascii() and seed.isdigit() and len(seed) <= 100 and int(seed) <= _MOST_SEED):
            raise self.wrong(row, "seed", seed, "a whole number from 0 to 2^63 - 1")
        return cell, arm, int(seed)

    def number(self, row: int, column: str, text: str, needed: bool = False) -> float:
        """A value. Raises InputError for one that is not a number, or that the column's name rules out. `needed`: it cannot be
        left out."""
        known = known_column(column)
        try:
            value = float(text) if "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not known.allows(value):
            raise self.wrong(
                row, column, text, f"{known}" if needed else f"{known}, or nothing (or nan) where it was not measured"
            )
        return value


def run_of(record: Mapping[str, Any]) -> Run:
    """Which run a record of a table is about."""
    return record["cell"], record["config"]["arm"], record["config"]["seed"]


def run_name(run: Run) -> str:
    """Its name in a table."""
    return "/".join(part for part in (run[0], run[1], f"seed{run[2]}") if part)


def _read_results(path: Path, plan: Plan) -> pd.DataFrame:
    """TABLE.csv, indexed by the run's name."""
    file = _File(path, plan)
    keys = KEYS if plan.has_grid else KEYS[1:]
    found: list[dict[str, Any]] = []
    rows: dict[Run, int] = {}
    for row, values in file.rows([*KEYS, *plan.columns, *golden.PROVENANCE], keys):
        run = file.run(row, values)
        if (first := rows.setdefault(run, row)) < row:
            raise InputError(f"{path}: row {row}: {place(*run)}, is there twice, first in row {first}")
        there = [name for name in plan.columns if name in values]
        numbers = {name: math.nan if values[name] in NOT_MEASURED else file.number(row, name, values[name]) for name in there}
        last = numbers.get("last_step", math.nan)
        if late := [name for name, value in numbers.items() if name.startswith("t_") and last < value < math.inf]:
            raise file.wrong(row, late[0], values[late[0]], f"up to last_step, {format_number(last)}, or inf where it never was")
        found.append({**dict(zip(KEYS, run, strict=True)), **numbers})
    frame = pd.DataFrame(found, [run_name(run) for run in rows])
    _refuse_copies(path, frame, rows)
    return frame


def _refuse_copies(path: Path, frame: pd.DataFrame, rows: Mapping[Run, int]) -> None:
    """Raise InputError for two runs that have all measured values in common, among them a continuous one with so many digits that
    this is no chance; and for an arm of a cell whose seeds have, with however few digits."""
    numbers = frame.drop(columns=list(KEYS))
    continuous = [name for name in numbers if known_column(str(name)).continuous]
    fine = numbers[continuous].map(_is_fine).any(axis=1)
    for _, runs in frame[fine & numbers.duplicated(keep=False)].groupby(list(numbers), dropna=False, sort=False):
        first, second = list(runs[list(KEYS)].itertuples(index=False, name=None))[:2]
        raise InputError(
            f"{path}: row {rows[second]}: {place(*second)}, has the values of {place(*first)}, row {rows[first]}: copies of one "
            "run; allowed: a run of its own for each seed and arm"
        )
    for _, runs in frame.groupby(["cell", "arm"]):
        measured = runs.drop(columns=list(KEYS)).dropna(axis=1, how="all")
        continuous = [name for name in measured if known_column(str(name)).continuous]
        if len(runs) > 1 and continuous and bool((measured.nunique(dropna=False) == 1).all()):
            copies: list[Run] = list(runs[list(KEYS)].itertuples(index=False, name=None))
            where = ", ".join(str(rows[run]) for run in copies)
            value = format_number(float(measured[continuous[0]].iloc[0]))
            raise InputError(
                f"{path}: rows {where}: {continuous[0]} is {value}, and all else equal, in each seed of {place(*copies[0][:2])}: "
                "copies of one run; allowed: a run of its own for each seed"
            )


def _is_fine(value: float) -> bool:
    """Whether two runs can have a number in common only as copies: it has _NO_CHANCE digits, which are not those of a number of
    16 bits, of which there are few."""
    if not math.isfinite(value) or len(Decimal(repr(value)).normalize().as_tuple().digits) < _NO_CHANCE:
        return False
    with np.errstate(over="ignore"):
        half, single = np.float16(value), np.float32(value)
    is_bfloat16 = float(single) == value and int(single.view(np.uint32)) % 2**16 == 0
    return not is_bfloat16 and float(half) != value


def _read_curves(path: Path, plan: Plan, runs: Mapping[str, Any], log: Log) -> dict[str, list[Row]]:
    """curves.csv: of each run its points in the order of the steps."""
    file = _File(path, plan)
    curves: dict[str, dict[float, Point]] = {}
    for row, values in file.rows(None, [*(KEYS if plan.has_grid else KEYS[1:]), "step"]):
        run = _known(file, row, values, runs)
        step = file.number(row, "step", values["step"], needed=True)
        if step in curves.setdefault(run_name(run), {}):
            raise InputError(f"{path}: row {row}: step {values['step']} of {place(*run)} is there twice")
        measured = {name: value for name, value in values.items() if name not in KEYS and value not in NOT_MEASURED}
        metrics = {name: file.number(row, name, value) for name, value in measured.items()}
        curves[run_name(run)][step] = Point(metrics, run, log)
    _refuse_copied_curves(path, [list(points.values()) for points in curves.values()])
    return {name: [points[step] for step in sorted(points)] for name, points in curves.items()}


def _refuse_copied_curves(path: Path, curves: Iterable[list[Point]]) -> None:
    """Raise InputError for two seeds of an arm whose curves are equal, with at least three continuous values."""
    seen: dict[tuple[str, str, frozenset[Any]], int] = {}
    for points in curves:
        cell, arm, seed = points[0].run
        continuous = {item for point in points for item in point.items() if known_column(item[0]).continuous}
        first = seen.setdefault((cell, arm, frozenset(frozenset(point.items()) for point in points)), seed)
        if first != seed and len(continuous) >= 3:
            raise InputError(
                f"{path}: {place(cell, arm, seed)}, has the curve of seed {first}: copies of one run; allowed: a run of its "
                "own for each seed"
            )


def _read_items(path: Path, plan: Plan, runs: Mapping[str, Any]) -> dict[str, str]:
    """items.csv: of each run the text that its own items.csv would have."""
    file = _File(path, plan)
    items: dict[str, dict[tuple[str, float], list[str]]] = {}
    for row, values in file.rows(None, [*(KEYS if plan.has_grid else KEYS[1:]), *ITEM_KEYS]):
        run = _known(file, row, values, runs)
        item = (values["task"], file.number(row, "item", values["item"], needed=True))
        if item in items.setdefault(run_name(run), {}):
            raise InputError(f"{path}: row {row}: item {values['item']} of {values['task']} of {place(*run)} is there twice")
        scores = [(name, value) for name, value in values.items() if name not in (*KEYS, *ITEM_KEYS)]
        numbers = ["" if value in NOT_MEASURED else format_number(file.number(row, name, value)) for name, value in scores]
        items[run_name(run)][item] = [values["task"], format_number(item[1]), *numbers]
    header = [*ITEM_KEYS, *(name for name in file.names if name not in (*KEYS, *ITEM_KEYS))]
    return {name: csv_text([header, *lines.values()]) for name, lines in items.items()}


def csv_text(lines: list[list[str]]) -> str:
    """Lines of values as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _known(file: _File, row: int, values: Mapping[str, str], runs: Mapping[str, Any]) -> Run:
    run = file.run(row, values)
    if run_name(run) not in runs:
        raise InputError(f"{file.path}: row {row}: {place(*run)} is no run of the table")
    return run


def read(experiment: Experiment, tier: str, table: Path, curves: Path | None = None, items: Path | None = None) -> AskedTable:
    """Runs made elsewhere as a table of this experiment and tier. Raises InputError naming the file and the row."""
    plan, log = Plan.of(experiment, tier), Log()
    frame = _read_results(table, plan)
    runs = {
        name: {"cell": cell, "config": {"arm": arm, "seed": seed}}
        for name, cell, arm, seed in frame[list(KEYS)].itertuples(name=None)
    }
    found = _read_curves(curves, plan, runs, log) if curves else {}
    lacking = {name: NoCurve(run_of(record)) for name, record in runs.items()}
    scored = _read_items(items, plan, runs) if items else {}
    return AskedTable.of(Table(experiment.name, tier, runs, lacking | found, scored), frame, log)

"""A table that notes what a judge reads of it, and says what it lacks.

A judge sees a Table and nothing else, so what a claim needs can be found by judging: of runs made elsewhere, what is missing for
it; of the plan, which columns a table must have (needs.py). Our own golden tables are never read through this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

import pandas as pd

from mdlm_min.evidence.golden import Table
from mdlm_min.run.run_folder import Row

KEYS = ("cell", "arm", "seed")


class MissingDataError(LookupError):
    """What a judge asked for and the table lacks, in words that go after "needs"."""


class Read(NamedTuple):
    """One thing that a judge read: a column of the "table", the "curves" or the "items" of one run."""

    source: str
    name: str
    cell: str
    arm: str
    seed: int


@dataclass
class Log:
    """What one judge has read."""

    reads: set[Read] = field(default_factory=set)


def place(cell: str, arm: str, seed: int | None = None) -> str:
    """An arm, or one run of it, as a message names it."""
    return f"{arm}{'' if seed is None else f', seed {seed}'}{f', in the cell {cell}' if cell else ''}"


class Rows(pd.DataFrame):
    """Table rows whose empty values are missing ones: to read one of them is an error. Parts of it are of the same kind."""

    _metadata = ["log", "source"]  # noqa: RUF012 - what pandas passes on to the parts
    log: Log
    source: str

    @property
    def _constructor(self) -> Callable[..., "Rows"]:
        return Rows

    def __getitem__(self, key: Any) -> Any:
        names = [key] if isinstance(key, str) else list(key) if isinstance(key, list) and all(map(_is_text, key)) else []
        for name in names:
            if name not in self.columns:
                raise MissingDataError(f"the column {name} of the {self.source}")
        found = super().__getitem__(key)
        for name in names:
            if name not in KEYS:
                self._note(name, super().__getitem__(name))
        return found

    def _note(self, name: str, values: "pd.Series[Any]") -> None:
        by_key = pd.DataFrame(self.reset_index() if self.index.names[0] in KEYS else self)
        if not set(KEYS) <= set(by_key):
            return  # what pandas made of rows that were noted when they were taken
        whose = by_key[list(KEYS)].itertuples(index=False)
        for (cell, arm, seed), empty in zip(whose, values.isna(), strict=True):
            self.log.reads.add(Read(self.source, name, cell, arm, int(seed)))
            if empty:
                raise MissingDataError(f"{name} of {place(cell, arm, int(seed))}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def rows(frame: pd.DataFrame, source: str, log: Log) -> Rows:
    """A frame with the columns of KEYS as Rows."""
    found = Rows(frame)
    found.log, found.source = log, source
    return found


class Point(dict[str, float]):
    """The metrics of one run at one step."""

    def __init__(self, values: Mapping[str, float], run: tuple[str, str, int], log: Log) -> None:
        super().__init__(values)
        self.run, self.log = run, log

    def __getitem__(self, name: str) -> float:
        self.log.reads.add(Read("curves", name, *self.run))
        return super().__getitem__(name)

    def __missing__(self, name: str) -> float:
        raise MissingDataError(f"{name} in the curves of {place(*self.run)}, step {self.get('step', float('nan')):g}")


class NoCurve(list[Row]):
    """In the place of a curve that was not given: to look at it is an error."""

    def __init__(self, run: tuple[str, str, int]) -> None:
        super().__init__()
        self.run = run

    def _missing(self) -> MissingDataError:
        return MissingDataError(f"the curves of {place(*self.run)}")

    def __iter__(self) -> Iterator[Row]:
        raise self._missing()

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        raise self._missing()

    def __len__(self) -> int:
        raise self._missing()


@dataclass(frozen=True)
class AskedTable(Table):
    """A Table whose rows and curves note in `log` what is read. `results` are its rows, indexed by the run's name."""

    log: Log = field(default_factory=Log)

    @staticmethod
    def of(table: Table, results: pd.DataFrame, log: Log) -> "AskedTable":
        """The table with these rows."""
        found = AskedTable(table.experiment, table.tier, table.runs, table.curves, table.items, log)
        found.__dict__["_frame"] = rows(results, "table", log)  # in the place of what its curves would give
        return found

    def part(self, belongs: Callable[[dict[str, Any]], bool]) -> "AskedTable":
        """See Table."""
        part = super().part(belongs)
        return AskedTable.of(part, part._frame, self.log)

    def item_frame(self) -> pd.DataFrame:
        """See Table. Raises MissingDataError where no run has items."""
        for record in self.runs.values():
            self.log.reads.add(Read("items", "", record["cell"], record["config"]["arm"], record["config"]["seed"]))
        if not self.items:
            raise MissingDataError("the items")
        frame, cells = super().item_frame(), {name: record["cell"] for name, record in self.runs.items()}
        return rows(frame.assign(cell=frame["run"].map(cells)).reset_index(drop=True), "items", self.log)

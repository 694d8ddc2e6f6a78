"""Claims: what the paper says, how it is tested, and what the tables say of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.statistics import Decision, Evidence, Share
from mdlm_min.run.run_folder import Row

KINDS = ("exact", "ordinal", "statistical")
NULLS = {"value": math.nan, "difference": 0.0, "ratio": 1.0, "share": 0.5, "probability": 0.5}  # by scale
VERDICTS = ("reproduced", "not reproduced", "underpowered", "not run")


class MissingArmError(LookupError):
    """What a claim's judge raises where the table lacks an arm that the claim is about: it was not run."""


@dataclass(frozen=True)
class Verdict:
    """What our runs say of a claim: the number that it turns on, its 95% interval over seeds, and a note.

    For claims about trained models also the number of seeds, the p-value of the null value, as it is and adjusted in the claim's
    family, and where that decides nothing about how many seeds would (0: not known)."""

    verdict: str
    note: str
    ours: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    raw: float = math.nan
    adjusted: float = math.nan
    needed: int = 0
    small: bool = False  # reproduced, and surely less than what would matter

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r}; allowed: {VERDICTS}")

    @staticmethod
    def of(evidence: Evidence, decision: Decision, needed: int = 0) -> "Verdict":
        """The verdict that the rules (statistics.py) give on this evidence. `needed` seeds would show the smallest value that
        would matter; where there were as many, a verdict has no number of seeds."""
        left_open = ""
        if isinstance(evidence, Share) and evidence.unknown:
            left_open = f"{evidence.unknown} of {evidence.seeds} seeds ended before it could be seen"
        cost = ""
        if needed > evidence.seeds:
            cost = f"About {needed} seeds would show the smallest value that would matter"
        elif needed:
            cost = f"{needed} seeds would have shown the smallest value that would matter in most cases, before adjustment"
            needed = 0
        note = ". ".join(part for part in (evidence.note, left_open, decision.sentence, cost) if part)
        return Verdict(
            decision.verdict,
            note,
            evidence.estimate,
            *evidence.interval(),
            evidence.seeds,
            decision.raw,
            decision.adjusted,
            needed,
            decision.verdict == "reproduced" and bool(decision.sentence),
        )


Judge = Callable[[Table], Verdict | Evidence]


@dataclass(frozen=True)
class Claim:
    """One claim. `tolerance` is fixed before the runs; `judge` sees the tier's table and nothing else.

    The judge of an exact claim gives its verdict. That of a claim about trained models gives evidence, on which the rules of
    statistics.py decide: the claim says that the quantity lies above `null` (by default that of its scale: a difference above 0,
    a ratio above 1, a share or a probability above 1/2), and `smallest` is the smallest value that would matter. Claims of one
    tier with the same `family` are adjusted together.

    `quantity` names the number reported as ours, `published` is what the paper says (text, since some are pairs or
    ranges), `cost` what it would take where its runs are missing. `paper` is the paper's number of the very same quantity, where
    it has one; it and `scale` are for drawing too. `set_after` says why the claim was set after its runs, where the history
    cannot show it, such as of a count that was made again since.
    """

    id: str
    statement: str
    kind: str
    quantity: str
    published: str
    tolerance: str
    tier: str
    judge: Judge
    cost: str = ""
    scale: str = "value"
    paper: float = math.nan
    smallest: float = math.nan
    null: float = math.nan
    family: str = ""
    set_after: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} of claim {self.id}; allowed: {KINDS}")
        if self.scale not in NULLS:
            raise ValueError(f"scale {self.scale!r} of claim {self.id}; allowed: {tuple(NULLS)}")
        if self.kind != "exact" and not self.smallest > self.least:
            raise ValueError(f"smallest {self.smallest} of claim {self.id}; allowed: a number above its null, {self.least}")

    @property
    def least(self) -> float:
        """The null value, which the claim says is exceeded."""
        return NULLS[self.scale] if math.isnan(self.null) else self.null


def quarter(published: float, null: float = 0.0) -> float:
    """The smallest value that would matter, where no other reason is given: a quarter of the published effect."""
    return null + (published - null) / 4


def arms_of(table: Table) -> list[str]:
    """The arms that were run, in the order of the table."""
    return list(dict.fromkeys(record["config"]["arm"] for record in table.runs.values()))


def rows_of(table: Table, arm: str) -> pd.DataFrame:
    """The table rows of one arm, in the order of the seeds. Raises MissingArmError where the arm was not run."""
    if arm not in arms_of(table):
        raise MissingArmError(arm)
    frame = table.frame()
    return frame[frame["arm"] == arm].sort_values("seed", kind="stable")


def by_seed(table: Table, arm: str, column: str) -> np.ndarray:
    """One column of `rows_of`: a value for each seed."""
    return rows_of(table, arm)[column].to_numpy()


def curves_of(table: Table, arm: str) -> list[list[Row]]:
    """The metrics over steps of one arm, one curve for each seed. Raises MissingArmError where the arm was not run."""
    found = sorted((record["config"]["seed"], name) for name, record in table.runs.items() if record["config"]["arm"] == arm)
    if not found:
        raise MissingArmError(arm)
    return [table.curves[name] for _, name in found]


def mean_curve(table: Table, arm: str) -> pd.DataFrame:
    """The mean over seeds of `curves_of`, a column for each metric, indexed by the step."""
    return pd.concat([pd.DataFrame(rows) for rows in curves_of(table, arm)]).groupby("step").mean()


def in_cell(judge: Judge, cell: str) -> Judge:
    """The same judge, which sees one cell of the grid alone."""
    return lambda table: judge(table.cell(cell))

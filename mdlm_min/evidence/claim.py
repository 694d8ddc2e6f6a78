"""Claims: what the paper says, how it is tested, and what the tables say of it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mdlm_min.evidence.golden import Table
from mdlm_min.run.run_folder import Row

KINDS = ("exact", "ordinal", "statistical")
SCALES = ("value", "difference", "ratio", "share")
VERDICTS = ("reproduced", "not reproduced", "underpowered", "not run")


class MissingArmError(LookupError):
    """What a claim's judge raises where the table lacks an arm that the claim is about: it was not run."""


@dataclass(frozen=True)
class Verdict:
    """What our runs say of a claim: the number that it turns on, its 95% interval over seeds, and one sentence."""

    verdict: str
    note: str
    ours: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r}; allowed: {VERDICTS}")


Judge = Callable[[Table], Verdict]


@dataclass(frozen=True)
class Claim:
    """One claim. `tolerance` is fixed before the runs; `judge` sees the tier's table and nothing else.

    `quantity` names the number reported as ours, `published` is what the paper says (text, since some are pairs or
    ranges), `cost` what it would take where the tier was not run. For drawing only: `scale` says what kind of number the quantity
    is, `paper` is the paper's number of the very same quantity, where it has one.
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

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} of claim {self.id}; allowed: {KINDS}")
        if self.scale not in SCALES:
            raise ValueError(f"scale {self.scale!r} of claim {self.id}; allowed: {SCALES}")


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and its two-sided 95% Student interval over seeds; the interval is infinite for one value."""
    data = np.asarray(list(values), dtype=float)
    mean = float(data.mean())
    if len(data) < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.975, len(data) - 1)) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return mean, mean - half, mean + half


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


def above_zero(differences: np.ndarray, note: str, unit: str = "nats") -> Verdict:
    """Verdict on differences that are claimed positive, one per seed (or item), both arms judged on the same data."""
    mean, low, high = mean_interval(differences)
    if low > 0:
        return Verdict("reproduced", note, mean, low, high)
    if high < 0:
        return Verdict("not reproduced", note, mean, low, high)
    smallest = "none, with one seed" if len(differences) < 2 else f"{(high - low) / 2:.3f} {unit}, the half-width of the interval"
    return Verdict(
        "underpowered", f"{note}. The smallest difference that these seeds could have shown: {smallest}", mean, low, high
    )


def share_interval(successes: int, trials: int) -> tuple[float, float, float]:
    """A share and its exact (Clopper-Pearson) 95% interval."""
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    return successes / trials, float(interval.low), float(interval.high)


def every_seed(found: Iterable[bool], note: str) -> Verdict:
    """Verdict on a claim about every seed: reproduced if all have it, not if at most half do, else undecided."""
    held = list(found)
    share, low, high = share_interval(sum(held), len(held))
    verdict = "reproduced" if share == 1 else "not reproduced" if share <= 0.5 else "underpowered"
    return Verdict(verdict, note, share, low, high)


def above_one(ratios: Iterable[float], note: str) -> Verdict:
    """Verdict on a ratio, one value per seed, that is claimed to exceed 1: its geometric mean and 95% interval over seeds."""
    logs = np.log(list(ratios))
    mean, low, high = (float(np.exp(value)) for value in mean_interval(logs))
    if low > 1:
        return Verdict("reproduced", note, mean, low, high)
    if high < 1:
        return Verdict("not reproduced", note, mean, low, high)
    smallest = "none, with one seed" if len(logs) < 2 else f"{math.sqrt(high / low):.2f}"
    return Verdict("underpowered", f"{note}. The smallest ratio that these seeds could have shown: {smallest}", mean, low, high)


def steps_text(steps: Iterable[float]) -> str:
    """Steps of several seeds for a note; infinity is "never"."""
    return ", ".join("never" if not math.isfinite(value) else f"{value:.0f}" for value in steps)

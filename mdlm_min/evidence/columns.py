"""What the name of a column says about its values, in every table of this project.

The first pattern that fits the whole name counts. A step that may never come is infinite where it did not. Losses are continuous:
two seeds do not have the same one. The loss at a level of t (test_t0.1) is an estimate that may fall below 0, so it has no bound.
"""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """The least and the greatest value; whether inf says that something never came; whether equal values are a copy; and the
    unit, where the name does not say it."""

    least: float = -math.inf
    greatest: float = math.inf
    endless: bool = False
    continuous: bool = False
    unit: str = ""

    def allows(self, value: float) -> bool:
        """Whether it can be a value of this column."""
        return self.least <= value <= self.greatest and (math.isfinite(value) or (self.endless and value > 0))

    def __str__(self) -> str:
        bounded = f" in [{self.least:g},{self.greatest:g}]" if math.isfinite(self.greatest) else f" of at least {self.least:g}"
        return f"a number{bounded if math.isfinite(self.least) else ''}{', inf where it never came' if self.endless else ''}"


_COLUMNS = (
    (r"(test|valid)_loss", Column(0, continuous=True, unit="nats per token, the mean over all mask rates in [0,1]")),
    (r"(.*_)?(loss|nll|bits_per_byte)", Column(0, continuous=True)),
    (r"test_t\d\.\d", Column(continuous=True, unit="nats per token, in the tenth of mask rates from there on")),
    (r"(.*_)?(acc|acc_norm|accuracy|share)|(final|best)_(train|validation)|chosen|written|solved_\d+", Column(0, 1)),
    (r"t_\w+", Column(0, endless=True, unit="steps")),
    (r"delay_ratio", Column(0, endless=True)),
    (r"delay", Column(endless=True)),  # below 0 where it generalises before it memorises
    (r"(.*_)?(step|error)|skipped|learning_rate", Column(0)),
)


def column(name: str) -> Column:
    """What is known of the column of this name."""
    return next((found for pattern, found in _COLUMNS if re.fullmatch(pattern, name)), Column())

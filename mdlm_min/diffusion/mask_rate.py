"""Distributions of the mask rate t, in the notation people write: "U[0.45,0.55]", "1/7", "0.5*U[0,0.2] + 0.5*U[0.8,1]",
"N[0.5,0.2]".

`MaskRate` is the interface: any schedule of mask rates can implement it. The notation describes two: a `UniformMixture` of
intervals, in which a fixed rate is an interval of width zero, and a `TruncatedNormal`. The word "stratified" in front of a
mixture makes the draws of one batch cover the distribution evenly (one draw in each of its `count` equally likely parts). This
keeps the expectation and lowers the variance.
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError

_NUMBER = r"[0-9]{0,30}\.?[0-9]{1,30}(?:/[0-9]{1,30}|[eE]-?[0-9]{1,2})?"  # 0.45, .45, 1/7, 1e-3
_TERM = re.compile(rf"(?:(?P<weight>{_NUMBER})\*)?(?:U\[(?P<low>{_NUMBER}),(?P<high>{_NUMBER})\]|(?P<fixed>{_NUMBER}))")
_NORMAL = re.compile(rf"N\[(?P<centre>{_NUMBER}),(?P<deviation>{_NUMBER})\]")
LEAST = 1e-6  # of the upper end of a rate: below, float32 draws and what they hide come to nothing
_ALLOWED = (
    "U[a,b] with 0 <= a < b <= 1, a fixed rate in [0,1], a mixture such as 0.5*U[0,0.2] + 0.5*0.3, or a normal distribution cut "
    "to [0,1], N[centre,deviation] with a centre in [0,1] and a deviation of .01 to 10"
)


def check_generator(generator: torch.Generator) -> None:
    """Raise InputError for what is no generator: all draws come from the one that is given."""
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator: {shown(generator)} is not allowed; allowed: a torch.Generator, such as stream(seed, 'masks')"
        )


class MaskRate(ABC):
    """A distribution of the mask rate t on [0, 1]. `text` names it in messages and tables."""

    text: str

    @staticmethod
    def parse(text: str) -> "MaskRate":
        """Read the notation above. Raises InputError naming the value and what is allowed."""
        if not isinstance(text, str) or re.search(r"[0-9.]\s+[0-9.]", text):  # blanks may stand between numbers, not in one
            raise InputError(f"mask_rate: {shown(text)} is not a mask rate; allowed: {_ALLOWED}")
        normal = _NORMAL.fullmatch(text.replace(" ", ""))
        return TruncatedNormal.of(text, *normal.group("centre", "deviation")) if normal else UniformMixture.of(text)

    @staticmethod
    def checked(rate: "MaskRate") -> "MaskRate":
        """The rate itself. Raises InputError for anything else, such as its notation."""
        if not isinstance(rate, MaskRate):
            raise InputError(f"rate: {shown(rate)} is not allowed; a MaskRate, such as MaskRate.parse('U[0.45,0.55]')")
        return rate

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` mask rates, float32 of shape [count], on the generator's device. A continuous distribution never gives t =
        0."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """E[t], the expected share of masked tokens."""

    @property
    @abstractmethod
    def highest(self) -> float:
        """The largest mask rate that can occur."""

    @abstractmethod
    def density(self, rate: Tensor) -> Tensor:
        """p(t) at each `rate`, in the same shape. Raises InputError for a distribution without a density (a fixed rate)."""

    @property
    def can_be_zero(self) -> bool:
        """Whether t = 0 has positive probability."""
        return False


def window_around(rate: float) -> str:
    """The window of the paper's width, .1, around a rate, moved inside [0, 1], in the notation above."""
    low = min(max(rate - 0.05, 0.0), 0.9)
    return f"U[{low:.2f},{low + 0.1:.2f}]"


@dataclass(frozen=True)
class Interval:
    """Mask rates uniform on [low, high], drawn with probability `weight`."""

    weight: float
    low: float
    high: float


@dataclass(frozen=True)
class UniformMixture(MaskRate):
    """A mixture of uniform intervals. `text` is the notation that it was read from."""

    intervals: tuple[Interval, ...]
    stratified: bool
    text: str

    @staticmethod
    def of(text: str) -> "UniformMixture":
        """See MaskRate.parse."""
        body = text.strip()
        stratified = body.startswith("stratified ")
        if stratified and _NORMAL.fullmatch(body.removeprefix("stratified ").replace(" ", "")):
            raise InputError(f"mask_rate: {shown(text)}: a normal distribution is not stratified; allowed: {_ALLOWED}")
        terms = body.removeprefix("stratified ").replace(" ", "").split("+")
        intervals = []
        for term in terms:
            match = _TERM.fullmatch(term)
            try:
                part = {name: float(Fraction(value)) for name, value in match.groupdict().items() if value} if match else {}
            except ZeroDivisionError:
                part = {}
            if not part:
                raise InputError(f"mask_rate: {shown(text)} is not a mask rate; allowed: {_ALLOWED}")
            low, high = (part["fixed"], part["fixed"]) if "fixed" in part else (part["low"], part["high"])
            if not 0 <= low <= high <= 1 or ("low" in part and low == high):
                raise InputError(
                    f"mask_rate: {shown(text)} leaves [0,1], or its ends are equal or in the wrong order; allowed: {_ALLOWED}"
                )
            if 0 < high < LEAST:
                raise InputError(f"mask_rate: {shown(text)} has rates below {LEAST:g}, which hide nothing; allowed: {_ALLOWED}")
            intervals.append(Interval(part.get("weight", 1.0 if len(terms) == 1 else 0.0), low, high))
        total = sum(interval.weight for interval in intervals)
        if abs(total - 1) > 1e-6 or any(interval.weight <= 0 for interval in intervals):
            raise InputError(f"mask_rate: the weights of {shown(text)} are not positive with sum 1; allowed: {_ALLOWED}")
        return UniformMixture(tuple(intervals), stratified, text)

    @property
    def can_be_zero(self) -> bool:
        """Whether t = 0 has positive probability. A uniform interval [0, b] never gives t = 0."""
        return any(interval.high == 0 for interval in self.intervals)

    @property
    def mean(self) -> float:
        """E[t]."""
        return sum(interval.weight * (interval.low + interval.high) / 2 for interval in self.intervals)

    @property
    def highest(self) -> float:
        """The largest mask rate that can occur."""
        return max(interval.high for interval in self.intervals)

    def density(self, rate: Tensor) -> Tensor:
        """p(t). An interval's ends are widened by 1e-6, because a draw may be rounded to just outside them."""
        if any(interval.low == interval.high for interval in self.intervals):
            raise InputError(f"mask_rate: {self.text!r} holds a fixed rate and has no density; allowed: a mixture of U[a,b]")
        total = torch.zeros_like(rate)
        for interval in self.intervals:
            inside = (rate >= interval.low - 1e-6) & (rate <= interval.high + 1e-6)
            total += inside * (interval.weight / (interval.high - interval.low))
        return total

    def quantile(self, u: Tensor) -> Tensor:
        """Inverse distribution function: `u` in (0, 1], any shape, to mask rates of the same shape."""
        rate = torch.empty_like(u)
        below = 0.0
        for index, interval in enumerate(self.intervals):
            last = index == len(self.intervals) - 1
            chosen = (u > below) if last else (u > below) & (u <= below + interval.weight)
            inside = ((u[chosen] - below) / interval.weight).clamp(0, 1)
            rate[chosen] = interval.low + (interval.high - interval.low) * inside
            below += interval.weight
        return rate

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See MaskRate."""
        u = 1 - torch.rand(count, generator=generator, device=generator.device)  # (0, 1]: t = 0 would make 1/t infinite
        if self.stratified:
            stratum = torch.randperm(count, generator=generator, device=generator.device)
            u = (stratum + u) / count
        return self.quantile(u)


@dataclass(frozen=True)
class TruncatedNormal(MaskRate):
    """A normal distribution cut to [0, 1], for rates around `centre`: the bell-shaped t of arXiv:2605.13026."""

    centre: float
    deviation: float
    text: str

    @staticmethod
    def of(text: str, centre: str, deviation: str) -> "TruncatedNormal":
        """From the two numbers of the notation. Raises InputError for numbers that are not allowed."""
        try:
            values = float(Fraction(centre)), float(Fraction(deviation))
        except ZeroDivisionError:
            values = (math.nan, math.nan)
        if not (0 <= values[0] <= 1 and 0.01 <= values[1] <= 10):
            raise InputError(f"mask_rate: {shown(text)} is not a mask rate; allowed: {_ALLOWED}")
        return TruncatedNormal(*values, text)

    def _below(self, rate: float) -> float:
        """The uncut distribution function."""
        return math.erfc((self.centre - rate) / self.deviation / math.sqrt(2)) / 2

    def _uncut(self, rate: Tensor) -> Tensor:
        """The uncut density."""
        scale = self.deviation * math.sqrt(2 * math.pi)
        return torch.exp(-((rate - self.centre) / self.deviation).square() / 2) / scale

    @property
    def mean(self) -> float:
        """E[t]."""
        ends = self._uncut(torch.tensor([0.0, 1.0], dtype=torch.float64))
        inside = self._below(1) - self._below(0)
        return self.centre + self.deviation**2 * float(ends[0] - ends[1]) / inside

    @property
    def highest(self) -> float:
        """The largest mask rate that can occur."""
        return 1.0

    def density(self, rate: Tensor) -> Tensor:
        """p(t)."""
        inside = (rate >= 0) & (rate <= 1)
        return inside * self._uncut(rate) / (self._below(1) - self._below(0))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See MaskRate."""
        u = 1 - torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)  # (0, 1]
        low, high = self._below(0), self._below(1)
        rate = self.centre + self.deviation * torch.special.ndtri(low + (high - low) * u)
        return rate.float().clamp(torch.finfo(torch.float32).tiny, 1.0)

"""The rules by which runs become a verdict. Every claim about trained models is judged here, and nowhere else.

A claim says that a quantity lies above a null value: a difference above 0, a ratio above 1, a share of seeds above 1/2. It names
the smallest value that would matter. `Evidence` is what the runs say of the quantity, and `decide` applies the rules:

    reproduced       the null value is rejected: the interval lies above it
    not reproduced   the smallest value that would matter is rejected: a true null can be shown (an equivalence test, Schuirmann
                     1987), and so can an effect on the other side
    underpowered     neither, or fewer than LEAST_SEEDS seeds of a trained arm; beside it stands what could have been seen

Where both of the first two hold, the effect is there, but smaller than what would matter: reproduced, and the note says so.

Claims of one family (several ratios, windows, sizes or places, or two looks at one question) are adjusted together by Holm's
method (Holm 1979); those that were not run count too. The adjusted p-values decide; the raw ones stand beside them. Intervals are
not adjusted: in a family an interval can lie above the null value and the claim be underpowered all the same.

Levels. Means, ratios and probabilities have two-sided 95% intervals, so each side has 2.5%. A share of seeds has one-sided 95%
bounds (Clopper and Pearson 1934): of five seeds in five the two-sided bound is .478, which no claim could ever pass, the
one-sided one .549. Read as a two-sided interval, the two bounds are one of 90%.

Sources
    Berger (1982), Multiparameter hypothesis testing and acceptance sampling. Technometrics 24
    Clopper, Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial. Biometrika 26
    Fieller (1954), Some problems in interval estimation. J. R. Stat. Soc. B 16
    Gehan (1965), A generalized Wilcoxon test for comparing arbitrarily singly-censored samples. Biometrika 52
    Holm (1979), A simple sequentially rejective multiple test procedure. Scand. J. Stat. 6
    Kaplan, Meier (1958), Nonparametric estimation from incomplete observations. J. Am. Stat. Assoc. 53
    Mantel (1966), Evaluation of survival data and two new rank order statistics. Cancer Chemother. Rep. 50
    Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2. Stat. Med. 25
    Owen (2007), The pigeonhole bootstrap. Ann. Appl. Stat. 1
    Schuirmann (1987), A comparison of the two one-sided tests procedure and the power approach. J. Pharmacokinet. Biopharm. 15
    Student (1908), The probable error of a mean. Biometrika 6
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import optimize, stats

LEAST_SEEDS = 5
POWER = 0.8  # of the effect that is called detectable
BOOTSTRAPS = 4000


class Evidence(ABC):
    """What runs say of one quantity: its estimate, its interval, and how well other values fit."""

    level: ClassVar[float] = 0.025  # of each side
    note: str

    @property
    @abstractmethod
    def seeds(self) -> int:
        """Runs of each arm that can be told from one another: what the interval is taken over."""

    @property
    @abstractmethod
    def estimate(self) -> float:
        """The quantity, estimated."""

    @abstractmethod
    def p_at_most(self, value: float) -> float:
        """One-sided p-value of the hypothesis that the quantity is at most `value`."""

    @abstractmethod
    def p_at_least(self, value: float) -> float:
        """One-sided p-value of the hypothesis that the quantity is at least `value`."""

    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """The values that neither side rejects at `level`."""

    @abstractmethod
    def detectable(self, null: float) -> float:
        """The least value above `null` that runs like these show with a probability of POWER; infinity where none."""


def student_interval(mean: float, error: float, freedom: float) -> tuple[float, float]:
    """Two-sided 95% interval by Student's t."""
    half = float(stats.t.ppf(0.975, freedom)) * error
    return mean - half, mean + half


def _t_detectable(error: float, freedom: float) -> float:
    """The effect that a t-test at 2.5% shows with probability POWER, by the noncentral t distribution."""
    if error == 0:
        return 0.0
    critical = float(stats.t.ppf(0.975, freedom))
    return error * float(optimize.brentq(lambda shift: stats.nct.sf(critical, freedom, shift) - POWER, 0, 60 * critical))


def _t_tails(mean: float, error: float, freedom: float, value: float) -> tuple[float, float]:
    """P-values of "at most value" and "at least value"."""
    if error == 0:  # seeds that agree to the last digit
        return float(mean <= value), float(mean >= value)
    score = (mean - value) / error
    return float(stats.t.sf(score, freedom)), float(stats.t.cdf(score, freedom))


@dataclass(frozen=True)
class Mean(Evidence):
    """The mean of one value per seed, such as a paired difference. Student's t (Student 1908)."""

    values: tuple[float, ...]
    note: str = ""

    @property
    def seeds(self) -> int:
        """One value each."""
        return len(self.values)

    @property
    def estimate(self) -> float:
        """The mean."""
        return float(np.mean(self.values))

    @property
    def _error(self) -> float:
        return float(np.std(self.values, ddof=1)) / math.sqrt(self.seeds)

    def p_at_most(self, value: float) -> float:
        """See Evidence; 1 for one seed."""
        return _t_tails(self.estimate, self._error, self.seeds - 1, value)[0] if self.seeds > 1 else 1.0

    def p_at_least(self, value: float) -> float:
        """See Evidence; 1 for one seed."""
        return _t_tails(self.estimate, self._error, self.seeds - 1, value)[1] if self.seeds > 1 else 1.0

    def interval(self) -> tuple[float, float]:
        """See Evidence; infinite for one seed."""
        if self.seeds < 2:
            return -math.inf, math.inf
        return student_interval(self.estimate, self._error, self.seeds - 1)

    def detectable(self, null: float) -> float:
        """See Evidence."""
        return null + _t_detectable(self._error, self.seeds - 1) if self.seeds > 1 else math.inf


@dataclass(frozen=True)
class Ratio(Evidence):
    """The geometric mean of one positive ratio per seed: `Mean` of the logarithms."""

    values: tuple[float, ...]
    note: str = ""

    @property
    def _logs(self) -> Mean:
        return Mean(tuple(np.log(self.values).tolist()))

    @property
    def seeds(self) -> int:
        """One ratio each."""
        return len(self.values)

    @property
    def estimate(self) -> float:
        """The geometric mean."""
        return math.exp(self._logs.estimate)

    def p_at_most(self, value: float) -> float:
        """See Evidence."""
        return self._logs.p_at_most(math.log(value))

    def p_at_least(self, value: float) -> float:
        """See Evidence."""
        return self._logs.p_at_least(math.log(value))

    def interval(self) -> tuple[float, float]:
        """See Evidence."""
        low, high = self._logs.interval()
        return math.exp(low), math.exp(high)

    def detectable(self, null: float) -> float:
        """See Evidence."""
        return math.exp(self._logs.detectable(math.log(null)))


@dataclass(frozen=True)
class Quotient(Evidence):
    """The mean of `parts` over the mean of `wholes`, one pair per seed, such as the share of a gain that something explains.

    A value v is tested by a t-test on parts - v wholes (Fieller 1954). It means something only where the wholes are surely
    positive; where they are not, the interval is infinite and nothing is shown.
    """

    parts: tuple[float, ...]
    wholes: tuple[float, ...]
    note: str = ""

    @property
    def seeds(self) -> int:
        """One pair each."""
        return len(self.wholes)

    @property
    def estimate(self) -> float:
        """The quotient of the means."""
        return float(np.mean(self.parts) / np.mean(self.wholes))

    @property
    def _defined(self) -> bool:
        return Mean(self.wholes).p_at_most(0.0) <= self.level

    def _rest(self, value: float) -> Mean:
        return Mean(tuple((np.array(self.parts) - value * np.array(self.wholes)).tolist()))

    def p_at_most(self, value: float) -> float:
        """See Evidence; 1 where the wholes are not surely positive."""
        return self._rest(value).p_at_most(0.0) if self._defined else 1.0

    def p_at_least(self, value: float) -> float:
        """See Evidence; 1 where the wholes are not surely positive."""
        return self._rest(value).p_at_least(0.0) if self._defined else 1.0

    def interval(self) -> tuple[float, float]:
        """See Evidence: the roots of Fieller's quadratic."""
        if not self._defined:
            return -math.inf, math.inf
        pairs = np.array([self.parts, self.wholes])
        (a, b), spread = pairs.mean(axis=1), np.cov(pairs) / self.seeds
        squared = float(stats.t.ppf(0.975, self.seeds - 1)) ** 2
        roots = np.roots([b * b - squared * spread[1, 1], -2 * (a * b - squared * spread[0, 1]), a * a - squared * spread[0, 0]])
        low, high = sorted(roots.real.tolist())
        return low, high

    def detectable(self, null: float) -> float:
        """See Evidence; to first order."""
        if not self._defined:
            return math.inf
        rest = self._rest(self.estimate)
        return null + rest.detectable(0.0) / float(np.mean(self.wholes)) - rest.estimate / float(np.mean(self.wholes))


@dataclass(frozen=True)
class Share(Evidence):
    """The share of seeds that have a property. One-sided 95% bounds (Clopper and Pearson 1934).

    `unknown` seeds ended before it could be seen whether they have it. Each counts against whatever is to be shown.
    """

    level: ClassVar[float] = 0.05
    held: int
    failed: int
    unknown: int = 0
    note: str = ""

    @property
    def seeds(self) -> int:
        """All of them, the unknown ones too."""
        return self.held + self.failed + self.unknown

    @property
    def estimate(self) -> float:
        """The share of those that are known; not a number where none is."""
        known = self.held + self.failed
        return self.held / known if known else math.nan

    def p_at_most(self, value: float) -> float:
        """See Evidence."""
        return float(stats.binom.sf(self.held - 1, self.seeds, value))

    def p_at_least(self, value: float) -> float:
        """See Evidence."""
        return float(stats.binom.cdf(self.held + self.unknown, self.seeds, value))

    def interval(self) -> tuple[float, float]:
        """See Evidence."""
        most = self.held + self.unknown
        low = float(stats.beta.ppf(self.level, self.held, self.seeds - self.held + 1)) if self.held else 0.0
        high = float(stats.beta.ppf(1 - self.level, most + 1, self.seeds - most)) if most < self.seeds else 1.0
        return low, high

    def detectable(self, null: float) -> float:
        """See Evidence."""
        needed = next((n for n in range(self.seeds + 1) if stats.binom.sf(n - 1, self.seeds, null) <= self.level), None)
        if needed is None:
            return math.inf
        return float(optimize.brentq(lambda share: stats.binom.sf(needed - 1, self.seeds, share) - POWER, null, 1.0))


@dataclass(frozen=True)
class Times:
    """Times of one arm, one per seed: when an event came, or, where `seen` is false, when its run ended without it."""

    values: tuple[float, ...]
    seen: tuple[bool, ...]

    @staticmethod
    def of(values: Iterable[float], ends: Iterable[float]) -> "Times":
        """From times of which infinity is "not within the run", and the last step of each run."""
        pairs = list(zip(values, ends, strict=True))
        return Times(
            tuple(float(value if math.isfinite(value) else end) for value, end in pairs),
            tuple(math.isfinite(value) for value, _ in pairs),
        )

    def censored(self) -> stats.CensoredData:
        """As scipy has them."""
        values, seen = np.array(self.values), np.array(self.seen)
        return stats.CensoredData(uncensored=values[seen], right=values[~seen])

    def survival(self) -> tuple[np.ndarray, np.ndarray]:
        """Kaplan and Meier's curve (1958): times of events, and the share without one by then."""
        if not any(self.seen):
            return np.empty(0), np.empty(0)
        curve = stats.ecdf(self.censored()).sf
        return curve.quantiles, curve.probabilities

    def text(self) -> str:
        """The times in a note."""
        pairs = zip(self.values, self.seen, strict=True)
        return ", ".join(f"{value:.0f}" if seen else f"not within {value:.0f}" for value, seen in pairs)


@dataclass(frozen=True)
class Sooner(Evidence):
    """The probability that a run of `first` has its event before a run of `second`. Runs that ended without it are censored.

    Every pair of runs counts 1, 0, or 1/2 where the order is not known: both ended without the event, one ended before the
    other's event, or a tie (Gehan 1965). "Never" is not a number. The interval is Newcombe's score interval for a probability of
    superiority (Newcombe 2006, method 5): it has the right coverage for few runs and for complete separation, and its test at
    1/2 is Mann and Whitney's. Under censoring the quantity is Gehan's score within the runs' steps, which is nearer to 1/2 than
    the probability without an end would be. So runs that all ended without the event give 1/2, and 40 of each arm would exclude
    .625: with that many, look at how many are censored before a null is believed.

    All pairs count, not those of one seed alone: that two arms share a seed's data is not used, which costs power where seeds
    differ much.
    """

    first: Times
    second: Times
    note: str = ""

    @property
    def seeds(self) -> int:
        """Of the arm that has fewer."""
        return min(len(self.first.values), len(self.second.values))

    @property
    def estimate(self) -> float:
        """The mean over all pairs."""
        one, other = np.array(self.first.values)[:, None], np.array(self.second.values)[None]
        one_seen, other_seen = np.array(self.first.seen)[:, None], np.array(self.second.seen)[None]
        wins = one_seen & ((one < other) | ((one == other) & ~other_seen))
        losses = other_seen & ((other < one) | ((one == other) & ~one_seen))
        return float(0.5 + (wins.astype(float) - losses).mean() / 2)

    def _deviation(self, share: float) -> float:
        """Standard deviation of the estimate where the probability is `share` (Newcombe's approximation)."""
        runs = len(self.first.values), len(self.second.values)
        more = sum(runs) / 2 - 1
        inner = 1 + more * ((1 - share) / (2 - share) + share / (1 + share))
        return math.sqrt(max(share * (1 - share) * inner / (runs[0] * runs[1]), 1e-300))

    def _score(self, share: float) -> float:
        return (self.estimate - share) / self._deviation(share)

    def p_at_most(self, value: float) -> float:
        """See Evidence."""
        return float(stats.norm.sf(self._score(value)))

    def p_at_least(self, value: float) -> float:
        """See Evidence."""
        return float(stats.norm.cdf(self._score(value)))

    def interval(self) -> tuple[float, float]:
        """See Evidence."""
        limit, found = float(stats.norm.ppf(1 - self.level)), self.estimate

        def end(bound: float, target: float) -> float:
            return float(optimize.brentq(lambda share: self._score(share) - target, bound, found))

        return end(1e-12, limit) if found > 0 else 0.0, end(1 - 1e-12, -limit) if found < 1 else 1.0

    def detectable(self, null: float) -> float:
        """See Evidence."""
        needed = null + float(stats.norm.ppf(1 - self.level)) * self._deviation(null)
        quantile = float(stats.norm.ppf(POWER))
        if needed >= 1:
            return math.inf
        return float(optimize.brentq(lambda share: share - quantile * self._deviation(share) - needed, needed, 1 - 1e-9))

    def log_rank(self) -> float:
        """Two-sided p-value of the log-rank test (Mantel 1966): whether the two curves differ. 1 where no run had its event."""
        if not (any(self.first.seen) or any(self.second.seen)):
            return 1.0
        return float(stats.logrank(self.first.censored(), self.second.censored()).pvalue)


@dataclass(frozen=True)
class Crossed(Evidence):
    """The mean of values [seeds, items] of which both the seeds and the items are samples, such as paired differences of scores.

    The standard error is that of a bootstrap that draws seeds and items, both with replacement (the pigeonhole bootstrap, Owen
    2007), times sqrt(R / (R - 1)) for R seeds: a bootstrap of few seeds is too narrow by that. The interval is Student's with the
    freedom of the seeds.
    """

    values: tuple[tuple[float, ...], ...]
    note: str = ""

    @property
    def seeds(self) -> int:
        """The rows."""
        return len(self.values)

    @property
    def estimate(self) -> float:
        """The mean."""
        return float(np.mean(self.values))

    @functools.cached_property
    def _error(self) -> float:
        data, random = np.array(self.values), np.random.default_rng(0)
        rows, columns = data.shape
        by_seed = random.multinomial(rows, np.full(rows, 1 / rows), BOOTSTRAPS) / rows @ data
        by_item = random.multinomial(columns, np.full(columns, 1 / columns), BOOTSTRAPS) / columns
        return float((by_seed * by_item).sum(axis=1).std()) * math.sqrt(rows / max(rows - 1, 1))

    def p_at_most(self, value: float) -> float:
        """See Evidence; 1 for one seed."""
        return _t_tails(self.estimate, self._error, self.seeds - 1, value)[0] if self.seeds > 1 else 1.0

    def p_at_least(self, value: float) -> float:
        """See Evidence; 1 for one seed."""
        return _t_tails(self.estimate, self._error, self.seeds - 1, value)[1] if self.seeds > 1 else 1.0

    def interval(self) -> tuple[float, float]:
        """See Evidence; infinite for one seed."""
        return student_interval(self.estimate, self._error, self.seeds - 1) if self.seeds > 1 else (-math.inf, math.inf)

    def detectable(self, null: float) -> float:
        """See Evidence."""
        return null + _t_detectable(self._error, self.seeds - 1) if self.seeds > 1 else math.inf


@dataclass(frozen=True)
class AllOf(Evidence):
    """A claim that several quantities lie above the null value at once, such as both ends of a window. The least surely so is
    shown.

    All of them have to (an intersection-union test, Berger 1982): the largest p-value counts, unadjusted. That one is below
    the smallest value that would matter may be shown by any of them, so there the least p-value counts, times their number. The
    parts are of one kind, and so is their level.
    """

    parts: tuple[Evidence, ...]

    @property
    def level(self) -> float:  # type: ignore[override]
        """That of the parts."""
        return self.parts[0].level

    @property
    def _shown(self) -> Evidence:
        return min(self.parts, key=lambda part: part.estimate)

    @property
    def note(self) -> str:  # type: ignore[override]
        """That of the part that is shown."""
        return self._shown.note

    @property
    def seeds(self) -> int:
        """Of the part that has the fewest."""
        return min(part.seeds for part in self.parts)

    @property
    def estimate(self) -> float:
        """The least."""
        return self._shown.estimate

    def p_at_most(self, value: float) -> float:
        """See Evidence."""
        return max(part.p_at_most(value) for part in self.parts)

    def p_at_least(self, value: float) -> float:
        """See Evidence."""
        return min(1.0, len(self.parts) * min(part.p_at_least(value) for part in self.parts))

    def interval(self) -> tuple[float, float]:
        """That of the part that is shown."""
        return self._shown.interval()

    def detectable(self, null: float) -> float:
        """The largest of the parts'."""
        return max(part.detectable(null) for part in self.parts)


@dataclass(frozen=True)
class Decision:
    """A verdict, the p-value of the claim's null (`raw`, and `adjusted` in its family), and the sentence that goes with it."""

    verdict: str
    raw: float
    adjusted: float
    sentence: str


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): the family-wise error is at most the level, whatever the dependence."""
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def decide(family: Sequence[tuple[Evidence, float, float]]) -> list[Decision]:
    """Decisions on the claims of one family: for each its evidence, its null value and the smallest value that would matter."""
    shown = holm([evidence.p_at_most(null) for evidence, null, _ in family])
    absent = holm([evidence.p_at_least(smallest) for evidence, _, smallest in family])
    return [_decide(member, *adjusted) for member, *adjusted in zip(family, shown, absent, strict=True)]


def _decide(member: tuple[Evidence, float, float], shown: float, absent: float) -> Decision:
    evidence, null, smallest = member
    raw = evidence.p_at_most(null)
    if evidence.seeds < LEAST_SEEDS:
        seeds = "one seed" if evidence.seeds == 1 else f"{evidence.seeds} seeds"
        return Decision("underpowered", raw, shown, f"Rests on {seeds}; at least {LEAST_SEEDS} decide")
    if shown <= evidence.level:
        small = absent <= evidence.level
        return Decision("reproduced", raw, shown, f"Smaller than {smallest:.3g}, which would matter" if small else "")
    if absent <= evidence.level:
        return Decision("not reproduced", raw, shown, "")
    seen = evidence.detectable(null)
    what = f"{seen:.3g}" if math.isfinite(seen) else "none"
    return Decision(
        "underpowered",
        raw,
        shown,
        f"Smallest value that {evidence.seeds} seeds would show in {POWER:.0%} of cases, before adjustment: {what}",
    )

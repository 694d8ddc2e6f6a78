"""A number and its interval as places on a line, for the small drawing beside each claim."""

import math
from dataclasses import dataclass

from mdlm_min.evidence.claim import Claim, Verdict

WIDTH = 300.0  # of the line, in units of the drawing
REFERENCES = {
    "value": (0.0,),
    "difference": (0.0,),
    "ratio": (1.0,),
    "share": (0.0, 1.0),
    "probability": (0.0, 1.0),
}  # marked on a line of each scale
MARGIN = 0.06  # of the line, left free at each end


@dataclass(frozen=True)
class Interval:
    """Places from 0 to WIDTH: our point, the ends of its interval, the paper's number; and the references with their names."""

    point: float
    ends: tuple[float, float] | None
    paper: float | None
    references: list[tuple[float, str]]


def place(claim: Claim, verdict: Verdict) -> Interval | None:
    """Where the numbers of a claim lie; None where there is nothing to compare: no number, or neither an interval nor the
    paper's.

    A ratio is drawn on a logarithmic line. One seed has an infinite interval, which is not drawn.
    """

    def scaled(value: float) -> float:
        if claim.scale != "ratio":
            return value
        return math.log(value) if value > 0 else -math.inf

    point, low, high, paper = map(scaled, (verdict.ours, verdict.low, verdict.high, claim.paper))
    bounded = math.isfinite(low) and math.isfinite(high)
    published = math.isfinite(claim.paper)
    if not math.isfinite(point) or not (bounded or published or claim.scale in ("share", "probability")):
        return None
    marks = [scaled(value) for value in REFERENCES[claim.scale]]
    shown = [point, *marks, *([low, high] if bounded else []), *([paper] if published else [])]
    first, last = min(shown), max(shown)
    margin = MARGIN * ((last - first) or 1.0)

    def position(value: float) -> float:
        return round(WIDTH * (value - first + margin) / (last - first + 2 * margin), 1)

    return Interval(
        position(point), (position(low), position(high)) if bounded else None, position(paper) if published else None,
        [(position(mark), f"{value:g}") for mark, value in zip(marks, REFERENCES[claim.scale], strict=True)],
    )  # fmt: skip

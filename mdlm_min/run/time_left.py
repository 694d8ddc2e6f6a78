"""How far runs are, how long the rest takes, and how to say a duration.

Progress is text, in which "step 30/100" says how far a run is.
"""

import math
import re
import time
from collections.abc import Callable

_STEP = re.compile(r"step (\d+)/(\d+)")


class TimeLeft:
    """How far all runs are together, counted in runs, and how long the rest takes at the rate so far."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.clock, self.started = total, clock, clock()
        self.ended = 0
        self.running: dict[str, float] = {}  # the share of each running run that is done
        self.found = 0.0  # runs' worth of work that was done before: a resumed run starts in its middle

    def update(self, run: str, text: str) -> None:
        """Read from its progress how far a run is."""
        if found := _STEP.search(text):
            share = min(1.0, int(found[1]) / max(1, int(found[2])))
            if run not in self.running:
                self.found += share
            self.running[run] = share

    def end(self, run: str) -> None:
        """A run has ended, well or not."""
        self.running.pop(run, None)
        self.ended += 1

    @property
    def done(self) -> float:
        """Runs' worth of work, from 0 to `total`."""
        return self.ended + sum(self.running.values())

    def __str__(self) -> str:
        """Such as "0:03:12 so far, about 0:05:00 left"."""
        elapsed = self.clock() - self.started
        here = self.done - self.found
        left = (self.total - self.done) * elapsed / here if here > 0 else math.nan
        return f"{format_seconds(elapsed)} so far, about {format_seconds(left)} left"


def format_seconds(seconds: float) -> str:
    """Such as 1:02:03, or ? where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def duration_text(seconds: float) -> str:
    """In hours from two hours on, in minutes from two minutes on."""
    unit, size = ("hours", 3600) if seconds >= 7200 else ("minutes", 60) if seconds >= 120 else ("seconds", 1)
    return f"{seconds / size:,.1f} {unit}"

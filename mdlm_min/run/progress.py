"""The progress of runs on standard output: in a terminal one live display (live_display.py), elsewhere a few plain lines.

It knows nothing of training: progress is text, in which "step 30/100" says how far a run is.
"""

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_STEP = re.compile(r"step (\d+)/(\d+)")


class Display(Protocol):
    """What shows progress."""

    def update(self, run: str, text: str) -> None:
        """The latest progress of a running run."""

    def end(self, run: str, text: str) -> None:
        """How a run ended. Shown once, for good."""

    def stopping(self) -> None:
        """A stop signal has come, and running runs write their checkpoints."""


@contextmanager
def open_display(total: int) -> Iterator[Display]:
    """A display for `total` runs. It is live in a terminal that can move its cursor, and gone at the end."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from mdlm_min.run.live_display import LiveDisplay

        live = LiveDisplay(total)
        with live.shown():
            yield live
    else:
        yield PlainDisplay(total)


class PlainDisplay:
    """Lines for a file or a pipe: a run's first progress, then one line per `every` seconds, and its end."""

    def __init__(self, total: int, every: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.estimate = Estimate(total, clock)
        self.every, self.clock = every, clock
        self.last_said: dict[str, float] = {}

    def update(self, run: str, text: str) -> None:
        """See Display."""
        self.estimate.update(run, text)
        now = self.clock()
        if run not in self.last_said or now - self.last_said[run] >= self.every:
            self.last_said[run] = now
            print(f"{run}: {text}", flush=True)

    def end(self, run: str, text: str) -> None:
        """See Display."""
        self.estimate.end(run)
        print(f"[{self.estimate.ended}/{self.estimate.total}] {run} {text}; {self.estimate}", flush=True)

    def stopping(self) -> None:
        """See Display. Nothing: the command says at its end that it was stopped."""


class Estimate:
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

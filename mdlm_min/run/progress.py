"""The progress of runs on standard output: in a terminal one live display (live_display.py), elsewhere a few plain lines.

It knows nothing of training: progress is text.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from mdlm_min.run.time_left import TimeLeft


class Display(Protocol):
    """What shows progress."""

    def update(self, run: str, text: str) -> None:
        """The latest progress of a running run."""

    def end(self, run: str, text: str) -> None:
        """How a run ended. Shown once, for good."""

    def stopping(self) -> None:
        """A stop signal has come, and running runs write their checkpoints."""


def can_redraw() -> bool:
    """Whether standard output is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def open_display(total: int, plain: TextIO | None = None) -> Iterator[Display]:
    """A display for `total` runs. It is live in a terminal that can move its cursor, and gone at the end. Where standard output
    is for something else, `plain` is where lines go instead."""
    if plain is None and can_redraw():
        from mdlm_min.run.live_display import LiveDisplay

        live = LiveDisplay(total)
        with live.shown():
            yield live
    else:
        yield PlainDisplay(total, file=plain)


class PlainDisplay:
    """Lines for a file or a pipe: a run's first progress, then one line per `every` seconds, and its end."""

    def __init__(
        self, total: int, every: float = 30.0, clock: Callable[[], float] = time.monotonic, file: TextIO | None = None
    ) -> None:
        self.file = file
        self.time_left = TimeLeft(total, clock)
        self.every, self.clock = every, clock
        self.last_said: dict[str, float] = {}

    def update(self, run: str, text: str) -> None:
        """See Display."""
        self.time_left.update(run, text)
        now = self.clock()
        if run not in self.last_said or now - self.last_said[run] >= self.every:
            self.last_said[run] = now
            print(f"{run}: {text}", file=self.file, flush=True)

    def end(self, run: str, text: str) -> None:
        """See Display."""
        self.time_left.end(run)
        print(f"[{self.time_left.ended}/{self.time_left.total}] {run} {text}; {self.time_left}", file=self.file, flush=True)

    def stopping(self) -> None:
        """See Display. Nothing: the command says at its end that it was stopped."""

"""Stop signals: SIGTERM and Ctrl-C (SIGINT).

A signal that is ignored when a command starts, as under nohup or in a script's background job, stays ignored.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED = "mdlm: stopped; a run resumes with the same command\n"
CODE = 130  # exit code of a command that was stopped


def end_at_stop_signals() -> None:
    """From here a stop signal ends the process at once, with one line and exit code 130. Files are written whole or not at all,
    so nothing is lost; an exception in the middle of an import, or of another library, could be swallowed or end in a
    traceback."""
    _set(lambda *_: os._exit(say_stopped()))


def ignore_stop_signals() -> None:
    """From here stop signals have no effect: the process is about to end by itself."""
    _set(signal.SIG_IGN)


def say_stopped() -> int:
    """Write the one line of a stopped command to standard error; returns its exit code. No signal is heard from then on."""
    ignore_stop_signals()
    with suppress(OSError):
        os.write(2, STOPPED.encode())
    return CODE


def _handled() -> dict[int, Callable[[int, FrameType | None], object] | int]:
    """The handlers of the stop signals that are not ignored; empty outside the main thread, which alone may set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {int(number): signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}


def _set(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in _handled():
        signal.signal(number, handler)


@contextmanager
def on_stop_signals(wish: Callable[[], None]) -> Iterator[None]:
    """Call `wish` at a stop signal instead of its handler, which takes over again one second later: a second Ctrl-C ends the
    command without waiting. Outside the main thread signals are left alone."""
    before = _handled()
    asked: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        asked.append(time.monotonic())
        handler = before[number]
        if asked[-1] - asked[0] >= 1.0 and callable(handler):
            handler(number, frame)
        else:
            wish()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

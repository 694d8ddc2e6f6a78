"""Stop signals: SIGTERM and Ctrl-C as a wish, to be granted when the work in hand is safe."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_stop_signals(wish: Callable[[], None]) -> Iterator[None]:
    """Call `wish` at every SIGTERM and SIGINT instead of what they did before. Outside the main thread signals are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in old:
        signal.signal(number, lambda *_: wish())
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

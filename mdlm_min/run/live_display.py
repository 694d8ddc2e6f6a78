"""Progress in a terminal: one line per running run and an overall bar, drawn in place; what has ended is printed above them."""

import threading

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mdlm_min.run.time_left import TimeLeft


class SteadyConsole(Console):
    """A console that leaves the cursor alone."""

    def show_cursor(self, show: bool = True) -> bool:
        """Never hide it: a process that is killed could not bring it back."""
        return False


class LiveDisplay:
    """A Display, drawn four times a second by a thread of its own."""

    def __init__(self, total: int) -> None:
        self.time_left = TimeLeft(total)
        self.latest: dict[str, str] = {}
        self.is_stopping = False
        self.lock = threading.Lock()  # between the thread that draws and the one that brings news
        self.console = SteadyConsole(highlight=False)

    def shown(self) -> Live:
        """The display on the screen, as a context. It clears its lines at the end."""
        return Live(console=self.console, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def update(self, run: str, text: str) -> None:
        """See Display."""
        with self.lock:
            self.time_left.update(run, text)
            self.latest[run] = text

    def end(self, run: str, text: str) -> None:
        """See Display."""
        with self.lock:
            self.time_left.end(run)
            self.latest.pop(run, None)
            counted = f"[{self.time_left.ended}/{self.time_left.total}]"
        self.console.print(f"{counted} {run} {text}", markup=False, soft_wrap=True)

    def stopping(self) -> None:
        """See Display."""
        self.is_stopping = True

    def _picture(self) -> Group:
        with self.lock:
            lines = [
                Text.assemble((run, "bold"), f"  {text}", overflow="ellipsis", no_wrap=True) for run, text in self.latest.items()
            ]
            estimate = self.time_left
            told = "stopping; Ctrl-C again does not wait for checkpoints" if self.is_stopping else str(estimate)
            bar = ProgressBar(total=estimate.total, completed=estimate.done, width=30)
            count = Text(f"{estimate.ended}/{estimate.total} runs")
        overall = Table.grid(padding=(0, 1))
        overall.add_row(count, bar, Text(told, overflow="ellipsis", no_wrap=True))
        return Group(*lines, overall)

import os
import pty
import re
import subprocess
import sys

import pyte
import pytest

from mdlm_min.run.progress import PlainDisplay, open_display
from mdlm_min.run.time_left import TimeLeft, duration_text
from mdlm_min.training.loop import progress_line


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_run_has_a_plain_line_at_its_start_at_its_end_and_every_thirty_seconds(capsys):
    clock = Clock()
    display = PlainDisplay(2, clock=clock)
    for clock.now in range(100, 165):
        display.update("a", f"step {clock.now - 100}/100")
    display.update("b", "begun")
    display.end("a", "finished")
    assert capsys.readouterr().out.splitlines() == [
        "a: step 0/100", "a: step 30/100", "a: step 60/100", "b: begun",
        "[1/2] a finished; 0:01:04 so far, about 0:01:04 left",
    ]  # fmt: skip


def test_no_terminal_no_display(capsys):
    with open_display(1) as display:
        assert isinstance(display, PlainDisplay)


def test_the_time_left_counts_what_running_runs_have_done_and_not_what_was_done_before():
    clock = Clock()
    time_left = TimeLeft(4, clock)
    assert str(time_left) == "0:00:00 so far, about ? left"
    time_left.update("resumed", "step 60/100")
    assert str(time_left) == "0:00:00 so far, about ? left"
    clock.now += 10
    time_left.update("resumed", "step 80/100")
    assert time_left.done == pytest.approx(0.8)
    assert str(time_left) == "0:00:10 so far, about 0:02:40 left"  # 0.2 runs in 10 s; 3.2 are left
    time_left.end("resumed")
    assert str(time_left) == "0:00:10 so far, about 0:01:15 left"  # 0.4 runs; 3 are left
    time_left.update("other", "no steps")
    assert time_left.done == 1.0


def test_the_loop_s_line_says_how_far_a_run_is():
    time_left = TimeLeft(1)
    time_left.update("run", progress_line({"step": 30.0, "loss": 1.0}, 120, 2.0))
    assert time_left.done == 0.25


SCRIPT = """
import time
from mdlm_min.run.progress import open_display
with open_display(2) as display:
    for step in range(0, 100, 10):
        display.update("a[1]", f"step {step}/100 " + "long " * 50)
        time.sleep(0.1)
    display.end("a[1]", "finished")
    display.update("b", "step 1/100")
    time.sleep(0.5)
    display.stopping()
    time.sleep(0.5)
"""


def test_in_a_terminal_lines_are_drawn_in_place_and_only_ends_stay():
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60", "LINES": "20"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=child, stderr=child, env=environment)
    os.close(child)
    screen = pyte.Screen(60, 20)
    stream = pyte.ByteStream(screen)
    seen = set()
    try:
        while part := os.read(parent, 65536):
            assert b"\x1b[?25l" not in part  # the cursor is never hidden
            stream.feed(part)
            seen.add(tuple(line.rstrip() for line in screen.display if line.strip()))
    except OSError:  # the last writer has closed the terminal
        pass
    os.close(parent)
    assert process.wait() == 0
    assert any(
        len(lines) == 2
        and re.match(r"a\[1\]  step \d+/100 long", lines[0])
        and len(lines[0]) == 60
        and lines[1].startswith("0/2 runs ━")
        for lines in seen
    )
    assert any(lines[1:2] == ("b  step 1/100",) and "stopping; Ctrl-C again" in lines[-1] for lines in seen)
    assert all(len(lines) <= 3 for lines in seen)  # nothing scrolls
    assert [line.strip() for line in screen.display if line.strip()] == ["[1/2] a[1] finished"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.74, "1.7 seconds"), (119, "119.0 seconds"), (120, "2.0 minutes"), (7200, "2.0 hours"), (5_400_000, "1,500.0 hours")],
)
def test_a_duration_is_said_in_readable_units(seconds, text):
    assert duration_text(seconds) == text

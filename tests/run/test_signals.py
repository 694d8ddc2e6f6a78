"""Stop signals reach code as a wish, and a command ends with one line and exit code 130 wherever it is. Children are started with
the default handlers, so that the tests mean the same in the background of a script, where SIGINT is ignored."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdlm_min.run.signals import STOPPED, on_stop_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request):
    """A stop signal, whose handler is put back at the end."""
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_is_a_wish_and_its_handler_comes_back(number):
    def handler(*_):
        raise AssertionError

    signal.signal(number, handler)
    wishes = []
    with on_stop_signals(lambda: wishes.append(1)):
        signal.raise_signal(number)
        signal.raise_signal(number)  # both at once, as a group and its leader may be told
    assert wishes == [1, 1]
    assert signal.getsignal(number) is handler


def test_who_asks_again_a_second_later_gets_what_was_there_before(number, monkeypatch):
    found, wishes, now = [], [], [5.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    signal.signal(number, lambda *_: found.append(now[0]))
    with on_stop_signals(lambda: wishes.append(now[0])):
        for now[0] in (5.0, 5.9, 6.1):
            signal.raise_signal(number)
    assert wishes == [5.0, 5.9]
    assert found == [6.1]


def test_an_ignored_signal_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    wishes = []
    with on_stop_signals(lambda: wishes.append(1)):
        assert signal.getsignal(number) == signal.SIG_IGN
        signal.raise_signal(number)
    assert wishes == []
    assert signal.getsignal(number) == signal.SIG_IGN


def default():
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)


def ignore_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(arguments, prepare=default):
    """The command in a process group of its own, once it has taken over SIGTERM: before that it is Python's own start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mdlm_min", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=prepare,
    )  # fmt: skip
    while process.poll() is None and not catches(process.pid, signal.SIGTERM):
        time.sleep(0.002)
    return process


def catches(pid, number):
    """Whether a process has a handler for this signal."""
    try:
        [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")]
    except OSError:
        return True  # it has ended
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


RUN = ("run", "parity", "--tier", "cpu", "--seeds", "1", "--jobs", "2", "--runs")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice", "SIGTERM", "SIGTERM to the group"])
def test_a_signal_at_any_moment_is_one_line_and_130(how, moment, tmp_path):
    process = start([*RUN, str(tmp_path)])
    moments = random.Random(f"{how} {moment}")
    time.sleep(moment + moments.uniform(0, 0.1))
    number = signal.SIGINT if "Ctrl-C" in how else signal.SIGTERM
    os.kill(process.pid, number) if how == "SIGTERM" else os.killpg(process.pid, number)
    if "twice" in how:
        time.sleep(moments.uniform(0, 1.5))
        if process.poll() is None:
            os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, STOPPED)


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2, 0.4])
def test_a_short_command_ends_well_or_with_one_line(moment):
    process = start(["list"])
    time.sleep(moment)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, error) in ((130, STOPPED), (0, ""))
    assert process.returncode == 130 or "01_parity" in output


@pytest.mark.slow
def test_ctrl_c_does_not_reach_the_workers_of_a_command_that_ignores_it(tmp_path):
    process = start(["run", "parity", "--tier", "smoke", "--jobs", "2", "--runs", str(tmp_path)], ignore_interrupt)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # all the time: while workers start, train and end
        time.sleep(0.05)
    output, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert "[6/6]" in output


@pytest.mark.slow
def test_ctrl_c_again_does_not_wait_for_workers_that_hang(tmp_path):
    process = start([*RUN, str(tmp_path)])
    while "step 0" not in process.stdout.readline():
        pass
    workers = workers_of(process.pid)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None  # it waits for their checkpoints
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    assert process.communicate(timeout=10)[1] == STOPPED  # their ends of the pipes are closed: they have ended too


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.03, 0.1, 0.2, 0.4])
def test_ctrl_c_while_workers_start_is_one_line(moment, tmp_path):
    process = start([*RUN, str(tmp_path)])
    while len(workers_of(process.pid)) < 2:
        time.sleep(0.001)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, STOPPED)


def workers_of(pid):
    """The processes that a sweep has started for its runs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in command_line(child)]


def command_line(pid):
    """Empty where the process has ended since it was listed."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_handlers_are_there_before_anything_slow():
    """Torch or numpy before them would be a second in which Ctrl-C gives a traceback."""
    process = start(["list"])
    os.kill(process.pid, signal.SIGSTOP)
    loaded = Path(f"/proc/{process.pid}/maps").read_text()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "/python" in loaded
    assert "torch" not in loaded
    assert "numpy" not in loaded

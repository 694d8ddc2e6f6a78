"""A sweep's workers: their threads, their progress, their failures."""

import json
import os
import select
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest

from mdlm_min.evidence import sweep
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.run_folder import RunFolder

CHILD = """
import json, sys
import torch
threads = int(sys.argv[1])
if threads:
    torch.set_num_threads(threads)
generator = torch.Generator().manual_seed(0)
a, b = torch.randn(700, 900, generator=generator), torch.randn(900, 800, generator=generator)
large = torch.randn(3_000_000, generator=generator)
product = a @ b
found = large.sum(), product.sum(), product.softmax(1).square().mean(), large.cumsum(0)[-1], large.square().sum()
print(json.dumps([torch.get_num_threads(), [float(value).hex() for value in found]]))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_by_the_environment_are_torch_s_own_bit_for_bit(threads):
    def told(by_call):
        return json.loads(subprocess.run([sys.executable, "-c", CHILD, str(by_call)], check=True, capture_output=True).stdout)

    kept = {name: os.environ.pop(name, None) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        by_call = told(threads)
        with sweep._worker_environment(threads):
            by_environment = told(0)
        assert "OMP_NUM_THREADS" not in os.environ
    finally:
        os.environ.update({name: value for name, value in kept.items() if value})
    assert by_environment == by_call
    assert by_call[0] == threads


def fake_experiment(folder, run):
    """An experiment of three arms in a folder of its own, with this run.py body."""
    made = folder / "90_fake"
    made.mkdir(parents=True)
    (made / "experiment.toml").write_text('title = "fake"\n[defaults]\n[arms.a]\n[arms.b]\n[arms.c]\n[tiers.smoke]\nseeds = 1\n')
    (made / "run.py").write_text(
        "import os, time, signal\nfrom mdlm_min.run.errors import InputError, RunError\n"
        "def check(settings): pass\n"
        f"def run(settings, seed, folder, progress):\n    arm = folder.read_json('config.json')['arm']\n{run}"
        "    folder.finish({'steps': 1, 'seconds': 0.0})\n"
        "def summarise(rows): return []\n"
    )


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function that sweeps such an experiment; returns its runs."""

    def swept(run, jobs=1, threads=1):
        fake_experiment(tmp_path / "experiments", run)
        specs = Experiment("fake").runs("smoke")
        sweep.sweep(specs, tmp_path / "runs", jobs, threads)
        return [RunFolder(spec.folder(tmp_path / "runs")) for spec in specs]

    # The workers are new processes: they find the experiments where this variable says.
    start = tmp_path / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(
        "import importlib.abc\n"
        "from pathlib import Path\n"
        "import mdlm_min.evidence.experiment as experiment\n"
        f"experiment.EXPERIMENTS = Path({str(tmp_path / 'experiments')!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{start}{os.pathsep}{os.environ.get('PYTHONPATH', Path(__file__).parents[2])}")
    monkeypatch.setattr("mdlm_min.evidence.experiment.EXPERIMENTS", tmp_path / "experiments")
    return swept


def test_workers_have_their_threads(fake):
    body = "    import torch\n    folder.write_json('threads.json', {'threads': torch.get_num_threads()})\n"
    assert [folder.read_json("threads.json") for folder in fake(body, jobs=2, threads=2)] == [{"threads": 2}] * 3


def test_progress_and_ends_are_shown_and_a_failure_does_not_stop_the_rest(fake, capsys):
    body = "    progress('step 1/2 ' + 'long ' * 2000)\n    if arm == 'b': raise RunError('loss is nan')\n"
    with pytest.raises(RunError, match="^1 of 3 runs failed; first: b/seed0: loss is nan$"):
        fake(body)
    lines = [line.split(";")[0][:40] for line in capsys.readouterr().out.splitlines()]
    ends = [line for line in lines if line.startswith("[")]
    assert [end[:6] for end in ends] == ["[1/3] ", "[2/3] ", "[3/3] "]
    assert {end[6:] for end in ends} == {"a/seed0 finished", "b/seed0 FAILED: loss is nan", "c/seed0 finished"}
    for end in ends:
        assert f"{end[6:13]}: step 1/2 long long long long lo"[:40] in [line[:40] for line in lines[: lines.index(end)]]
    assert len(lines) == 6


def test_a_message_of_a_worker_is_never_mixed_with_another_s(monkeypatch):
    """The system writes up to PIPE_BUF bytes whole; four are the message's length."""
    sent = []
    monkeypatch.setattr(sweep, "_news", SimpleNamespace(send_bytes=sent.append), raising=False)
    sweep._tell("cell=1_other=2/arm/seed0" * 4, "\N{BLACK STAR}" * 5000)
    assert 1000 < len(sent[0]) + 4 <= select.PIPE_BUF


def test_bad_input_stops_the_sweep(fake):
    with pytest.raises(InputError, match="^a/seed0: data: missing$"):
        fake("    if arm == 'a': raise InputError('data: missing')\n    time.sleep(60)\n", jobs=2)


def test_a_worker_that_is_killed_is_one_line(fake):
    with pytest.raises(RunError, match="a run's process was ended from outside"):
        fake("    os.kill(os.getpid(), signal.SIGKILL)\n")


@pytest.mark.parametrize(("stopped", "error"), [(False, RunError), (True, KeyboardInterrupt)])
def test_a_worker_that_dies_while_others_start_is_one_line_and_a_stop_where_it_was_one(fake, monkeypatch, stopped, error):
    def submit(pool, *_):
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)  # as of a signal to the group, which ends the first workers too
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(sweep.ProcessPoolExecutor, "submit", submit)
    with pytest.raises(error):
        fake("    pass\n")

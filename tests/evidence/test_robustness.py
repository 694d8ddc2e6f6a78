"""What a user's machine does to a run: kills, full disks, damaged files, two processes at once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.sweep import execute
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import locked, sha256
from mdlm_min.run.run_folder import RunFolder, open_run

ENVIRONMENT = {**os.environ, "MDLM_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"}


def command(runs, *more):
    return [
        sys.executable,
        "-m",
        "mdlm_min",
        "run",
        "parity",
        "--tier",
        "smoke",
        "--seeds",
        "1",
        "--arms",
        "md_0.3",
        "--jobs",
        "1",
        "--runs",
        str(runs),
        *more,
    ]


def one_run():
    [spec] = Experiment("parity").runs("smoke", "md_0.3", 1)
    return spec


def final_state(runs):
    folder = RunFolder(one_run().folder(runs))
    last = sorted(folder.checkpoints.iterdir())[-1]
    return (folder.path / "metrics.csv").read_bytes(), last.name, sha256(last / "shard-00000-00000.safetensors")


@pytest.mark.slow
def test_killed_at_random_moments_the_same_command_ends_at_the_same_bits(tmp_path):
    undisturbed = tmp_path / "undisturbed"
    subprocess.run(command(undisturbed), env=ENVIRONMENT, check=True, capture_output=True)
    disturbed, kills, moments = tmp_path / "disturbed", 0, random.Random(0)
    metrics = one_run().folder(disturbed) / "metrics.csv"
    while True:
        process = subprocess.Popen(command(disturbed), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        size = metrics.stat().st_size if metrics.exists() else 0
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > size):
            time.sleep(0.01)  # kill only once it has begun to make progress, or it never would
        time.sleep(moments.uniform(0, 0.1))
        if process.poll() is not None or kills == 6:
            break
        process.send_signal(signal.SIGKILL)  # the parent alone: its worker must notice, and free the folder
        process.wait()
        kills += 1
    assert process.wait() == 0
    assert kills >= 3
    assert "resumed at step" in (metrics.parent / "log.txt").read_text()
    assert final_state(disturbed) == final_state(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_stop_signal_writes_checkpoints_and_ends_everything_with_one_line(how, tmp_path):
    arguments = [*command(tmp_path)[:4], "parity", "--tier", "cpu", "--seeds", "1", "--jobs", "2", "--runs", str(tmp_path)]
    process = subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as from a terminal, however the tests were started
    )  # fmt: skip
    while "step 0" not in process.stdout.readline():
        pass
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()  # the parent alone
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "mdlm: stopped; a run resumes with the same command\n"
    stopped = [path.parent for path in tmp_path.glob("01_parity/cpu/**/log.txt") if "as asked" in path.read_text()]
    assert stopped
    assert all(list((folder / "checkpoints").iterdir()) for folder in stopped)
    assert not list(tmp_path.glob("01_parity/cpu/**/finished.json"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("finished")
    os.environ["MDLM_CHECKPOINT_SECONDS"] = "0"
    execute(one_run(), runs)
    del os.environ["MDLM_CHECKPOINT_SECONDS"]
    return runs


@pytest.fixture
def interrupted(finished, tmp_path):
    """A run folder as a kill leaves it: checkpoints, but no end."""
    shutil.copytree(finished, tmp_path / "runs")
    folder = one_run().folder(tmp_path / "runs")
    (folder / "finished.json").unlink()
    return folder


def test_a_finished_run_is_skipped(finished, monkeypatch):
    def start(*_):
        raise AssertionError("a finished run was started again")

    before = final_state(finished)
    monkeypatch.setattr("mdlm_min.evidence.experiment.Experiment.runner", lambda self: start)
    execute(one_run(), finished)
    assert final_state(finished) == before


def test_a_half_written_metrics_line_is_dropped(interrupted, finished):
    with (interrupted / "metrics.csv").open("a") as file:
        file.write("700,0.12")
    execute(one_run(), interrupted.parents[3])
    assert final_state(interrupted.parents[3]) == final_state(finished)


@pytest.mark.parametrize("damage", ["truncate", "alter", "json", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_kept(interrupted, finished, damage):
    before, newest = sorted((interrupted / "checkpoints").iterdir())
    tensors = newest / "shard-00000-00000.safetensors"
    data = bytearray(tensors.read_bytes())
    if damage == "truncate":
        tensors.write_bytes(data[: len(data) // 2])
    elif damage == "alter":
        data[-5] ^= 1
        tensors.write_bytes(data)
    elif damage == "json":
        (newest / "state.json").write_text('{"step": 5')
    else:
        tensors.unlink()
    with pytest.raises(
        InputError, match=f"{newest.name}.*delete .*{newest.name} to go on from the checkpoint before it"
    ) as error:
        execute(one_run(), interrupted.parents[3])
    assert "\n" not in str(error.value)
    assert before.exists()
    shutil.rmtree(newest)
    execute(one_run(), interrupted.parents[3])
    assert final_state(interrupted.parents[3]) == final_state(finished)


def test_two_processes_on_one_folder_the_second_says_who_holds_it(tmp_path):
    folder = one_run().folder(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from mdlm_min.run.files import locked; from pathlib import Path; import sys\n"
         f"with locked(Path({str(folder / 'lock')!r})): print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    second = subprocess.run(command(tmp_path), env=ENVIRONMENT, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is in use by process {holder.pid} " in second.stderr
    assert second.stderr.count("\n") == 1
    holder.communicate()
    with locked(folder / "lock"):
        pass


def test_a_full_disk_is_one_line_and_keeps_the_last_state(interrupted):
    """A limit on the size of a file stands in for the full disk: the same error path, without a file system of our own."""
    shutil.rmtree(sorted((interrupted / "checkpoints").iterdir())[-1])
    [last] = (interrupted / "checkpoints").iterdir()
    limit = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    )
    code = limit + f"sys.argv = {command(interrupted.parents[3])[2:]!r}; runpy.run_module('mdlm_min', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "cannot write a checkpoint" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list((interrupted / "checkpoints").iterdir()) == [last]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = subprocess.run(command(tmp_path / "file" / "runs"), env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"run: {tmp_path / 'file'} is a file; allowed: a new or empty folder, or one of a run" in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_configuration_is_refused_and_nothing_is_lost(interrupted):
    before = (interrupted / "metrics.csv").read_bytes()
    other = {**one_run().config, "stop_after": 99}
    with pytest.raises(InputError, match="holds a run of another configuration .stop_after: "), open_run(interrupted, other):
        pass
    assert (interrupted / "metrics.csv").read_bytes() == before


def test_damaged_json_is_named(interrupted):
    (interrupted / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json cannot be read .* delete the folder to run again"):
        execute(one_run(), interrupted.parents[3])

"""One step is one step: on plain torch, on DeepSpeed, on one process and on two, cut into passes or not."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mdlm_min.model import scoring
from mdlm_min.run.config import merge
from mdlm_min.run.errors import DivergedError, InputError, RunError
from mdlm_min.run.run_folder import open_run
from mdlm_min.tasks import pretrain
from mdlm_min.training.checkpoint import Checkpoint, checkpoints
from mdlm_min.training.deepspeed_engine import deepspeed_config
from mdlm_min.training.engine import EngineConfig, TorchEngine
from mdlm_min.training.launch import launch_line
from mdlm_min.training.loop import train
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig
from mdlm_min.training.task import Task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "corpus.txt"
    text.write_text("\n".join(f"line {index**2} of the text, {index % 7} and {index % 11}." for index in range(3000)))
    return {
        "data": {"source": str(text), "tokenizer": "bytes", "length": 32, "shuffle": 8, "random_lengths": 0.2},
        "model": {"layers": 2, "heads": 2, "width": 16},
        "batch": 8,
        "validation_passes": 240,
        "test_passes": 240,
        "train": {"steps": 6, "eval_every": 2, "learning_rate": 1e-2, "warmup": 1, "clip": 1.0},
    }


def execute(path, settings, **engine):
    config = merge(settings, {"engine": engine})
    with open_run(path, {"arm": "any", "seed": 0, **config}) as folder:
        pretrain.run(config, 0, folder, lambda line: None)
        return folder.metrics()


def final_weights(path):
    saved = Checkpoint(checkpoints(path / "checkpoints")[-1])
    return {name: saved[name] for name in saved.record["places"]}


@pytest.fixture(scope="module")
def plain(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "run"
    return execute(path, settings), final_weights(path)


def check_same(rows, weights, plain, tolerance):
    for row, expected in zip(rows, plain[0], strict=True):
        for name in ("loss", "valid_loss", "test_loss"):
            assert row[name] == pytest.approx(expected[name], rel=tolerance, nan_ok=True), (row["step"], name)
    assert weights.keys() == plain[1].keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, plain[1][name], rtol=50 * tolerance, atol=2 * tolerance, msg=name)


@pytest.mark.parametrize("engine", [{"micro_batch": 2}, {"micro_batch": 1, "recompute": True}])
def test_accumulation_and_recomputation_change_nothing(engine, settings, plain, tmp_path):
    rows = execute(tmp_path / "run", settings, **engine)
    check_same(rows, final_weights(tmp_path / "run"), plain, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {"processes": 1, "zero": 0},
        {"processes": 2, "zero": 0, "micro_batch": 2},
        {"processes": 2, "zero": 1},
        {"processes": 2, "zero": 2, "micro_batch": 1},
        {"processes": 2, "zero": 3, "micro_batch": 2, "recompute": True},
        {"processes": 2, "zero": 2, "offload": True},
    ],
    ids=lambda engine: "-".join(f"{name}{value}" for name, value in engine.items()),
)
def test_deepspeed_takes_the_steps_of_plain_torch(engine, settings, plain, tmp_path):
    pytest.importorskip("deepspeed")
    rows = execute(tmp_path / "run", settings, kind="deepspeed", **engine)
    check_same(rows, final_weights(tmp_path / "run"), plain, 2e-5)
    written = json.loads((tmp_path / "run" / "deepspeed.json").read_text())
    assert written["zero_optimization"]["stage"] == engine["zero"]
    launched = re.search(r"launch: .*--master_port (\d+)", (tmp_path / "run" / "log.txt").read_text())
    assert launched
    assert list(Path("/dev/shm").glob(f"deepspeed_*_{launched[1]}_*")) == []  # shared memory would outlive the processes


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_bfloat16_on_zero_follows_bfloat16_on_plain_torch(zero, settings, tmp_path):
    pytest.importorskip("deepspeed")
    settings = merge(settings, {"dtype": "bfloat16"})
    expected = execute(tmp_path / "plain", settings)
    rows = execute(tmp_path / "run", settings, kind="deepspeed", processes=2, zero=zero)
    for row, other in zip(rows[1:], expected[1:], strict=True):
        assert row["valid_loss"] == pytest.approx(other["valid_loss"], rel=0.01)


@pytest.mark.slow
def test_a_head_whose_weights_are_shared_out_scores_in_slices(settings, tmp_path):
    """ZeRO 3 gathers a module's weights when it is called, forward and backward: the sliced head is a module like any other."""
    pytest.importorskip("deepspeed")
    changes = {"data": {"vocab_size": 200_000, "random_lengths": 0.0}, "train": {"steps": 2}, "batch": 16, "mask_rate": "0.5"}
    settings = merge(settings, changes, {"validation_passes": 0, "test_passes": 0})
    assert scoring.WHOLE < 0.4 * 8 * 32 * 200_000  # masked tokens of a process times classes
    expected = execute(tmp_path / "plain", settings)
    rows = execute(tmp_path / "run", settings, kind="deepspeed", processes=2, zero=3)
    assert rows[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=2e-5)
    weights = final_weights(tmp_path / "plain")
    for name, value in final_weights(tmp_path / "run").items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=4e-5, msg=name)


LONGER = {"train": {"steps": 40, "eval_every": 5}}


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    return execute(path, merge(settings, LONGER)), final_weights(path)


def begin(path, settings, **engine):
    """A run on DeepSpeed in a process of its own, left once it has written a checkpoint beyond step 10."""
    config = merge(settings, {"engine": {"kind": "deepspeed", **engine}})
    script = (
        "import json, sys; from pathlib import Path; from mdlm_min.tasks import pretrain; from mdlm_min.run.run_folder import "
        "open_run\n"
        "config = json.loads(sys.argv[2])\n"
        "with open_run(Path(sys.argv[1]), {'arm': 'any', 'seed': 0, **config}) as folder:\n"
        "    pretrain.run(config, 0, folder, print)\n"
    )
    environment = os.environ | {"MDLM_CHECKPOINT_SECONDS": "0", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), json.dumps(config)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(int(found.name[5:]) > 10 for found in checkpoints(path / "checkpoints")):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return process


def workers(path):
    """The processes that train in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mdlm_min.tasks.worker" in words and str(path).encode() in words and b"deepspeed.launcher.launch" not in words:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_run_of_two_processes_killed_goes_on_to_the_same_losses_on_two_and_on_one(settings, undisturbed, tmp_path):
    pytest.importorskip("deepspeed")
    settings = merge(settings, LONGER)
    path = tmp_path / "two"
    process = begin(path, settings, processes=2, zero=3)
    killed = workers(path)
    for number in killed:
        os.kill(number, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert len(killed) >= 2
    assert process.returncode != 0
    assert "RunError: a process ended" in error
    assert not (path / "finished.json").exists()
    shutil.copytree(path, tmp_path / "one")
    shutil.copytree(path, tmp_path / "other")
    shutil.copytree(path, tmp_path / "offloaded")
    for name, engine in (
        ("two", {"kind": "deepspeed", "processes": 2, "zero": 3}),
        ("one", {}),
        ("other", {"kind": "deepspeed", "processes": 1, "zero": 2}),
        ("offloaded", {"kind": "deepspeed", "processes": 1, "zero": 3, "offload": True}),
    ):
        rows = execute(tmp_path / name, settings, **engine)
        assert "resumed at step" in (tmp_path / name / "log.txt").read_text()
        check_same(rows, final_weights(tmp_path / name), undisturbed, 1e-4)


@pytest.mark.slow
def test_a_stop_signal_writes_a_checkpoint_and_ends_all_processes(settings, undisturbed, tmp_path):
    pytest.importorskip("deepspeed")
    settings = merge(settings, LONGER)
    process = begin(tmp_path / "run", settings, processes=2, zero=2)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in error
    assert workers(tmp_path / "run") == []
    assert "as asked" in (tmp_path / "run" / "log.txt").read_text()
    check_same(execute(tmp_path / "run", settings, micro_batch=4), final_weights(tmp_path / "run"), undisturbed, 1e-4)


def test_the_launch_line_names_processes_nodes_and_folder(tmp_path):
    pytest.importorskip("deepspeed")
    line = launch_line("pretrain", EngineConfig("deepspeed", processes=8, hostfile="nodes.txt"), tmp_path / "run")
    assert Path(line[1]).name == "deepspeed"
    assert line[2:6] == ["--hostfile", "nodes.txt", "--num_gpus", "8"]
    assert line[-4:] == ["--module", "mdlm_min.tasks.worker", "pretrain", str(tmp_path / "run")]
    assert "--hostfile" not in launch_line("pretrain", EngineConfig("deepspeed"), tmp_path)


@pytest.mark.slow
def test_what_stops_a_worker_is_raised_where_it_was_launched(settings, tmp_path):
    pytest.importorskip("deepspeed")
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"arm": "any", "seed": 0, **settings}))
    (path / "data.json").write_text('{"sha256": "of another text"}')
    with pytest.raises(InputError, match=r"data.source: .* has changed since this run began \(SHA-256 of another"):
        execute(path, settings, kind="deepspeed", processes=2)
    assert "Traceback" not in (path / "launch.txt").read_text()


class Bumpy(Task):
    """Loss (weight - 3)^2, and as asked at some steps a spike, or a gradient that is not finite under a finite loss."""

    work = None

    def __init__(self, spikes=(), broken=()):
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.model.weight)
        self.network = self.model
        self.spikes, self.broken = spikes, broken

    def loss(self, step):
        weight = self.network(torch.ones(1, 1)).sum()
        loss = (weight - 3).square() + 1
        if step in self.spikes:
            loss = loss * 100
        return loss + (0 * (weight - weight.detach()).sqrt() if step in self.broken else 0)

    def evaluate(self, step):
        return {"weight": float(next(self.model.parameters()).detach().float().sum())}


def test_spikes_and_gradients_that_are_not_finite_are_skipped_and_counted(tmp_path):
    config = TrainConfig(steps=60, eval_every=1, learning_rate=0.01, spike=10.0)
    with open_run(tmp_path / "run", {}) as folder:
        train(Bumpy(spikes=(30, 31), broken=(40,)), config, folder, lambda line: None)
        rows = folder.metrics()
    assert [row["skipped"] for row in rows if row["step"] in (30, 31, 32, 40, 41, 60)] == [0, 1, 2, 2, 3, 3]
    weight = {row["step"]: row["weight"] for row in rows}
    assert weight[30] == weight[31] == weight[32] < weight[33]
    assert weight[40] == weight[41] < weight[42]
    assert "step 30 skipped: loss" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(("limit", "norm"), [({"clip": 0.5}, 0.5), ({"unit_gradient": True}, 1.0), ({}, 4.0)], ids=str)
def test_a_gradient_is_limited_as_configured_without_a_guard_too(limit, norm):
    task = Bumpy()
    TorchEngine(task, TrainConfig(**limit)).step(0, 0.01, None)
    assert float(task.model.weight.grad.norm()) == pytest.approx(norm)


def test_a_gradient_that_is_not_finite_ends_a_run_without_a_guard_whose_engine_drops_such_steps(tmp_path):
    class Dropping(TorchEngine):  # as DeepSpeed does
        def step(self, step, rate, guard):
            return super().step(step, rate, guard) if step < 4 else (torch.zeros(()), False)

    with open_run(tmp_path / "run", {}) as folder, pytest.raises(DivergedError, match="the gradient of step 4 is not finite"):
        train(Bumpy(), TrainConfig(steps=60, eval_every=1), folder, lambda line: None, Dropping)
    assert not (tmp_path / "run" / "finished.json").exists()


def test_divergence_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    config = TrainConfig(steps=100, eval_every=10, learning_rate=0.01, spike=10.0, checkpoint_seconds=0)
    with open_run(tmp_path / "run", {}) as folder, pytest.raises(RunError, match="20 steps in a row had a loss or gradient"):
        train(Bumpy(spikes=range(40, 100)), config, folder, lambda line: None)
    assert checkpoints(tmp_path / "run" / "checkpoints")


def test_a_run_stopped_between_evaluations_goes_on_to_the_same_bits(tmp_path):
    config = TrainConfig(steps=60, eval_every=7, learning_rate=0.01, spike=10.0)

    class Stopping(Bumpy):
        def loss(self, step):
            if step == 30:
                (tmp_path / "stopped" / "stop").touch()
            return super().loss(step)

    with open_run(tmp_path / "whole", {}) as folder:
        train(Bumpy(spikes=(20, 33)), config, folder, lambda line: None)
    with open_run(tmp_path / "stopped", {}) as folder, pytest.raises(KeyboardInterrupt):
        train(Stopping(spikes=(20, 33)), config, folder, lambda line: None)
    assert folder.metrics()[-1]["step"] == 28
    assert not (folder.path / "stop").exists()
    with open_run(tmp_path / "stopped", {}) as folder:
        train(Bumpy(spikes=(20, 33)), config, folder, lambda line: None)
    assert "resumed at step 31" in (folder.path / "log.txt").read_text()
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "stopped" / "metrics.csv").read_bytes()
    assert folder.metrics()[-1]["skipped"] == 2


@pytest.mark.slow
def test_deepspeed_skips_the_same_steps_at_every_stage_and_resumes_in_front_of_one(tmp_path):
    pytest.importorskip("deepspeed")
    script = tmp_path / "stages.py"
    script.write_text(
        "import importlib.util, json, sys\n"
        "import deepspeed, torch\n"
        "from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('test_engine', {str(Path(__file__))!r}); module = "
        f"importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from mdlm_min.training.checkpoint import Checkpoint, checkpoints, save_checkpoint\n"
        "from mdlm_min.training.deepspeed_engine import DeepSpeedEngine, deepspeed_config, join_processes\n"
        "from mdlm_min.training.engine import EngineConfig\n"
        "from mdlm_min.training.optimizer import SpikeGuard, TrainConfig\n"
        "join_processes('cpu')\n"
        "found = []\n"
        "for zero in (0, 1, 2, 3):\n"
        "    task, config, engine = module.Bumpy((30,), (35,)), TrainConfig(learning_rate=0.01, clip=1.0), "
        "EngineConfig('deepspeed', zero=zero)\n"
        "    made, guard = DeepSpeedEngine(task, config, engine, deepspeed_config(engine, config, 1, 1, 'float32')), "
        "SpikeGuard(10.0)\n"
        "    taken = []\n"
        "    for step in range(40):\n"
        "        loss, was = made.step(step, 0.01, guard); guard.record(float(loss), was); taken.append(bool(was))\n"
        "    found.append([[step for step, was in enumerate(taken) if not was], float(dict(made.tensors())['model.weight'])])\n"
        f"    folder = Path({str(tmp_path)!r}, str(zero)); save_checkpoint(folder, 35, made.tensors(), {{}})\n"
        "    task = module.Bumpy((30,), (35,))\n"
        "    again = DeepSpeedEngine(task, config, engine, deepspeed_config(engine, config, 1, 1, 'float32'))\n"
        "    saved = Checkpoint(checkpoints(folder)[-1])\n"
        "    task.model.load_state_dict({'weight': saved['model.weight']}) if zero < 3 else None\n"
        "    again.restore(saved)\n"
        "    there, back = dict(made.tensors()), dict(again.tensors())\n"
        "    assert there.keys() == back.keys() and all(torch.equal(there[name], back[name]) for name in there), zero\n"
        "print('FOUND', json.dumps(found))\n"
    )
    environment = os.environ | {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("FOUND"))[6:])
    task, config, guard = Bumpy((30,), (35,)), TrainConfig(learning_rate=0.01, clip=1.0), SpikeGuard(10.0)
    engine = TorchEngine(task, config)
    for step in range(40):
        loss, taken = engine.step(step, 0.01, guard)
        guard.record(float(loss), taken)
    expected = float(task.model.weight.detach())
    for skipped, weight in found:
        assert skipped == [30, 35]
        assert weight == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "jax"}, "engine.kind: 'jax' is unknown; allowed: torch, deepspeed"),
        ({"zero": 4}, "engine.zero: 4 is not allowed"),
        ({"processes": 2}, "engine.kind: 'torch' is one process"),
        ({"kind": "deepspeed", "offload": True}, "engine.offload: needs engine.zero"),
        ({"kind": "deepspeed", "processes": 0}, "engine.processes: 0 is not allowed; at least 1"),
    ],
)
def test_bad_engines_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        EngineConfig(**changes)


def test_a_batch_that_cannot_be_cut_evenly_is_named():
    assert EngineConfig(micro_batch=2).parts(16, 1) == 8
    with pytest.raises(InputError, match="batch: 16 cannot be cut evenly into 3 processes"):
        EngineConfig().parts(16, 3)
    with pytest.raises(InputError, match="engine.micro_batch: 3 is not allowed; a divisor of 8, a process's share of a batch"):
        EngineConfig(micro_batch=3).parts(16, 2)


def test_deepspeeds_configuration_says_what_ours_says():
    engine = EngineConfig("deepspeed", processes=8, zero=2, micro_batch=2, offload=True)
    found = deepspeed_config(engine, TrainConfig(clip=1.0), 128, 8, "bfloat16")
    assert (found["train_batch_size"], found["train_micro_batch_size_per_gpu"], found["gradient_accumulation_steps"]) == (
        128,
        2,
        8,
    )
    assert found["bf16"] == {"enabled": True}
    assert found["gradient_clipping"] == 1.0
    alone = deepspeed_config(EngineConfig("deepspeed"), TrainConfig(), 128, 1, "bfloat16")
    assert alone["bf16"] == {"enabled": False}  # without ZeRO the weights stay in float32
    assert found["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    with pytest.raises(InputError, match="needs train.optimizer = adamw"):
        deepspeed_config(engine, TrainConfig(optimizer="sgd"), 128, 8, "float32")


def test_a_run_goes_on_with_another_engine_but_not_as_another_run(settings, tmp_path):
    with open_run(tmp_path / "run", {**settings, "engine": {"micro_batch": 2}}):
        pass
    with open_run(tmp_path / "run", {**settings, "engine": {"micro_batch": 4}}) as folder:
        assert folder.read_json("config.json")["engine"] == {"micro_batch": 4}
    with (
        pytest.raises(InputError, match="another configuration \\(batch: "),
        open_run(tmp_path / "run", {**settings, "batch": 4}),
    ):
        pass

import json
import math

import pytest
import torch

from mdlm_min.run.errors import DivergedError, InputError
from mdlm_min.run.run_folder import open_run
from mdlm_min.training import distributed
from mdlm_min.training.loop import Trainer, format_seconds, progress_line, train
from mdlm_min.training.optimizer import TrainConfig, make_optimizer
from mdlm_min.training.task import Task


class Line(Task):
    """A task that can be followed by hand: one weight, loss weight * step."""

    def __init__(self):
        self.model, self.work = torch.nn.Linear(1, 1), None
        self.steps = []

    def loss(self, step):
        self.steps.append(step)
        return self.model.weight.sum() * 0 + step

    def evaluate(self, step):
        return {"seen": float(len(self.steps))}

    def is_done(self, rows):
        return False


def test_the_loss_is_the_mean_since_the_last_evaluation_and_the_last_step_is_evaluated(tmp_path):
    task = Line()
    with open_run(tmp_path / "run", {}) as folder:
        train(task, TrainConfig(steps=25, eval_every=10), folder, lambda line: None)
        rows = folder.metrics()
    assert [row["step"] for row in rows] == [0, 10, 20, 25]
    assert math.isnan(rows[0]["loss"])
    assert [row["loss"] for row in rows[1:]] == [4.5, 14.5, 22.0]
    assert task.steps == list(range(25))
    assert folder.read_json("finished.json")["steps"] == 25


def test_weight_decay_acts_on_matrices_only():
    optimizer = make_optimizer(torch.nn.Linear(3, 2), TrainConfig(weight_decay=0.3))
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(1, 0.3), (1, 0.0)]


def test_the_rate_warms_up_and_stays(tmp_path):
    rates = []

    class Watched(Line):
        def loss(self, step):
            rates.append(optimizers[0].param_groups[0]["lr"])
            return super().loss(step)

    optimizers = []
    import mdlm_min.training.engine as module

    original = module.make_optimizer
    module.make_optimizer = lambda *args: optimizers.append(original(*args)) or optimizers[0]
    try:
        with open_run(tmp_path / "run", {}) as folder:
            train(Watched(), TrainConfig(steps=6, eval_every=6, learning_rate=0.4, warmup=3), folder, lambda line: None)
    finally:
        module.make_optimizer = original
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_the_cosine_ends_at_a_tenth():
    config = TrainConfig(steps=110, learning_rate=1.0, warmup=10, schedule="cosine")
    assert [config.rate_at(step) for step in (0, 10, 60)] == pytest.approx([1 / 11, 1.0, 0.55])
    assert config.rate_at(109) == pytest.approx(0.1, abs=1e-3)
    rates = [config.rate_at(step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "sgd", "momentum": 0.9}], ids=["adamw", "sgd with momentum"])
def test_a_run_that_goes_on_from_a_checkpoint_ends_at_the_same_bits(tmp_path, optimizer):
    def task():
        torch.manual_seed(0)
        found = Line()
        found.loss = lambda step: (found.model(torch.tensor([[float(step % 3)]])) - 1).square().mean()
        return found

    def state(folder):
        return (folder.path / "metrics.csv").read_bytes(), sorted(folder.checkpoints.iterdir())[-1].joinpath(
            "shard-00000-00000.safetensors"
        ).read_bytes()

    settings = {"eval_every": 5, "schedule": "cosine", "learning_rate": 0.1, **optimizer}
    with open_run(tmp_path / "whole", {}) as folder:
        train(task(), TrainConfig(steps=20, checkpoint_seconds=0, **settings), folder, lambda _: None)
        whole = state(folder)

    class KilledError(Exception):
        pass

    broken = task()
    evaluate, broken.evaluate = broken.evaluate, lambda step: (_ for _ in ()).throw(KilledError) if step == 15 else evaluate(step)
    with open_run(tmp_path / "broken", {}) as folder:
        with pytest.raises(KilledError):
            train(broken, TrainConfig(steps=20, checkpoint_seconds=0, **settings), folder, lambda _: None)
        train(task(), TrainConfig(steps=20, checkpoint_seconds=0, **settings), folder, lambda _: None)
        resumed = state(folder)
    assert resumed == whole


def finished_and_resumable(path):
    """A folder whose run was killed after step 15, with a checkpoint after every step."""
    task = Line()
    task.evaluate = lambda step: {"seen": float(step)} if step < 15 else (_ for _ in ()).throw(KeyError)
    with open_run(path, {}) as folder, pytest.raises(KeyError):
        train(task, TrainConfig(steps=20, eval_every=5, checkpoint_seconds=0), folder, lambda _: None)
    assert [row["step"] for row in folder.metrics()] == [0, 5, 10]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(""),
        lambda path: path.unlink(),
        lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:3])),
        lambda path: path.write_text(path.read_text()[:-2]),
        lambda path: path.write_text(path.read_text().replace("\n5,", "\n4,")),
    ],
    ids=["emptied", "deleted", "a row lost", "cut in a row", "a number changed"],
)
def test_metrics_that_lost_rows_stop_a_resumed_run(tmp_path, damage):
    finished_and_resumable(tmp_path / "run")
    damage(tmp_path / "run" / "metrics.csv")
    with (
        open_run(tmp_path / "run", {}) as folder,
        pytest.raises(InputError, match=r"metrics.csv has lost or changed rows that its checkpoint counted \(3 rows\)"),
    ):
        train(Line(), TrainConfig(steps=20, eval_every=5), folder, lambda _: None)


def test_rows_behind_the_checkpoint_are_written_again(tmp_path):
    finished_and_resumable(tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("15,1,99\n20,1,99\n20,1")  # evaluations that no checkpoint counted, the last cut short
    with open_run(tmp_path / "run", {}) as folder:
        train(Line(), TrainConfig(steps=20, eval_every=5), folder, lambda _: None)
        rows = folder.metrics()
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20]
    assert all(row["seen"] != 99 for row in rows)


def test_a_checkpoint_without_its_fields_is_refused(tmp_path):
    finished_and_resumable(tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "state.json"
    state = json.loads(newest.read_text())
    state["other"] = state.pop("metrics")
    newest.write_text(json.dumps(state))
    with open_run(tmp_path / "run", {}) as folder, pytest.raises(InputError, match="state.json is altered"):
        train(Line(), TrainConfig(steps=20), folder, lambda _: None)
    del state["sha256"]  # as older versions wrote it
    newest.write_text(json.dumps(state))
    with open_run(tmp_path / "run", {}) as folder, pytest.raises(InputError, match="has no field 'metrics'; delete"):
        train(Line(), TrainConfig(steps=20), folder, lambda _: None)


def test_a_task_that_was_done_at_its_checkpoint_takes_no_step_when_resumed(tmp_path):
    for expected in ([*range(10)], []):
        task = Line()
        task.is_done = lambda rows: rows[-1]["step"] >= 10
        with open_run(tmp_path / "run", {}) as folder:
            train(task, TrainConfig(steps=20, eval_every=5), folder, lambda _: None)
        assert task.steps == expected
        (tmp_path / "run" / "finished.json").unlink()  # killed between the checkpoint and the end


def test_the_seconds_of_a_run_are_those_of_all_its_starts(tmp_path):
    class Stopping(Line):
        def loss(self, step):
            (tmp_path / "run" / "stop").touch()
            return super().loss(step)

    for _ in range(2):
        with open_run(tmp_path / "run", {}) as folder:
            trainer = Trainer(Stopping(), TrainConfig(steps=3), folder, lambda _: None)
            trainer.started -= 1000
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
    with open_run(tmp_path / "run", {}) as folder:
        train(Line(), TrainConfig(steps=3), folder, lambda _: None)
    assert 2000 < folder.read_json("finished.json")["seconds"] < 3000


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path):
    class Broken(Line):
        def loss(self, step):
            if step == 2:
                torch.nn.init.constant_(self.model.bias, math.inf)
            return super().loss(step)

    with (
        open_run(tmp_path / "run", {}) as folder,
        pytest.raises(DivergedError, match="model.bias is not finite after 3 steps; lower the learning rate"),
    ):
        train(Broken(), TrainConfig(steps=5, checkpoint_seconds=0), folder, lambda _: None)
    assert sorted(path.name for path in folder.checkpoints.glob("step-*")) == ["step-000000001", "step-000000002"]


def test_a_validation_loss_that_is_no_longer_finite_is_divergence(tmp_path):
    task = Line()
    task.evaluate = lambda step: {"valid_loss": 1.0 if step < 10 else math.inf}
    with open_run(tmp_path / "run", {}) as folder, pytest.raises(DivergedError, match="valid_loss is inf after step 10; lower"):
        train(task, TrainConfig(steps=20, eval_every=5), folder, lambda _: None)
    assert [row["step"] for row in folder.metrics()] == [0, 5]


def test_the_speed_of_a_resumed_run_is_that_of_its_own_steps(tmp_path):
    with open_run(tmp_path / "run", {}) as folder:
        trainer = Trainer(Line(), TrainConfig(steps=2000), folder, lambda _: None)
    trainer.first_step, trainer.step = 1000, 1500
    trainer.started -= 1000
    assert "step 1500/2000  0.5 steps/s  0:16:" in trainer._progress_line({"step": 1500.0})


def test_progress_says_rate_time_left_and_loss():
    line = progress_line({"step": 100.0, "loss": 0.5}, 700, rate=10.0)
    assert line == "step 100/700  10.0 steps/s  0:01:00 left at most  loss 0.5"
    assert progress_line({"step": 0.0, "loss": 0.5}, 700, 0.0) == "step 0/700  loss 0.5"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (3723.4, "1:02:03"), (math.inf, "?"), (math.nan, "?")])
def test_seconds_are_readable(seconds, text):
    assert format_seconds(seconds) == text


def test_no_checkpoint_where_none_is_wanted(tmp_path):
    with open_run(tmp_path / "run", {}) as folder:
        train(Line(), TrainConfig(steps=3, checkpoint_seconds=math.inf), folder, lambda line: None)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert folder.read_json("finished.json")["steps"] == 3


def test_a_stop_says_where_nothing_is_kept(tmp_path):
    for seconds, said in ((math.inf, True), (20.0, False)):
        lines = []
        with open_run(tmp_path / f"{seconds}", {}) as folder:
            (folder.path / "stop").touch()
            with pytest.raises(KeyboardInterrupt):
                train(Line(), TrainConfig(steps=3, checkpoint_seconds=seconds), folder, lines.append)
        nothing = "stopped; train.checkpoint_seconds = inf: no state is kept, and the same command begins anew"
        assert (lines[-1] == nothing) == said
        assert ("no state is kept" in (folder.path / "log.txt").read_text()) == said


@pytest.mark.parametrize("asked", ["abc", "nan", "-1", ""])
def test_seconds_between_checkpoints_that_are_no_number_are_one_line(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("MDLM_CHECKPOINT_SECONDS", asked)
    with open_run(tmp_path / "run", {}) as folder, pytest.raises(InputError, match=f"MDLM_CHECKPOINT_SECONDS: '{asked}' is not"):
        train(Line(), TrainConfig(steps=3), folder, lambda line: None)


@pytest.mark.parametrize("backend, device", [("gloo", "cpu"), ("nccl", "cuda")])
def test_flags_are_added_up_where_the_backend_can(backend, device, monkeypatch):
    places = []
    made = torch.tensor
    monkeypatch.setattr(distributed, "_together", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: backend)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda value: None)
    monkeypatch.setattr(torch, "tensor", lambda *values, device, **more: places.append(device) or made(*values, **more))
    assert distributed.any_of(True, False) == (True, False)
    assert places == [device]


def test_a_loss_that_is_not_finite_reaches_no_checkpoint_though_the_weights_are(tmp_path):
    task = Line()
    task.loss = lambda step: task.model.weight.sum() * 0 + (math.nan if step == 3 else 1.0)
    with open_run(tmp_path / "run", {}) as folder, pytest.raises(DivergedError, match="loss is nan between steps 0 and 4"):
        train(task, TrainConfig(steps=9, eval_every=9, checkpoint_seconds=0), folder, lambda line: None)
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == ["step-000000002", "step-000000003"]

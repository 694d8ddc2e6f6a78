import json
import math

import pytest
import torch

from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.run_folder import RunFolder, open_run
from mdlm_min.tasks.parity import ParityRunConfig, ParityTask, engine_maker, run
from mdlm_min.tasks.summaries import stays_above
from mdlm_min.tasks.summaries import summarise_parity as summarise
from mdlm_min.theory.formulas import signal_probability
from mdlm_min.training.captured_engine import CapturedEngine
from mdlm_min.training.engine import TorchEngine

EASY = {
    "data": {"n": 8, "k": 2, "train_samples": 150, "validation_samples": 100},
    "network": {"width": 32, "init": "width"},
    "train": {"steps": 1500, "eval_every": 25, "learning_rate": 3e-3},
    "stop_after": 5,
}  # fmt: skip
ARMS = {
    "output": {"supervision": "output"},
    "secret": {"supervision": "secret"},
    "masked": {"supervision": "masked", "mask_rate": "U[0,0.4]", "weight": "1/t"},
    "masked, none": {"supervision": "masked", "mask_rate": "U[0,0.4]", "weight": "none"},
    "masked, mean": {"supervision": "masked", "mask_rate": "U[0,0.4]", "weight": "mean"},
    "masked, squared": {"supervision": "masked", "mask_rate": "0.3", "weight": "1/t", "token_loss": "squared_error"},
}
MLP = {
    "network": {"kind": "mlp", "width": 64},
    "supervision": "masked",
    "mask_rate": "U[0,0.4]",
    "weight": "1/t",
    "token_loss": "squared_error",
}


def rows(*accuracies, every=10, metric="validation_accuracy"):
    return [{"step": float(every * index), metric: value} for index, value in enumerate(accuracies)]


def execute(settings, folder, seed=0):
    with open_run(folder, settings) as run_folder:
        run(settings, seed, run_folder, lambda line: None)
    return RunFolder(folder).metrics()


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_an_easy_parity(arm, tmp_path):
    [row] = summarise(execute({**EASY, **ARMS[arm]}, tmp_path / "run"))
    assert row["final_validation"] >= 0.99
    assert row["t_gen"] < row["last_step"] <= 1500


@pytest.mark.slow
def test_the_mlp_learns_an_easy_parity(tmp_path):
    [row] = summarise(execute({**EASY, **MLP}, tmp_path / "run"))
    assert row["final_validation"] >= 0.99


def test_no_training_no_skill():
    task = ParityTask(build(ParityRunConfig, {**EASY, **ARMS["output"]}), 0)
    assert 0.3 < task.evaluate(0)["validation_accuracy"] < 0.7


def test_accuracy_is_the_share_of_labels_whose_sign_the_output_has():
    task = ParityTask(build(ParityRunConfig, EASY), 0)
    label = (task.train[:, -1:] - 1.5).sign()
    right = torch.arange(150)[:, None] < 120
    task.model = lambda tokens, mask: torch.where(right, label, -label)
    assert task.accuracy(task.train) == pytest.approx(0.8)


@pytest.mark.parametrize(("weight", "divisor"), [("1/t", 0.5), ("none", 9)], ids=["a sum by the rate", "a mean over tokens"])
def test_an_inverse_weight_sums_over_a_sequence_as_in_equation_1(weight, divisor):
    task = ParityTask(build(ParityRunConfig, {**EASY, "supervision": "masked", "mask_rate": "0.5", "weight": weight}), 0)
    _, mask, _ = task._masked(0)
    task.model = lambda tokens, mask: torch.zeros(int(mask.sum()), 1)
    assert task.loss(0).item() == pytest.approx(math.log(2) * float(mask.sum()) / divisor / len(mask), rel=1e-5)


def test_a_run_is_done_when_both_accuracies_have_been_high_often_enough():
    task = ParityTask(build(ParityRunConfig, {**EASY, "stop_after": 2}), 0)
    low, high = ({"train_accuracy": 1.0, "validation_accuracy": accuracy} for accuracy in (0.5, 0.99))
    swapped = {"train_accuracy": 0.5, "validation_accuracy": 1.0}
    assert task.is_done([low, high, high])
    assert not any(task.is_done(rows) for rows in ([high], [low] * 3, [swapped] * 3, [high, high, low]))


def test_each_seed_has_its_own_batches():
    config = build(ParityRunConfig, {**EASY, "batch": 20})
    one, two = ParityTask(config, 0), ParityTask(config, 0)
    two.seed = 1
    assert not torch.equal(one._masked(0)[0], two._masked(0)[0])


def test_each_seed_has_its_own_data_weights_and_masks():
    one, two = (ParityTask(build(ParityRunConfig, {**EASY, **ARMS["masked"]}), seed) for seed in (0, 1))
    assert not torch.equal(one.train, two.train)
    assert not torch.equal(next(one.model.parameters()), next(two.model.parameters()))
    assert not torch.equal(one._masked(1)[2], two._masked(1)[2])


def test_a_step_is_of_the_training_samples_and_each_accuracy_of_its_own():
    task = ParityTask(build(ParityRunConfig, EASY), 0)
    assert task._masked(0)[0] is task.train
    task.accuracy = lambda tokens: float(len(tokens))
    row = task.evaluate(0)
    assert (row["train_accuracy"], row["validation_accuracy"]) == (150, 100)


def test_the_counts_of_signal_masks_go_on_from_a_checkpoint():
    task, resumed = (ParityTask(build(ParityRunConfig, {**EASY, **ARMS["masked"]}), 0) for _ in range(2))
    task.loss(0)
    resumed.restore(json.loads(json.dumps(task.state())))
    assert resumed.state() == task.state() and task.state()["signal_masks"] > 0
    resumed.loss(1)
    task.loss(1)
    assert resumed.evaluate(0)["signal_share"] == task.evaluate(0)["signal_share"]


def test_output_masks_are_the_label_and_secret_masks_one_secret_token():
    for arm, allowed in (("output", 1), ("secret", 3)):
        task = ParityTask(build(ParityRunConfig, {**EASY, **ARMS[arm]}), 0)
        from mdlm_min.run.random_streams import stream

        mask, rate = task.process.mask(500, task.train.shape[1], stream(0, "masks"))
        assert rate is None
        assert (mask.sum(dim=1) == 1).all()
        assert mask.any(dim=0).nonzero()[:, 0].tolist() == task.secret[-allowed:].tolist()


def test_signal_share_is_counted():
    task = ParityTask(build(ParityRunConfig, {**EASY, **ARMS["masked"]}), 0)
    for step in range(200):
        task.loss(step)
    assert task.evaluate(0)["signal_share"] == pytest.approx(signal_probability(0, 0.4, 2), abs=0.01)
    assert math.isnan(task.evaluate(0)["signal_share"])


def test_a_step_s_masks_do_not_depend_on_the_steps_before():
    config = build(ParityRunConfig, {**EASY, **ARMS["masked"], "batch": 20})
    one, two = ParityTask(config, 0), ParityTask(config, 0)
    for step in range(5):
        one.loss(step)
    assert one.loss(5).item() == two.loss(5).item()
    assert one.loss(5).item() != two.loss(6).item()


def test_t_gen_needs_three_evaluations_in_a_row():
    assert stays_above(rows(0.5, 0.99, 0.98, 0.99, 1, 1, 0.2), "validation_accuracy") == 30
    assert stays_above(rows(0.5, 0.99, 0.98, 0.99, 1), "validation_accuracy") == math.inf
    assert stays_above(rows(1, 1, 1), "validation_accuracy") == 0


def test_summary_of_a_run_that_memorises_and_never_generalises():
    metrics = [
        {"step": 10.0 * i, "train_accuracy": float(i > 1), "validation_accuracy": 0.5 + i / 100, "signal_share": 1.0}
        for i in range(8)
    ]
    [row] = summarise(metrics)
    assert row["t_mem"] == 20
    assert row["t_gen"] == row["delay"] == row["delay_ratio"] == math.inf
    assert row["best_validation"] == row["final_validation"] == pytest.approx(0.57)


def test_summary_of_a_run_that_memorises_first_and_generalises_later():
    """Before the first step no mask was drawn."""
    shares = (math.nan, 0.5, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3)
    metrics = [
        {
            "step": 10.0 * i,
            "train_accuracy": min(1.0, i / 2),
            "validation_accuracy": 0.99 if i > 4 else 0.5,
            "signal_share": share,
        }
        for i, share in enumerate(shares)
    ]
    [row] = summarise(metrics)
    assert (row["t_mem"], row["t_gen"], row["delay"], row["delay_ratio"]) == (20, 50, 30, 2.5)
    assert (row["final_train"], row["final_validation"], row["last_step"]) == (1.0, 0.99, 70)
    assert row["signal_share"] == pytest.approx(0.3)


def test_a_loss_that_is_not_finite_fails_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    task_loss = ParityTask.loss
    monkeypatch.setattr(ParityTask, "loss", lambda self, step: task_loss(self, step) * (math.nan if step == 60 else 1.0))
    monkeypatch.setenv("MDLM_CHECKPOINT_SECONDS", "0")
    with pytest.raises(RunError, match="loss is nan between steps 50 and 61"):
        execute({**EASY, **ARMS["output"]}, tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-000000059", "step-000000060"]
    assert not (tmp_path / "run" / "finished.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supervision": "labels"}, r"supervision: 'labels' is unknown; allowed: output, secret, masked"),
        ({"supervision": "masked", "mask_rate": "U[0.5,0.2]", "weight": "1/t"}, r"mask_rate: 'U\[0.5,0.2\]'.*allowed"),
        ({"supervision": "masked", "mask_rate": "U[0,2]", "weight": "1/t"}, r"mask_rate: 'U\[0,2\]'.*allowed"),
        ({"supervision": "masked", "mask_rate": "0", "weight": "1/t"}, r"mask_rate: '0' can be t = 0"),
        ({"supervision": "output", "mask_rate": "0.5"}, "mask_rate, weight: supervision 'output' masks one token"),
        ({"token_loss": "hinge"}, "token_loss: 'hinge' is unknown"),
        ({"batch": 151}, "batch: 151 is not allowed; 0 .all. to data.train_samples = 150"),
        ({"network": {"kind": "rnn"}}, "network.kind: 'rnn' is unknown"),
        ({"network": {"width": 30, "heads": 4}}, "model.width: 30 is not divisible"),
        ({"network": {"kind": "mlp", "init": "zeros"}}, "model.init: 'zeros' is unknown"),
        ({"network": {"kind": "mlp", "attention": "uniform"}}, "network.attention: 'uniform' is not allowed with network.kind"),
        ({"network": {"kind": "mlp", "layers": 2}}, "network.layers: 2 is not allowed with network.kind = 'mlp'; it has none"),
        ({"train": {"schedule": "cosine", "warmup": 9, "steps": 9}}, "train.warmup: 9 is not allowed with schedule"),
        ({"train": {"learning_rate": -1.0}}, "train.learning_rate: -1.0 is not allowed"),
        ({"train": {"optimizer": "lion"}}, "train.optimizer: 'lion' is unknown; allowed: adamw, sgd"),
        ({"train": {"stepz": 1}}, "train.stepz: no such setting; allowed: steps"),
        ({"train": 3}, "train: 3 is not a table"),
        ({"stop_after": "soon"}, "stop_after: 'soon' is a str; allowed: int"),
    ],
)
def test_bad_settings_name_the_field_the_value_and_what_is_allowed(change, message):
    with pytest.raises(InputError, match=message) as error:
        build(ParityRunConfig, {**EASY, **change})
    assert "\n" not in str(error.value)


def test_a_run_records_its_data_and_environment(tmp_path):
    short = {**EASY, **ARMS["output"], "train": {"steps": 2, "eval_every": 1}}
    execute(short, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert set(folder.read_json("data.json")) == {"sha256", "device", "dtype"}
    assert {"commit", "torch", "processor"} <= set(folder.read_json("environment.json"))
    assert folder.is_finished(json.loads(json.dumps(short)))
    assert not folder.is_finished({**short, "stop_after": 6})


@pytest.mark.parametrize("batch", [0, 30])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"supervision": "secret", "token_loss": "squared_error"},
        {"supervision": "masked", "mask_rate": "U[0,0.5]", "weight": "1/t"},
        {"supervision": "masked", "mask_rate": "U[0.1,0.5]", "weight": "1/(t p(t))"},
        {"supervision": "masked", "mask_rate": "U[0,0.5]", "weight": "none", "network": {"kind": "mlp", "width": 16}},
        {"supervision": "masked", "mask_rate": "1/3", "weight": "mean"},
    ],
    ids=str,
)
def test_the_loss_of_what_was_drawn_is_the_loss(changes, batch):
    """Computed at every position and weighed, as a GPU does it; loss and gradient."""
    data = {"n": 8, "k": 2, "train_samples": 100, "validation_samples": 50}
    found = []
    for drawn in (False, True):
        task = ParityTask(build(ParityRunConfig, {"data": data, "network": {"width": 16}, "batch": batch, **changes}), 0)
        captured = task.captured_step()
        loss = captured.loss(*captured.draw(3)) if drawn else task.loss(3)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in task.model.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "train, is_captured",
    [({}, True), ({"spike": 3.0}, False), ({"warmup": 5}, False), ({"schedule": "cosine"}, False)],
    ids=["plain", "guarded", "warmed up", "cosine"],
)
def test_a_step_is_captured_where_a_graph_can_take_it(train, is_captured):
    task = ParityTask(build(ParityRunConfig, {**EASY, **ARMS["masked"], "train": {**EASY["train"], **train}}), 0)
    assert engine_maker(task) is TorchEngine  # on a CPU
    task.device = torch.device("cuda")
    engine = engine_maker(task)(task, task.config.train)
    assert isinstance(engine, CapturedEngine) == is_captured

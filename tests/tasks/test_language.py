import math

import numpy as np
import pytest
import torch

from baselines.autoregressive import AutoregressiveTask
from mdlm_min.data.text import TextConfig, TextData
from mdlm_min.diffusion.likelihood import exact_masks
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import open_run
from mdlm_min.tasks.gradient_probe import ProbeTask
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask, check, run
from mdlm_min.tasks.summaries import LEVELS, RATES, suggested_rate

SMALL = {
    "data": {"corpus": "parities:2", "length": 12},
    "model": {"layers": 1, "heads": 2, "width": 16, "position_encoding": "learned"},
    "train": {"steps": 30, "eval_every": 10, "learning_rate": 1e-2, "warmup": 3, "schedule": "cosine", "clip": 1.0},
    "batch": 32,
    "validation_passes": 240,
    "test_passes": 240,
}


def config(**changes):
    return build(LanguageRunConfig, {**SMALL, **changes})


def test_an_untrained_model_of_zero_weights_has_the_loss_of_a_uniform_guess():
    task = LanguageTask(config(), 0)
    with torch.no_grad():
        task.model.head.weight.zero_()
    row = task.test_loss("valid", 240)
    assert row["valid_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert row["valid_error"] == pytest.approx(0, abs=1e-5)
    assert float(task.loss(0).detach()) == pytest.approx(math.log(2), rel=0.3)  # 1/t times a random count


def test_training_learns_pairs_and_the_low_rates_first(tmp_path):
    with open_run(tmp_path / "run", {"seed": 0}) as folder:
        run({**SMALL, "train": {**SMALL["train"], "steps": 600, "eval_every": 300}}, 0, folder, lambda _: None)
    rows = folder.metrics()
    # A pair's bit is known exactly where the other one is visible: the best loss at rate t is t log 2, on average log 2 / 2.
    assert rows[0]["valid_loss"] > 0.6
    assert rows[-1]["test_loss"] == pytest.approx(math.log(2) / 2, abs=0.05)
    assert rows[-1]["test_t0.0"] < 0.2 < 0.6 < rows[-1]["test_t0.9"]
    assert all(math.isnan(row["test_loss"]) for row in rows[:-1])


def test_the_estimate_agrees_with_brute_force_on_a_trained_model():
    """Whole-split loss by the estimator, and by t ~ U(0,1), Bernoulli masks and the weight 1/t, as section 5 writes it."""
    task = LanguageTask(config(), 0)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    for step in range(120):
        optimizer.zero_grad()
        task.loss(step).backward()
        optimizer.step()
    blocks, generator = task.data.blocks("valid", 12), torch.Generator().manual_seed(3)
    found = task.test_loss("valid", 2400)
    draws = 20_000
    chosen = blocks[torch.randint(len(blocks), (draws,), generator=generator)]
    rate = 1 - torch.rand(draws, generator=generator)
    mask = bernoulli(rate, 12, generator)
    values = torch.zeros(mask.shape)
    with torch.no_grad():
        values[mask] = task.nll(chosen, mask)
    losses = values.sum(dim=1) / rate / 12
    error = float(losses.std()) / math.sqrt(draws)
    assert abs(float(losses.mean()) - found["valid_loss"]) < 4 * math.hypot(error, found["valid_error"])
    assert found["valid_error"] < error


def test_masked_tokens_are_hidden():
    task = LanguageTask(config(), 0)
    tokens = task.data.blocks("valid", 12)[:4]
    mask = exact_masks(torch.full((4,), 3), 12, torch.Generator().manual_seed(0))
    other = torch.where(mask, 1 - tokens, tokens)
    with torch.no_grad():
        both = task.nll(tokens, mask).exp().reciprocal() + task.nll(other, mask).exp().reciprocal()
    torch.testing.assert_close(both, torch.ones_like(both))  # p(0) + p(1), so the output was the same


def test_the_test_loss_is_a_function_of_the_weights_alone():
    one, two = (LanguageTask(config(), seed) for seed in (0, 1))
    two.model.load_state_dict(one.model.state_dict())
    assert one.test_loss("test", 240) == two.test_loss("test", 240)


def test_arms_share_blocks_and_initial_weights_but_seeds_do_not():
    one, two = LanguageTask(config(), 0), LanguageTask(config(mask_rate="U[0.45,0.55]"), 0)
    assert torch.equal(one.data.batch("train", 12, 4, 0, 3), two.data.batch("train", 12, 4, 0, 3))
    assert torch.equal(one.model.head.weight, two.model.head.weight)
    assert not torch.equal(one.model.head.weight, LanguageTask(config(), 1).model.head.weight)


def masks_of(task, *steps):
    """The masks that the task's loss hands to its model."""
    seen = []
    nll = task.nll
    task.nll = lambda tokens, mask: (seen.append(mask), nll(tokens, mask))[1]
    for step in steps:
        task.loss(step)
    return seen


def test_masks_are_a_function_of_seed_and_step_and_follow_the_arm_s_rate():
    first, again, other_step = masks_of(LanguageTask(config(), 0), 3, 3, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other_step)
    [other_seed], [other_arm] = (
        masks_of(LanguageTask(config(), 1), 3),
        masks_of(LanguageTask(config(mask_rate="U[0.9,0.95]"), 0), 3),
    )
    assert not torch.equal(first, other_seed)
    assert other_arm.double().mean() > 0.8 > first.double().mean()


def test_a_step_is_of_the_run_s_seed_and_the_training_split_and_a_loss_of_the_split_that_is_asked_for(monkeypatch):
    asked, batch, blocks = [], TextData.batch, TextData.blocks
    monkeypatch.setattr(TextData, "batch", lambda self, *given: asked.append((given[0], given[-2])) or batch(self, *given))
    monkeypatch.setattr(TextData, "blocks", lambda self, *given: asked.append(given[0]) or blocks(self, *given))
    task = LanguageTask(config(), 3)
    task.loss(0)
    task.test_loss("test", 240)
    assert asked == [("train", 3), "test"]


def test_unit_gradients_have_norm_one_and_clipped_ones_at_most_that():
    from mdlm_min.training.optimizer import TrainConfig, limit_gradient

    task = LanguageTask(config(), 0)
    for settings, allowed in ((TrainConfig(unit_gradient=True), (0.999, 1.001)), (TrainConfig(clip=1e-3), (0, 1.001e-3))):
        task.model.zero_grad()
        task.loss(0).backward()
        limit_gradient(task.model, settings)
        norm = torch.cat([parameter.grad.flatten() for parameter in task.model.parameters()]).norm()
        assert allowed[0] <= float(norm) <= allowed[1]


def test_bfloat16_is_near_float32():
    losses = [float(LanguageTask(config(dtype=dtype), 0).loss(0).detach()) for dtype in ("float32", "bfloat16")]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]


def test_a_corpus_that_changes_between_runs_is_refused(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("some words in a row\n" * 300)
    settings = {**SMALL, "data": {"corpus": str(path), "tokenizer": "bytes", "length": 12}}
    with open_run(tmp_path / "run", {}) as folder:
        run(settings, 0, folder, lambda _: None)
    path.write_text("other words in a row\n" * 300)
    with pytest.raises(InputError, match="has changed since this run began"), open_run(tmp_path / "run", {}) as folder:
        run(settings, 0, folder, lambda _: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_rate": "U[0.5,0.2]"}, "mask_rate: 'U"),
        ({"weight": "t"}, "weight: 't' is unknown"),
        ({"dtype": "float16"}, "dtype: 'float16' is unknown; allowed: float32, bfloat16"),
        ({"test_passes": 10}, "test_passes: 10 is not allowed; at least 240"),
        ({"data": {"corpus": "parities:4", "length": 8}}, "data.length: 8 is not allowed; at least 10"),
        ({"batch": 0}, "batch: 0 is not allowed"),
        ({"data": {"corpus": "parities:5", "length": 12}}, "data.length: 1 of 12 tokens"),
        ({"model": {"width": 30, "heads": 4}}, "model.width: 30"),
        ({"train": {"schedule": "linear"}}, "train.schedule: 'linear' is unknown"),
        ({"train": {"clip": 1.0, "unit_gradient": True}}, "train.clip: 1.0 is not allowed"),
        ({"data": {"corpus": "nowhere"}}, "data.corpus: 'nowhere' is neither a path nor a known name"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        check({**SMALL, **changes})


def test_the_autoregressive_model_sees_only_what_came_before():
    task = AutoregressiveTask(config(model={**SMALL["model"], "causal": True}), 0)
    tokens = task.data.blocks("valid", 12)[:4]
    changed = tokens.clone()
    changed[:, 5:] = 1 - changed[:, 5:]
    with torch.no_grad():
        torch.testing.assert_close(task.nll_in_order(changed)[:, :5], task.nll_in_order(tokens)[:, :5])
        assert not torch.allclose(task.nll_in_order(changed)[:, 5], task.nll_in_order(tokens)[:, 5])
    for name, value in {"mask_rate": "U[0.45,0.55]", "weight": "none"}.items():
        with pytest.raises(InputError, match=f"{name}: .* is not allowed with model.causal = true, which masks nothing"):
            AutoregressiveTask(config(model={**SMALL["model"], "causal": True}, **{name: value}), 0)
    with pytest.raises(InputError, match="model.causal: false is not allowed for this kind of run; allowed: true"):
        AutoregressiveTask(config(), 0)
    with pytest.raises(InputError, match="model.causal: true is not allowed for this kind of run; allowed: false"):
        LanguageTask(config(model={**SMALL["model"], "causal": True}), 0)


def test_the_autoregressive_loss_is_that_of_the_whole_split():
    task = AutoregressiveTask(config(model={**SMALL["model"], "causal": True}), 0)
    with torch.no_grad():
        expected = float(task.nll_in_order(task.data.blocks("test", 12)).double().mean())
    assert task.test_loss("test", 240)["test_loss"] == pytest.approx(expected, rel=1e-6)
    assert task.evaluate(0).keys() == LanguageTask(config(), 0).evaluate(0).keys()


def test_a_probe_measures_every_rate_and_prefers_rates_with_a_signal():
    """At first the model knows no pair: near t = 1 no partner is visible, so no gradient there lowers the loss of pairs."""
    task = ProbeTask(config(batch=64), 0)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        task.loss(step).backward()
        optimizer.step()
    row = {"step": 60.0, **task.evaluate(60)}
    assert row == {"step": 60.0, **task.evaluate(60)}
    assert {f"{measure}_{rate}" for measure in ("snr", "gain") for rate in RATES} < row.keys()
    assert max(abs(row[f"gain_{rate}"]) for rate in RATES) == pytest.approx(1)
    assert 0.1 < suggested_rate([row], "gain") < 0.8


def test_gradients_of_pure_noise_have_no_signal():
    task = ProbeTask(config(), 0)
    task._gradient = lambda rate, generator, step, number: torch.randn(10_000, generator=generator)
    row = task.evaluate(0)
    assert [row[f"snr_{rate}"] for rate in RATES] == pytest.approx([0.0] * len(RATES), abs=0.02)


def test_the_suggestion_is_the_mean_of_the_later_probes():
    low, high = ({f"gain_{rate}": float(rate == best) for rate in RATES} for best in (0.15, 0.75))
    assert suggested_rate([{"step": 0.0, **high}, {"step": 1.0, **low}], "gain") == 0.15
    high["gain_0.75"] = 2.0
    assert suggested_rate([{"step": 1.0, **low}, {"step": 2.0, **high}], "gain") == 0.75


def test_a_given_corpus_is_used_as_it_is():
    data = TextData({name: np.tile(np.arange(4, dtype=np.uint16), 200) for name in ("train", "valid", "test")}, 4, "hash")
    task = LanguageTask(build(LanguageRunConfig, {**SMALL, "data": {"corpus": "parities:2", "length": 12}}), 0, data)
    assert task.mask_token == 4
    assert len(task.evaluate(0)) == 2 * (2 + 2 * len(LEVELS))
    assert TextConfig().length == 128

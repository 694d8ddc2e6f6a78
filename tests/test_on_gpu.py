"""The same numbers on a GPU as on the CPU, to rounding. Skipped where there is no GPU."""

import pytest
import torch

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import RateSchedule
from mdlm_min.diffusion.remasking import TokenRules
from mdlm_min.diffusion.sampling import SamplingConfig, generate
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.llada import scaled
from mdlm_min.model.mlp import MLPConfig, UniformAttentionMLP
from mdlm_min.model.scoring import Head
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import build
from mdlm_min.run.run_folder import open_run
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask
from mdlm_min.tasks.parity import ParityRunConfig, ParityTask, engine_maker, run
from mdlm_min.tasks.scheduled import ScheduledParityTask
from mdlm_min.theory.formulas import signal_probability
from mdlm_min.training.captured_engine import CapturedEngine
from mdlm_min.training.engine import TorchEngine
from mdlm_min.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

SHAPES = [
    {"layers": 1, "attention": "uniform"},
    {"layers": 1, "init": "width"},
    {"layers": 2, "tied": True},
    {"layers": 2, "causal": True},
    {"layers": 2, "position_encoding": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False},
]


def results(model, device, tokens, mask, *more):
    """Scores and the gradients of a loss of them, on the CPU in float64."""
    model = model.to(device)
    scores = model(tokens.to(device), mask.to(device), *(one.to(device) for one in more))
    scores.float().sin().sum().backward()
    found = [scores, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
    return [one.detach().double().cpu() for one in found]


def assert_near(found, expected, tolerance):
    for one, two in zip(found, expected, strict=True):
        assert (one - two).norm() <= tolerance * two.norm().clamp(min=1e-6)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [3, 64], ids=["plain", "distinct inputs"])
def test_scores_and_gradients_of_a_transformer(options, batch):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (batch, 12), generator=generator)
    mask = torch.rand(tokens.shape, generator=generator) < 0.4
    more = [torch.arange(12) < 9 + tokens[:, :1]] if options.get("position_encoding") == "rotary" else []
    mask = mask & more[0] if more else mask
    config = ModelConfig(3, 12, 3, heads=2, width=32, **options)
    found, expected = (
        results(Transformer(config, torch.Generator().manual_seed(1)), device, tokens, mask, *more) for device in ("cuda", "cpu")
    )
    assert_near(found, expected, 1e-4)


def test_scores_and_gradients_of_the_mlp():
    tokens = torch.randint(3, (50, 9), generator=torch.Generator().manual_seed(0))
    found, expected = (
        results(UniformAttentionMLP(MLPConfig(3, 9, 64), torch.Generator().manual_seed(1)), device, tokens, tokens == 2)
        for device in ("cuda", "cpu")
    )
    assert_near(found, expected, 1e-4)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
def test_the_sliced_cross_entropy(dtype, tolerance):
    """More scores than are computed whole, so that they are cut into slices."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=generator)
    targets = torch.randint(60_000, (300,), generator=generator)
    weight = torch.randn(60_000, 64, generator=generator) / 8
    found = []
    for device, kind in (("cuda", dtype), ("cpu", torch.float32)):
        head = Head(64, 60_000).to(device, kind)
        head.slice = 1 << 22
        with torch.no_grad():
            head.weight.copy_(weight)
        inputs = x.clone().to(device, kind).requires_grad_()
        losses = head(inputs, targets.to(device))
        losses.mean().backward()
        found.append([one.detach().double().cpu() for one in (losses, inputs.grad, head.weight.grad)])
    assert_near(*found, tolerance)


@pytest.mark.parametrize("changes", [{}, {"threshold": 0.3}, {"cache": "dual", "threshold": 0.3}], ids=str)
def test_generated_tokens(changes):
    tokens = torch.tensor([[1, 2, 3] + [8] * 13, [1] + [8] * 15])
    config = SamplingConfig(steps=8, block_length=4, **changes)
    shape = ModelConfig(9, 16, 9, layers=2, heads=2, width=32, position_encoding="rotary", init="width")
    found = []
    for device in ("cpu", "cuda"):
        model = Transformer(shape, torch.Generator().manual_seed(1)).to(device)
        found.append(generate(model, tokens.to(device), TokenRules(8), config, lengths=[16, 13]))
    assert torch.equal(found[0].tokens, found[1].tokens.cpu())
    assert found[0].passes == found[1].passes


def test_few_tokens_are_embedded_in_the_type_of_the_weights_under_autocast():
    model = Transformer(ModelConfig(3, 12, 3, heads=2, width=32), torch.Generator().manual_seed(1)).to("cuda")
    tokens = torch.randint(3, (4, 12), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        found = model._embedded(tokens)
    assert found.dtype == torch.float32
    assert torch.equal(found, model.token_embedding(tokens))


def test_a_model_of_8b_shape_in_bfloat16_is_near_the_one_in_float32():
    """LLaDA's block and vocabulary at width 512: scores in bfloat16 on the GPU against float32 on the CPU."""
    config = scaled(2, 4, 512, length=64, vocab_size=126_464, outputs=126_464)
    tokens = torch.randint(126_000, (2, 64), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(64).expand(2, 64) % 3 == 0
    losses = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32)):
        model = Transformer(config, torch.Generator().manual_seed(1)).to(device, dtype)
        model.recompute = True
        loss = model(tokens.to(device), mask.to(device), targets=tokens[mask].to(device))
        loss.mean().backward()
        losses.append(loss.detach().double().cpu())
    assert_near([losses[0]], [losses[1]], 1e-2)


@pytest.mark.parametrize("supervision", ["output", "secret", "masked"])
def test_a_run_on_parity_learns(supervision, tmp_path):
    settings = {
        "data": {"n": 8, "k": 2, "train_samples": 150, "validation_samples": 100},
        "network": {"layers": 1, "width": 64, "init": "width"},
        "train": {"steps": 600, "eval_every": 100, "learning_rate": 3e-3},
        "supervision": supervision,
        "device": "cuda",
    }
    masked = {"mask_rate": "U[0,0.3]", "weight": "1/t"} if supervision == "masked" else {}
    config = build(ParityRunConfig, {**settings, **masked})
    with open_run(tmp_path / "run", {"arm": supervision, "seed": 0, **settings, **masked}) as folder:
        train(ParityTask(config, 0), config.train, folder, lambda line: None)
        rows = folder.metrics()
    assert rows[-1]["train_accuracy"] > 0.99
    assert rows[-1]["validation_accuracy"] > 0.95


@pytest.mark.parametrize(
    "changes",
    [
        {"supervision": "secret", "batch": 40},
        {"supervision": "masked", "mask_rate": "U[0,0.3]", "weight": "1/t"},
        {"supervision": "masked", "mask_rate": "U[0.1,0.3]", "weight": "none", "train": {"unit_gradient": True}},
        {"train": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.01}},
        {"network": {"kind": "mlp", "width": 64}, "token_loss": "squared_error", "train": {"learning_rate": 1e-3}},
    ],
    ids=str,
)
def test_captured_steps_are_those_of_plain_torch(changes):
    """Losses over 12 steps; the plain ones select the masked positions, the captured ones compute all."""
    settings = {
        "data": {"n": 8, "k": 2, "train_samples": 150, "validation_samples": 100},
        "network": {"layers": 2, "width": 64, "init": "width"},
        "device": "cuda",
    }
    found = []
    for captured in (False, True):
        config = build(ParityRunConfig, {**settings, **changes})
        task = ParityTask(config, 0)
        engine = engine_maker(task)(task, config.train) if captured else TorchEngine(task, config.train)
        assert isinstance(engine, CapturedEngine) == captured
        losses = torch.stack([engine.step(step, config.train.learning_rate, None)[0].clone() for step in range(12)])
        found.append([losses.double().cpu()])
    assert_near(found[1], found[0], 2e-3)


def test_a_captured_run_resumes(tmp_path):
    """Stopped after 50 of 100 steps and resumed, against one run."""
    settings = {
        "data": {"n": 8, "k": 2, "train_samples": 150, "validation_samples": 100},
        "network": {"layers": 1, "width": 32, "init": "width"},
        "supervision": "masked",
        "mask_rate": "U[0,0.3]",
        "weight": "1/t",
        "device": "cuda",
    }
    rows = []
    for name, parts in (("whole", (100,)), ("cut", (50, 100))):
        for steps in parts:
            config = build(ParityRunConfig, {**settings, "train": {"steps": steps, "eval_every": 10}})
            with open_run(tmp_path / name, {"arm": name, "seed": 0, **settings}) as folder:
                task = ParityTask(config, 0)
                train(task, config.train, folder, lambda line: None, engine_maker(task))
                rows.append(folder.metrics())
    assert rows[2][-1]["loss"] == pytest.approx(rows[0][-1]["loss"], rel=1e-3)


def test_a_scheduled_run_on_parity_takes_the_schedule_s_masks(tmp_path):
    """A captured step would take those of output supervision, all of which are signal masks."""
    settings = {
        "data": {"n": 8, "k": 2, "train_samples": 150, "validation_samples": 100},
        "network": {"layers": 1, "width": 32, "init": "width"},
        "train": {"steps": 20, "eval_every": 10},
        "device": "cuda",
    }
    half = RateSchedule(MaskRate.parse("0.5"))
    with open_run(tmp_path / "run", {"arm": "half", "seed": 0, **settings}) as folder:
        run(settings, 0, folder, lambda line: None, lambda config, seed: ScheduledParityTask(config, seed, half))
        rows = folder.metrics()
    expected = signal_probability(0.5, 0.5, 2)
    assert rows[-1]["signal_share"] == pytest.approx(expected, abs=0.05)


def test_a_language_run_learns_in_bfloat16(tmp_path):
    settings = {
        "data": {"corpus": "parities:4", "length": 12},
        "model": {"layers": 2, "heads": 2, "width": 64},
        "dtype": "bfloat16",
        "device": "cuda",
        "validation_passes": 240,
        "test_passes": 240,
        "train": {"steps": 100, "eval_every": 50},
    }
    config = build(LanguageRunConfig, settings)
    with open_run(tmp_path / "run", {"arm": "uniform", "seed": 0, **settings}) as folder:
        train(LanguageTask(config, 0), config.train, folder, lambda line: None)
        rows = folder.metrics()
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"] - 0.05

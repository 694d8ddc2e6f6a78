"""Device placement, without a GPU: tensors that pretend to be on one.

An `OnCuda` is a CPU tensor that says it is on "cuda:0". Every call of torch is watched: tensors on different devices in one
call are an error, as they are on a GPU. Values are real, so results must also be those of the CPU.
(torch's own fake tensors need a build with CUDA for parameters, and have no values to select positions by.)
"""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves, tree_map

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import RateSchedule
from mdlm_min.diffusion.remasking import CONFIDENCES, TokenRules
from mdlm_min.diffusion.sampling import SamplingConfig, generate
from mdlm_min.evaluation.judged_answers import JudgedAnswersTask
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.mlp import MLPConfig, UniformAttentionMLP
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import build
from mdlm_min.run.run_folder import RunFolder, open_run
from mdlm_min.tasks import language, transformer_task
from mdlm_min.tasks.finetune import FinetuneConfig
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask
from mdlm_min.tasks.parity import ParityRunConfig, ParityTask
from mdlm_min.tasks.pretrain import PretrainConfig, PretrainTask
from mdlm_min.training.loop import train
from mdlm_min.training.optimizer import TrainConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


class OnCuda(torch.Tensor):
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)


class PretendGenerator(torch.Generator):
    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    device = property(lambda self: self.place)


def moved(result, device):
    """Tensors in `result` on this device; those that are there already stay themselves (a leaf of autograd stays a leaf)."""

    def move(leaf):
        if not isinstance(leaf, torch.Tensor) or leaf.device.type == device.type:
            return leaf
        return leaf.as_subclass(OnCuda if device.type == "cuda" else torch.Tensor)

    return tree_map(move, result)


class PretendCuda(TorchFunctionMode):
    """Watches and places: moves and new tensors go to the device that they name."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if name in ("to", "cpu", "cuda"):
            target = next((torch.device(leaf) for leaf in leaves if isinstance(leaf, torch.device | str)), None)
            target = CPU if name == "cpu" else target or tensors[0].device
            others = [leaf for leaf in args[1:] if not isinstance(leaf, torch.device | str)]
            kwargs.pop("device", None)
            return moved(func(args[0].as_subclass(torch.Tensor), *others, **kwargs) if others or kwargs else args[0], target)
        if name == "backward":  # watched as well: recomputation calls the blocks again
            loss, one = args[0].as_subclass(torch.Tensor), torch.ones(())
            with self:
                torch.autograd.Variable._execution_engine.run_backward(
                    (loss,), (one,), False, False, (), allow_unreachable=True, accumulate_grad=True
                )
            return None
        if name == "numpy" and isinstance(args[0], OnCuda):
            raise TypeError("numpy() of a tensor on cuda")
        devices = {tensor.device.type for tensor in tensors if tensor.dim()} or {tensor.device.type for tensor in tensors}
        if name not in ("copy_", "_has_compatible_shallow_copy_type") and len(devices) > 1:
            raise RuntimeError(f"{name}: tensors on different devices")
        named = kwargs.get("device")
        device = torch.device(named or next(iter(devices), "cpu"))
        if device.type == "meta":
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != device.type:
            raise RuntimeError(f"{name}: a generator of {generator.device} for a tensor on {device}")
        if named is not None:
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        return result if name.startswith("__") and name.endswith("set__") else moved(result, device)


def move_module(module, *where):
    """nn.Module.to, for tensors that cannot be swapped in place; only the weights' device and dtype change."""
    made = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                made.setdefault(old, nn.Parameter(old.data.to(*where)))
                part._parameters[name] = made[old]
    return module


@pytest.fixture
def pretend_cuda(monkeypatch):
    monkeypatch.setattr(nn.Module, "to", move_module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for module in (language, transformer_task):
        monkeypatch.setattr(module, "matmul_ceiling", lambda *_: 1.0)
    monkeypatch.setattr(torch, "Generator", PretendGenerator)
    # Recomputation compares devices of detached tensors, which have lost their pretence; results are compared here anyway.
    monkeypatch.setitem(checkpoint._allowed_determinism_checks_to_fns, "default", lambda tensor: None)
    return PretendCuda()


def run(model, device, *inputs):
    model = model.to(device)
    scores = model(*(one if one is None else one.to(device) for one in inputs))
    assert scores.device.type == device.type
    loss = scores.sin().sum()
    loss.backward()
    return [loss.detach().as_subclass(torch.Tensor)] + [
        parameter.grad.as_subclass(torch.Tensor) for parameter in model.parameters() if parameter.grad is not None
    ]


SHAPES = [
    {"layers": 1},
    {"layers": 2},
    {"layers": 2, "tied": True},
    {"layers": 2, "causal": True},
    {"layers": 1, "attention": "uniform"},
    {"layers": 2, "position_encoding": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False},
    {"layers": 2, "position_encoding": "rotary", "causal": True},
]


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [2, 40], ids=["plain", "distinct inputs"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_a_transformer_is_on_one_device(options, batch, recompute, pretend_cuda):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (batch, 9), generator=generator)
    mask = torch.rand(tokens.shape, generator=generator) < 0.4
    cases = [(tokens,), (tokens, mask)]
    if options.get("position_encoding") == "rotary" and not options.get("causal"):
        cases += [(tokens, None, torch.arange(9) < 7 + tokens[:, :1]), (tokens, mask, mask | (torch.arange(9) < 4))]
    for inputs in cases:
        models = [Transformer(ModelConfig(3, 9, 3, heads=2, width=8, **options), torch.Generator().manual_seed(1)) for _ in "ab"]
        for model in models:
            model.recompute = recompute
        expected = run(models[0], CPU, *inputs)
        with pretend_cuda:
            found = run(models[1], CUDA, *inputs)
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):  # on a GPU few tokens are embedded in another way
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_mlp_is_on_one_device(pretend_cuda):
    tokens = torch.randint(3, (20, 5), generator=torch.Generator().manual_seed(0))
    mask = tokens == 2
    models = [UniformAttentionMLP(MLPConfig(3, 5, 16), torch.Generator().manual_seed(1)) for _ in "ab"]
    expected = run(models[0], CPU, tokens, mask)
    with pretend_cuda:
        found = run(models[1], CUDA, tokens, mask)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("injected", ["mask", "padding mask", "rotary tables"])
def test_a_tensor_on_another_device_is_found(injected, pretend_cuda):
    model = Transformer(ModelConfig(3, 9, 3, heads=2, width=8, position_encoding="rotary"), torch.Generator().manual_seed(0))
    tokens = torch.zeros(4, 9, dtype=torch.int64)
    mask = torch.ones(4, 9, dtype=torch.bool)
    with pretend_cuda, pytest.raises(RuntimeError, match="different devices"):
        model.to(CUDA)
        if injected == "rotary tables":
            model._rotary_tables[CUDA] = model._rotary(CPU)
        places = [CPU if injected == name else CUDA for name in ("mask", "padding mask")]
        model(tokens.to(CUDA), *(mask.to(place) for place in places))


GENERATION = [
    {"temperature": 0.7, "cfg_scale": 1.0},
    {"remasking": "margin", "temperature": 0.7},
    {"remasking": "random"},
    {"remasking": "ancestral"},
    {"threshold": 0.5, "cache": "dual"},
    {"factor": 1.0, "cache": "prefix", "refresh": 2, "cfg_scale": 1.0},
]


@pytest.mark.parametrize("changes", GENERATION, ids=str)
def test_generation_is_on_one_device(changes, pretend_cuda):
    """Rows of different lengths, all roles of tokens. Token 8 is the mask."""
    tokens = torch.tensor([[1, 2, 3, 8, 8, 8, 8, 8, 8], [1, 8, 8, 8, 8, 8, 8, 8, 8]])
    config = SamplingConfig(**{"steps": 6, "block_length": 3, **changes})
    defer = frozenset({5}) if config.remasking in CONFIDENCES else frozenset()
    rules = TokenRules(8, frozenset({1}), frozenset({2}), defer, frozenset({3}))
    shape = ModelConfig(9, 9, 9, layers=2, heads=2, width=8, position_encoding="rotary", init="width")
    found = []
    for device in (CPU, CUDA):
        with pretend_cuda if device == CUDA else contextlib.nullcontext():
            model = Transformer(shape, torch.Generator().manual_seed(1)).to(device)
            found.append(generate(model, tokens.to(device), rules, config, lengths=[9, 7]))
    assert found[1].tokens.device.type == "cuda"
    assert torch.equal(found[1].tokens.as_subclass(torch.Tensor), found[0].tokens)
    assert found[1].passes == found[0].passes


PARITY = {"data": {"n": 8, "k": 2, "train_samples": 100, "validation_samples": 50}, "network": {"width": 16}, "device": "cuda"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"supervision": "secret", "batch": 10},
        {"supervision": "masked", "mask_rate": "U[0,0.5]"},
        {"supervision": "masked", "mask_rate": "U[0.1,0.5]", "weight": "1/t", "network": {"kind": "mlp", "width": 16}},
    ],
    ids=str,
)
def test_a_parity_run_is_on_one_device(changes, pretend_cuda):
    with pretend_cuda:
        task = ParityTask(build(ParityRunConfig, {**PARITY, **changes}), 0)
        task.loss(0).backward()
        assert task.model is not None
        assert 0 <= task.evaluate(1)["train_accuracy"] <= 1


@pytest.mark.parametrize("position_encoding", ["learned", "rotary"])
def test_a_language_run_is_on_one_device(position_encoding, pretend_cuda):
    settings = {
        "data": {"corpus": "parities:4", "length": 12},
        "model": {"layers": 2, "heads": 2, "width": 8, "position_encoding": position_encoding},
        "batch": 64,
        "device": "cuda",
        "validation_passes": 240,
        "test_passes": 240,
        "train": {"steps": 1},
    }
    with pretend_cuda:
        task = LanguageTask(build(LanguageRunConfig, settings), 0)
        loss = task.loss(0)
        assert loss.device.type == "cuda"
        loss.backward()
        assert task.evaluate(1)["test_loss"] > 0


def test_a_pretraining_run_is_on_one_device(pretend_cuda, tmp_path, monkeypatch):
    """And its speed is that of the steps since this start."""
    text = tmp_path / "corpus.txt"
    text.write_text("\n\n".join(f"the {number} words of a document " * 3 for number in range(400)))
    settings = {
        "data": {"source": str(text), "tokenizer": "bytes", "length": 32, "random_lengths": 0.3},
        "model": {"layers": 2, "heads": 2, "width": 16},
        "batch": 8,
        "device": "cuda",
        "validation_passes": 240,
        "test_passes": 240,
        "train": {"steps": 104},
        "engine": {"micro_batch": 4},
    }
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(transformer_task, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    with pretend_cuda:
        task = PretrainTask(build(PretrainConfig, settings), 0, None)
        assert math.isnan(task.speed(100)["tokens_per_second"])
        for part in range(task.parts):
            loss = task.part_loss(100, part)
            assert loss.device.type == "cuda"
            loss.backward()
        clock.now = 7.0
        row = task.evaluate(104)
    assert row["test_loss"] > 0
    assert row["tokens_per_second"] == 2 * task.work.tokens


@pytest.mark.parametrize("divisor", ["answer", "token", "batch"])
def test_judged_answers_with_a_schedule_are_on_one_device(divisor, pretend_cuda, tmp_path, monkeypatch):
    settings = {
        "data": {"source": "arithmetic:1", "tokenizer": "bytes", "length": 48, "held_out": 6},
        "model": {"layers": 1, "heads": 2, "width": 8},
        "batch": 4,
        "device": "cuda",
        "divisor": divisor,
        "validation_answers": 3,
        "train": {"steps": 1, "eval_every": 1},
    }
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    with pretend_cuda:
        task = JudgedAnswersTask(
            build(FinetuneConfig, settings), 0, RunFolder(tmp_path), lambda task: RateSchedule(MaskRate.parse("U[0.2,0.8]")), 3, 8
        )
        loss = task.loss(0)
        assert loss.device.type == "cuda"
        loss.backward()
        row = task.evaluate(1)
    assert row["valid_nll"] > 0 and 0 <= row["chosen"] <= 1


def test_a_loss_is_added_up_where_the_engine_has_put_the_model(pretend_cuda, tmp_path):
    """DeepSpeed moves a model to the GPU itself."""

    class Moving:
        def __init__(self, task, config):
            task.model.to(CUDA)

        def step(self, step, rate, guard):
            return torch.ones((), device=CUDA), True

        def tensors(self):
            return iter(())

    with pretend_cuda, open_run(tmp_path / "run", {}) as folder:
        task = ParityTask(build(ParityRunConfig, {**PARITY, "device": "cpu"}), 0)
        task.evaluate = lambda step: {"seen": float(step)}
        train(task, TrainConfig(steps=2, eval_every=1), folder, lambda line: None, Moving)
    assert [row["loss"] for row in RunFolder(tmp_path / "run").metrics()[1:]] == [1.0, 1.0]

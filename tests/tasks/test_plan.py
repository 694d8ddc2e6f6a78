import json
import re
from dataclasses import replace

import pytest
import torch

from mdlm_min.cli.main import main
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.model.llada import LLADA_8B, SpecialTokens, released_config, scaled
from mdlm_min.model.scoring import SLICE
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.tasks import plan
from mdlm_min.tasks.pretrain import PretrainConfig
from mdlm_min.training.engine import EngineConfig, named_state
from mdlm_min.training.optimizer import TrainConfig, make_optimizer


def measured_peak(allocation_peak, model, batch, rate, dtype, recompute):
    """Peak bytes of a real training step, by the allocator's own account."""
    network = Transformer(model, stream(0, "weights"))
    network.recompute, network.head.slice = recompute, SLICE["cuda"]
    optimizer = make_optimizer(network, TrainConfig())
    tokens = torch.randint(0, model.vocab_size, (batch, model.length))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, : round(rate * model.length)] = True

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = network(tokens, mask, targets=tokens[mask])
        losses.mean().backward()
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    kept = [*network.parameters(), *network.buffers()]
    kept += [value for state in optimizer.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in kept) + allocation_peak(step)


@pytest.mark.parametrize(
    ("model", "batch", "rate", "dtype", "recompute"),
    [
        (scaled(2, 2, 64, length=128, vocab_size=1026, outputs=1026), 16, 1.0, torch.float32, False),
        (scaled(4, 4, 192, length=128, vocab_size=1026, outputs=1026), 4, 0.55, torch.float32, False),
        (scaled(4, 4, 192, length=128, vocab_size=1026, outputs=1026), 16, 0.55, torch.bfloat16, False),
        (scaled(6, 4, 128, length=128, vocab_size=1026, outputs=1026), 16, 0.5, torch.float32, True),
        (scaled(2, 2, 64, length=64, vocab_size=50259, outputs=50259), 4, 0.5, torch.bfloat16, True),
        (scaled(1, 2, 16, length=64, vocab_size=50259, outputs=50259), 20, 0.8, torch.float32, False),  # in slices
        (scaled(1, 2, 16, length=64, vocab_size=50259, outputs=50259), 20, 0.8, torch.bfloat16, False),
    ],
)
def test_planned_memory_is_within_a_tenth_of_measured(model, batch, rate, dtype, recompute, allocation_peak):
    planned = sum(plan.step_memory(model, batch, rate, torch.float32, dtype, recompute, True, True).values())
    assert planned == pytest.approx(measured_peak(allocation_peak, model, batch, rate, dtype, recompute), rel=0.1)


def config(**changes):
    settings = {
        "data": {"length": 128, "tokenizer": "bpe:1024"},
        "model": {"layers": 4, "heads": 4, "width": 192},
        "batch": 16,
        **changes,
    }
    return build(PretrainConfig, settings)


def test_weights_gradients_and_states_are_what_zero_shares_out():
    parameters = plan.parameter_count(plan.model_of(config()))
    shared = {}
    for zero in (1, 2, 3):
        settings = config(engine={"kind": "deepspeed", "processes": 4, "zero": zero}, dtype="bfloat16")
        shared[zero] = plan.memory(settings, 4)
        assert shared[zero].optimizer == 12 * parameters / 4
    assert shared[1].weights == shared[2].weights == 2 * parameters
    buckets, copy = 2 * 2 * parameters, 4 * parameters / 4
    assert shared[2].gradients == pytest.approx(2 * parameters / 4 + buckets + copy)
    assert shared[1].gradients - shared[2].gradients == pytest.approx(2 * parameters * 3 / 4)
    assert shared[3].weights == 2 * parameters / 4 + 2 * parameters  # a model this small is gathered whole
    offloaded = plan.memory(replace(settings, engine=replace(settings.engine, offload=True)), 4)
    assert (offloaded.optimizer, offloaded.host) == (0, 12 * parameters)


def test_operations_and_hours():
    settings = config(train={"steps": 100}, mask_rate="U[0.45,0.55]")
    found = plan.plan(settings, 2, plan.Gpu(80e9, 1e12))
    assert found.tokens == 100 * 16 * 128
    assert found.rate == 2e12
    assert found.hours(0.5) == pytest.approx(found.operations / 1e12 / 3600)
    everything = replace(settings, mask_rate="1")
    assert plan.plan(everything, 2, plan.Gpu(80e9, 1e12)).operations > found.operations


def test_a_plan_that_does_not_fit_says_what_to_change():
    paper = Experiment("8b_pt").runs("paper")[0].settings
    small = {**paper, "model": {"layers": 2, "heads": 32, "width": 4096}, "batch": 128}
    small["engine"] = {"kind": "deepspeed", "processes": 2, "zero": 1, "micro_batch": 64}
    text = plan.describe(plan.config_of(small), 2, "h100", 0.4)
    assert "still too much with engine.recompute = true" in text
    assert text.splitlines()[-1].startswith("fits        no. It does with engine.micro_batch = 1")
    assert "scores alone" in text
    with pytest.raises(InputError, match="gpu: 'toaster' is unknown; allowed: a100"):
        plan.describe(plan.config_of(small), 2, "toaster", 0.4)
    with pytest.raises(InputError, match="batch: 128 cannot be cut evenly into 3 processes"):
        plan.describe(plan.config_of(small), 3, "h100", 0.4)


def test_changes_come_cheapest_first_and_add_up():
    found = plan.alternatives(config(engine={"micro_batch": 4}), 4)
    assert [text for text, _ in found] == [
        "engine.recompute = true",
        "engine.micro_batch = 1",
        "engine.zero = 1",
        "engine.zero = 2",
        "engine.zero = 3",
        "engine.offload = true",
    ]
    assert found[-1][1].engine == EngineConfig("deepspeed", 4, "", 3, 1, True, True)


def test_a_tier_is_planned_for_the_gpus_that_its_engine_uses(capsys):
    for tier, gpus in (("gpu", 1), ("paper", 8)):
        engine = plan.config_of(Experiment("8b_pt").runs(tier)[0].settings).engine
        assert engine.processes == gpus
    assert main(["plan", "8b_pt", "--tier", "cpu"]) == 0
    assert re.search(r"^step .* sequences: 1 GPU x", capsys.readouterr().out, re.MULTILINE)
    assert main(["plan", "8b_pt", "--tier", "cpu", "--gpus", "2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "mdlm: gpus: 2 is not allowed with engine.kind = 'torch', which is one process; allowed: 1"


@pytest.mark.parametrize(("weights", "kept"), [("float32", 12), ("bfloat16", 6)])
def test_the_disk_holds_three_checkpoints_in_the_type_of_the_weights(weights, kept):
    planned = config(model={"layers": 1, "heads": 4, "width": 2048}, dtype="bfloat16", weights=weights)
    found = plan.describe(planned, 1, "h100", 0.4)
    assert f"disk        {3 * kept * plan.parameter_count(plan.model_of(planned)) / plan.GB:,.0f} GB:" in found
    network = torch.nn.Linear(64, 64).to(torch.bfloat16 if weights == "bfloat16" else torch.float32)
    network(torch.ones(1, 64, dtype=network.weight.dtype)).sum().backward()
    optimizer = make_optimizer(network, TrainConfig())
    optimizer.step()
    bytes_kept = sum(tensor.nbytes for name, tensor in named_state(network, optimizer) if not name.endswith(".step"))
    assert bytes_kept == kept * sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
def test_the_paper_s_own_plan_fits_eight_h100s():
    text = plan.describe(plan.config_of(Experiment("8b_pt").runs("paper")[0].settings), 8, "h100", 0.4)
    assert "8,015,581,184 parameters" in text
    assert "7.864 billion tokens" in text
    assert text.endswith("fits        yes")


def test_fine_tuning_is_planned_from_its_start(tmp_path, monkeypatch):
    monkeypatch.delenv("LLADA_8B_BASE", raising=False)
    tuned = Experiment("8b_sft").runs("paper")[0].settings
    assert plan.model_of(plan.config_of(tuned)) == replace(LLADA_8B, length=1024)
    shape = scaled(2, 2, 64, length=2048, vocab_size=300, outputs=300)
    (tmp_path / "config.json").write_text(json.dumps(released_config(shape, SpecialTokens(299, 298, 298))))
    monkeypatch.setenv("LLADA_8B_BASE", str(tmp_path))
    assert plan.model_of(plan.config_of(tuned)) == replace(shape, length=1024)
    new = {"kind": "finetune", "vocab_size": 500, "model": {"layers": 1, "heads": 2, "width": 16}, "data": {"length": 64}}
    assert plan.model_of(plan.config_of(new)) == scaled(1, 2, 16, length=64, vocab_size=500, outputs=500)
    assert plan.model_of(plan.config_of({**new, "vocab_size": 0})).vocab_size == 256 + 6
    for other in ({"kind": "evaluate"}, {**new, "start_run": "cell/base"}):
        with pytest.raises(InputError, match="arm: is no run that stands for itself"):
            plan.config_of(other)


@pytest.mark.slow
def test_the_paper_s_own_fine_tuning_fits_eight_h100s(monkeypatch):
    monkeypatch.delenv("LLADA_8B_BASE", raising=False)
    text = plan.describe(plan.config_of(Experiment("8b_sft").runs("paper", "from_5")[0].settings), 8, "h100", 0.4)
    assert "8,015,581,184 parameters" in text
    assert "0.315 billion tokens" in text
    assert text.endswith("fits        yes")

import timeit

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdlm_min.model.cache import KeyValueCache
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import Work, forward_operations, matmul_ceiling, training_operations
from mdlm_min.model.transformer import Transformer


@pytest.mark.parametrize("causal", [False, True])
def test_operations_are_those_that_torch_counts(causal):
    config = ModelConfig(300, 16, 300, layers=3, heads=2, width=32, causal=causal, position_encoding="rotary")
    model = Transformer(config, torch.Generator().manual_seed(0))
    tokens = torch.randint(300, (8, 16))
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # torch does not count the CPU's fused attention
        model(tokens).sum()
    assert 3 * counter.get_total_flops() == pytest.approx(training_operations(config, 8, selected=1.0), rel=0.02)


def test_a_pass_over_some_positions_costs_what_is_read_and_scored():
    config = ModelConfig(300, 16, 300, layers=3, heads=2, width=32, position_encoding="rotary", mlp="swiglu", bias=False)
    model, cache = Transformer(config, torch.Generator().manual_seed(0)), KeyValueCache()
    tokens = torch.randint(300, (8, 16))
    place = torch.arange(16).expand(8, -1)
    counted = []
    for fresh in (None, place >= 11):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(tokens, place >= 13, cache=cache, fresh=fresh)
        counted.append(counter.get_total_flops())
    for found, read in zip(counted, (16, 5), strict=True):
        assert found == pytest.approx(8 * forward_operations(config, read, keys=16, selected=3), rel=0.02)


def test_the_last_block_and_the_head_cost_what_is_selected():
    config = ModelConfig(300, 16, 300, layers=1, heads=2, width=32)
    assert training_operations(config, 8, 0.0) == 3 * 8 * 16 * 4 * 32**2
    assert training_operations(config, 8, 0.5) < 0.7 * training_operations(config, 8, 1.0)


def test_the_ceiling_is_the_operations_of_a_product_over_its_best_time(monkeypatch):
    ticks = iter([0.0, 3.0, 10.0, 10.5, 20.0, 24.0, 30.0, 31.0, 40.0, 42.0, 50.0, 59.0])  # the second of six is the fastest
    monkeypatch.setattr("mdlm_min.model.flops.time.perf_counter", lambda: next(ticks))
    matmul_ceiling.cache_clear()
    assert matmul_ceiling("cpu", torch.float32, -1, 64) == 2 * 64**3 / 0.5
    matmul_ceiling.cache_clear()


def test_a_measured_ceiling_is_within_tenfold_of_a_timed_product():
    a = torch.randn(256, 256)
    best = min(timeit.repeat(lambda: a @ a, number=20, repeat=5)) / 20
    matmul_ceiling.cache_clear()
    assert 0.1 < matmul_ceiling("cpu", torch.float32, -1, 256) / (2 * 256**3 / best) < 10


def test_work_is_described_per_second():
    assert Work(1000, 5e9, 1e11).describe(4.0) == "4,000 tokens/s, 20% of the matmul rate"

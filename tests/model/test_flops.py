import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdlm_min.model.flops import Work, matmul_ceiling, training_operations
from mdlm_min.model.transformer import ModelConfig, Transformer


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


def test_the_last_block_and_the_head_cost_what_is_selected():
    config = ModelConfig(300, 16, 300, layers=1, heads=2, width=32)
    assert training_operations(config, 8, 0.0) == 3 * 8 * 16 * 4 * 32**2
    assert training_operations(config, 8, 0.5) < 0.7 * training_operations(config, 8, 1.0)


def test_the_ceiling_is_a_rate():
    assert 1e8 < matmul_ceiling("cpu", torch.float32, torch.get_num_threads(), 128) < 1e14
    assert Work(1000, 5e9, 1e11).describe(4.0) == "4,000 tokens/s, 20% of the matmul rate"

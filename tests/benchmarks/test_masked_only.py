"""One training step with the last block and the head at masked positions only, against the full computation.

Both are timed alternately in one run; what counts is their ratio, which the issue of speed is about.
"""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.diffusion.objective import masked_loss
from mdlm_min.model.transformer import ModelConfig, Transformer


def make_step(config, batch, rate, full):
    """A function that does one step: masks, loss, gradients, update. `full` computes every position's scores, then selects."""
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config, generator)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    mask_token = config.vocab_size - 1
    tokens = torch.randint(mask_token, (batch, config.length), generator=generator)
    mask_rate = MaskRate.parse(rate)

    def step():
        t = mask_rate.sample(batch, generator)
        mask = bernoulli(t, config.length, generator)
        inputs = tokens.masked_fill(mask, mask_token)
        scores = model(inputs)[mask] if full else model(inputs, mask)
        loss = masked_loss(F.cross_entropy(scores, tokens[mask], reduction="none"), mask, t, "1/t")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def compare(benchmark, config, batch, rate, rounds):
    """Median time of the full step over that of the masked-only step, the two taking turns."""
    full, masked_only, times = make_step(config, batch, rate, True), make_step(config, batch, rate, False), []

    def time_full():
        started = time.perf_counter()
        full()
        times.append(time.perf_counter() - started)

    benchmark.pedantic(masked_only, setup=time_full, rounds=rounds, warmup_rounds=1)
    ratio = statistics.median(times[1:]) / benchmark.stats.stats.median
    benchmark.extra_info["full / masked-only"] = ratio
    print(f"\n{benchmark.name}: full / masked-only = {ratio:.2f}")
    return ratio


@pytest.mark.benchmark(group="masked-only step")
def test_parity_shape(benchmark):
    config = ModelConfig(vocab_size=3, length=21, outputs=3, layers=1, heads=4, width=128)
    assert compare(benchmark, config, batch=2000, rate="U[0,0.2]", rounds=9) >= 2.5


@pytest.mark.benchmark(group="masked-only step")
def test_parity_shape_two_layers(benchmark):
    config = ModelConfig(vocab_size=3, length=21, outputs=3, layers=2, heads=4, width=128)
    compare(benchmark, config, batch=2000, rate="U[0,0.2]", rounds=5)


@pytest.mark.benchmark(group="masked-only step")
def test_50m_wikitext_shape(benchmark):
    config = ModelConfig(vocab_size=50258, length=150, outputs=50258, layers=8, heads=8, width=512, tied=True)
    assert compare(benchmark, config, batch=4, rate="0.5", rounds=7) >= 1.3

"""Tokens per second of a training step on text: ours, the same model with every position's scores, and a causal model of equal
size as nanoGPT trains it. Timed in turns in one run, in float32 and bfloat16; what counts is the ratios.
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

SHAPES = {
    "cpu tier, bytes": (
        {"vocab_size": 257, "length": 64, "layers": 3, "heads": 4, "width": 96, "position_encoding": "rotary"},
        32,
        15,
    ),
    "cpu tier, BPE of 512": (
        {"vocab_size": 513, "length": 64, "layers": 3, "heads": 4, "width": 96, "position_encoding": "rotary"},
        32,
        15,
    ),
    "50M, GPT-2 BPE": ({"vocab_size": 50258, "length": 150, "layers": 8, "heads": 8, "width": 512, "tied": True}, 4, 3),
}


def make_step(shape, batch, kind, rate, dtype):
    """A function that does one step of `kind`: "ours", "full logits" or "causal"."""
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(outputs=shape["vocab_size"], causal=kind == "causal", **shape)
    model = Transformer(config, generator)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    mask_token = config.vocab_size - 1
    tokens = torch.randint(mask_token, (batch, config.length), generator=generator)
    mask_rate = MaskRate.parse(rate)

    def step():
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            if kind == "causal":
                scores = model(F.pad(tokens[:, :-1], (1, 0), value=mask_token))
                loss = F.cross_entropy(scores.float().flatten(0, 1), tokens.flatten())
            else:
                t = mask_rate.sample(batch, generator)
                mask = bernoulli(t, config.length, generator)
                inputs = tokens.masked_fill(mask, mask_token)
                # With full logits the loss is taken everywhere and the unmasked part of it thrown away, as trainers commonly do.
                if kind == "ours":
                    losses = F.cross_entropy(model(inputs, mask).float(), tokens[mask], reduction="none")
                else:
                    scores = model(inputs).float().flatten(0, 1)
                    losses = F.cross_entropy(scores, tokens.flatten(), reduction="none").view_as(mask)[mask]
                loss = masked_loss(losses, mask, t, "1/t")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


@pytest.mark.benchmark(group="language step")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_step_against_full_logits_and_a_causal_model(benchmark, name, dtype):
    shape, batch, rounds = SHAPES[name]
    ours, full, causal = (make_step(shape, batch, kind, "U[0.45,0.55]", dtype) for kind in ("ours", "full logits", "causal"))
    times = {"full logits": [], "causal": []}

    def others():
        for kind, step in (("full logits", full), ("causal", causal)):
            started = time.perf_counter()
            step()
            times[kind].append(time.perf_counter() - started)

    benchmark.pedantic(ours, setup=others, rounds=rounds, warmup_rounds=1)
    mine = benchmark.stats.stats.median
    ratios = {kind: statistics.median(values[1:]) / mine for kind, values in times.items()}
    benchmark.extra_info.update({f"{kind} / ours": ratio for kind, ratio in ratios.items()})
    speeds = {kind: batch * shape["length"] / (mine * ratio) for kind, ratio in {"ours": 1.0, **ratios}.items()}
    text = ", ".join(f"{kind} {speed:,.0f}" for kind, speed in speeds.items())
    print(
        f"\n{name}, {str(dtype).removeprefix('torch.')}: tokens/s {text}; full / ours {ratios['full logits']:.2f}, causal / "
        f"ours {ratios['causal']:.2f}"
    )
    assert ratios["full logits"] > 1


@pytest.mark.benchmark(group="language step")
def test_bfloat16_pays_where_matrices_are_large(benchmark):
    """The reason why the cpu tier trains in float32: autocast costs more than it gives at width 96."""
    ratios = {}
    for width, batch in ((96, 32), (512, 4)):
        shape = {"vocab_size": 257, "length": 64, "layers": 3, "heads": 4, "width": width, "position_encoding": "rotary"}
        steps = {dtype: make_step(shape, batch, "ours", "0.5", dtype) for dtype in (torch.float32, torch.bfloat16)}
        times = {dtype: [] for dtype in steps}
        for _ in range(9):
            for dtype, step in steps.items():
                started = time.perf_counter()
                step()
                times[dtype].append(time.perf_counter() - started)
        ratios[width] = statistics.median(times[torch.float32][1:]) / statistics.median(times[torch.bfloat16][1:])
    benchmark.pedantic(steps[torch.bfloat16], rounds=3)
    print("\nfloat32 / bfloat16: " + ", ".join(f"width {width} {ratio:.2f}" for width, ratio in ratios.items()))
    assert ratios[512] > ratios[96]

"""Tokens per second of a training step on text: ours, the same model with every position's scores, and a causal model of equal
size as nanoGPT trains it, in float32 and bfloat16. What counts is the ratios within one run, beside those that the operation
counts predict.
"""

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.diffusion.objective import masked_loss
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import training_operations
from mdlm_min.model.transformer import Transformer

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


KINDS = ("ours", "full logits", "causal")


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
def test_step_against_full_logits_and_a_causal_model(compare, name, dtype):
    shape, batch, rounds = SHAPES[name]
    times = compare({kind: make_step(shape, batch, kind, "U[0.45,0.55]", dtype) for kind in KINDS}, rounds)
    config = ModelConfig(outputs=shape["vocab_size"], **shape)
    predicted = training_operations(config, batch, 1.0) / training_operations(config, batch, 0.5)
    speeds = ", ".join(f"{kind} {batch * shape['length'] / seconds:,.0f}" for kind, seconds in times.items())
    ratios = ", ".join(f"{kind} / ours {times[kind] / times['ours']:.2f}" for kind in KINDS[1:])
    print(
        f"\n{name}, {str(dtype).removeprefix('torch.')}: tokens/s {speeds}; {ratios} (operation counts: {predicted:.2f} for both)"
    )


@pytest.mark.benchmark(group="language step")
@pytest.mark.parametrize(("width", "batch"), [(96, 32), (512, 4)])
def test_float32_against_bfloat16(compare, width, batch):
    """The reason why the cpu tier trains in float32: at width 96 autocast costs more than it gives on most machines."""
    shape = {"vocab_size": 257, "length": 64, "layers": 3, "heads": 4, "width": width, "position_encoding": "rotary"}
    dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    times = compare({name: make_step(shape, batch, "ours", "0.5", dtype) for name, dtype in dtypes.items()}, rounds=9)
    print(
        f"\nwidth {width}: float32 / bfloat16 {times['float32'] / times['bfloat16']:.2f} (operation counts: 1.00; the hardware "
        f"decides)"
    )

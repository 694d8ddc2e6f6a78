"""One training step with the last block and the head at masked positions only, against the full computation.

What counts is the ratio of their times in one run, beside the one that the operation counts predict.
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
        loss = masked_loss(F.cross_entropy(scores, tokens[mask], reduction="none"), mask, t, "none")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


PARITY = {"vocab_size": 3, "length": 21, "outputs": 3, "heads": 4}
CASES = {
    "parity, one layer of 128": (ModelConfig(**PARITY, layers=1, width=128), 2000, "U[0,0.2]"),
    "parity, one layer of 64": (ModelConfig(**PARITY, layers=1, width=64), 2000, "U[0,0.2]"),
    "parity, one layer of 64, U[0,0.4]": (ModelConfig(**PARITY, layers=1, width=64), 2000, "U[0,0.4]"),
    "parity, two layers of 64": (ModelConfig(**PARITY, layers=2, width=64), 2000, "U[0,0.2]"),
    "50M, GPT-2 BPE": (ModelConfig(50258, 150, 50258, layers=8, heads=8, width=512, tied=True), 4, "0.5"),
}


@pytest.mark.benchmark(group="masked-only step")
@pytest.mark.parametrize("name", CASES)
def test_masked_only_against_full(compare, name):
    """For parity the counts know nothing of the first block's shared inputs, which save both steps most of its projections."""
    config, batch, rate = CASES[name]
    times = compare({"ours": make_step(config, batch, rate, False), "full": make_step(config, batch, rate, True)})
    full, ours = (training_operations(config, batch, share) for share in (1.0, MaskRate.parse(rate).mean))
    print(
        f"\n{name}: {times['ours'] * 1e3:,.1f} ms; full / masked-only {times['full'] / times['ours']:.2f} (operation counts: "
        f"{full / ours:.2f})"
    )

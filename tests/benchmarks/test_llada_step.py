"""A training step of LLaDA's block with LLaDA's vocabulary of 126,464: scores at masked positions against scores at all, in time
and in memory, beside what the operation counts predict; and what the planner's hours are worth, by the share of the matmul rate
that steps of several sizes reach.
"""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.diffusion.objective import masked_loss
from mdlm_min.model.flops import matmul_ceiling, training_operations
from mdlm_min.model.llada import LLADA_8B, scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.random_streams import stream

SHAPE = scaled(4, 4, 256, length=256)
BATCH, RATE = 2, 0.5


class Step:
    """One training step in parts. "ours"; "whole": the scores of all classes at the masked positions at once; "full": the loss
    everywhere and the unmasked part thrown away, as trainers commonly do."""

    def __init__(self, config, batch, kind="ours"):
        self.config, self.batch, self.kind = config, batch, kind
        self.model = Transformer(config, stream(0, "weights"))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.count = 0

    def forward(self):
        generator = stream(0, "step", self.count)
        self.count += 1
        tokens = torch.randint(self.config.vocab_size - 1, (self.batch, self.config.length), generator=generator)
        rate = torch.full((self.batch,), RATE)
        mask = bernoulli(rate, self.config.length, generator)
        inputs = tokens.masked_fill(mask, self.config.vocab_size - 1)
        if self.kind == "full":
            scores = self.model(inputs).flatten(0, 1)
            losses = F.cross_entropy(scores, tokens.flatten(), reduction="none").view_as(mask)[mask]
        elif self.kind == "whole":
            losses = F.cross_entropy(self.model(inputs, mask), tokens[mask], reduction="none")
        else:
            losses = self.model(inputs, mask, targets=tokens[mask])
        return masked_loss(losses, mask, rate, "1/t")

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        self.optimizer.step()


@pytest.mark.benchmark(group="LLaDA step")
def test_masked_only_against_full_logits_with_llada_s_vocabulary(compare, benchmark, allocation_peak):
    assert SHAPE.vocab_size == LLADA_8B.vocab_size == 126464
    ours, full = (Step(SHAPE, BATCH, kind) for kind in ("ours", "full"))
    times = compare({"ours": ours, "full": full})
    ratio = times["full"] / times["ours"]
    predicted = training_operations(SHAPE, BATCH, 1.0) / training_operations(SHAPE, BATCH, RATE)
    for step in (ours, full):
        step.optimizer.zero_grad(set_to_none=True)
    activations = [allocation_peak(step.forward) for step in (ours, full)]
    steps = [allocation_peak(step) for step in (ours, full)]
    saved = 1 - activations[0] / activations[1]
    benchmark.extra_info["activation memory saved"] = saved
    print(
        f"\nLLaDA's vocabulary, t = {RATE}: full / ours {ratio:.2f} (operation counts: {predicted:.2f}); activations "
        f"{activations[0] / 1e6:,.0f} MB against {activations[1] / 1e6:,.0f} MB: "
        f"{saved:.0%} less; beyond weights and optimiser a whole step takes {steps[0] / 1e6:,.0f} MB against "
        f"{steps[1] / 1e6:,.0f} MB"
    )
    assert saved > 0.35  # bytes by the allocator's own account: the same on every machine


@pytest.mark.benchmark(group="LLaDA step")
def test_scores_in_slices_against_scores_whole(compare, benchmark, allocation_peak):
    """What the slices cost in time on this machine, and what they save beside masked-only scores."""
    ours, whole = (Step(SHAPE, BATCH, kind) for kind in ("ours", "whole"))
    times = compare({"ours": ours, "whole": whole})
    peaks = []
    for step in (ours, whole):
        step.optimizer.zero_grad(set_to_none=True)
        peaks.append(allocation_peak(lambda step=step: step.forward().backward()))
    gradients = sum(parameter.nbytes for parameter in ours.model.parameters())
    saved = 1 - (peaks[0] - gradients) / (peaks[1] - gradients)
    benchmark.extra_info["memory saved beyond the gradients"] = saved
    print(
        f"\nLLaDA's vocabulary, t = {RATE}: ours / scores whole {times['ours'] / times['whole']:.2f}; a pass takes "
        f"{peaks[0] / 1e6:,.0f} MB against {peaks[1] / 1e6:,.0f} MB; beyond the {gradients / 1e6:,.0f} MB of gradients it is "
        f"{saved:.0%} less"
    )
    assert saved > 0.5  # bytes by the allocator's own account; the blocks' activations are the same in both


@pytest.mark.benchmark(group="LLaDA step")
def test_the_share_of_the_matmul_rate_by_size(benchmark):
    """The planner's hours are operations over a stated share of the peak: here is that share, for the sizes of 04_8b_pt."""
    ceiling = matmul_ceiling("cpu", torch.float32, torch.get_num_threads())
    shares = {}
    for layers, heads, width in ((2, 2, 64), (3, 4, 128), (4, 4, 192)):
        config = scaled(layers, heads, width, length=128, vocab_size=1026, outputs=1026)
        step, times = Step(config, 16), []
        for _ in range(6):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        shares[width] = training_operations(config, 16, RATE) / statistics.median(times[1:]) / ceiling
    benchmark.pedantic(step, rounds=2)
    print("\nshare of the matmul rate: " + ", ".join(f"width {width} {share:.0%}" for width, share in shares.items()))

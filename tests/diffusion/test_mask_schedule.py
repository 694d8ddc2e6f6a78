import hashlib

import pytest
import torch
from torch import Tensor

from mdlm_min.diffusion.density import InformationDensity
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule, RateSchedule, ScheduledDiffusion, in_place
from mdlm_min.diffusion.process import MaskedDiffusion
from mdlm_min.diffusion.schedule_check import validate
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

CONFIGURATIONS = ["U[0.001,1]", "U[0.45,0.55]", "stratified U[0.001,1]", "N[0.5,0.2]", "0.5*U[0,0.2] + 0.5*U[0.8,1]", "1/7"]


def test_the_masks_of_present_configurations_stay_what_they_were():
    """Golden runs were trained with these draws: a change here is a change of every run."""
    digest = hashlib.sha256()
    for text in CONFIGURATIONS:
        for step in range(3):
            mask, rate = MaskedDiffusion(MaskRate.parse(text), "mean").mask(16, 33, stream(7, "masks", step))
            digest.update(text.encode() + mask.numpy().tobytes() + rate.numpy().tobytes())
    assert digest.hexdigest() == "28f893933b9285fc20385709b501a7174bcc34e39fe5caf708183d5b85c058c9"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_losses_are_added_in_float32(dtype):
    process = ScheduledDiffusion(RateSchedule(MaskRate.parse("U[0.001,1]")))
    mask, rate = process.mask(32, 1024, stream(0, "masks"))
    nll = torch.full((int(mask.sum()),), 5.0)  # their weighted sum is beyond float16
    torch.testing.assert_close(process.loss(nll.to(dtype), mask, rate), process.loss(nll, mask, rate))


@pytest.mark.parametrize("weight", ["1/t", "1/(t p(t))", "none", "mean"])
@pytest.mark.parametrize("text", CONFIGURATIONS[:4])
def test_a_rate_schedule_draws_and_weighs_as_masked_diffusion_does(text, weight):
    rate = MaskRate.parse(text)
    ours, theirs = ScheduledDiffusion(RateSchedule(rate, weight)), MaskedDiffusion(rate, weight)
    found, expected = ours.mask(12, 20, stream(0, "masks")), theirs.mask(12, 20, stream(0, "masks"))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    nll = torch.rand(int(found[0].sum()), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.loss(nll, *found), theirs.loss(nll, *found))
    if weight != "mean":
        divisor = torch.arange(12) + 20.0
        torch.testing.assert_close(ours.loss(nll, *found, divisor=divisor), theirs.loss(nll, *found, divisor=divisor))


class Low(MaskSchedule):
    """That of the module's docstring."""

    name = "low"

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        return 0.001 + 0.499 * torch.rand(context.rows, generator=generator)


def test_a_schedule_of_one_s_own_needs_only_its_rates():
    validate(Low())
    process = ScheduledDiffusion(Low())
    mask, rate = process.mask(4000, 10, stream(0, "masks"))
    assert rate.max() <= 0.5
    assert (mask.float().mean(dim=1) - rate).mean().abs() < 0.01
    nll = torch.ones(int(mask.sum()), requires_grad=True)
    loss = process.loss(nll, mask, rate)
    assert loss.item() == pytest.approx(1, abs=0.1)  # sum of 1/t over t L tokens, divided by L
    loss.backward()
    torch.testing.assert_close(
        in_place(nll.grad, mask).where(mask, 0), (1 / rate[:, None] / 40_000).expand(mask.shape).where(mask, 0)
    )


def test_the_parts_of_a_batch_add_up_and_only_allowed_tokens_count():
    process = ScheduledDiffusion(RateSchedule(MaskRate.parse("U[0.2,1]"), "mean"))
    allowed = torch.arange(9) >= torch.tensor([[0], [4], [7], [2]])
    mask, rate = process.mask(4, 9, stream(0, "masks"), Context(4, 9, allowed=allowed))
    assert not (mask & ~allowed).any()
    values = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1))
    whole = process.loss(values[mask], mask, rate, context=Context(4, 9, allowed=allowed))
    by_hand = sum(allowed[row].sum() * values[row][mask[row]].mean() for row in range(4) if mask[row].any()) / allowed.sum()
    torch.testing.assert_close(whole, by_hand)
    size = (4, int(allowed.sum()))
    parts = [
        process.loss(values[part][mask[part]], mask[part], rate[part], size, context=Context(2, 9, allowed=allowed[part]))
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


class ByLoss(Low):
    name = "by loss"

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        return in_place(context.nll, mask)


def test_no_gradient_flows_through_a_weight_that_is_made_of_the_loss():
    nll = torch.tensor([2.0], requires_grad=True)
    ScheduledDiffusion(ByLoss()).loss(nll, torch.tensor([[True]]), torch.tensor([0.5])).backward()
    assert nll.grad.item() == 2


def test_what_a_schedule_needs_and_does_not_get_is_one_line():
    class Wanting(Low):
        name, needs = "wanting", ("tokens",)

    with pytest.raises(InputError, match="schedule wanting: needs tokens, which this process does not have"):
        ScheduledDiffusion(Wanting()).mask(4, 4, stream(0, "masks"))

    class Triple(Low):
        name, copies = "triple", 3

    with pytest.raises(InputError, match="batch: 4 is not allowed with schedule triple; a multiple of 3"):
        ScheduledDiffusion(Triple()).mask(4, 4, stream(0, "masks"))
    with pytest.raises(ValueError, match="is not that of schedule low"):
        Low().restore({"rows": 1})


def test_a_part_of_the_bound_says_what_it_is():
    assert str(BoundPart()) == "the bound"
    assert str(BoundPart(0.45, 0.55, 10)) == "the bound's part on [0.45,0.55] times 10"
    assert str(BoundPart(0.001, 1)) == "the bound's part on [0.001,1]"


def test_a_context_is_of_the_batch():
    tokens = torch.zeros(4, 6, dtype=torch.int64)
    with pytest.raises(
        InputError, match=r"marks: shape \(4, 6\) and torch.int64 is not allowed; allowed: \(4, 6\) and torch.bool"
    ):
        Context(4, 6, tokens, marks=tokens)
    with pytest.raises(
        InputError, match=r"tokens: shape \(4, 6\) and torch.int64 is not allowed; allowed: \(8, 6\) and torch.int64"
    ):
        Context(8, 6, tokens)
    with pytest.raises(InputError, match=r"padding_mask: shape \(4, 6\) and torch.float32 is not allowed"):
        Context(4, 6, padding_mask=torch.ones(4, 6))
    process = ScheduledDiffusion(RateSchedule(MaskRate.parse("U[0,1]")))
    for other in (Context(4, 6, tokens), Context(8, 5)):
        message = f"context: {other.rows} rows of {other.length} are not the batch; allowed: 8 of 6"
        with pytest.raises(InputError, match=message):
            process.mask(8, 6, stream(0, "masks"), other)


def test_the_copies_of_a_sequence_stand_next_to_each_other():
    schedule = InformationDensity()
    tokens = torch.randint(9, (3, 6), generator=stream(0, "data"))
    marks = tokens > 4
    process, twice = ScheduledDiffusion(schedule), [part.repeat_interleave(2, dim=0) for part in (tokens, marks)]
    mask, _ = process.mask(6, 6, stream(0, "masks"), Context(6, 6, twice[0], marks=twice[1]))
    assert torch.equal(mask[::2], ~mask[1::2])
    with pytest.raises(InputError, match="tokens: schedule information_density masks each sequence 2 times, and the rows differ"):
        process.mask(6, 6, stream(0, "masks"), Context(6, 6, tokens.repeat(2, 1), marks=marks.repeat(2, 1)))
    with pytest.raises(InputError, match="marks: schedule information_density masks each sequence 2 times"):
        process.mask(6, 6, stream(0, "masks"), Context(6, 6, twice[0], marks=marks.repeat(2, 1)))
    with pytest.raises(InputError, match="allowed: schedule information_density masks each sequence 2 times"):
        process.mask(6, 6, stream(0, "masks"), Context(6, 6, allowed=torch.eye(6) < 1, marks=twice[1]))


class Far(MaskSchedule):
    name = "far"

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(context.rows, generator=generator) - 0.5


def test_rates_that_are_no_probabilities_and_what_is_no_schedule_are_refused():
    with pytest.raises(InputError, match=r"schedule far: rates from -0\.\d+ to 1\.\d+; allowed: rates in \[0,1\]"):
        ScheduledDiffusion(Far()).mask(64, 8, torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="schedule: UniformMixture.* is not allowed; allowed: an object of a class made"):
        ScheduledDiffusion(MaskRate.parse("U[0,1]"))


@pytest.mark.parametrize(("step", "steps"), [(300, 1), (-1, 4), (5, 4)])
def test_a_step_that_the_run_has_not_is_refused(step, steps):
    with pytest.raises(InputError, match=f"step: {step} is not allowed with steps = {steps}; from 0 to {steps}"):
        Context(4, 16, step=step, steps=steps)

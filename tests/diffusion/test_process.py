import math

import pytest
import torch

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.process import MaskedDiffusion, OneMasked
from mdlm_min.run.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Triangle(MaskRate):
    """A schedule of somebody else's: density 2t on [0, 1], by the inverse of its distribution function."""

    text = "triangle"
    mean, highest = 2 / 3, 1.0

    def sample(self, count, generator):
        return (1 - torch.rand(count, generator=generator)).sqrt()

    def density(self, rate):
        return 2 * rate


def level_costs(length):
    """A made-up NLL of a masked token when l of `length` tokens are masked, l = 0 .. length."""
    return torch.tensor([0.0, *(math.log(2 + level**1.5) for level in range(1, length + 1))], dtype=torch.float64)


@pytest.mark.parametrize(
    "rate", [MaskRate.parse("U[0,1]"), MaskRate.parse("0.3*U[0,1] + 0.7*U[0.8,1]"), Triangle()], ids=lambda rate: rate.text
)
def test_the_exact_weight_gives_the_likelihood_bound_for_any_density(rate):
    """The bound is the mean over l = 1 .. L of the cost at exactly l masked tokens (LLaDA, Eq. 6), whatever the schedule."""
    length, process = 6, MaskedDiffusion(rate, "1/(t p(t))")
    mask, rates = process.mask(400_000, length, generator())
    cost = level_costs(length)
    nll = cost[mask.sum(dim=1)][:, None].expand(-1, length)[mask]
    assert process.loss(nll, mask, rates).item() == pytest.approx(cost[1:].mean().item(), rel=0.01)
    if rate.text != "U[0,1]":  # for another density 1/t is not the bound
        assert MaskedDiffusion(rate, "1/t").loss(nll, mask, rates).item() != pytest.approx(cost[1:].mean().item(), rel=0.05)


def test_on_a_window_the_exact_weight_gives_the_window_s_part_of_the_bound():
    window = MaskedDiffusion(MaskRate.parse("U[0.25,0.75]"), "1/(t p(t))")
    mask, rates = window.mask(400_000, 5, generator())
    # A cost of 1 per token: the integrand is 1 at every t, so the part is the window's width.
    assert window.loss(torch.ones(int(mask.sum())), mask, rates).item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("text", ["U[0,1]", "0.25*U[0,0.5] + 0.75*U[0.2,1]", "stratified U[0.45,0.55]", "N[0.3,0.4]"])
def test_a_density_integrates_to_one_and_draws_follow_it(text):
    rate = MaskRate.parse(text)
    grid = (torch.arange(100_000) + 0.5) / 100_000
    assert rate.density(grid).mean().item() == pytest.approx(1, abs=1e-3)
    draws = rate.sample(200_000, generator())
    assert rate.density(draws).min() > 0
    for low, high in ((0.1, 0.3), (0.4, 0.5), (0.5, 0.9)):
        inside = (grid > low) & (grid <= high)
        share = ((draws > low) & (draws <= high)).double().mean().item()
        assert share == pytest.approx((rate.density(grid) * inside).mean().item(), abs=0.005)
    assert rate.highest == pytest.approx(draws.max().item(), abs=1e-3)
    assert rate.mean == pytest.approx(draws.double().mean().item(), abs=0.002)


def test_masks_follow_the_rates_and_the_generator_alone():
    process = MaskedDiffusion(MaskRate.parse("U[0,1]"))
    mask, rate = process.mask(20_000, 50, generator())
    assert (mask.double().mean(dim=1) - rate).abs().mean() < 0.1
    assert (mask.double().mean(dim=1) - rate).mean().abs() < 0.005
    again, _ = process.mask(20_000, 50, generator())
    other, _ = process.mask(20_000, 50, generator(1))
    assert torch.equal(mask, again)
    assert not torch.equal(mask, other)


def test_one_masked_position_per_sequence_counts_as_it_is():
    positions = torch.tensor([1, 4])
    mask, rate = OneMasked(positions).mask(4000, 5, generator())
    assert rate is None
    assert (mask.sum(dim=1) == 1).all()
    assert mask[:, [0, 2, 3]].sum() == 0
    assert mask[:, 1].double().mean().item() == pytest.approx(0.5, abs=0.03)
    process, nll = OneMasked(positions), torch.arange(4000.0)
    assert process.loss(nll, mask).item() == pytest.approx(1999.5)
    parts = [process.loss(nll[part], mask[part], whole=(4000, 20_000)) for part in (slice(1), slice(1, None))]
    assert sum(parts).item() == pytest.approx(1999.5)


@pytest.mark.parametrize(("size", "field"), [((0, 4), "batch"), ((2, 0), "length")])
def test_a_batch_without_sequences_or_tokens_is_refused(size, field):
    with pytest.raises(InputError, match=f"{field}: 0 is not allowed; at least 1"):
        MaskedDiffusion(MaskRate.parse("U[0,1]")).mask(*size, generator())


def test_unusable_weights_name_field_value_and_what_is_allowed():
    with pytest.raises(InputError, match=r"weight: 't' is unknown; allowed: 1/t, 1/\(t p\(t\)\), none, mean"):
        MaskedDiffusion(MaskRate.parse("0.5"), "t")
    for weight in ("1/t", "1/(t p(t))"):
        with pytest.raises(InputError, match=r"mask_rate: '0' can be t = 0, where weight .* is infinite; allowed: t > 0"):
            MaskedDiffusion(MaskRate.parse("0"), weight)
    with pytest.raises(InputError, match=r"mask_rate: '0.5\*0.5\+0.5\*U\[0,1\]' holds a fixed rate and has no density"):
        MaskedDiffusion(MaskRate.parse("0.5*0.5+0.5*U[0,1]"), "1/(t p(t))")
    MaskedDiffusion(MaskRate.parse("0.5*0+0.5*U[0,1]"), "mean")  # sometimes 0
    MaskedDiffusion(MaskRate.parse("0.5*0.5+0.5*U[0,1]"), "1/t")


@pytest.mark.parametrize("weight", ["none", "mean"])
def test_a_mask_rate_that_masks_nothing_is_refused(weight):
    with pytest.raises(InputError, match="mask_rate: '0' masks nothing, and nothing would be learned; allowed: rates above 0"):
        MaskedDiffusion(MaskRate.parse("0"), weight)

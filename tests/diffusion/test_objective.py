import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import RateSchedule, ScheduledDiffusion
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.diffusion.objective import divisors, masked_loss, sign_cross_entropy, squared_error
from mdlm_min.diffusion.process import MaskedDiffusion
from mdlm_min.run.errors import InputError
from mdlm_min.theory.checks import Enumeration

MASK = torch.tensor([[True, False, True, False], [False, False, False, False], [False, True, False, False]])
TOKEN_LOSS = torch.tensor([1.0, 2.0, 5.0])
RATE = torch.tensor([0.5, 0.25, 0.1])


@pytest.mark.parametrize(
    ("weight", "expected"),
    [("1/t", (3 / 0.5 + 0 + 5 / 0.1) / 4 / 3), ("none", (3 + 0 + 5) / 4 / 3), ("mean", (3 / 2 + 0 + 5) / 3)],
)
def test_weights_by_hand(weight, expected):
    assert masked_loss(TOKEN_LOSS, MASK, RATE, weight).item() == pytest.approx(expected)


@pytest.mark.parametrize("nll", [TOKEN_LOSS.mean(), torch.zeros(3, 4), TOKEN_LOSS[:2], TOKEN_LOSS[:, None], TOKEN_LOSS.long()])
def test_losses_that_are_not_those_of_the_masked_tokens_are_refused(nll):
    said = re.escape(
        f"nll: shape {tuple(nll.shape)} and {nll.dtype} is not allowed; allowed: (3,), the loss of each masked token"
    )
    for process in (MaskedDiffusion(MaskRate.parse("U[0,1]")), ScheduledDiffusion(RateSchedule(MaskRate.parse("U[0,1]")))):
        with pytest.raises(InputError, match=said):
            process.loss(nll, MASK, RATE)


@pytest.mark.parametrize(
    ("mask", "rate", "said"),
    [
        (MASK.float(), RATE, "mask: shape (3, 4) and torch.float32 is not allowed; allowed: [batch, length], bool"),
        (MASK[0], RATE, "mask: shape (4,) and torch.bool is not allowed"),
        (MASK, RATE[:, None], "rate: shape (3, 1) is not allowed; allowed: (3,), the mask rate of each sequence"),
        (MASK, 0.5, "rate: 0.5 is not allowed; allowed: (3,)"),
        (MASK, None, "rate: None is not allowed"),
    ],
)
def test_masks_and_rates_that_cannot_be_ones_are_refused(mask, rate, said):
    for process in (MaskedDiffusion(MaskRate.parse("U[0,1]")), ScheduledDiffusion(RateSchedule(MaskRate.parse("U[0,1]")))):
        with pytest.raises(InputError, match=re.escape(said)):
            process.loss(TOKEN_LOSS, mask, rate)


@pytest.mark.parametrize("generator", [None, 3, torch.rand])
def test_what_is_no_generator_is_refused(generator):
    for process in (MaskedDiffusion(MaskRate.parse("U[0,1]")), ScheduledDiffusion(RateSchedule(MaskRate.parse("U[0,1]")))):
        with pytest.raises(InputError, match="generator: .* is not allowed; allowed: a torch.Generator"):
            process.mask(2, 4, generator)


@given(st.floats(-30, 30), st.sampled_from([-1.0, 1.0]))
def test_token_losses(output, target):
    one = torch.tensor([output], dtype=torch.float64)
    wanted = torch.tensor([target], dtype=torch.float64)
    assert squared_error(one, wanted).item() == pytest.approx((output - target) ** 2 / 2)
    assert sign_cross_entropy(one, wanted).item() == pytest.approx(
        math.log1p(math.exp(-target * output)), abs=1e-8
    )  # softplus is linear above 20


def test_inverse_rate_weight_is_unbiased_for_the_loss_per_token():
    # were every token's loss 1, the bound would be 1 nat per token whatever t is
    generator = torch.Generator().manual_seed(0)
    rate = MaskRate.parse("U[0,1]").sample(200_000, generator)
    mask = bernoulli(rate, 8, generator)
    assert masked_loss(torch.ones(int(mask.sum())), mask, rate, "1/t").item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("token_loss", "full"), [(squared_error, "loss"), (sign_cross_entropy, "cross_entropy")])
def test_equals_eq_1_by_enumeration(token_loss, full):
    """Monte Carlo of our loss on random outputs against the exact sum over all masks and inputs."""
    n, k, t = 3, 2, 0.4
    pairs = Enumeration(n, k, t, t)
    table = torch.randn(3 ** (n + 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def output(visible):  # any function of the visible tokens
        return table[((visible + 1) * 3 ** torch.arange(n + 1)).sum(dim=1)]

    visible = torch.tensor(pairs.z).unflatten(1, (3, n + 1)).argmax(dim=1) - 1
    exact = getattr(pairs, full)(output(visible).numpy())
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(2, (400_000, n), generator=generator) * 2 - 1
    values = torch.cat([bits, bits[:, :k].prod(dim=1, keepdim=True)], dim=1)
    rate = torch.full((len(values),), t, dtype=torch.float64)
    mask = bernoulli(rate, n + 1, generator)
    out = output(values.masked_fill(mask, 0))[:, None].expand(-1, n + 1)[mask]
    found = masked_loss(token_loss(out, values[mask].double()), mask, rate, "1/t") * (n + 1)
    # Eq. 5 carries the 1/2 of the squared error into the cross-entropy; the objective of section 5 does not.
    factor = 1.0 if full == "loss" else 0.5
    assert found.item() * factor == pytest.approx(exact, rel=0.01)


def test_a_weight_without_its_rates_is_an_error():
    with pytest.raises(InputError, match="rate: None is not allowed with weight 1/t"):
        masked_loss(TOKEN_LOSS, MASK, None, "1/t")


@pytest.mark.parametrize(
    ("name", "by"),
    [("answer", (2 * 3, 4 * 3, 3 * 3)), ("token", (9, 9, 9)), ("batch", (3, 3, 3)), ("masked", (3, 3, 3))],
)
def test_divisors_by_hand(name, by):
    found = divisors(name, torch.tensor([2, 4, 3]), MASK.sum(dim=1))
    assert found.tolist() == list(by)
    expected = (1 + 2) / 0.5 / by[0] + 5 / 0.1 / by[2]
    assert masked_loss(TOKEN_LOSS, MASK, RATE, "1/t", divisor=found).item() == pytest.approx(expected)
    parts = [
        masked_loss(TOKEN_LOSS[:2], MASK[:2], RATE[:2], "1/t", whole=(3, 9), divisor=found[:2]),
        masked_loss(TOKEN_LOSS[2:], MASK[2:], RATE[2:], "1/t", whole=(3, 9), divisor=found[2:]),
    ]
    assert sum(parts).item() == pytest.approx(expected)


def test_the_mean_over_masked_tokens_is_divisor_masked_without_a_weight():
    found = masked_loss(TOKEN_LOSS, MASK, RATE, "none", divisor=divisors("masked", torch.tensor([2, 4, 3]), MASK.sum(dim=1)))
    assert found.item() == pytest.approx(float(TOKEN_LOSS.mean()))


def test_a_mean_over_each_sequence_has_no_other_divisor():
    with pytest.raises(InputError, match="divisor: is not allowed with weight mean"):
        masked_loss(TOKEN_LOSS, MASK, RATE, "mean", divisor=torch.ones(3))

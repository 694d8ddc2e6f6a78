import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.diffusion.mask_rate import Interval, MaskRate
from mdlm_min.run.errors import InputError

unit = st.floats(0, 1).map(lambda x: round(x, 4))


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("text", "intervals"),
    [
        ("U[0.45,0.55]", (Interval(1, 0.45, 0.55),)),
        ("U[0,.2]", (Interval(1, 0, 0.2),)),
        (" U[0, 1] ", (Interval(1, 0, 1),)),
        ("1/7", (Interval(1, 1 / 7, 1 / 7),)),
        ("U[1e-3,1]", (Interval(1, 0.001, 1),)),
        ("2E-1", (Interval(1, 0.2, 0.2),)),
        ("0.5*U[0,0.2] + 0.5*U[0.8,1]", (Interval(0.5, 0, 0.2), Interval(0.5, 0.8, 1))),
        ("0.25*0.3+0.75*U[1/4,1/2]", (Interval(0.25, 0.3, 0.3), Interval(0.75, 0.25, 0.5))),
    ],
)
def test_notation(text, intervals):
    assert MaskRate.parse(text).intervals == intervals


@pytest.mark.parametrize(
    "text",
    [
        "U[0.5,0.2]",
        "U[0,2]",
        "U[0.3,0.3]",
        "U[0 .5,1]",
        "0 . 5",
        None,
        5,
        b"U[0,1]",
        "",
        "2",
        "U[0,1",
        "half",
        "0.5*U[0,1]",
        "U[0,1]+U[0,1]",
        "-0.1",
        "nan",
        "U[a,b]",
        "0.7*0.1+0.7*0.2",
        "1/0",
        "9" * 400,
        "1/" + "9" * 5000,
        "N[0.5,0.001]",
        "N[0.5,20]",
        "1e-50",
        "U[0,1e-7]",
        "0.5*U[0,1]+0.5*1e-7",
    ],
)
def test_bad_notation_is_refused_with_the_value_and_what_is_allowed(text):
    with pytest.raises(InputError, match=r"mask_rate: .*allowed: U\[a,b\]") as error:
        MaskRate.parse(text)
    assert repr(text)[:90] in str(error.value)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@given(unit, unit, st.booleans(), st.integers(1, 200))
def test_draws_stay_in_their_window_and_are_never_zero(a, b, stratified, count):
    low, high = min(a, b), max(a, b)
    if low == high:
        return
    rate = MaskRate.parse(f"{'stratified ' * stratified}U[{low:.4f},{high:.4f}]").sample(count, generator())
    assert rate.shape == (count,)
    assert rate.min() >= low - 1e-6
    assert rate.max() <= high + 1e-6
    assert rate.min() > 0


def test_a_draw_that_is_rounded_to_just_outside_its_window_has_its_density():
    density = MaskRate.parse("U[0.45,0.55]").density(torch.tensor([0.45 - 5e-7, 0.55 + 5e-7, 0.44, 0.56]))
    assert density.tolist() == pytest.approx([10, 10, 0, 0])


def test_weights_that_sum_to_just_below_one_leave_no_draw_out_of_the_last_window():
    rate = MaskRate.parse("0.999*U[0,0.1] + 0.0009991*U[0.4,0.5]")
    assert rate.quantile(torch.tensor([0.9995, 1.0])).tolist() == pytest.approx([0.45, 0.5], abs=1e-4)
    assert float(rate.quantile(torch.ones(1))) <= 0.5


def test_a_normal_distribution_has_no_density_outside_its_cut_and_no_rate_of_zero(monkeypatch):
    assert MaskRate.parse("N[0.5,0.2]").density(torch.tensor([-0.1, 1.1])).tolist() == [0, 0]
    monkeypatch.setattr(torch, "rand", lambda count, dtype, **_: torch.full((count,), 1 - 2.0**-53, dtype=dtype))
    assert float(MaskRate.parse("N[0,0.2]").sample(1, generator())) > 0  # the least draw


def test_mixture_draws_have_the_mixture_s_moments():
    rate = MaskRate.parse("0.25*0.3 + 0.75*U[0.5,1]").sample(200_000, generator())
    assert (rate == torch.tensor(0.3)).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert rate.mean().item() == pytest.approx(0.25 * 0.3 + 0.75 * 0.75, abs=0.002)


@given(st.integers(1, 500))
def test_stratified_draws_cover_every_stratum_once(count):
    rate = MaskRate.parse("stratified U[0,1]").sample(count, generator())
    strata = (rate * count).ceil().clamp(min=1).long().sort().values
    # a draw within float rounding of a border may fall on its other side
    assert (strata - torch.arange(1, count + 1)).abs().max() <= 1
    assert abs(rate.mean().item() - 0.5) < 1 / count


def test_stratified_draws_have_the_same_mean_and_less_variance():
    plain, stratified = MaskRate.parse("U[0,1]"), MaskRate.parse("stratified U[0,1]")
    source = generator()
    means = {rate.text: torch.stack([rate.sample(16, source).mean() for _ in range(2000)]) for rate in (plain, stratified)}
    assert means["stratified U[0,1]"].mean().item() == pytest.approx(0.5, abs=0.002)
    assert means["stratified U[0,1]"].var() < means["U[0,1]"].var() / 50


def test_a_sequence_s_stratum_is_random():
    rate, source = MaskRate.parse("stratified U[0,1]"), generator()
    first = torch.stack([rate.sample(8, source)[0] for _ in range(2000)])
    assert first.std().item() == pytest.approx((1 / 12) ** 0.5, abs=0.02)


def test_zero_has_positive_probability_only_for_a_fixed_zero():
    assert MaskRate.parse("0").can_be_zero
    assert MaskRate.parse("0.5*0+0.5*0.1").can_be_zero
    assert not MaskRate.parse("U[0,0.1]").can_be_zero

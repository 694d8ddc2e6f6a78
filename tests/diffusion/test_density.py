import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_min.data.surprisal import token_counts, unigram_surprisal
from mdlm_min.diffusion.density import WEIGHT, InformationDensity
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import Context, ScheduledDiffusion
from mdlm_min.diffusion.schedule_check import validate
from mdlm_min.run.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25)
@given(
    st.floats(0.05, 0.95),
    st.floats(0.1, 8),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_the_expected_masked_share_is_t_to_sampling_error(t, weight, dense, hard, seed):
    """Whatever the density of the marks (all and none included), the weight (below 1 too) and t, clipped or not."""
    rows, length = 2000, 20
    marks = torch.rand(rows, length, generator=generator(seed)) < dense
    schedule = InformationDensity(MaskRate.parse(f"{t:.6f}"), WEIGHT if hard else weight, hard)
    context = Context(rows, length, marks=marks.repeat_interleave(2, dim=0)[:rows])
    mask, rate = ScheduledDiffusion(schedule).mask(rows, length, generator(seed), context)
    share = mask.double().mean(dim=1)
    for rows_of, expected in ((slice(0, None, 2), t), (slice(1, None, 2), 1 - t)):
        assert rate[rows_of].double().mean().item() == pytest.approx(expected, abs=1e-5)
        assert share[rows_of].mean().item() == pytest.approx(expected, abs=6 * 0.5 / (1000 * length) ** 0.5)
    assert torch.equal(mask[1::2], ~mask[::2])


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_variant_is_a_sound_schedule(hard, pairs):
    validate(InformationDensity(hard=hard, pairs=pairs))


def test_dense_tokens_are_masked_twice_as_often():
    marks = torch.tensor([[True, False, False, False, True, False, False, False]]).expand(40_000, 8)
    schedule = InformationDensity(MaskRate.parse("0.3"), 2.0, pairs=False)
    mask, _ = ScheduledDiffusion(schedule).mask(40_000, 8, generator(), Context(40_000, 8, marks=marks))
    share = mask.double().mean(dim=0)
    assert (share[0] / share[1]).item() == pytest.approx(2, rel=0.03)
    assert share.mean().item() == pytest.approx(0.3, abs=0.005)


def test_marks_come_with_the_data_or_from_surprisal():
    corpus = torch.tensor([0] * 80 + [1] * 15 + [2] * 5).numpy()
    schedule = InformationDensity(surprisal=unigram_surprisal(token_counts(corpus, 3)), share=0.25, pairs=False)
    tokens = torch.tensor([[0, 2, 0, 1]])
    assert schedule.marks(Context(1, 4, tokens)).tolist() == [[False, True, False, False]]
    marks = torch.tensor([[True, False, False, False]])
    assert schedule.marks(Context(1, 4, tokens, marks=marks)) is marks
    with pytest.raises(InputError, match="schedule information_density: needs marks, which this process does not have"):
        ScheduledDiffusion(InformationDensity()).mask(2, 4, generator())


def test_the_loss_is_the_mean_over_each_row_s_masked_tokens():
    schedule = InformationDensity(pairs=True)
    mask = torch.tensor([[True, False, False], [False, True, True]])
    nll = torch.tensor([4.0, 1.0, 2.0])
    loss = ScheduledDiffusion(schedule).loss(nll, mask, torch.tensor([0.3, 0.7]))
    assert loss.item() == pytest.approx((4 + 1.5) / 2)


def test_unusable_settings_name_field_value_and_what_is_allowed():
    with pytest.raises(InputError, match="density_weight: 0 is not allowed; a number from 1e-6 to 1e6"):
        InformationDensity(density_weight=0)
    with pytest.raises(InputError, match=r"density_weight: 1e\+308 is not allowed"):
        InformationDensity(density_weight=1e308)
    with pytest.raises(InputError, match=r"share: 1.5 is not allowed; a number from 0 to 1"):
        InformationDensity(share=1.5)
    with pytest.raises(InputError, match="density_weight: '2' is not allowed"):
        InformationDensity(density_weight="2")
    with pytest.raises(InputError, match="surprisal: 3 is not allowed; a Surprisal, or None"):
        InformationDensity(surprisal=3)


def test_the_weight_counts_what_may_be_masked():
    mask, allowed = torch.tensor([[True, False, False, False]]), torch.tensor([[True, True, False, False]])
    weight = InformationDensity(pairs=False).weight(torch.tensor([0.5]), mask, Context(1, 4, allowed=allowed))
    assert weight.item() == 2


def test_a_pair_is_masked_by_the_marks_of_its_own_sequence():
    marks = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    schedule = InformationDensity(MaskRate.parse("0.5"), hard=True)
    mask = schedule.mask(torch.full((4,), 0.5), Context(4, 2, marks=marks), generator())
    assert mask[::2].tolist() == [[True, False], [False, True]]


def test_only_what_may_be_masked_is_dense():
    schedule = InformationDensity(surprisal=lambda tokens: tokens.float(), share=0.5, pairs=False)
    allowed = torch.tensor([[True, True, False, False]])
    assert schedule.marks(Context(1, 4, torch.tensor([[1, 2, 3, 4]]), allowed)).tolist() == [[False, True, False, False]]


def test_a_weight_that_hard_masking_does_not_use_is_refused():
    with pytest.raises(InputError, match="density_weight: 9.0 is not allowed with hard, which masks all dense tokens first"):
        InformationDensity(density_weight=9.0, hard=True)


def test_the_defaults_are_the_paper_s():
    schedule = InformationDensity()
    assert (schedule.rate.text, schedule.density_weight, schedule.share, schedule.copies) == ("U[0.3,0.8]", 2.0, 0.2, 2)

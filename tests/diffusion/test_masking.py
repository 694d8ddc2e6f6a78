import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.diffusion.masking import (
    bernoulli,
    bernoulli_each,
    complement,
    dense_first,
    density_weights,
    exact_count,
    one_of,
    priority_probabilities,
    rounded_count,
    top_marks,
)


def generator():
    return torch.Generator().manual_seed(0)


def test_bernoulli_masks_each_sequence_at_its_own_rate():
    rate = torch.tensor([0.0, 0.2, 0.7, 1.0])
    shares = bernoulli(rate, 100_000, generator()).float().mean(dim=1)
    torch.testing.assert_close(shares, rate, rtol=0, atol=0.01)
    assert shares[0] == 0
    assert shares[3] == 1


def test_bernoulli_masks_tokens_independently():
    mask = bernoulli(torch.full((100_000,), 0.3), 2, generator())
    assert abs((mask[:, 0] & mask[:, 1]).float().mean().item() - 0.09) < 0.005


def test_one_of_masks_one_of_the_positions_evenly():
    positions = torch.tensor([1, 4, 5])
    mask = one_of(positions, 30_000, 7, generator())
    assert (mask.sum(dim=1) == 1).all()
    shares = mask.float().mean(dim=0)
    torch.testing.assert_close(shares[positions], torch.full((3,), 1 / 3), rtol=0, atol=0.01)
    assert shares.sum() == shares[positions].sum()


@st.composite
def densities(draw):
    """Marks of a few sequences, any share of them dense, all and none included, and a rate and an allowed part for each."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    bits = st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows)
    marks = draw(st.one_of(bits, st.just([[True] * length] * rows), st.just([[False] * length] * rows)))
    allowed = draw(st.one_of(st.just([[True] * length] * rows), bits))
    rate = draw(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=rows, max_size=rows))
    return torch.tensor(marks), torch.tensor(allowed), torch.tensor(rate)


weights = st.one_of(st.floats(0.05, 20), st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0]))


@given(densities(), weights)
def test_priority_probabilities_sum_to_t_and_are_the_published_form(density, weight):
    marks, allowed, rate = density
    each = density_weights(marks, weight, allowed)
    found = priority_probabilities(rate, each)
    size = allowed.sum(dim=1)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[~allowed] == 0).all()
    torch.testing.assert_close(found.sum(dim=1), rate.double() * size, rtol=0, atol=1e-9)
    for row in range(len(rate)):
        dense, plain = found[row][marks[row] & allowed[row]], found[row][~marks[row] & allowed[row]]
        if len(dense) and len(plain):  # p_i = min(1, w^C_i p_base) with one p_base
            base = max(float(plain[0]), float(dense[0]) / weight)  # the one that is not clipped
            assert dense.tolist() == pytest.approx([min(1, weight * base)] * len(dense), abs=1e-9)
            assert plain.tolist() == pytest.approx([min(1, base)] * len(plain), abs=1e-9)


def test_priority_probabilities_unclipped_and_clipped_by_hand():
    marks = torch.tensor([[True, True, False, False, False, False]])
    allowed = torch.ones_like(marks)

    def found(rate, weight):
        return priority_probabilities(torch.tensor([rate]), density_weights(marks, weight, allowed))[0].tolist()

    # Unclipped: p_base = t N / (N + (w-1) |C|) = 2.4 / 8.
    assert found(0.4, 2.0) == pytest.approx([0.6, 0.6, 0.3, 0.3, 0.3, 0.3], abs=1e-6)
    # w = 5: the dense ones would be at 5 * 3.6 / 14 > 1; they are 1, the others share 3.6 - 2.
    assert found(0.6, 5.0) == pytest.approx([1, 1, 0.4, 0.4, 0.4, 0.4], abs=1e-6)
    # w = .1: the plain ones would be at 4.8 / 4.2 > 1; they are 1, the dense ones share 4.8 - 4.
    assert found(0.8, 0.1) == pytest.approx([0.4, 0.4, 1, 1, 1, 1], abs=1e-6)


def test_priority_probabilities_hold_for_any_weights():
    each = torch.rand(50, 40, generator=generator(), dtype=torch.float64) ** 4 + 1e-6
    rate = torch.rand(50, generator=generator())
    found = priority_probabilities(rate, each)
    torch.testing.assert_close(found.sum(dim=1), rate.double() * 40)
    base = (found / each).where(found < 1, -torch.inf).max(dim=1, keepdim=True).values
    torch.testing.assert_close(found, (each * base).clamp(max=1))


@given(densities(), st.integers(0, 1000))
def test_the_hard_variant_masks_dense_tokens_first_and_t_of_all(density, seed):
    marks, allowed, rate = density
    mask = dense_first(rate, marks, torch.Generator().manual_seed(seed), allowed)
    assert not (mask & ~allowed).any()
    assert ((mask.sum(dim=1) - rate * allowed.sum(dim=1)).abs() < 1 + 1e-4).all()
    for row in range(len(rate)):
        if (mask[row] & ~marks[row]).any():  # a plain token is masked: so are all dense ones
            assert mask[row][marks[row] & allowed[row]].all()


@given(densities(), st.integers(0, 1000))
def test_a_mask_and_its_complement_partition_the_sequence(density, seed):
    marks, allowed, rate = density
    probability = priority_probabilities(rate, density_weights(marks, 2.0, allowed))
    mask = bernoulli_each(probability, torch.Generator().manual_seed(seed))
    other = complement(mask, allowed)
    assert not (mask & other).any()
    assert torch.equal(mask | other, allowed)
    assert torch.equal(complement(mask), ~mask)


def test_counts_are_rounded_so_that_their_mean_is_exact():
    count = rounded_count(torch.full((100_000,), 0.35), 7, generator())
    assert set(count.tolist()) == {2, 3}
    assert count.double().mean().item() == pytest.approx(2.45, abs=0.01)


def test_exact_counts_are_drawn_evenly_from_the_allowed_tokens():
    allowed = torch.tensor([[True, False, True, True]]).expand(30_000, 4)
    mask = exact_count(torch.full((30_000,), 2), allowed, generator())
    assert (mask.sum(dim=1) == 2).all()
    torch.testing.assert_close(mask.double().mean(dim=0), torch.tensor([2 / 3, 0, 2 / 3, 2 / 3]).double(), rtol=0, atol=0.01)


def test_marks_are_the_share_of_highest_surprisal():
    surprisal = torch.tensor([[1.0, 5.0, 2.0, 4.0, 3.0], [1.0, 1.0, 9.0, 1.0, 1.0]])
    assert top_marks(surprisal, 0.4).tolist() == [[False, True, False, True, False], [True, False, True, False, False]]
    allowed = torch.tensor([[True, False, True, True, True], [True, True, False, True, True]])
    assert top_marks(surprisal, 0.25, allowed).tolist() == [
        [False, False, False, True, False],
        [True, False, False, False, False],
    ]
    assert top_marks(torch.tensor([[3.0, 2.0, 1.0]]), 0.6).tolist() == [[True, True, False]]  # 1.8 of 3
    assert not top_marks(surprisal, 0.0).any()
    assert top_marks(surprisal, 1.0).all()

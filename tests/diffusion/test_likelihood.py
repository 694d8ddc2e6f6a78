"""The estimator against exact enumeration, and against brute force over (t, mask)."""

import itertools
import math

import pytest
import torch

from mdlm_min.diffusion.likelihood import _even_levels, _in_turn, estimate, exact_masks, llada_estimate, sweep, sweep_parts
from mdlm_min.diffusion.masking import bernoulli

LENGTH = 6


def score(tokens, mask):
    """A made-up model whose NLL depends on the token, its place, how many others are hidden and whether its neighbour is."""
    hidden = mask.sum(dim=1, keepdim=True).expand(mask.shape)
    left = torch.roll(mask, 1, dims=1)
    nll = 0.5 + tokens * 0.7 + 0.1 * torch.arange(mask.shape[1]) + 0.3 * hidden**1.5 / mask.shape[1] + 0.8 * left
    return nll[mask].float()


def blocks(count):
    return torch.randint(4, (count, LENGTH), generator=torch.Generator().manual_seed(5))


def exact(tokens):
    """The mean over all levels and all masks."""
    total = 0.0
    for level in range(1, LENGTH + 1):
        masks = torch.tensor(
            [[place in chosen for place in range(LENGTH)] for chosen in itertools.combinations(range(LENGTH), level)]
        )
        values = [float(score(row.expand(len(masks), -1), masks).double().mean()) for row in tokens]
        total += sum(values) / len(values) / LENGTH
    return total


def brute_force(tokens, draws, seed):
    """Eq. of section 5: t uniform, every token masked with probability t, sum over the masked / (t L). Mean and its error."""
    generator = torch.Generator().manual_seed(seed)
    chosen = tokens[torch.randint(len(tokens), (draws,), generator=generator)]
    rate = torch.rand(draws, generator=generator) * 0.999 + 0.001
    mask = bernoulli(rate, LENGTH, generator)
    values = torch.zeros(mask.shape)
    values[mask] = score(chosen, mask)
    losses = values.sum(dim=1) / rate / LENGTH
    return float(losses.mean()), float(losses.std()) / math.sqrt(draws)


def prior(tokens):
    return tokens * 0.7


@pytest.mark.parametrize(("count", "passes"), [(40, 288), (8, 600)], ids=["without the sweep", "with the sweep"])
def test_estimates_scatter_around_the_exact_loss_as_their_error_says(count, passes):
    tokens = blocks(count)
    truth = exact(tokens)
    scores = []
    for seed in range(60):
        found = estimate(score, tokens, prior(tokens), passes, torch.Generator().manual_seed(seed))
        scores.append((found.loss - truth) / found.error)
    scores = torch.tensor(scores)
    assert abs(float(scores.mean())) < 0.6
    assert 0.3 < float(scores.std()) < 1.3  # below 1 where the blocks in turn leave less to chance than the error admits


def test_the_estimate_agrees_with_brute_force_over_t_and_masks():
    tokens = blocks(40)
    loss, error = brute_force(tokens, 40_000, 1)
    found = estimate(score, tokens, prior(tokens), 1200, torch.Generator().manual_seed(2))
    assert abs(found.loss - loss) < 4 * math.hypot(error, found.error)


def test_the_levels_are_the_curve_over_t():
    tokens = blocks(40)
    found = estimate(score, tokens, prior(tokens), 1200, torch.Generator().manual_seed(2))
    assert found.centres == pytest.approx([level / LENGTH for level in range(1, LENGTH + 1)])
    assert sum(found.levels) / LENGTH == pytest.approx(found.loss)
    for level, (mean, error) in enumerate(zip(found.levels, found.level_errors, strict=True), start=1):
        masks = exact_masks(torch.full((4000,), level), LENGTH, torch.Generator().manual_seed(3))
        chosen = tokens.repeat(100, 1)
        truth = float(score(chosen, masks).double().mean())
        assert abs(mean - truth) < 5 * error + 0.05
    assert found.levels == sorted(found.levels)


def test_no_more_passes_are_spent_than_allowed():
    tokens = blocks(8)
    spent = []

    def counting(chosen, mask):
        spent.append(len(chosen))
        return score(chosen, mask)

    found = estimate(counting, tokens, prior(tokens), 600, torch.Generator().manual_seed(0))
    assert sum(spent) == found.passes <= 600
    with pytest.raises(ValueError, match="passes: 100 is not allowed; at least 144"):
        estimate(score, tokens, prior(tokens), 100, torch.Generator())


def test_lladas_estimator_is_unbiased_too():
    tokens = blocks(8)
    values = torch.tensor([llada_estimate(score, tokens, 8, torch.Generator().manual_seed(seed)) for seed in range(80)])
    assert abs(float(values.mean()) - exact(tokens)) < 4 * float(values.std()) / math.sqrt(len(values))


def test_masks_have_exactly_their_level_and_every_set_is_as_likely():
    masks = exact_masks(torch.full((6000,), 2), 4, torch.Generator().manual_seed(0))
    assert (masks.sum(dim=1) == 2).all()
    kinds, counts = masks.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert counts.min() > 800


def test_a_sweep_sees_every_token_once():
    tokens = blocks(10)
    seen = torch.zeros(tokens.shape, dtype=torch.int64)

    def counting(chosen, mask):
        for row, hidden in zip(chosen, mask, strict=True):
            seen[(tokens == row).all(dim=1).nonzero()[0, 0]] += hidden.long()
        return score(chosen, mask)

    tokens[:, 0] = torch.arange(10)  # so that blocks differ
    sweep(counting, tokens, 3, torch.Generator().manual_seed(0), batch=4)
    assert (seen == 1).all()
    assert [sweep_parts(passes, 64) for passes in (1, 31, 32, 64, 128, 10**6)] == [0, 0, 4, 8, 16, 64]


def test_levels_are_even_and_blocks_come_in_turn():
    levels = _even_levels(3, 6, 42, torch.Generator().manual_seed(0))
    assert sorted(levels.unique(return_counts=True)[1].tolist()) == [10, 10, 11, 11]
    turn = _in_turn(5, 12, torch.Generator().manual_seed(0))
    assert sorted(turn[:5].tolist()) == sorted(turn[5:10].tolist()) == [0, 1, 2, 3, 4]

"""How many seeds would show an effect: by simulation with so many, and by hand."""

import numpy as np
import pytest
from scipy import stats

from mdlm_min.evidence.power import seeds_needed
from mdlm_min.evidence.statistics import AllOf, Crossed, Mean, Quotient, Ratio, Share, Sooner, Times

RANDOM = np.random.default_rng(5)


def power(show, draws=600):
    return np.mean([show() for _ in range(draws)])


def test_a_mean_is_shown_in_four_of_five_cases():
    found = Mean((0.1, -0.2, 0.3, 0.05, -0.1))
    seeds = seeds_needed(found, 0.0, 0.1)
    deviation = np.std(found.values, ddof=1)
    for count, least, most in ((seeds, 0.75, 0.85), (seeds // 2, 0.0, 0.65)):
        shown = power(lambda count=count: Mean(tuple(RANDOM.normal(0.1, deviation, count))).p_at_most(0) <= 0.025)
        assert least < shown < most
    logs = Ratio(tuple(np.exp(found.values)))
    assert seeds_needed(logs, 1.0, float(np.exp(0.1))) == seeds


@pytest.mark.parametrize(("share", "by_hand"), [(0.625, 111), (0.62, 115), (0.7, 42)])
def test_a_share_needs_what_the_exact_test_needs_whatever_the_seeds_say(share, by_hand):
    for held in (0, 3, 5):
        assert seeds_needed(Share(held, 5 - held), 0.5, share) == by_hand

    def shown(seeds):
        return stats.binom.sf(stats.binom.isf(0.05, seeds, 0.5), seeds, share)

    assert shown(by_hand - 1) < 0.8  # though fewer may be enough: the power goes up and down
    assert min(shown(seeds) for seeds in range(by_hand, 2 * by_hand)) >= 0.8


def test_what_takes_more_seeds_than_anybody_trains_has_no_number():
    assert seeds_needed(Share(3, 2), 0.5, 0.51) == 0
    assert seeds_needed(Mean((0.1, -0.2, 0.3, 0.05, -0.1)), 0.0, 0.001) == 0


def test_a_quotient_is_shown_in_four_of_five_cases():
    wholes = RANDOM.normal(1.0, 0.2, 5)
    found = Quotient(tuple((0.3 * wholes + RANDOM.normal(0, 0.4, 5)).tolist()), tuple(wholes.tolist()))
    seeds = seeds_needed(found, 0.0, 0.25)
    deviation, whole = np.std(found.parts, ddof=1), float(np.mean(wholes))

    def shown():
        parts = RANDOM.normal(0.25 * whole, deviation, seeds)
        return Quotient(tuple(parts.tolist()), tuple(RANDOM.normal(whole, 0.2, seeds).tolist())).p_at_most(0.0) <= 0.025

    assert 0.75 < power(shown) < 0.86
    assert seeds_needed(Quotient(found.parts, (3.0, -1.0, 3.0, 2.0, -2.0)), 0.0, 0.25) == 0  # of a whole that may be nothing


def test_where_runs_ended_too_early_more_seeds_are_no_answer():
    assert seeds_needed(Share(3, 0, 2), 0.5, 0.625) == 0


def test_a_probability_to_be_first_is_shown_in_four_of_five_cases():
    first, second = (Times.of(values, [100.0] * 5) for values in ([3, 5, 7, 9, 11], [4, 6, 8, 10, 12]))
    seeds = seeds_needed(Sooner(first, second), 0.5, 0.625)
    shift = np.sqrt(2) * stats.norm.ppf(0.625)

    def shown():
        one, other = (Times.of(RANDOM.normal(mean, 1, seeds) + 50, [1e3] * seeds) for mean in (0, shift))
        return Sooner(one, other).p_at_most(0.5) <= 0.025

    assert 0.75 < power(shown) < 0.86
    ended = Times.of([np.inf] * 5, [100.0] * 5)
    assert seeds_needed(Sooner(ended, first), 0.5, 0.625) == seeds
    assert seeds_needed(Sooner(ended, ended), 0.5, 0.625) == 0


def test_two_things_at_once_need_more_than_each():
    one, other = Mean((0.1, -0.2, 0.3, 0.05, -0.1)), Mean((0.1, 0.11, 0.09, 0.1, 0.1))
    alone = seeds_needed(one, 0.0, 0.1)
    assert 1.2 * alone < seeds_needed(AllOf((one, other)), 0.0, 0.1) < 1.5 * alone
    assert seeds_needed(AllOf((Share(3, 2), Share(3, 1, 1))), 0.5, 0.625) == 0
    shares = seeds_needed(AllOf((Share(3, 2), Share(5, 0))), 0.5, 0.625)
    alone = stats.binom.sf(stats.binom.isf(0.05, shares, 0.5), shares, 0.625)
    assert 0.8 <= alone**2 < 0.84


def test_items_limit_what_seeds_can_show():
    scores = tuple(tuple(row) for row in RANDOM.normal(0.1, 1, (5, 20)).tolist())
    assert seeds_needed(Crossed(scores), 0.0, 0.1) == 0


@pytest.mark.parametrize("seeds", [1, 4])
def test_few_seeds_say_nothing_of_it(seeds):
    assert seeds_needed(Mean(tuple(range(seeds))), 0.0, 1.0) == 0

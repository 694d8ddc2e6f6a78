"""Ranks with their uncertainty, and steps to a loss."""

import math

import numpy as np
import pytest

from mdlm_min.evidence.ranking import ranked, steps_to

SPREAD = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def test_entries_that_are_surely_apart_have_one_rank_each():
    found = ranked({"third": 3 + SPREAD, "first": 1 + SPREAD[::-1] / 2, "second": 2 + SPREAD})
    assert [(one.name, one.place, one.best, one.worst) for one in found] == [
        ("first", 1, 1, 1),
        ("second", 2, 2, 2),
        ("third", 3, 3, 3),
    ]
    assert found[0].text == "1"


def test_a_tie_is_a_tie():
    noise = np.random.default_rng(0)
    scores = {name: 1 + noise.normal(0, 0.1, 5) for name in "abc"} | {"last": 5 + noise.normal(0, 0.1, 5)}
    found = ranked(scores)
    assert {(one.best, one.worst) for one in found[:3]} == {(1, 3)}
    assert (found[3].name, found[3].best, found[3].worst) == ("last", 4, 4)
    assert found[0].text == "1 [1, 3]"


def test_pairs_by_seed_see_what_means_do_not():
    seeds = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    found = ranked({"better": seeds + SPREAD / 4, "worse": seeds + 0.1})
    assert [(one.name, one.best, one.worst) for one in found] == [("better", 1, 1), ("worse", 2, 2)]


def test_four_seeds_decide_nothing():
    found = ranked({"a": 1 + SPREAD[:4], "b": 9 + SPREAD[:4]})
    assert [(one.best, one.worst) for one in found] == [(1, 2), (1, 2)]
    with pytest.raises(ValueError, match="unequal"):
        ranked({"a": SPREAD, "b": SPREAD[:4]})


@pytest.mark.parametrize("score", [math.nan, -math.inf, math.inf])
def test_a_score_that_is_not_finite_has_no_rank(score):
    with pytest.raises(ValueError, match="b has a score that is not finite"):
        ranked({"a": 1 + SPREAD, "b": np.array([1.0, 1.0, score, 1.0, 1.0]), "c": 2 + SPREAD})


def test_rank_intervals_hold_the_true_rank():
    """Of nine entries of which three are equally good, the intervals of all hold their true ranks in at least 95% of cases."""
    noise, true = np.random.default_rng(1), np.repeat([0.0, 1.0, 2.0], 3)
    held = []
    for _ in range(80):
        scores = {str(place): mean + noise.normal(0, 0.3, 5) for place, mean in enumerate(true)}
        for one in ranked(scores):
            least = 1 + int((true < true[int(one.name)]).sum())
            held.append(one.best <= least and one.worst >= least + 2)
    assert np.mean(held) >= 0.95


def test_steps_to_a_loss_lie_between_evaluations():
    curve = [(0.0, 4.0), (10.0, 3.0), (20.0, 1.0), (30.0, 2.0)]
    assert steps_to(curve, 2.0) == 15.0
    assert steps_to(curve, 3.0) == 10.0
    assert steps_to(curve, 0.5) == math.inf
    assert steps_to([(0.0, 1.0), (10.0, 0.5)], 2.0) == 10.0  # below from the start: its first evaluation after a step


def test_ranks_are_paired_by_seed():
    seeds = np.array([3.0, 0.0, 4.0, 1.0, 2.0])
    found = ranked({"better": seeds + SPREAD / 4, "worse": seeds + 0.1})
    assert [(one.name, one.best, one.worst) for one in found] == [("better", 1, 1), ("worse", 2, 2)]


def test_a_difference_of_p_below_a_twentieth_is_sure():
    gap = np.array([0.1, 0.3, 0.02, 0.2, 0.35])  # two-sided p = .034
    assert [(one.best, one.worst) for one in ranked({"a": SPREAD * 0, "b": gap})] == [(1, 1), (2, 2)]

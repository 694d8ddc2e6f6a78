"""The rules on simulated data: they are right as often as they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mdlm_min.evidence.statistics import (
    AllOf,
    Crossed,
    Mean,
    Quotient,
    Ratio,
    Share,
    Sooner,
    Times,
    decide,
    holm,
)

NEVER = math.inf


def verdict(evidence, null, smallest):
    return decide([(evidence, null, smallest)])[0].verdict


def rates(draw, null, smallest, trials, seed=0):
    """Shares of verdicts on simulated evidence."""
    random = np.random.default_rng(seed)
    found = [verdict(draw(random), null, smallest) for _ in range(trials)]
    return {name: found.count(name) / trials for name in ("reproduced", "not reproduced", "underpowered")}


def most(trials, level):
    """The share that a test of this level exceeds in one of a thousand simulations."""
    return stats.binom.ppf(0.999, trials, level) / trials


# False positives: no claim is reproduced more often than the level where its null is true.


@pytest.mark.parametrize("seeds", [5, 8])
def test_paired_differences_hold_their_level_and_show_what_they_say(seeds):
    trials = 1500
    assert rates(lambda r: Mean(tuple(r.normal(0, 1, seeds))), 0, 1, trials)["reproduced"] <= most(trials, 0.025)
    error = 1 / math.sqrt(seeds)
    effect = error * _detectable_shift(seeds)
    shown = rates(lambda r: Mean(tuple(r.normal(effect, 1, seeds))), 0, 10, trials)
    assert shown["reproduced"] == pytest.approx(0.8, abs=0.04)
    absent = rates(lambda r: Mean(tuple(r.normal(5.0, 1, seeds))), 0, 5.0, trials)  # exactly what matters
    assert absent["not reproduced"] <= most(trials, 0.025)


def _detectable_shift(seeds):
    """In standard errors; by simulation-free search on the noncentral t, independent of the code."""
    critical = stats.t.ppf(0.975, seeds - 1)
    shifts = np.linspace(2, 8, 6001)
    return shifts[np.argmin(np.abs(stats.nct.sf(critical, seeds - 1, shifts) - 0.8))]


def test_what_is_called_detectable_is_shown_in_four_of_five_cases():
    values = (0.1, -0.2, 0.3, 0.05, 0.2)
    error = np.std(values, ddof=1) / math.sqrt(5)
    assert Mean(values).detectable(0) == pytest.approx(error * _detectable_shift(5), rel=1e-3)
    assert Mean(values).detectable(2.0) == pytest.approx(2 + error * _detectable_shift(5), rel=1e-3)


def test_a_true_null_can_be_shown():
    found = rates(lambda r: Mean(tuple(r.normal(0, 1, 8))), 0, 3.0, 500)
    assert found["not reproduced"] > 0.95


def _censored(random, scale, seeds, end=1.5):
    times = random.exponential(scale, seeds)
    return Times.of(np.where(times < end, times, NEVER), [end] * seeds)


@pytest.mark.parametrize(("seeds", "end"), [(5, 1.5), (8, 0.7), (5, 0.2)])
def test_censored_times_hold_their_level(seeds, end):
    trials = 600
    found = rates(lambda r: Sooner(_censored(r, 1, seeds, end), _censored(r, 1, seeds, end)), 0.5, 0.625, trials)
    assert found["reproduced"] <= most(trials, 0.025)


def test_censored_times_show_a_large_effect():
    """Eight seeds, one arm twelve times as fast: P(sooner) = 12/13."""
    found = rates(lambda r: Sooner(_censored(r, 1, 8, 3), _censored(r, 12, 8, 3)), 0.5, 0.625, 300)
    assert found["reproduced"] > 0.8


@pytest.mark.parametrize("seeds", [8, 24])
def test_what_is_called_detectable_of_censored_times_is_shown_in_about_four_of_five_cases(seeds):
    """Exponential times, of which P(sooner) = rate / (1 + rate). Newcombe's standard error is an approximation."""
    target = Sooner(*(Times.of(np.arange(1.0, seeds + 1), [1e9] * seeds) for _ in range(2))).detectable(0.5)
    scale = target / (1 - target)
    found = rates(lambda r: Sooner(_censored(r, 1, seeds, 1e9), _censored(r, scale, seeds, 1e9)), 0.5, 0.625, 400)
    assert found["reproduced"] == pytest.approx(0.8, abs=0.08)


def test_the_interval_of_a_probability_covers_it():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(800):
        first, second = (Times.of(random.exponential(scale, 6), [1e9] * 6) for scale in (1.0, 3.0))
        low, high = Sooner(first, second).interval()
        covered += low <= 0.75 <= high
    assert 0.92 <= covered / 800 <= 0.985


def test_shares_hold_their_level_and_five_of_five_decide():
    assert verdict(Share(5, 0), 0.5, 0.625) == "reproduced"
    assert verdict(Share(0, 5), 0.5, 0.625) == "not reproduced"
    assert verdict(Share(4, 1), 0.5, 0.625) == "underpowered"
    for seeds in (5, 6, 8, 12):
        passing = sum(stats.binom.pmf(held, seeds, 0.5) for held in range(seeds + 1)
                      if verdict(Share(held, seeds - held), 0.5, 0.625) == "reproduced")  # fmt: skip
        assert passing <= 0.05


def test_the_bounds_of_a_share_are_one_sided():
    assert Share(5, 0).interval() == pytest.approx((0.05**0.2, 1.0))
    assert Share(0, 5).interval() == pytest.approx((0.0, 1 - 0.05**0.2))


def test_unknown_seeds_count_against_whatever_is_shown():
    assert verdict(Share(6, 0, 2), 0.5, 0.625) == "underpowered"
    assert verdict(Share(0, 5, 3), 0.5, 0.625) == "underpowered"
    assert verdict(Share(8, 0), 0.5, 0.625) == verdict(Share(9, 0, 1), 0.5, 0.625) == "reproduced"
    assert Share(3, 1, 2).estimate == 0.75
    assert math.isnan(Share(0, 0, 5).estimate)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5))
def test_the_interval_of_a_share_holds_it(held, failed, unknown):
    share = Share(held, failed, unknown)
    low, high = share.interval()
    assert 0 <= low <= high <= 1
    if held + failed:
        assert low <= held / (held + failed) <= high


@pytest.mark.parametrize(("seed_spread", "item_spread"), [(0.0, 1.0), (0.3, 0.0), (0.3, 1.0), (0.05, 2.0)])
def test_crossed_seeds_and_items_hold_their_level(seed_spread, item_spread):
    trials = 250

    def draw(random):
        seeds, items = random.normal(0, seed_spread, (5, 1)), random.normal(0, item_spread, (1, 60))
        return Crossed(tuple(map(tuple, seeds + items + random.normal(0, 0.5, (5, 60)))))

    assert rates(draw, 0, 1, trials)["reproduced"] <= most(trials, 0.025)


def test_what_is_called_detectable_of_crossed_seeds_and_items_is_shown_in_about_four_of_five_cases():
    """The stated effect is that of one draw's own scatter, so the median of many is tried."""

    def draw(random, effect):
        seeds, items = random.normal(0, 0.3, (5, 1)), random.normal(0, 1, (1, 60))
        return Crossed(tuple(map(tuple, effect + seeds + items + random.normal(0, 0.5, (5, 60)))))

    random = np.random.default_rng(11)
    effect = float(np.median([draw(random, 0.0).detectable(0.0) for _ in range(60)]))
    found = rates(lambda r: draw(r, effect), 0, 10, 250)
    assert found["reproduced"] == pytest.approx(0.8, abs=0.1)


def test_few_seeds_that_differ_hold_their_level():
    """The seeds' own spread alone: five of them, without the bootstrap's bias."""
    random, trials = np.random.default_rng(5), 3000
    wrong = 0
    for _ in range(trials):
        values = np.repeat(random.normal(0, 1, (5, 1)), 4, axis=1)
        wrong += Crossed(tuple(map(tuple, values))).p_at_most(0.0) <= 0.025
    assert wrong / trials <= most(trials, 0.025)


def test_all_of_several_parts_hold_their_level_on_both_sides():
    trials = 1500

    def parts(random, mean):
        return AllOf(tuple(Mean(tuple(random.normal(mean, 1, 6))) for _ in range(3)))

    one_null = rates(lambda r: AllOf((Mean(tuple(r.normal(0, 1, 6))), Mean(tuple(r.normal(9, 1, 6))))), 0, 5, trials)
    assert one_null["reproduced"] <= most(trials, 0.025)
    at_the_smallest = rates(lambda r: parts(r, 2.0), 0, 2.0, trials)
    assert at_the_smallest["not reproduced"] <= most(trials, 0.025)
    assert rates(lambda r: parts(r, 6.0), 0, 1.0, 200)["reproduced"] > 0.95


def test_all_of_several_parts_shows_the_least_and_counts_the_fewest_seeds():
    found = AllOf((Mean((1.0, 1.1, 0.9, 1.0, 1.2), "more"), Mean((0.5, 0.6, 0.4, 0.5), "least")))
    assert found.estimate == pytest.approx(0.5)
    assert (found.seeds, found.note) == (4, "least")
    assert found.interval() == found.parts[1].interval()
    assert verdict(found, 0.0, 0.1) == "underpowered"


def test_all_of_several_shares_have_the_level_of_a_share():
    assert verdict(AllOf((Share(5, 0), Share(5, 0))), 0.5, 0.625) == "reproduced"


def test_items_alone_do_not_make_an_interval():
    """Three models that differ among each other: over the items alone the interval would exclude zero."""
    random = np.random.default_rng(0)
    values = np.array([[0.2], [-0.1], [0.25], [0.15], [-0.05]]) + random.normal(0, 0.05, (5, 500))
    over_items = Mean(tuple(values.mean(axis=0)))
    assert over_items.interval()[0] > 0
    assert Crossed(tuple(map(tuple, values))).interval()[0] < 0


def test_a_quotient_has_fieller_s_interval():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(800):
        wholes = random.normal(1, 0.2, 6)
        parts = 0.4 * wholes + random.normal(0, 0.1, 6)
        low, high = Quotient(tuple(parts), tuple(wholes)).interval()
        covered += low <= 0.4 <= high
    assert 0.93 <= covered / 800 <= 0.97
    nothing = Quotient((0.1, -0.1, 0.2, 0.0, 0.1), (0.1, -0.3, 0.2, -0.1, 0.2))
    assert nothing.interval() == (-math.inf, math.inf)
    assert nothing.p_at_least(99.0) == nothing.p_at_most(-99.0) == 1.0
    assert verdict(nothing, 0.0, 0.25) == "underpowered"


def test_a_ratio_is_a_mean_of_logarithms():
    ratio = Ratio((2.0, 2.2, 1.8, 2.1, 1.9))
    assert ratio.estimate == pytest.approx(np.exp(np.mean(np.log(ratio.values))))
    assert verdict(ratio, 1.0, 1.1) == "reproduced"
    assert verdict(Ratio((0.5, 0.6, 0.55, 0.5, 0.6)), 1.0, 1.1) == "not reproduced"


def test_never_is_not_a_number():
    """Runs that all ended without the event say nothing of which arm is sooner."""
    none = Times.of([NEVER] * 8, [1000.0] * 8)
    evidence = Sooner(none, none)
    assert evidence.estimate == 0.5
    assert verdict(evidence, 0.5, 0.625) == "underpowered"
    assert evidence.log_rank() == 1.0
    ended_early = Times.of([NEVER] * 5, [10.0] * 5)
    assert Sooner(ended_early, Times.of([500.0] * 5, [1000.0] * 5)).estimate == 0.5  # it could have been sooner


def test_an_arm_without_an_event_has_no_curve_and_is_told_from_one_that_has_them_on_either_side():
    none, some = Times.of([NEVER] * 5, [9.0] * 5), Times.of([2.0] * 5, [9.0] * 5)
    assert [part.tolist() for part in none.survival()] == [[], []]
    assert Sooner(none, some).log_rank() == Sooner(some, none).log_rank() < 0.01


def test_an_event_at_the_step_where_the_other_run_ends_comes_first():
    assert Sooner(Times.of([100.0], [100.0]), Times.of([NEVER], [100.0])).estimate == 1.0
    assert Sooner(Times.of([100.0], [200.0]), Times.of([100.0], [200.0])).estimate == 0.5


def test_kaplan_and_meier():
    times = Times.of([100.0, NEVER, 300.0, 400.0], [1000.0, 200.0, 1000.0, 1000.0])
    steps, shares = times.survival()
    by_step = dict(zip(steps.tolist(), shares.tolist(), strict=True))
    assert by_step[100.0] == pytest.approx(3 / 4)
    assert by_step[300.0] == pytest.approx(3 / 4 * 1 / 2)
    assert by_step[400.0] == pytest.approx(0.0)
    assert times.text() == "100, not within 200, 300, 400"


def test_holm_keeps_the_family_s_level():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    random, trials = np.random.default_rng(2), 800
    wrong = 0
    for _ in range(trials):
        family = [(Mean(tuple(random.normal(0, 1, 5))), 0.0, 1.0) for _ in range(6)]
        wrong += any(decision.verdict == "reproduced" for decision in decide(family))
    assert wrong / trials <= most(trials, 0.025)


def test_holm_shows_a_true_effect_beside_five_nulls_more_often_than_bonferroni_alone_would_ask():
    """One effect of four standard errors' size among six claims: shown at least as often as a sixth of the level shows it."""
    random, trials = np.random.default_rng(4), 500
    shown = 0
    for _ in range(trials):
        family = [(Mean(tuple(random.normal(3.0 if index == 0 else 0.0, 1, 8))), 0.0, 10.0) for index in range(6)]
        shown += decide(family)[0].verdict == "reproduced"
    critical = stats.t.ppf(1 - 0.025 / 6, 7)
    bonferroni = stats.nct.sf(critical, 7, 3.0 * math.sqrt(8))
    assert shown / trials >= bonferroni - 0.03


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_are_never_smaller_and_keep_their_order(values):
    adjusted = holm(values)
    assert all(0 <= raw <= more <= 1 for raw, more in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_small_effects_are_reproduced_and_called_small():
    decision = decide([(Mean((0.010, 0.011, 0.009, 0.010, 0.012)), 0.0, 0.1)])[0]
    assert decision.verdict == "reproduced"
    assert "Smaller than 0.1" in decision.sentence


@pytest.mark.parametrize("evidence", [Mean((1.0,)), Ratio((2.0,)), Crossed(((1.0, 2.0),))])
def test_one_seed_says_nothing_of_its_spread(evidence):
    low, high = evidence.interval()
    assert high == math.inf
    assert low <= 0
    assert evidence.p_at_most(0.1) == evidence.p_at_least(10) == 1.0
    decision = decide([(evidence, 0.5, 1.0)])[0]
    assert decision.verdict == "underpowered"
    assert "one seed" in decision.sentence


UNEVEN = (0.1, 0.3, 0.02, 0.2, 0.35)  # two-sided p = .034
WIDE = (5.0, 9.0, 1.0, 4.0, 8.0)


def test_who_ends_without_the_event_as_the_other_has_it_is_later():
    assert Sooner(Times.of([NEVER], [100.0]), Times.of([100.0], [100.0])).estimate == 0.0


def test_what_could_have_been_seen():
    """Of several parts that of the least certain; of a quotient in units of its wholes; of ratios as of their logarithms."""
    narrow, wide = Mean((1.0, 1.1, 0.9, 1.0, 1.2)), Mean(WIDE)
    assert AllOf((narrow, wide)).detectable(0.0) == wide.detectable(0.0) > narrow.detectable(0.0)
    parts, wholes = (0.1, -0.1, 0.2, 0.0, 0.1), np.array([2.0, 2.1, 1.9, 2.0, 2.2])
    half = Quotient(parts, tuple(wholes)).detectable(0.0) / 2
    assert Quotient(parts, tuple(2 * wholes)).detectable(0.0) == pytest.approx(half)
    ratios = (2.0, 2.2, 1.8, 2.1, 1.9)
    assert math.log(Ratio(ratios).detectable(1.0)) == pytest.approx(Mean(tuple(np.log(ratios))).detectable(0.0))


def test_what_could_have_been_seen_lies_above_the_null():
    quotient = Quotient((0.1, -0.1, 0.2, 0.0, 0.1), (2.0, 2.1, 1.9, 2.0, 2.2))
    assert quotient.detectable(0.5) == pytest.approx(0.5 + quotient.detectable(0.0))
    assert Share(4, 1).detectable(0.5) == pytest.approx(0.8**0.2)  # at which all five have it in four of five cases
    assert Sooner(Times.of([1.0], [9.0]), Times.of([2.0], [9.0])).detectable(0.5) == math.inf


def test_an_effect_is_shown_absent_with_holm_s_adjustment():
    member = (Mean(tuple(-value for value in UNEVEN)), -0.2, 0.0)
    assert decide([member])[0].verdict == "not reproduced"
    assert decide([member] * 2)[0].verdict == "underpowered"


def test_seeds_that_agree_on_a_value_reject_it_on_neither_side():
    assert Mean((1.0,) * 5).p_at_least(1.0) == Mean((1.0,) * 5).p_at_most(1.0) == 1.0


def test_the_adjusted_p_value_is_that_of_the_null_whatever_the_verdict():
    few = decide([(Mean(UNEVEN[:4]), 0.0, 1.0)] * 2)[0]
    assert (few.verdict, few.adjusted) == ("underpowered", pytest.approx(2 * few.raw))
    absent = decide([(Share(0, 5), 0.5, 0.625)])[0]
    assert (absent.verdict, absent.adjusted) == ("not reproduced", 1.0)


def test_no_effect_at_all_is_a_true_null():
    assert verdict(Mean((0.0,) * 5), 0.0, 0.1) == "not reproduced"
    assert verdict(Quotient((0.01, -0.01, 0.02, 0.0, -0.02), (1.0, 1.1, 0.9, 1.0, 1.0)), 0.0, 0.25) == "not reproduced"


def test_the_log_rank_test_knows_what_is_censored():
    first, second = Times.of([500.0] * 5, [1000.0] * 5), Times.of([NEVER] * 5, [600.0] + [10.0] * 4)
    assert Sooner(first, second).log_rank() == pytest.approx(2 * stats.norm.sf(math.sqrt(5)))  # O - E = 5/6, V = 5/36


def test_where_all_come_before_all_the_variance_is_mann_and_whitney_s():
    first, second = Times.of(range(5), [99] * 5), Times.of(range(5, 13), [99] * 8)
    assert Sooner(first, second).p_at_most(0.5) == pytest.approx(stats.norm.sf(0.5 / math.sqrt(14 / 12 / 40)))


def test_a_quotient_whose_whole_may_be_nothing_has_no_bounds():
    assert Quotient(UNEVEN, tuple(value - 0.05 for value in UNEVEN)).interval() == (-math.inf, math.inf)  # p = .037


def test_an_absence_in_one_of_two_parts_counts_twice():
    one = Mean(UNEVEN)
    assert AllOf((one, Mean(WIDE))).p_at_least(0.4) == pytest.approx(2 * one.p_at_least(0.4))


def test_crossed_items_that_are_all_alike_are_seeds():
    low, high = Crossed(tuple((value,) * 4 for value in UNEVEN)).interval()
    least, most_ = Mean(UNEVEN).interval()
    assert high - low == pytest.approx(most_ - least, rel=0.05)


def test_the_seeds_of_two_arms_are_those_of_the_lesser():
    assert Sooner(Times.of([1.0] * 5, [9.0] * 5), Times.of([2.0] * 3, [9.0] * 3)).seeds == 3

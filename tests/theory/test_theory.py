import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import integrate

from mdlm_min.theory import formulas
from mdlm_min.theory.checks import CHECKS, Enumeration, elimination_success, oracle_success

orders = st.integers(1, 30)
windows = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda window: window[1] - window[0] > 1e-3)


def mean(function, window):
    return integrate.quad(function, *window, epsabs=1e-13, epsrel=1e-13)[0] / (window[1] - window[0])


@given(orders, windows)
def test_moments_equal_quadrature(k, window):
    assert formulas.mean_visible(*window, k) == pytest.approx(mean(lambda t: (1 - t) ** k, window), abs=1e-10)
    assert formulas.mean_one_masked(*window, k) == pytest.approx(mean(lambda t: t * (1 - t) ** k, window), abs=1e-10)


@given(orders, st.floats(0.001, 0.999))
def test_a_fixed_rate_is_the_limit_of_narrow_windows(k, t):
    width = min(t, 1 - t, 1e-4)
    assert formulas.mean_visible(t, t, k) == pytest.approx(formulas.mean_visible(t - width, t + width, k), abs=1e-5)


@given(st.integers(2, 20), st.integers(1, 6), windows)
def test_signal_probability_is_a_probability_and_grows_without_empty_masks(n, k, window):
    assume(k <= n)
    p_s = formulas.signal_probability(*window, k)
    assert 0 <= p_s <= 1
    assert formulas.signal_probability_nonempty(*window, n, k) >= p_s


@given(orders, windows)
def test_no_window_beats_the_signal_optimal_rate(k, window):
    best = formulas.signal_optimal_rate(k)
    assert formulas.signal_probability(*window, k) <= formulas.signal_probability(best, best, k) + 1e-12


@given(orders, windows)
@example(1, [0.1, 0.5])
def test_no_window_beats_the_sample_optimal_one(k, window):
    assert formulas.sample_bound(*window, 20, k, 0.05) >= formulas.sample_bound(
        0, formulas.sample_optimal_high(k), 20, k, 0.05
    ) * (1 - 1e-9)


@given(orders, windows)
def test_no_window_beats_the_corrected_optimal_rate(k, window):
    best = formulas.corrected_sample_optimal_rate(k)
    assert formulas.corrected_sample_bound(*window, 40, k, 0.05) >= formulas.corrected_sample_bound(best, best, 40, k, 0.05) * (
        1 - 1e-9
    )


@given(orders, windows)
def test_the_corrected_bound_is_never_lower_and_equal_for_a_fixed_rate(k, window):
    assert formulas.corrected_sample_bound(*window, 40, k, 0.05) >= formulas.sample_bound(*window, 40, k, 0.05) * (1 - 1e-9)
    t = window[1] / 2
    assert formulas.corrected_sample_bound(t, t, 40, k, 0.05) == pytest.approx(formulas.sample_bound(t, t, 40, k, 0.05))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_mixture_optimum_is_a_maximum_between_those_of_its_orders(weights):
    grid = np.linspace(0, 1, 2001)
    best = formulas.mixture_optimum(weights)
    assert formulas.mixture_signal(np.asarray(best), weights) >= formulas.mixture_signal(grid, weights).max() - 1e-12
    assert 1 / (len(weights) + 1) - 1e-6 <= best <= 1 / 2 + 1e-6


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_squaring_the_sum_does_not_move_its_optimum(weights):
    assert formulas.mixture_optimum(weights, "square_of_sum") == pytest.approx(formulas.mixture_optimum(weights), abs=1e-5)


@pytest.mark.parametrize(
    ("value", "published"),
    [
        (formulas.sample_optimal_high(6), 0.18439),
        (formulas.signal_probability(1 / 7, 1 / 7, 6), 0.39657),
        (formulas.signal_optimal_high(6), 0.24593),
        (formulas.signal_probability(0, formulas.signal_optimal_high(6), 6), 0.31650),
        (formulas.mixture_optimum(), 0.46297),
        (formulas.mixture_optimum(form="sum_of_squares"), 0.48143),
        (formulas.empty_probability(0, 0.1, 21), 0.40978),
    ],
)
def test_known_values(value, published):
    assert value == pytest.approx(published, abs=6e-6)


def test_the_sample_bound_by_hand():
    assert formulas.sample_bound(0.5, 0.5, 10, 1, 0.1) == pytest.approx(4 * math.log(400) / 0.125)


def test_two_orders_by_hand():
    t = np.asarray(0.3)
    assert formulas.mixture_signal(t, (1, 2), "linear") == pytest.approx(0.3 * 0.7 + 2 * 0.3 * 0.49)
    assert formulas.mixture_signal(t, (1, 2), "order") == pytest.approx(2 * 0.3 * 0.7 + 3 * 2 * 0.3 * 0.49)
    assert formulas.mixture_signal(t, (1, 2), "inverse_rate") == pytest.approx(0.7 + 2 * 0.49)


def test_at_mask_rate_0_all_is_visible_and_a_signal_that_only_falls_is_largest():
    assert formulas.mean_visible_when_masked(0, 0, 3) == 1
    assert formulas.mixture_optimum(form="inverse_rate") == 0


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="cubic"):
        formulas.mixture_signal(np.asarray(0.5), form="cubic")


@settings(max_examples=10)
@given(st.integers(0, 10**6), windows, st.sampled_from([(3, 1), (3, 2), (4, 2)]))
def test_decompositions_hold_for_any_function_of_the_visible_tokens(seed, window, problem):
    pairs = Enumeration(*problem, *window)
    random = np.random.default_rng(seed)
    functions = [
        pairs.z @ random.normal(size=pairs.z.shape[1]) + np.sin(pairs.z @ random.normal(size=pairs.z.shape[1])) for _ in range(3)
    ]
    for full, effective in (("loss", "effective_loss"), ("cross_entropy", "effective_cross_entropy")):
        differences = [getattr(pairs, full)(f) - getattr(pairs, effective)(f) for f in functions]
        assert np.ptp(differences) < 1e-10


def test_the_decomposition_fails_on_a_finite_dataset():
    random = np.random.default_rng(0)
    pairs = Enumeration(4, 2, 0, 0.4, inputs=np.array([[1, 1, 1, -1], [1, -1, 1, 1], [-1, -1, 1, 1]]))
    outputs = [pairs.z @ random.normal(size=pairs.z.shape[1]) for _ in range(5)]
    assert np.ptp([pairs.loss(f) - pairs.effective_loss(f) for f in outputs]) > 0.1


def test_enumeration_has_the_right_probabilities():
    pairs = Enumeration(5, 3, 0.1, 0.7)
    assert pairs.probability.sum() == pytest.approx(1)
    assert pairs.probability[pairs.signal].sum() == pytest.approx(formulas.signal_probability(0.1, 0.7, 3))
    assert pairs.probability[pairs.size == 0].sum() == pytest.approx(formulas.empty_probability(0.1, 0.7, 6))


def test_the_oracle_misses_the_published_promise_on_a_wide_window():
    random = np.random.default_rng(0)
    published, corrected = formulas.sample_bound(0, 0.6, 10, 3, 0.05), formulas.corrected_sample_bound(0, 0.6, 10, 3, 0.05)
    middles = 1 - formulas.mean_visible(0, 0.6, 3) / 2, 1 - formulas.mean_visible_when_masked(0, 0.6, 3) / 2
    below, ranked = oracle_success(math.ceil(published), middles[0], 10, 3, 0, 0.6, 100, random)
    assert below < 0.95 <= ranked
    assert oracle_success(math.ceil(corrected), middles[1], 10, 3, 0, 0.6, 100, random)[0] >= 0.95
    assert elimination_success(math.ceil(published), 10, 3, 0, 0.6, 20, random) == 1


@pytest.mark.parametrize("name", ["T4", "T6", "T8", "T9"])
def test_checks_agree_with_the_formulas(name):
    for quantity in CHECKS[name](5, np.random.default_rng(0)):
        assert math.isfinite(quantity.formula)
        if not quantity.name.startswith(("E(W)/P_S^2",)):
            assert quantity.check == pytest.approx(quantity.formula, abs=2e-3), quantity.name

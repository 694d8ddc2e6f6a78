"""The paper's formulas, each beside its theorem number, in float64.

Closed forms are here; the checks that do not use them (quadrature, simulation, enumeration of all masks and inputs) are
in mdlm_min/theory/checks.py. Notation: t mask rate, k secret bits, n' = n + 1 tokens, S' the k + 1 secret positions,
P_S the probability of the signal regime (exactly one of S' masked).
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize

WIKITEXT_WEIGHTS = (0.7427, 0.2063, 0.0401, 0.0084, 0.0024)  # w_2 .. w_6 as published in F.4


def mean_rate(low: float, high: float) -> float:
    """E[t] for t ~ U[low, high]; low = high is a fixed rate."""
    return (low + high) / 2


def mean_visible(low: float, high: float, k: int) -> float:
    """rho_k = E[(1-t)^k] for t ~ U[low, high] (proof of Theorem 4.2)."""
    if low == high:
        return (1 - low) ** k
    return ((1 - low) ** (k + 1) - (1 - high) ** (k + 1)) / ((k + 1) * (high - low))


def mean_one_masked(low: float, high: float, k: int) -> float:
    """E[t (1-t)^k] for t ~ U[low, high], by t (1-t)^k = (1-t)^k - (1-t)^(k+1)."""
    return mean_visible(low, high, k) - mean_visible(low, high, k + 1)


def signal_probability(low: float, high: float, k: int) -> float:
    """P_S = (k+1) E[t (1-t)^k] (Theorem 4.3)."""
    return (k + 1) * mean_one_masked(low, high, k)


def empty_probability(low: float, high: float, length: int) -> float:
    """Probability of a mask that hides none of `length` tokens: in the noise regime by Definition 4.1, but without a loss."""
    return mean_visible(low, high, length)


def signal_probability_nonempty(low: float, high: float, n: int, k: int) -> float:
    """P_S among the masks that hide something (open point 5)."""
    return signal_probability(low, high, k) / (1 - empty_probability(low, high, n + 1))


def _bound(n: int, delta: float, gain: float) -> float:
    return 4 * math.log(4 * n / delta) / gain if gain else math.inf


def sample_bound(low: float, high: float, n: int, k: int, delta: float) -> float:
    """Theorem 4.2: N = 4 ln(4n/delta) / (E[t] E[(1-t)^k]^2) samples identify S with probability 1 - delta; infinite for
    the fixed rates 0 and 1."""
    return _bound(n, delta, mean_rate(low, high) * mean_visible(low, high, k) ** 2)


def mean_visible_when_masked(low: float, high: float, k: int) -> float:
    """E[t (1-t)^k] / E[t]: the probability that a secret token's k partners are visible, given that it is masked; 1 for
    the fixed rate 0.

    The proof of Theorem 4.2 uses `mean_visible` in its place. That is right for a fixed rate only: among the masks that
    hide a token, large rates are over-represented.
    """
    return mean_one_masked(low, high, k) / mean_rate(low, high) if high else 1.0


def corrected_sample_bound(low: float, high: float, n: int, k: int, delta: float) -> float:
    """Theorem 4.2 with `mean_visible_when_masked` for rho_k (ours): what its proof shows for rates that vary."""
    return _bound(n, delta, mean_rate(low, high) * mean_visible_when_masked(low, high, k) ** 2)


def sample_optimal_high(k: int) -> float:
    """Corollary 4.7: t_1 = 1 - y, y in (0, 1) the root of (2k+1) y^(k+1) - (2k+2) y^k + 1; for k = 1, E[t] = 1/3."""
    if k == 1:
        return 2 / 3
    # y = 1 is a root too; the one below it lies left of the polynomial's minimum at y = 2k/(2k+1).
    root = optimize.brentq(lambda y: (2 * k + 1) * y ** (k + 1) - (2 * k + 2) * y**k + 1, 0.0, 2 * k / (2 * k + 1), xtol=1e-15)
    return 1 - float(root)


def corrected_sample_optimal_rate(k: int) -> float:
    """What Corollary 4.7 becomes under the corrected bound (ours): the fixed rate t = 1/(2k+1), for every k.

    By Cauchy-Schwarz E[t (1-t)^k]^2 / E[t] <= E[t (1-t)^(2k)], with equality where t does not vary.
    """
    return 1 / (2 * k + 1)


def signal_optimal_rate(k: int) -> float:
    """Corollary 4.8: t_0 = t_1 = 1/(k+1)."""
    return 1 / (k + 1)


def signal_optimal_high(k: int) -> float:
    """Section 4.5: the t_1 that maximises P_S of U[0, t_1].

    With y = 1 - t_1 the derivative vanishes where P_S(U[0, t_1]) = (k+1) t_1 y^k: the mean equals the value at the end.
    """
    return float(optimize.brentq(lambda t: mean_one_masked(0, t, k) - t * (1 - t) ** k, 1 / (k + 1), 1 - 1e-9, xtol=1e-15))


def mixture_signal(t: np.ndarray, weights: Sequence[float] = WIKITEXT_WEIGHTS, form: str = "linear") -> np.ndarray:
    """Signal(t) of F.4 for orders 2, 3, ...: t any shape, result the same shape.

    linear            sum_i w_i t (1-t)^(i-1), as published
    order             sum_i i w_i t (1-t)^(i-1): with the order factor of P_S that F.4 drops (open point 8)
    inverse_rate      linear times 1/t: what the weight of Eq. 1 leaves (open point 1)
    sum_of_squares    sum_i w_i [t (1-t)^(i-1)]^2: the reading that gives the published 0.48
    square_of_sum     the square of linear: the other reading, with the optimum of linear
    """
    orders = range(2, 2 + len(weights))
    terms = [(weight, order, t * (1 - t) ** (order - 1)) for weight, order in zip(weights, orders, strict=True)]
    if form == "linear":
        return np.asarray(sum(weight * term for weight, _, term in terms))
    if form == "order":
        return np.asarray(sum(weight * order * term for weight, order, term in terms))
    if form == "inverse_rate":
        return np.asarray(sum(weight * (1 - t) ** (order - 1) for weight, order, _ in terms))
    if form == "sum_of_squares":
        return np.asarray(sum(weight * term**2 for weight, _, term in terms))
    if form == "square_of_sum":
        return np.asarray(sum(weight * term for weight, _, term in terms) ** 2)
    raise ValueError(f"form {form!r}; allowed: linear, order, inverse_rate, sum_of_squares, square_of_sum")


def mixture_optimum(weights: Sequence[float] = WIKITEXT_WEIGHTS, form: str = "linear") -> float:
    """t* = argmax of `mixture_signal` on [0, 1], to 1e-9; 0 where the signal only falls."""
    result = optimize.minimize_scalar(
        lambda t: -float(mixture_signal(np.asarray(t), weights, form)), bounds=(0, 1), method="bounded", options={"xatol": 1e-12}
    )
    best = float(result.x)
    return 0.0 if float(mixture_signal(np.asarray(0.0), weights, form)) >= -float(result.fun) else best

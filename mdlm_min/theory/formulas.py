"""The paper's formulas, each beside its theorem number, in float64.

This file holds the closed forms. mdlm_min/theory/checks.py holds the checks that do not use them: quadrature, simulation,
and enumeration of all masks and inputs.

Notation. (n,k)-parity has n random bits and a label, the parity of k secret bits.
  t    mask rate: the probability with which each token of a sequence is masked
  n'   n + 1, the tokens of a sequence: the bits and the label
  S'   the k + 1 secret positions: the k secret bits and the label
  P_S  probability of the signal regime: exactly one position of S' is masked
U[low, high] is a window of mask rates: t is uniform on it. low = high is a fixed rate.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize

ORDERS = (2, 3, 4, 5, 6)  # of n-grams
WIKITEXT_WEIGHTS = (0.7427, 0.2063, 0.0401, 0.0084, 0.0024)  # w_2 .. w_6 as published in F.4


def mean_rate(low: float, high: float) -> float:
    """E[t] for t ~ U[low, high]."""
    return (low + high) / 2


def mean_visible(low: float, high: float, k: int) -> float:
    """rho_k = E[(1-t)^k] for t ~ U[low, high] (proof of Theorem 4.2)."""
    if low == high:
        return (1 - low) ** k
    return ((1 - low) ** (k + 1) - (1 - high) ** (k + 1)) / ((k + 1) * (high - low))


def mean_one_masked(low: float, high: float, k: int) -> float:
    """E[t (1-t)^k] for t ~ U[low, high], computed as E[(1-t)^k] - E[(1-t)^(k+1)]."""
    return mean_visible(low, high, k) - mean_visible(low, high, k + 1)


def signal_probability(low: float, high: float, k: int) -> float:
    """P_S = (k+1) E[t (1-t)^k] (Theorem 4.3)."""
    return (k + 1) * mean_one_masked(low, high, k)


def empty_probability(low: float, high: float, length: int) -> float:
    """Probability of an empty mask, which hides none of `length` tokens. Definition 4.1 counts it as noise; it has no loss."""
    return mean_visible(low, high, length)


def signal_probability_nonempty(low: float, high: float, n: int, k: int) -> float:
    """P_S among the masks that hide at least one token (open point 5)."""
    return signal_probability(low, high, k) / (1 - empty_probability(low, high, n + 1))


def _bound(n: int, delta: float, gain: float) -> float:
    return 4 * math.log(4 * n / delta) / gain if gain else math.inf


def sample_bound(low: float, high: float, n: int, k: int, delta: float) -> float:
    """Theorem 4.2: with N = 4 ln(4n/delta) / (E[t] E[(1-t)^k]^2) samples S can be identified with probability 1 - delta.

    Infinite for the fixed rates 0 and 1.
    """
    return _bound(n, delta, mean_rate(low, high) * mean_visible(low, high, k) ** 2)


def mean_visible_when_masked(low: float, high: float, k: int) -> float:
    """E[t (1-t)^k] / E[t]: the probability that the k partners of a secret token are visible, given that it is masked.

    1 for the fixed rate 0. The proof of Theorem 4.2 uses `mean_visible` instead, which is right for a fixed rate only.
    Large rates are over-represented among the masks that hide a token.
    """
    return mean_one_masked(low, high, k) / mean_rate(low, high) if high else 1.0


def corrected_sample_bound(low: float, high: float, n: int, k: int, delta: float) -> float:
    """Theorem 4.2 with `mean_visible_when_masked` in place of rho_k (ours). This is what its proof shows for rates that vary."""
    return _bound(n, delta, mean_rate(low, high) * mean_visible_when_masked(low, high, k) ** 2)


def sample_optimal_high(k: int) -> float:
    """Corollary 4.7: the t_1 of the window U[0, t_1] that minimises `sample_bound`.

    t_1 = 1 - y, where y in (0, 1) is the root of (2k+1) y^(k+1) - (2k+2) y^k + 1. For k = 1 it is 2/3, since E[t] = 1/3.
    """
    if k == 1:
        return 2 / 3
    # y = 1 is a root too. The root in (0, 1) lies left of the polynomial's minimum at y = 2k/(2k+1).
    root = optimize.brentq(lambda y: (2 * k + 1) * y ** (k + 1) - (2 * k + 2) * y**k + 1, 0.0, 2 * k / (2 * k + 1), xtol=1e-15)
    return 1 - float(root)


def corrected_sample_optimal_rate(k: int) -> float:
    """Corollary 4.7 under the corrected bound (ours): the optimum is the fixed rate t = 1/(2k+1), for every k.

    By Cauchy-Schwarz E[t (1-t)^k]^2 / E[t] <= E[t (1-t)^(2k)], with equality for a t that does not vary.
    """
    return 1 / (2 * k + 1)


def signal_optimal_rate(k: int) -> float:
    """Corollary 4.8: the mask rate t_0 = t_1 = 1/(k+1) maximises P_S."""
    return 1 / (k + 1)


def signal_optimal_high(k: int) -> float:
    """Section 4.5: the t_1 that maximises P_S of U[0, t_1].

    With y = 1 - t_1 the derivative vanishes at P_S(U[0, t_1]) = (k+1) t_1 y^k: the mean over the window equals the value at
    its upper end.
    """
    return float(optimize.brentq(lambda t: mean_one_masked(0, t, k) - t * (1 - t) ** k, 1 / (k + 1), 1 - 1e-9, xtol=1e-15))


def mixture_signal(t: np.ndarray, weights: Sequence[float] = WIKITEXT_WEIGHTS, form: str = "linear") -> np.ndarray:
    """Signal(t) of F.4, the weight of the signal at mask rate t, for n-gram orders i = 2, 3, ... with weights w_i.

    t has any shape; the result has the same shape. `form`:
      linear            sum_i w_i t (1-t)^(i-1), as published
      order             sum_i i w_i t (1-t)^(i-1): with the order factor of P_S that F.4 drops (open point 8)
      inverse_rate      linear times 1/t, the weight of Eq. 1 (open point 1)
      sum_of_squares    sum_i w_i [t (1-t)^(i-1)]^2: the reading that gives the published 0.48
      square_of_sum     the square of linear: the other reading; its optimum is that of linear
    Raises ValueError for an unknown form.
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
    raise ValueError(f"form: {form!r} is unknown; allowed: linear, order, inverse_rate, sum_of_squares, square_of_sum")


def mixture_optimum(weights: Sequence[float] = WIKITEXT_WEIGHTS, form: str = "linear") -> float:
    """t*: the mask rate in [0, 1] that maximises `mixture_signal`, to 1e-9. 0 if the signal only falls."""
    result = optimize.minimize_scalar(
        lambda t: -float(mixture_signal(np.asarray(t), weights, form)), bounds=(0, 1), method="bounded", options={"xatol": 1e-12}
    )
    best = float(result.x)
    return 0.0 if float(mixture_signal(np.asarray(0.0), weights, form)) >= -float(result.fun) else best

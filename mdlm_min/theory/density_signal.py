"""Signal masks of parity under information density (arXiv:2603.15803), where the k + 1 secret tokens are the dense ones (ours).

Exactly one secret token is hidden in a signal mask (Definition 4.1): only there is something to be learned. Notation as in
formulas.py; L = n + 1 tokens, of which s = k + 1 are dense. t is uniform on a window.
  soft        a dense token is masked with probability p = min(1, w b), another with q, where s p + (L - s) q = t L
  hard        t L tokens, rounded at random, the dense ones first
  complement  what the mask of the same sequence leaves visible
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Signal:
    """Signal masks of one arm. `probability` is per sample. `loss` is the expected share of a sample's loss that is a secret
    token's in a signal mask: the loss is the mean over masked tokens, so the hidden noise tokens share in it. `hidden` is the
    expected number of the n - k noise bits that a signal mask hides; not a number without signal masks."""

    probability: float
    loss: float
    hidden: float


Counts = Callable[[float], np.ndarray]  # at t: probability of a signal mask that hides 0, 1, ... n - k noise bits


def soft_signal(low: float, high: float, n: int, k: int, weight: float, pairs: bool) -> Signal:
    """Of soft priority with w = `weight`, at least 1 (1 is uniform masking). Of pairs: the mean of mask and complement."""
    length, dense = n + 1, k + 1
    clipped = (length + (weight - 1) * dense) / (weight * length)  # the t from which every dense token is masked

    def at(t: float, complement: bool) -> np.ndarray:
        p = min(1.0, t / clipped)
        q = (t * length - dense * p) / (length - dense)
        if complement:
            p, q = 1 - p, 1 - q
        binomial = stats.binom.pmf(np.arange(length - dense + 1), length - dense, q)
        return np.asarray(dense * p * (1 - p) ** k * binomial)

    return _mean(at, low, high, [clipped], length, pairs)


def hard_signal(low: float, high: float, n: int, k: int, pairs: bool) -> Signal:
    """Of the hard variant. Of pairs: the mean of mask and complement."""
    length, dense = n + 1, k + 1

    def at(t: float, complement: bool) -> np.ndarray:
        found = np.zeros(length - dense + 1)
        fewer = math.floor(t * length)
        for count, probability in ((fewer, 1 - (t * length - fewer)), (fewer + 1, t * length - fewer)):
            secret, noise = min(count, dense), max(count - dense, 0)
            if complement:
                secret, noise = dense - secret, length - dense - noise
            if secret == 1 and probability > 0:
                found[noise] += probability
        return found

    return _mean(at, low, high, [count / length for count in range(length + 1)], length, pairs)


def _mean(
    at: Callable[[float, bool], np.ndarray], low: float, high: float, corners: list[float], degree: int, pairs: bool
) -> Signal:
    """The mean over t, exact: between its corners the integrand is a polynomial of this degree at most (Gauss and Legendre)."""
    edges = [low, *sorted(corner for corner in corners if low < corner < high), high]
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    sides = (False, True) if pairs else (False,)
    counts = np.zeros_like(at(low, False))
    for first, last in itertools.pairwise(edges):
        for node, weight in zip(nodes, weights, strict=True):
            t = (first + last) / 2 + (last - first) / 2 * node
            share = weight / 2 * ((last - first) / (high - low) if high > low else 1)
            counts += share * sum(at(t, side) for side in sides) / len(sides)
    noise = np.arange(len(counts))
    probability = float(counts.sum())
    hidden = float(counts @ noise) / probability if probability else math.nan
    return Signal(probability, float((counts / (1 + noise)).sum()), hidden)

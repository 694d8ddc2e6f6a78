"""Checks of mdlm_min.theory.formulas that do not use its closed forms: quadrature, search, simulation, and exact enumeration.

The enumeration covers all 2^(n+1) masks and all 2^n inputs (or a finite dataset) of a small parity problem, in float64.
Every check returns quantities: a name, the value by the paper's formula, and the same value found in another way.
The notation is that of mdlm_min/theory/formulas.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, optimize, special, stats

from mdlm_min.theory import formulas
from mdlm_min.theory.elimination import secret_by_elimination

WINDOWS = ((0.0, 0.1), (0.0, 0.2), (0.0, 0.246), (0.0, 0.3), (0.0, 0.4), (0.0, 1.0), (1 / 7, 1 / 7))
SMALL = ((4, 2), (5, 3), (6, 3))


@dataclass(frozen=True)
class Quantity:
    """One number found in two ways. `formula` is the paper's, or a consequence of it. `check` does not use it."""

    name: str
    formula: float
    check: float


def _mean_over_window(function: Callable[[float], float], low: float, high: float) -> float:
    if low == high:
        return function(low)
    return float(integrate.quad(function, low, high, epsabs=1e-13, epsrel=1e-13)[0]) / (high - low)


def _window(low: float, high: float) -> str:
    return f"U[{low:g};{high:g}]" if low < high else f"t={low:.4g}"


class Enumeration:
    """Every (input, mask) pair of a parity problem, with exact weights for a window U[low, high] of mask rates.

    `inputs`: [N, n] of -1, +1, a finite dataset; None for all 2^n inputs. With P pairs and M the masked tokens of a pair:
      z            [P, 3n'] sum of the one-hot input embeddings
      size         [P] |M|
      total        [P] sum of the masked values
      signal       [P] bool: the pair is in the signal regime
      target       [P] the masked secret value in the signal regime, else 0
      weight       [P] the pair's probability times 1/(2t), averaged over t
      probability  [P] the pair's probability
    """

    def __init__(self, n: int, k: int, low: float, high: float, inputs: np.ndarray | None = None) -> None:
        bits = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2 - 1 if inputs is None else inputs
        values = np.concatenate([bits, bits[:, :k].prod(axis=1, keepdims=True)], axis=1)  # S = the first k bits
        length = n + 1
        masks = (np.arange(2**length)[:, None] >> np.arange(length) & 1).astype(bool)
        secret = np.concatenate([np.arange(k), [n]])
        # Gauss-Legendre quadrature is exact here: t^(|M|-1) (1-t)^(n'-|M|) is a polynomial for every mask that has a loss.
        nodes, gauss = special.roots_legendre(length)
        rates, gauss = (low + (high - low) * (nodes + 1) / 2, gauss / 2) if low < high else (np.array([low]), np.ones(1))
        sizes = np.arange(length + 1)[:, None]
        mask_probability = ((rates**sizes * (1 - rates) ** (length - sizes)) * gauss).sum(axis=1)
        mask_weight = ((rates ** np.maximum(sizes - 1, 0) * (1 - rates) ** (length - sizes)) * gauss).sum(axis=1) / 2

        hidden = np.repeat(masks[None], len(values), axis=0).reshape(-1, length)
        shown = np.repeat(values, len(masks), axis=0)
        visible = np.where(hidden, 0, shown)
        self.z = np.zeros((len(visible), 3 * length))
        self.z[np.arange(len(visible))[:, None], (visible + 1) * length + np.arange(length)] = 1.0
        self.size = hidden.sum(axis=1)
        self.total = (shown * hidden).sum(axis=1).astype(float)
        self.signal = hidden[:, secret].sum(axis=1) == 1
        self.target = np.where(self.signal, (shown * hidden)[:, secret].sum(axis=1), 0).astype(float)
        self.probability = mask_probability[self.size] / len(values)
        self.weight = mask_weight[self.size] / len(values) * (self.size > 0)

    def loss(self, f: np.ndarray) -> float:
        """Eq. 1 for outputs f [P]: E[1/(2t) sum over M of (f - x_j)^2]."""
        return float((self.weight * (self.size * f**2 - 2 * f * self.total + self.size)).sum())

    def effective_loss(self, f: np.ndarray) -> float:
        """Eq. 3 (Theorem 4.3) for outputs f [P], with f* = target / |M|."""
        return float((self.weight * self.size * (f - self.target / np.maximum(self.size, 1)) ** 2).sum())

    def cross_entropy(self, logit: np.ndarray) -> float:
        """Eq. 5 for log-odds [P]: E[1/(2t) sum over M of BCE(x_j, sigmoid)]."""
        ones = (self.size + self.total) / 2
        return float((self.weight * (ones * np.logaddexp(0, -logit) + (self.size - ones) * np.logaddexp(0, logit))).sum())

    def effective_cross_entropy(self, logit: np.ndarray) -> float:
        """Theorem C.2 for log-odds [P]: E[|M|/(2t) KL(f*_R || f)]."""
        p = (self.target / np.maximum(self.size, 1) + 1) / 2
        kl = -special.entr(p) - special.entr(1 - p) + p * np.logaddexp(0, -logit) + (1 - p) * np.logaddexp(0, logit)
        return float((self.weight * self.size * kl).sum())

    def correlation(self, h: np.ndarray) -> np.ndarray:
        """c(W) of Theorem 4.5 for features h [P, D]: [D]."""
        return np.asarray((self.weight * self.target) @ h)

    def covariance(self, h: np.ndarray) -> np.ndarray:
        """Sigma(W) of Theorem 4.5 for features h [P, D]: [D, D]."""
        return np.asarray((h * (self.weight * self.size)[:, None]).T @ h)

    def energy(self, h: np.ndarray) -> float:
        """E(W) = c' Sigma^+ c (Theorem 4.5)."""
        c = self.correlation(h)
        return float(c @ np.linalg.pinv(self.covariance(h), rcond=1e-12, hermitian=True) @ c)


def _outputs(z: np.ndarray, count: int, random: np.random.Generator, hidden: int = 16) -> list[np.ndarray]:
    """Outputs of `count` random two-layer networks (section 4.1), each [P], of different scales, on inputs z [P, d]."""
    networks = []
    for scale in random.uniform(0.3, 3.0, count):
        h = np.maximum(z @ (random.normal(size=(z.shape[1], hidden)) * scale), 0)
        networks.append(h @ random.normal(size=hidden) / math.sqrt(hidden))
    return networks


def _spread(values: Sequence[float]) -> float:
    return float(np.ptp(np.asarray(values)))


def check_t1(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Theorem 4.2 at (20, 6), delta = .05: the bound by quadrature, and by simulation how often S is identified at that N."""
    n, k, delta = 20, 6, 0.05
    found = []
    for low, high in WINDOWS:
        rho = _mean_over_window(lambda t: (1 - t) ** k, low, high)
        mean = _mean_over_window(lambda t: t, low, high)
        bound = formulas.sample_bound(low, high, n, k, delta)
        found.append(Quantity(f"N of Thm 4.2 {_window(low, high)}", bound, 4 * math.log(4 * n / delta) / (mean * rho**2)))
        corrected = formulas.corrected_sample_bound(low, high, n, k, delta)
        partner = _mean_over_window(lambda t: t * (1 - t) ** k, low, high) / mean
        found.append(Quantity(f"N corrected {_window(low, high)}", corrected, 4 * math.log(4 * n / delta) / (mean * partner**2)))
        for name, samples, middle in (("Thm 4.2", bound, 1 - rho / 2), ("corrected", corrected, 1 - partner / 2)):
            below, ranked = oracle_success(math.ceil(samples), middle, n, k, low, high, trials, random)
            found.append(Quantity(f"P(S identified) at N {name} {_window(low, high)}", 1 - delta, below))
            if name == "Thm 4.2":
                found.append(Quantity(f"P(S ranked first) at N {name} {_window(low, high)}", 1 - delta, ranked))
        rate = elimination_success(math.ceil(bound), n, k, low, high, trials, random)
        found.append(Quantity(f"P(S found by elimination) at N Thm 4.2 {_window(low, high)}", 1 - delta, rate))
    return found


def _masks(count: int, length: int, low: float, high: float, random: np.random.Generator) -> np.ndarray:
    return np.asarray(random.random((count, length)) < random.uniform(low, high, (count, 1)))


def oracle_success(
    samples: int, middle: float, n: int, k: int, low: float, high: float, trials: int, random: np.random.Generator
) -> tuple[float, float]:
    """Shares of trials in which two tests on the same losses identify S.

    The losses are those of an oracle, a predictor that knows S, in units of log 2. Each token has the mean of its loss over
    the masks that hide it. The test in the proof of Theorem 4.2 identifies S if the means of S' lie below `middle` and all others
    above it; the test by rank, if the k + 1 lowest means are those of S'.
    """
    below = ranked = 0
    for _ in range(trials):
        mask = _masks(samples, n + 1, low, high, random)
        hidden_secret = mask[:, : k + 1].sum(axis=1)  # S' comes first: no loss of generality
        loss = np.ones_like(mask, dtype=float)
        loss[:, : k + 1] = (hidden_secret - mask[:, : k + 1].T > 0).T  # 0 where every other secret token is visible
        count = mask.sum(axis=0)
        mean = np.where(count, (loss * mask).sum(axis=0) / np.maximum(count, 1), np.nan)
        below += bool(np.all(mean[: k + 1] < middle) and np.all(mean[k + 1 :] > middle))
        ranked += bool(mean[: k + 1].max() < mean[k + 1 :].min())
    return below / trials, ranked / trials


def elimination_success(samples: int, n: int, k: int, low: float, high: float, trials: int, random: np.random.Generator) -> float:
    """Share of trials in which elimination over GF(2) finds S. It uses only the samples in which no token is masked."""
    wins = 0
    for _ in range(trials):
        bits = random.integers(0, 2, (samples, n))
        label = bits[:, :k].sum(axis=1) % 2
        whole = ~_masks(samples, n + 1, low, high, random).any(axis=1)
        wins += secret_by_elimination(bits[whole], label[whole]) == list(range(k))
    return wins / trials


def check_t2(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Theorem 4.3: L - L_eff is the same for every network over all inputs. Over a finite dataset it is not."""
    return _decomposition(trials, random, "loss", "effective_loss", "T2") + _finite_dataset(trials, random) + _memorisable()


def check_t3(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Theorem C.2, the form of Theorem 4.3 for cross-entropy. Checked as T2."""
    return _decomposition(trials, random, "cross_entropy", "effective_cross_entropy", "T3")


def _decomposition(trials: int, random: np.random.Generator, full: str, effective: str, name: str) -> list[Quantity]:
    found = []
    for n, k in SMALL:
        for low, high in WINDOWS:
            pairs = Enumeration(n, k, low, high)
            outputs = _outputs(pairs.z, trials, random)
            differences = [getattr(pairs, full)(f) - getattr(pairs, effective)(f) for f in outputs]
            found.append(Quantity(f"spread of L - L_eff over networks ({n};{k}) {_window(low, high)}", 0.0, _spread(differences)))
            if name == "T2":
                p_s = float(pairs.probability[pairs.signal].sum())
                found.append(Quantity(f"P_S ({n};{k}) {_window(low, high)}", formulas.signal_probability(low, high, k), p_s))
    return found


def _finite_dataset(trials: int, random: np.random.Generator, n: int = 8, k: int = 3) -> list[Quantity]:
    """Open point 3: the spread of L - L_eff over networks, relative to that of L_eff, on N of the 2^n inputs."""
    found = []
    for samples in (16, 64, 256, 1024):
        ratios = []
        for _ in range(5):
            inputs = random.integers(0, 2, (samples, n)) * 2 - 1
            pairs = Enumeration(n, k, 0.0, 0.2, inputs)
            outputs = _outputs(pairs.z, trials, random)
            residual = np.std([pairs.loss(f) - pairs.effective_loss(f) for f in outputs])
            ratios.append(residual / np.std([pairs.effective_loss(f) for f in outputs]))
        found.append(Quantity(f"residual of Thm 4.3 on N={samples} of (8;3) U[0;0.2]", 0.0, float(np.mean(ratios))))
    return found


def _memorisable(n: int = 8, k: int = 3) -> list[Quantity]:
    """Open point 3: the share of the loss in the noise regime that a lookup table of the training inputs removes."""
    random = np.random.default_rng(0)
    found = []
    for samples in (4, 16, 64, 256):
        inputs = random.permutation(2**n)[:samples, None] >> np.arange(n) & 1
        pairs = Enumeration(n, k, 0.0, 0.4, inputs * 2 - 1)
        noise = ~pairs.signal & (pairs.size > 0)
        _, group = np.unique(pairs.z[noise], axis=0, return_inverse=True)
        weight, size, total = pairs.weight[noise], pairs.size[noise], pairs.total[noise]
        best = np.bincount(group, weight * total) / np.bincount(group, weight * size)  # the best output for each distinct z
        removed = (weight * (2 * best[group] * total - size * best[group] ** 2)).sum()
        total_loss = (weight * total**2 / size).sum()  # without the part that no output shared by a pair's tokens can remove
        found.append(
            Quantity(
                f"share of noise loss that N={samples} of (8;3) lets a table memorise U[0;0.4]", 0.0, float(removed / total_loss)
            )
        )
    return found


def check_t4(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Theorem 4.5 for random W: the least L_eff over the last layer v, by least squares, against const - c' Sigma^+ c."""
    found = []
    for n, k in SMALL:
        pairs = Enumeration(n, k, 0.0, 0.246)
        root = np.sqrt(pairs.weight * pairs.size)
        target = pairs.target / np.maximum(pairs.size, 1)
        worst, example = 0.0, (0.0, 0.0)
        for _ in range(trials):
            h = np.maximum(pairs.z @ random.normal(size=(pairs.z.shape[1], 24)), 0)
            v = np.linalg.lstsq(h * root[:, None], target * root, rcond=None)[0]
            formula = float((pairs.weight * pairs.size * target**2).sum()) - pairs.energy(h)
            check = pairs.effective_loss(h @ v)
            if abs(formula - check) >= worst:
                worst, example = abs(formula - check), (formula, check)
        found.append(Quantity(f"least L_eff over v; worst of {trials} W ({n};{k})", *example))
    return found + _proportionality(random)


def _proportionality(random: np.random.Generator, n: int = 6, k: int = 3) -> list[Quantity]:
    """Open point 4: E(W) / P_S^2 across windows for one W. If E were proportional to P_S^2, the ratio would not change."""
    h = None
    values = []
    for low, high in WINDOWS:
        pairs = Enumeration(n, k, low, high)
        h = np.maximum(pairs.z @ random.normal(size=(pairs.z.shape[1], 24)), 0) if h is None else h
        values.append((low, high, pairs.energy(h) / formulas.signal_probability(low, high, k) ** 2))
    return [
        Quantity(f"E(W)/P_S^2 relative to U[0;0.1] (6;3) {_window(low, high)}", 1.0, value / values[0][2])
        for low, high, value in values
    ]


def check_t5(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Corollary 4.6: the spread of E(W) over W, relative to its mean. Does P_N -> 0 make E constant, or over-parameterisation?

    With and without the noise regime, with fewer and with more features D than distinct inputs.
    """
    pairs = Enumeration(4, 2, 0.0, 0.4)
    found = []
    for pure in (True, False):
        chosen = (pairs.size > 0) & (pairs.signal if pure else True)
        distinct = len(np.unique(pairs.z[chosen], axis=0))
        for label, hidden in (("D = distinct inputs / 8", distinct // 8), ("D = 4 x distinct inputs", 4 * distinct)):
            energies = []
            for _ in range(trials):
                h = np.maximum(pairs.z @ random.normal(size=(pairs.z.shape[1], hidden)), 0)
                h[~chosen] = 0
                energies.append(pairs.energy(h))
            regime = "P_N = 0" if pure else f"P_N = {1 - formulas.signal_probability(0, 0.4, 2):.3f}"
            found.append(
                Quantity(f"relative spread of E(W) {regime}; {label}", 0.0, _spread(energies) / float(np.mean(energies)))
            )
            if hidden > distinct:
                const = float((pairs.weight * pairs.size * (pairs.target / np.maximum(pairs.size, 1)) ** 2)[chosen].sum())
                found.append(Quantity(f"E(W) {regime}; {label}", const, float(np.mean(energies))))
    return found


def check_t6(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Corollary 4.7 against a search over all windows, k = 1 .. 12. For k = 1 the value depends on E[t] alone."""
    found = []
    for k in range(2, 13):
        low, high = _best_window(lambda low, high, k=k: formulas.mean_rate(low, high) * formulas.mean_visible(low, high, k) ** 2)  # type: ignore[misc]
        found.append(Quantity(f"t1 of Cor 4.7 k={k}", formulas.sample_optimal_high(k), high))
        found.append(Quantity(f"t0 of Cor 4.7 k={k}", 0.0, low))
        low, high = _best_window(lambda low, high, k=k: 1 / formulas.corrected_sample_bound(low, high, 20, k, 0.05))  # type: ignore[misc]
        found.append(Quantity(f"corrected optimum; t0 k={k}", formulas.corrected_sample_optimal_rate(k), low))
        found.append(Quantity(f"corrected optimum; t1 k={k}", formulas.corrected_sample_optimal_rate(k), high))
    best = max(formulas.sample_bound(low, 2 / 3 - low, 20, 1, 0.05) for low in (0.0, 0.1, 0.2, 0.33))
    least = min(formulas.sample_bound(low, 2 / 3 - low, 20, 1, 0.05) for low in (0.0, 0.1, 0.2, 0.33))
    found.append(Quantity("N of Thm 4.2 k=1 over windows of mean 1/3: largest and smallest", best, least))
    mean = optimize.minimize_scalar(
        lambda t: formulas.sample_bound(t, t, 20, 1, 0.05), bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-12}
    )
    found.append(Quantity("E[t] of Cor 4.7 k=1", 1 / 3, float(mean.x)))
    return found


def _best_window(value: Callable[[float, float], float]) -> tuple[float, float]:
    """The window in [0, 1] with the largest value, by differential evolution."""
    result = optimize.differential_evolution(
        lambda x: -value(min(x), max(x)), ((0, 1), (0, 1)), seed=0, tol=0, atol=1e-15, maxiter=150, polish=False
    )
    return float(min(result.x)), float(max(result.x))


def check_t7(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Corollary 4.8 against a search over all windows, and the limit 1/e.

    Open point 1: with the 1/t of Eq. 1 the signal's weight in c(W) is (k+1)(1-t)^k / 2, which is largest at t = 0.
    """
    found = []
    for k in range(1, 13):
        low, high = _best_window(lambda low, high, k=k: formulas.signal_probability(low, high, k))  # type: ignore[misc]
        found.append(Quantity(f"t0 of Cor 4.8 k={k}", formulas.signal_optimal_rate(k), low))
        found.append(Quantity(f"t1 of Cor 4.8 k={k}", formulas.signal_optimal_rate(k), high))
    found.append(Quantity("P_S at t=1/7; k=6", formulas.signal_probability(1 / 7, 1 / 7, 6), float(stats.binom.pmf(1, 7, 1 / 7))))
    limit = formulas.signal_probability(1 / (10**6 + 1), 1 / (10**6 + 1), 10**6)
    found.append(Quantity("P_S at its optimum; k=10^6; against 1/e", 1 / math.e, limit))
    for t in (0.01, 1 / 7, 0.3, 0.5):
        pairs = Enumeration(6, 3, t, t)
        gain = float((pairs.weight * pairs.target**2).sum())
        found.append(Quantity(f"gain of c(W) with 1/t: (k+1)(1-t)^k/2 (6;3) t={t:.4g}", 4 * (1 - t) ** 3 / 2, gain))
    return found


def check_t8(trials: int, random: np.random.Generator) -> list[Quantity]:
    """Section 4.5: the best t1 at t0 = 0, and P_S there. Open point 5: P_S among the masks that hide at least one token."""
    found = []
    for k in (2, 4, 5, 6, 8):
        result = optimize.minimize_scalar(
            lambda t, k=k: -(k + 1) * _mean_over_window(lambda s: s * (1 - s) ** k, 0.0, t),
            bounds=(1e-3, 1),
            method="bounded",
            options={"xatol": 1e-12},
        )
        found.append(Quantity(f"best t1 at t0=0 k={k}", formulas.signal_optimal_high(k), float(result.x)))
        found.append(
            Quantity(f"P_S there k={k}", formulas.signal_probability(0, formulas.signal_optimal_high(k), k), -float(result.fun))
        )
    for low, high in WINDOWS:
        mask = _masks(1_000_000, 21, low, high, random)
        signal, some = mask[:, :7].sum(axis=1) == 1, mask.any(axis=1)
        found.append(
            Quantity(
                f"share of empty masks (20;6) {_window(low, high)} simulated",
                formulas.empty_probability(low, high, 21),
                float(1 - some.mean()),
            )
        )
        formula = 1 - formulas.signal_probability_nonempty(low, high, 20, 6)
        found.append(
            Quantity(
                f"noise among the non-empty masks (20;6) {_window(low, high)} simulated", formula, float(1 - signal[some].mean())
            )
        )
        formula = 1 - formulas.signal_probability(low, high, 6) - formulas.empty_probability(low, high, 21)
        found.append(
            Quantity(
                f"non-empty noise among all masks (20;6) {_window(low, high)} simulated", formula, float((some & ~signal).mean())
            )
        )
    return found


def check_t9(trials: int, random: np.random.Generator) -> list[Quantity]:
    """The optimum of F.4 and its variants (open point 8), by formula and on a grid of a million mask rates."""
    grid = np.linspace(0, 1, 1_000_001)
    found = []
    for form in ("linear", "order", "inverse_rate", "sum_of_squares", "square_of_sum"):
        best = float(grid[np.argmax(formulas.mixture_signal(grid, form=form))])
        found.append(Quantity(f"t* {form}", formulas.mixture_optimum(form=form), best))
    return found


CHECKS: dict[str, Callable[[int, np.random.Generator], list[Quantity]]] = {
    "T1": check_t1,
    "T2": check_t2,
    "T3": check_t3,
    "T4": check_t4,
    "T5": check_t5,
    "T6": check_t6,
    "T7": check_t7,
    "T8": check_t8,
    "T9": check_t9,
}

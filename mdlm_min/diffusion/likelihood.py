"""Test loss of a masked diffusion model over t in [0, 1], and its estimators.

The bound on the negative log-likelihood is L = int_0^1 (1/t) E_mask[ sum over masked of -log p ] dt / length. A mask of
exactly l of L tokens has the weight int t^(l-1) (1-t)^(L-l) dt = 1 / (l binom(L, l)), so the integral is a plain mean,
with no t left in it:

    L = (1/L) sum_{l=1}^{L} m(l),    m(l) = mean NLL of a masked token when exactly l tokens are masked

(LLaDA, arXiv:2502.09992, Eq. 6, in nats per token). A forward pass with l masked tokens is one sample of m(l).
LLaDA draws l uniformly. `estimate` does three things more:
  allocation   strata of l, and the passes where the standard error falls most (Neyman: by share times deviation, which a
               third of the passes measures);
  blocks       every stratum visits the blocks in turn;
  regression   what is known of a pass's tokens is taken out of it: l itself, their unigram NLL, and, given passes enough,
               their NLL in a sweep of disjoint masks that covers every token of the split once. The means of all of these
               over the split are exact, so only what they do not explain is left to chance.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]  # tokens [batch, length], mask [batch, length] -> NLL of the masked, row-major


@dataclass(frozen=True)
class Estimate:
    """Test loss in nats per token, its standard error, and the mean of m(l) in each stratum of levels with its error.

    `centres` are the strata's mean levels as mask rates, l / length; `passes` the forward passes of one block each.
    """

    loss: float
    error: float
    centres: list[float]
    levels: list[float]
    level_errors: list[float]
    passes: int


def exact_masks(levels: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Masks [passes, length] with exactly levels[i] tokens masked, every set of that size equally likely."""
    noise = torch.rand(len(levels), length, generator=generator)
    return noise.argsort(dim=1).argsort(dim=1) < levels[:, None]


def pass_means(score: Score, tokens: Tensor, mask: Tensor, batch: int) -> Tensor:
    """Mean NLL of each pass's masked tokens: float64 [passes]. Passes with as many masked tokens share a batch."""
    order = mask.sum(dim=1).argsort(stable=True)
    means = torch.empty(len(tokens), dtype=torch.float64)
    for chosen in order.split(batch):
        means[chosen] = nll_in_place(score, tokens[chosen], mask[chosen]).sum(dim=1) / mask[chosen].sum(dim=1)
    return means


def nll_in_place(score: Score, tokens: Tensor, mask: Tensor) -> Tensor:
    """NLL of the masked tokens where they stand, zero elsewhere: float64 [passes, length]."""
    values = torch.zeros(mask.shape, dtype=torch.float64)
    values[mask] = score(tokens, mask).double().cpu()
    return values


def llada_estimate(score: Score, blocks: Tensor, draws: int, generator: torch.Generator, batch: int = 64) -> float:
    """LLaDA's estimator (its Eq. 6 and `get_log_likelihood`), for comparison: `draws` passes of every block, whose l are spread
    evenly over 1 .. L from a random start."""
    count, length = blocks.shape
    start = torch.randint(length, (count, 1), generator=generator)
    levels = (start + torch.linspace(0, length * (1 - 1 / draws), draws).round().long()) % length + 1
    tokens = blocks.repeat_interleave(draws, dim=0)
    return float(pass_means(score, tokens, exact_masks(levels.flatten(), length, generator), batch).mean())


def estimate(
    score: Score, blocks: Tensor, prior: Tensor, passes: int, generator: torch.Generator, strata: int = 10, batch: int = 64
) -> Estimate:
    """Test loss of `score` on all `blocks` (int64 [count, length]) from `passes` forward passes of one block each.

    prior: [count, length], anything known of every token beforehand (its unigram NLL), whose mean is therefore exact.
    Raises ValueError for fewer than 24 passes a stratum.
    """
    count, length = blocks.shape
    strata = min(strata, length)
    if passes < 24 * strata:
        raise ValueError(f"passes: {passes} is not allowed; at least {24 * strata} for {strata} strata")
    known = (prior.double() - prior.double().mean())[..., None]
    if parts := sweep_parts(passes / count, length):
        swept = sweep(score, blocks, parts, generator, batch)
        known = torch.cat((known, (swept - swept.mean())[..., None]), dim=-1)
    left = passes - parts * count
    edges = [1 + length * index // strata for index in range(strata + 1)]
    ranges = list(itertools.pairwise(edges))
    shares = torch.tensor([(high - low) / length for low, high in ranges], dtype=torch.float64)
    first = left // 3 // strata
    samples = [_sample(score, blocks, known, low, high, first, generator, batch) for low, high in ranges]
    deviations = torch.tensor([math.sqrt(_regress(sample).variance) for sample in samples], dtype=torch.float64)
    missing = (shares * deviations / (shares * deviations).sum() * left - first).clamp(min=0)
    more = (missing / missing.sum() * (left - first * strata)).floor().long().tolist()
    for index, ((low, high), extra) in enumerate(zip(ranges, more, strict=True)):
        if extra:
            samples[index] = torch.cat((samples[index], _sample(score, blocks, known, low, high, extra, generator, batch)))
    fits = [_regress(sample) for sample in samples]
    means = torch.tensor([fit.mean for fit in fits], dtype=torch.float64)
    errors = torch.tensor([fit.error for fit in fits], dtype=torch.float64)
    return Estimate(
        float((shares * means).sum()), float((shares * errors).square().sum().sqrt()),
        [(low + high - 1) / 2 / length for low, high in ranges], means.tolist(), errors.tolist(),
        parts * count + sum(map(len, samples)),
    )  # fmt: skip


def sweep_parts(passes_per_block: float, length: int) -> int:
    """Into how many parts the sweep cuts a block: a power of two, at most an eighth of the passes; 0 for no sweep, below 32."""
    return 0 if passes_per_block < 32 else min(length, 1 << int(math.log2(passes_per_block / 8)))


def sweep(score: Score, blocks: Tensor, parts: int, generator: torch.Generator, batch: int) -> Tensor:
    """NLL of every token once, [count, length] in float64: `parts` passes a block, whose masks are disjoint and cover it."""
    part = torch.rand(blocks.shape, generator=generator).argsort(dim=1) % parts
    found = torch.zeros(blocks.shape, dtype=torch.float64)
    for number in range(parts):
        for rows in torch.arange(len(blocks)).split(batch):
            found[rows] += nll_in_place(score, blocks[rows], part[rows] == number)
    return found


@dataclass(frozen=True)
class _Fit:
    """A stratum's mean, its standard error, and the variance of one pass around the regression."""

    mean: float
    error: float
    variance: float


def _regress(sample: Tensor) -> _Fit:
    """Least squares of the first column on the others, which are centred on their exact means: the mean is the intercept."""
    design = torch.cat((torch.ones(len(sample), 1, dtype=torch.float64), sample[:, 1:]), dim=1)
    used = design.std(dim=0) > 1e-12
    used[0] = True
    design = design[:, used]
    inverse = torch.linalg.pinv(design.T @ design, hermitian=True)
    solution = inverse @ (design.T @ sample[:, :1])
    variance = float((sample[:, :1] - design @ solution).square().sum()) / max(1, len(sample) - design.shape[1])
    return _Fit(float(solution[0]), math.sqrt(variance * float(inverse[0, 0])), variance)


def _sample(
    score: Score, blocks: Tensor, known: Tensor, low: int, high: int, passes: int, generator: torch.Generator, batch: int
) -> Tensor:
    """Passes at levels low .. high - 1: columns mean NLL; level; the means of `known` ([count, length, features], each of
    mean zero) over the masked tokens and over the whole block. All but the first have mean zero."""
    count, length = blocks.shape
    levels, chosen = _even_levels(low, high - 1, passes, generator), _in_turn(count, passes, generator)
    mask = exact_masks(levels, length, generator)
    values = pass_means(score, blocks[chosen], mask, batch)
    of_masked = torch.einsum("plf,pl->pf", known[chosen], mask.double()) / levels[:, None]
    level = levels[:, None] - (low + high - 1) / 2
    return torch.cat((values[:, None], level, of_masked, known[chosen].mean(dim=1)), dim=1)


def _even_levels(low: int, high: int, passes: int, generator: torch.Generator) -> Tensor:
    """`passes` levels from low .. high, each as often as any other give or take one, in random order."""
    places = (torch.arange(passes) + torch.rand((), generator=generator)) * (high - low + 1) / passes
    return low + places.long().clamp(max=high - low)[torch.randperm(passes, generator=generator)]


def _in_turn(count: int, passes: int, generator: torch.Generator) -> Tensor:
    """Indices of blocks, random, but none for the second time before all were there once."""
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-passes // count))]
    return torch.cat(rounds)[:passes]

"""Test loss of a masked diffusion model over t in [0, 1], and its estimators.

NLL is the negative log-likelihood, in nats. t is the mask rate, the probability with which each token of a block is masked.
The bound on the NLL per token is int_0^1 (1/t) E_mask[sum over masked tokens of -log p] dt / L, for blocks of L tokens.
A mask of exactly l of L tokens has the weight int t^(l-1) (1-t)^(L-l) dt = 1 / (l binom(L, l)). So the integral is a plain
mean without t:

    loss = (1/L) sum_{l=1}^{L} m(l),    m(l) = mean NLL of a masked token when exactly l tokens are masked

(LLaDA, arXiv:2502.09992, Eq. 6). One forward pass with l masked tokens is one sample of m(l). LLaDA draws l uniformly.
`estimate` adds three things:
  allocation   l is cut into strata. Passes go where the standard error falls most (Neyman allocation: share of the stratum
               times its deviation). A third of the passes measures the deviations;
  blocks       every stratum visits the blocks in turn;
  regression   known properties of a pass's tokens are regressed out of its NLL: l itself, the unigram NLL of its tokens, and,
               with enough passes, their NLL under disjoint masks that cover every token of the split once. The means of
               these properties over the split are exact. So only what they do not explain is left to chance.
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
    """Test loss in nats per token and its standard error.

    For each stratum of l: `centres`, its mean l as a mask rate, l / length; `levels`, the mean of m(l); `level_errors`, the
    standard error of that mean. `passes`: forward passes used, each of one block.
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
    """Mean NLL of the masked tokens of each pass: float64 [passes]. Passes with similar numbers of them share a batch."""
    order = mask.sum(dim=1).argsort(stable=True)
    means = torch.empty(len(tokens), dtype=torch.float64)
    for chosen in order.split(batch):
        means[chosen] = nll_in_place(score, tokens[chosen], mask[chosen]).sum(dim=1) / mask[chosen].sum(dim=1)
    return means


def nll_in_place(score: Score, tokens: Tensor, mask: Tensor) -> Tensor:
    """NLL of the masked tokens at their positions, zero elsewhere: float64 [passes, length]."""
    values = torch.zeros(mask.shape, dtype=torch.float64)
    values[mask] = score(tokens, mask).double().cpu()
    return values


def llada_estimate(score: Score, blocks: Tensor, draws: int, generator: torch.Generator, batch: int = 64) -> float:
    """LLaDA's estimator (its Eq. 6 and `get_log_likelihood`), for comparison. Nats per token.

    Every block has `draws` passes. Their numbers of masked tokens are spread evenly over 1 .. L, from a random start.
    """
    count, length = blocks.shape
    start = torch.randint(length, (count, 1), generator=generator)
    levels = (start + torch.linspace(0, length * (1 - 1 / draws), draws).round().long()) % length + 1
    tokens = blocks.repeat_interleave(draws, dim=0)
    return float(pass_means(score, tokens, exact_masks(levels.flatten(), length, generator), batch).mean())


def estimate(
    score: Score, blocks: Tensor, prior: Tensor, passes: int, generator: torch.Generator, strata: int = 10, batch: int = 64
) -> Estimate:
    """Test loss of `score` on all `blocks` (int64 [count, length]) from `passes` forward passes of one block each.

    prior: [count, length], a property of every token that is known beforehand, such as its unigram NLL; its mean is exact.
    Raises ValueError for fewer than 24 passes per stratum.
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
    """Number of disjoint masks that cover a block: a power of two, at most an eighth of its passes. 0 (none) below 32 passes."""
    return 0 if passes_per_block < 32 else min(length, 1 << int(math.log2(passes_per_block / 8)))


def sweep(score: Score, blocks: Tensor, parts: int, generator: torch.Generator, batch: int) -> Tensor:
    """NLL of every token once: float64 [count, length]. Each block has `parts` passes whose masks are disjoint and cover it."""
    part = torch.rand(blocks.shape, generator=generator).argsort(dim=1) % parts
    found = torch.zeros(blocks.shape, dtype=torch.float64)
    for number in range(parts):
        for rows in torch.arange(len(blocks)).split(batch):
            found[rows] += nll_in_place(score, blocks[rows], part[rows] == number)
    return found


@dataclass(frozen=True)
class _Fit:
    """Mean of a stratum, its standard error, and the variance of one pass around the regression."""

    mean: float
    error: float
    variance: float


def _regress(sample: Tensor) -> _Fit:
    """Least squares of the first column on the others. These are centred on their exact means, so the intercept is the mean."""
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
    """Passes with low .. high - 1 masked tokens, one row each: [passes, 2 + 2 features].

    Columns: mean NLL; the number of masked tokens; the means of `known` ([count, length, features], each of mean zero) over
    the masked tokens, and over the whole block. All columns but the first have mean zero.
    """
    count, length = blocks.shape
    levels, chosen = _even_levels(low, high - 1, passes, generator), _in_turn(count, passes, generator)
    mask = exact_masks(levels, length, generator)
    values = pass_means(score, blocks[chosen], mask, batch)
    of_masked = torch.einsum("plf,pl->pf", known[chosen], mask.double()) / levels[:, None]
    level = levels[:, None] - (low + high - 1) / 2
    return torch.cat((values[:, None], level, of_masked, known[chosen].mean(dim=1)), dim=1)


def _even_levels(low: int, high: int, passes: int, generator: torch.Generator) -> Tensor:
    """`passes` numbers from low .. high in random order. Each occurs as often as any other, give or take one."""
    places = (torch.arange(passes) + torch.rand((), generator=generator)) * (high - low + 1) / passes
    return low + places.long().clamp(max=high - low)[torch.randperm(passes, generator=generator)]


def _in_turn(count: int, passes: int, generator: torch.Generator) -> Tensor:
    """`passes` random indices of blocks. No block occurs a second time before all have occurred once."""
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-passes // count))]
    return torch.cat(rounds)[:passes]

"""Test loss of a masked diffusion model over t in [0, 1], and its estimators.

NLL is the negative log-likelihood, in nats. t is the mask rate, the probability with which each token of a block is masked.
The bound on the NLL per token is int_0^1 (1/t) E_mask[sum over masked tokens of -log p] dt / L, for blocks of L tokens.
A mask of exactly l of L tokens has the weight int t^(l-1) (1-t)^(L-l) dt = 1 / (l binom(L, l)). So the integral is a plain
mean without t:

    loss = (1/L) sum_{l=1}^{L} m(l),    m(l) = mean NLL of a masked token when exactly l tokens are masked

(LLaDA, arXiv:2502.09992, Eq. 6). One forward pass with l masked tokens is one sample of m(l). LLaDA draws l uniformly, evenly
within each block. `estimate` differs in three things:
  allocation   l is drawn with a probability that falls as 1/sqrt(l). The mean of l tokens has a deviation of about 1/sqrt(l),
               so this is Neyman's allocation, fixed beforehand: a pilot sample would bias the stated error. A pass has the
               weight w that makes up for it;
  blocks       are visited in turn, and each visit has its own cell of the distribution of l, so that a block's passes cover
               it evenly (a Latin hypercube sample of blocks and levels);
  regression   what is known of a pass's tokens is regressed out of its NLL: their NLL in unigrams and in bigrams, the latter
               where the neighbour is visible, and how hard they were in the other passes of their block. The expectation of
               these over masks is exact, and a pass's mask does not depend on the other passes. So only what they do not
               explain is left to chance, and the mean is unbiased but for the noise of 23 coefficients, shared by all passes.
The stated error counts no difference between blocks where all are visited: see `_variance`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import check_generator
from mdlm_min.run.errors import DivergedError, InputError

MaskedNLL = Callable[[Tensor, Tensor], Tensor]  # tokens [batch, length], mask [batch, length] -> NLL of the masked, row-major
LEAST_PAIRS = 20  # of passes of the same block, to tell the blocks' variance from that of the passes


@dataclass(frozen=True)
class Estimate:
    """Test loss in nats per token, its standard error, and the degrees of freedom of that error.

    For each stratum of l: `centres`, its mean l as a mask rate, l / length; `levels`, the mean of m(l); `level_errors`, the
    standard error of that mean. `passes`: forward passes used, each of one block.
    """

    loss: float
    error: float
    freedom: float
    centres: list[float]
    levels: list[float]
    level_errors: list[float]
    passes: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the loss, by Student's t."""
        half = student_t(self.freedom) * self.error
        return self.loss - half, self.loss + half


def student_t(freedom: float) -> float:
    """The .975 quantile of Student's t, by the expansion in 1 / freedom (Abramowitz and Stegun, 26.7.5). Within .5% from 5 on."""
    z, inverse = 1.959963984540054, 1 / freedom
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return sum(term * inverse**power for power, term in enumerate(terms))


def exact_masks(levels: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Masks [passes, length] with exactly levels[i] tokens masked, every set of that size equally likely."""
    noise = torch.rand(len(levels), length, generator=generator)
    return noise.argsort(dim=1).argsort(dim=1) < levels[:, None]


@torch.no_grad()
def nll_in_place(nll_of: MaskedNLL, tokens: Tensor, mask: Tensor) -> Tensor:
    """NLL of the masked tokens at their positions, zero elsewhere: float64 [passes, length], no gradient. Raises InputError for
    scores that are not one NLL for each masked token: a mean would pass as all of them."""
    found, count = nll_of(tokens, mask), (int(mask.sum()),)
    if not isinstance(found, Tensor) or found.shape != count:
        shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"nll_of: {shape} is not allowed; allowed: {count}, the NLL of each masked token in row-major order")
    values = torch.zeros(mask.shape, dtype=torch.float64)
    values[mask] = found.double().cpu()
    return values


def in_batches(nll_of: MaskedNLL, tokens: Tensor, mask: Tensor, batch: int) -> Tensor:
    """`nll_in_place` for any number of passes. Those with similar numbers of masked tokens share a batch."""
    values = torch.empty(mask.shape, dtype=torch.float64)
    for chosen in mask.sum(dim=1).argsort(stable=True).split(batch):
        values[chosen] = nll_in_place(nll_of, tokens[chosen], mask[chosen])
    return values


def llada_estimate(nll_of: MaskedNLL, blocks: Tensor, draws: int, generator: torch.Generator, batch: int = 64) -> float:
    """LLaDA's estimator (its Eq. 6 and `get_log_likelihood`), for comparison. Nats per token.

    Every block has `draws` passes. Their numbers of masked tokens are spread evenly over 1 .. L, from a random start.
    """
    count, length = blocks.shape
    start = torch.randint(length, (count, 1), generator=generator)
    levels = ((start + torch.linspace(0, length * (1 - 1 / draws), draws).round().long()) % length + 1).flatten()
    mask = exact_masks(levels, length, generator)
    return float((in_batches(nll_of, blocks.repeat_interleave(draws, dim=0), mask, batch).sum(dim=1) / levels).mean())


def estimate(
    nll_of: MaskedNLL, blocks: Tensor, prior: Tensor, passes: int, generator: torch.Generator, strata: int = 10, batch: int = 64
) -> Estimate:
    """Test loss of `nll_of` on all `blocks` (int64 [count, length]) from `passes` forward passes of one block each.

    nll_of: called with tokens and mask ([batch, length] each), gives the NLL of each masked token in nats, [masked], row-major.
    prior: [count, length, 1 or 3], what is known of every token beforehand: its NLL given nothing (unigrams), and, if known,
    given the token before it and given the token after it (bigrams; equal to the first where the block has no such neighbour).
    Nothing known is one column of zeros. Raises InputError for other shapes, no blocks and fewer than 24 passes per stratum,
    DivergedError for losses that are not finite.
    """
    if blocks.dim() != 2 or not blocks.numel():
        raise InputError(f"blocks: shape {tuple(blocks.shape)} is not allowed; allowed: (count, length), each at least 1")
    if prior.shape not in ((*blocks.shape, 1), (*blocks.shape, 3)):
        allowed = f"{tuple(blocks.shape)} and 1 or 3 columns"
        raise InputError(f"prior: shape {tuple(prior.shape)} is not allowed; allowed: {allowed}")
    count, length = blocks.shape
    strata = min(strata, length)
    if passes < 24 * strata:
        raise InputError(f"passes: {passes} is not allowed; at least {24 * strata} for {strata} strata")
    check_generator(generator)
    chosen, levels, weight = plan(count, length, passes, generator)
    mask = exact_masks(levels, length, generator)
    nll = in_batches(nll_of, blocks[chosen], mask, batch)
    if not torch.isfinite(nll).all():
        raise DivergedError("the held-out loss is not finite; lower the learning rate. The last good checkpoint is kept")

    edges = torch.tensor([1 + length * index // strata for index in range(strata + 1)])
    stratum = torch.bucketize(levels, edges, right=True) - 1
    centres, shares = (edges[:-1] + edges[1:] - 1).double() / 2, edges.diff().double() / length
    inside = torch.nn.functional.one_hot(stratum, strata).double()
    columns = torch.cat((inside, (levels - centres[stratum])[:, None] / length), dim=1)
    columns = torch.cat((columns, _features(nll, mask, chosen, prior.double(), columns, weight)), dim=1)
    fit = _regress(nll.sum(dim=1) / levels, columns, weight)

    parts = inside * weight[:, None] / (inside * weight[:, None]).sum(dim=0)  # what a pass counts in the mean of its stratum
    variance, freedom = _variance(fit.residual, parts @ shares, chosen, levels / length, count)
    means = fit.solution[:strata]
    return Estimate(
        float(means @ shares), math.sqrt(variance), freedom, (centres / length).tolist(), means.tolist(),
        [math.sqrt(_variance(fit.residual, part, chosen, levels / length, count)[0]) for part in parts.T], passes,
    )  # fmt: skip


def plan(count: int, length: int, passes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Which block each pass is of, how many tokens it masks, and its weight (mean 1): three tensors [passes].

    Every block is visited as often as any other, give or take one. On visit v of V, the place of a block in the distribution
    of l is drawn from [v/V, (v+1)/V), evenly over the blocks. The last, incomplete round draws from all of it.
    """
    density = torch.arange(1, length + 1, dtype=torch.float64).rsqrt()
    density /= density.sum()
    rounds, rest = divmod(passes, count)
    chosen, places = [], []
    for first, number, width in [(visit / rounds, count, 1 / rounds) for visit in range(rounds)] + [(0.0, rest, 1.0)]:
        chosen.append(torch.randperm(count, generator=generator)[:number])
        places.append(
            first + width * (torch.arange(number) + torch.rand(number, generator=generator, dtype=torch.float64)) / number
        )
    level = torch.searchsorted(density.cumsum(dim=0), torch.cat(places), right=True).clamp(max=length - 1)
    return torch.cat(chosen), level + 1, 1 / (length * density[level])


def _features(nll: Tensor, mask: Tensor, chosen: Tensor, prior: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
    """Properties of passes whose expectation over blocks and masks is zero, each also times the mask rate: [passes, features].

    The known properties (`_known`): of the masked tokens less what is expected of a mask of that size; of the block less that of
    all blocks. Hardness: by how much a token's NLL exceeded the one that the known properties let expect, in the other passes
    of the same block that masked it, as a mean that is drawn to zero as if one more pass had found nothing; of the masked
    tokens less that of the block.
    """
    levels = mask.sum(dim=1, keepdim=True).double()
    rate = levels / mask.shape[1] - 0.5
    known, expected, of_block = _known(prior, chosen, mask)
    of_masked = torch.einsum("plk,pl->pk", known, mask.double()) / levels
    found = torch.cat((of_masked - expected, of_block), dim=1)
    found = torch.cat((found, found * rate), dim=1)
    means = nll.sum(dim=1) / levels[:, 0]
    fit = _regress(means, torch.cat((columns, found), dim=1), weight)
    constant, changing = fit.solution[columns.shape[1] :].view(2, -1)[:, : known.shape[2]]
    of_token = torch.einsum("plk,pk->pl", known - of_masked[:, None], constant + rate * changing)
    excess = (nll - (means - fit.error)[:, None] - of_token) * mask
    blocks, row = chosen.unique(return_inverse=True)
    total = torch.zeros(len(blocks), mask.shape[1], dtype=torch.float64).index_add(0, row, excess)
    seen = torch.zeros_like(total).index_add(0, row, mask.double())
    hardness = (total[row] - excess) / (seen[row] - mask.double() + 1)
    contrast = (hardness * mask).sum(dim=1, keepdim=True) / levels - hardness.mean(dim=1, keepdim=True)
    return torch.cat((found, contrast, contrast * rate), dim=1)


def _known(prior: Tensor, chosen: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is known of tokens: their properties [passes, length, k]; the expected mean of each over the masked tokens, for a mask
    of that size [passes, k]; and means over the block less those over all blocks [passes, j].

    The properties are the unigram NLL; what the neighbours would take from it; what those neighbours that are visible take
    from it (k = 3, j = 2). Without the latter columns of the prior only the first (k = j = 1).
    """
    length, own = mask.shape[1], prior[chosen]
    if prior.shape[2] == 1:
        whole = prior.mean(dim=1)
        return own, whole[chosen], (whole - whole.mean(dim=0))[chosen]
    visible = torch.zeros(*mask.shape, 2, dtype=torch.float64)
    visible[:, 1:, 0], visible[:, :-1, 1] = ~mask[:, :-1], ~mask[:, 1:]
    taken = own[..., 1:] - own[..., :1]
    known = torch.stack((own[..., 0], taken.sum(dim=-1), (taken * visible).sum(dim=-1)), dim=-1)
    whole = torch.stack((prior[..., 0].mean(dim=1), (prior[..., 1:] - prior[..., :1]).sum(dim=-1).mean(dim=1)), dim=-1)
    share = (length - mask.sum(dim=1)).double() / max(1, length - 1)  # of the masks with a token that show a neighbour of it
    expected = torch.cat((whole[chosen], whole[chosen, 1:] * share[:, None]), dim=1)
    return known, expected, (whole - whole.mean(dim=0))[chosen]


@dataclass(frozen=True)
class _Fit:
    """Weighted least squares: coefficients; what is left of each row; the same, enlarged by the variance that the fit took."""

    solution: Tensor
    error: Tensor
    residual: Tensor


def _regress(values: Tensor, columns: Tensor, weight: Tensor) -> _Fit:
    """Least squares of `values` [passes] on `columns`, weighted. `residual` is divided by sqrt(1 - leverage)."""
    root = weight.sqrt()[:, None]
    scaled = columns * root
    inverse = torch.linalg.pinv(scaled.T @ scaled, hermitian=True)
    solution = inverse @ (scaled.T @ (values[:, None] * root))[:, 0]
    error = values - columns @ solution
    leverage = ((scaled @ inverse) * scaled).sum(dim=1)
    return _Fit(solution, error, error / (1 - leverage).clamp(min=0.05).sqrt())


def _variance(residual: Tensor, part: Tensor, chosen: Tensor, rate: Tensor, count: int) -> tuple[float, float]:
    """Variance of sum(part * residual), for parts [passes] that sum to one, and its degrees of freedom.

    A residual is the pass's own error plus sqrt(1 - t) times a deviation of its block, of variance D. (On three trained models
    D is then much the same from t = 0 to .8. With all tokens masked a model knows the prior alone, which is regressed out.) Let
    P_b be the sum of part * sqrt(1 - t) in block b. Only sum (P_b - mean)^2 D of the deviations' variance is error, nothing where
    all blocks count alike. D is found from products of two passes of a block that are neighbours in t. The estimate is a sum
    over blocks, whose scatter gives the degrees of freedom (Satterthwaite).
    """
    used = part > 0
    part, chosen, rate, error = part[used], chosen[used], rate[used], (part * residual)[used]
    order = rate.argsort(stable=True)
    order = order[chosen[order].argsort(stable=True)]
    block, error, own = chosen[order].unique_consecutive(return_inverse=True)[1], error[order], (part * (1 - rate).sqrt())[order]
    sums = torch.zeros(int(block[-1]) + 1, dtype=torch.float64)
    terms = sums.index_add(0, block, error.square())
    pairs = block[1:] == block[:-1]
    if pairs.sum() >= LEAST_PAIRS:
        no_error = own.square().sum() - sums.index_add(0, block, own).square().sum() + own.sum().square() / count
        common = sums.index_add(0, block[1:][pairs], (error[1:] * error[:-1])[pairs])
        less = terms - common * no_error / (own[1:] * own[:-1])[pairs].sum().clamp(min=1e-12)
        terms = less if less.sum() > 0 else terms  # else chance has hidden the passes' own error: the larger estimate stands
    variance = float(terms.sum())
    return variance, max(2.0, 2 * variance**2 / max(float((terms - terms.mean()).square().sum()), 1e-300))

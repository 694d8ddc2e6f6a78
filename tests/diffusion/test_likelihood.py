"""The estimator against losses that are known exactly: its mean, its stated error, its 95% interval, and LLaDA's estimator."""

import functools
import itertools
import math
import statistics

import pytest
import torch

from mdlm_min.diffusion.likelihood import (
    _features,
    _regress,
    _variance,
    estimate,
    exact_masks,
    in_batches,
    llada_estimate,
    plan,
    student_t,
)
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.run.errors import InputError


class MadeUpText:
    """A model and a text whose test loss has a closed form. Fully masked, a token's NLL is its unigram NLL. With everything
    visible it is the token's own, partly explained by the unigram, with a deviation of its block. Every masked neighbour adds to
    it. So blocks differ by about (1 - t) D, tokens are skewed, and the NLL of a token depends on the whole mask, as in trained
    models."""

    def __init__(self, count, length=32):
        generator = torch.Generator().manual_seed(0)

        def skewed(*shape):
            return torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)

        self.length, self.tokens = length, torch.arange(count * length).view(count, length)
        self.unigram = 1.8 + 1.2 * skewed(count, length)
        of_block = 0.3 * torch.randn(count, 1, generator=generator, dtype=torch.float64)
        self.own = 0.3 * (self.unigram - 1.5) + skewed(count, length) + of_block
        self.need = 1.2 * skewed(count, length)
        place = torch.arange(length, dtype=torch.float64)
        self.pull = 0.6 * torch.exp(-(place[:, None] - place).abs() / 2).fill_diagonal_(0)
        self.prior = self.unigram[..., None].repeat(1, 1, 3)
        for column, there in ((1, slice(1, None)), (2, slice(None, -1))):
            self.prior[:, there, column] -= 0.3 * self.need[:, there] * (0.5 + torch.rand(count, 1, generator=generator))

    def __call__(self, tokens, mask):
        block = tokens[:, 0] // self.length
        alone = (mask.sum(dim=1, keepdim=True).double() / self.length) ** 2
        lost = self.need[block] * (mask.double() @ self.pull)
        return (alone * self.unigram[block] + (1 - alone) * (self.own[block] + lost))[mask]

    def loss(self):
        """Given a masked token, every other one is masked in (l - 1) / (L - 1) of the masks with l masked."""
        levels = torch.arange(1, self.length + 1).double()
        alone, others = (levels / self.length) ** 2, (levels - 1) / (self.length - 1)
        lost = (self.need * self.pull.sum(dim=0)).mean()
        return float(
            alone.mean() * self.unigram.mean() + (1 - alone).mean() * self.own.mean() + ((1 - alone) * others).mean() * lost
        )


def enumerated(text, level=None):
    """The mean over all levels and all masks, or over those of one level."""
    means = []
    for masked in [level] if level else range(1, text.length + 1):
        masks = torch.zeros(math.comb(text.length, masked), text.length, dtype=torch.bool)
        for row, places in enumerate(itertools.combinations(range(text.length), masked)):
            masks[row, list(places)] = True
        means.append(statistics.fmean(float(text(row.expand(len(masks), -1), masks).mean()) for row in text.tokens))
    return statistics.fmean(means)


CASES = {0.25: 960, 2: 120, 4: 60, 8: 30, 32: 12, 128: 6}  # passes per block: blocks
REPEATS = 400


@functools.cache
def repeated(per_block):
    text = MadeUpText(CASES[per_block])
    passes = int(per_block * CASES[per_block])
    found = [estimate(text, text.tokens, text.prior, passes, torch.Generator().manual_seed(seed)) for seed in range(REPEATS)]
    return text, found


@pytest.mark.slow
@pytest.mark.parametrize("per_block", CASES)
def test_the_interval_covers_the_loss_as_often_as_it_says(per_block):
    text, found = repeated(per_block)
    truth = text.loss()

    def covered(scale):
        return statistics.fmean(abs(result.loss - truth) < scale * (result.interval[1] - result.loss) for result in found)

    assert 0.93 <= covered(1) <= 0.97
    assert covered(0.8) < 0.93  # an error that is wrong by a fifth would be seen
    assert covered(1.25) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("per_block", CASES)
def test_the_mean_of_the_estimates_is_the_loss(per_block):
    text, found = repeated(per_block)
    losses = [result.loss for result in found]
    assert abs(statistics.fmean(losses) - text.loss()) < 3.5 * statistics.stdev(losses) / math.sqrt(REPEATS)


@pytest.mark.slow
@pytest.mark.parametrize(("per_block", "least"), [(2, 2.5), (4, 2.5), (8, 3), (32, 4), (128, 4)])
def test_lladas_estimator_is_unbiased_too_and_needs_more_passes(per_block, least):
    text, found = repeated(per_block)
    theirs = [llada_estimate(text, text.tokens, per_block, torch.Generator().manual_seed(seed)) for seed in range(REPEATS // 2)]
    assert abs(statistics.fmean(theirs) - text.loss()) < 3.5 * statistics.stdev(theirs) / math.sqrt(len(theirs))
    assert statistics.variance(theirs) / statistics.variance([result.loss for result in found]) > least


@pytest.mark.slow
@pytest.mark.parametrize("per_block", CASES)
def test_the_errors_of_the_tenths_are_not_too_small(per_block):
    _, found = repeated(per_block)
    levels, errors = (torch.tensor([getattr(result, name) for result in found]) for name in ("levels", "level_errors"))
    ratio = errors.square().mean(dim=0).sqrt() / levels.std(dim=0)
    assert (ratio > 0.9).all(), ratio
    assert ratio.mean() < 1.5, ratio


def test_the_loss_in_closed_form_is_that_over_all_masks():
    text = MadeUpText(3, length=6)
    assert enumerated(text) == pytest.approx(text.loss())


def test_the_estimate_agrees_with_brute_force_over_t_and_masks():
    """Eq. of section 5: t uniform, every token masked with probability t, sum over the masked / (t L)."""
    text = MadeUpText(40, length=6)
    generator = torch.Generator().manual_seed(1)
    chosen = text.tokens[torch.randint(40, (40_000,), generator=generator)]
    rate = torch.rand(40_000, generator=generator) * 0.999 + 0.001
    mask = bernoulli(rate, 6, generator)
    values = torch.zeros(mask.shape, dtype=torch.float64)
    values[mask] = text(chosen, mask)
    losses = values.sum(dim=1) / rate / 6
    found = estimate(text, text.tokens, text.prior, 1200, torch.Generator().manual_seed(2))
    assert abs(found.loss - float(losses.mean())) < 4 * math.hypot(float(losses.std()) / 200, found.error)


def test_the_levels_are_the_curve_over_t():
    text = MadeUpText(40, length=6)
    found = estimate(text, text.tokens, text.prior, 1200, torch.Generator().manual_seed(2))
    assert found.centres == pytest.approx([level / 6 for level in range(1, 7)])
    assert sum(found.levels) / 6 == pytest.approx(found.loss)
    for level, (mean, error) in enumerate(zip(found.levels, found.level_errors, strict=True), start=1):
        assert abs(mean - enumerated(text, level)) < 3.5 * error
        assert error < 0.1


def test_strata_of_unequal_width_count_by_their_width():
    text = MadeUpText(60, length=7)
    unigrams = text.prior[..., :1]
    found = estimate(text, text.tokens, unigrams, 2400, torch.Generator().manual_seed(0), strata=2)
    assert found.centres == pytest.approx([2 / 7, 5.5 / 7])
    assert found.loss == pytest.approx((3 * found.levels[0] + 4 * found.levels[1]) / 7)
    assert abs(found.loss - text.loss()) < 4 * found.error


def test_the_error_is_that_of_the_strata_together():
    text = MadeUpText(300, length=7)
    found = estimate(text, text.tokens, text.prior, 240, torch.Generator().manual_seed(0), strata=2)  # no block has two passes
    assert found.error == pytest.approx(math.hypot(3 * found.level_errors[0], 4 * found.level_errors[1]) / 7)
    half = student_t(found.freedom) * found.error
    assert found.interval == pytest.approx((found.loss - half, found.loss + half))


def test_as_many_passes_are_spent_as_allowed():
    text, spent = MadeUpText(8, length=16), []

    def counting(chosen, mask):
        spent.append(len(chosen))
        return text(chosen, mask)

    found = estimate(counting, text.tokens, text.prior, 601, torch.Generator().manual_seed(0))
    assert sum(spent) == found.passes == 601
    assert max(spent) == 64
    with pytest.raises(InputError, match="passes: 239 is not allowed; at least 240 for 10 strata"):
        estimate(text, text.tokens, text.prior, 239, torch.Generator())
    assert estimate(text, text.tokens, text.prior, 240, torch.Generator()).passes == 240


def test_what_is_exact_has_no_error():
    """A model of unigrams: all is regressed out, at few passes and at many."""
    text = MadeUpText(20, length=16)

    def unigrams(tokens, mask):
        return text.unigram[tokens[:, 0] // 16][mask]

    for passes in (240, 1000):
        found = estimate(unigrams, text.tokens, text.prior, passes, torch.Generator().manual_seed(0))
        assert found.loss == pytest.approx(float(text.unigram.mean()))
        assert found.error < 1e-6


def test_blocks_come_in_turn_and_each_covers_the_levels():
    chosen, levels, weight = plan(5, 64, 5 * 8 + 3, torch.Generator().manual_seed(0))
    assert sorted(chosen.bincount().tolist()) == [8, 8, 9, 9, 9]
    assert len(chosen[40:].unique()) == 3
    density = torch.arange(1, 65).double().rsqrt() / torch.arange(1, 65).double().rsqrt().sum()
    assert torch.allclose(weight, 1 / (64 * density[levels - 1]))
    edges = torch.cat((torch.zeros(1), density.cumsum(dim=0).float()))
    for block in range(5):
        own = levels[:40][chosen[:40] == block]
        assert (edges[own] >= torch.arange(8) / 8 - 1e-6).all()
        assert (edges[own - 1] <= torch.arange(1, 9) / 8 + 1e-6).all()
    assert len({tuple(chosen[visit * 5 : visit * 5 + 5].tolist()) for visit in range(8)}) > 1
    alone = torch.stack([plan(1, 1000, 4, torch.Generator().manual_seed(seed))[1] for seed in range(40)])
    assert (alone.max(dim=0).values > 1.5 * alone.min(dim=0).values).all()  # places are drawn within their cells
    _, many, weight = plan(10**6, 64, 40_000, torch.Generator().manual_seed(0))
    assert (many.bincount(minlength=65)[1:] - 40_000 * density).abs().max() <= 2  # evenly: chance adds or takes one at each edge
    assert float(weight.mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("count", [60, 6000], ids=["all blocks are visited", "few blocks are visited"])
def test_the_deviations_of_blocks_are_error_only_where_blocks_are_a_sample(count):
    generator = torch.Generator().manual_seed(0)
    variances = []
    for _ in range(100):
        rate = torch.rand(60, 4, generator=generator, dtype=torch.float64)
        deviation = torch.randn(60, 1, generator=generator, dtype=torch.float64)
        own = 0.5 * torch.randn(60, 4, generator=generator, dtype=torch.float64)
        residual = (1 - rate).sqrt() * deviation + own
        chosen = torch.arange(60)[:, None].expand(60, 4)
        shuffled = torch.randperm(240, generator=generator)
        arguments = (residual.flatten(), torch.full((240,), 1 / 240).double(), chosen.flatten(), rate.flatten())
        variances.append(_variance(*(values[shuffled] for values in arguments), count)[0])
    blocks = (1 - 60 / count) * (2 / 3) ** 2 / 60 + (1 / 2 - (2 / 3) ** 2) / 240  # E[sqrt(1 - t)] = 2/3; what t's scatter leaves
    assert statistics.fmean(variances) == pytest.approx(0.25 / 240 + blocks, rel=0.08)


def test_the_variance_does_not_hang_on_the_order_of_the_passes():
    generator = torch.Generator().manual_seed(0)
    arguments = (
        torch.randn(160, generator=generator).double(), torch.full((160,), 1 / 160).double(),
        torch.arange(40).repeat(4), torch.rand(160, generator=generator).double(),
    )  # fmt: skip
    shuffled = torch.randperm(160, generator=generator)
    found = _variance(*(values[shuffled] for values in arguments), 40)
    assert found == pytest.approx(_variance(*arguments, 40))  # of a block's passes, neighbours in t are compared


def test_the_fit_is_weighted():
    values, weight = torch.tensor([1.0, 2.0, 6.0]).double(), torch.tensor([3.0, 2.0, 1.0]).double()
    assert float(_regress(values, torch.ones(3, 1).double(), weight).solution) == pytest.approx(13 / 6)


def test_the_degrees_of_freedom_are_those_of_independent_blocks():
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(4000, generator=generator, dtype=torch.float64)
    variance, freedom = _variance(residual, torch.full((4000,), 1 / 4000).double(), torch.arange(4000), torch.rand(4000), 10**6)
    assert variance == pytest.approx(1 / 4000, rel=0.1)
    assert freedom == pytest.approx(4000, rel=0.15)
    residual = torch.zeros(50).double()
    residual[7] = 1  # the whole variance hangs on one block
    _, freedom = _variance(residual, torch.full((50,), 1 / 50).double(), torch.arange(50), torch.rand(50).double(), 10**6)
    assert freedom == pytest.approx(2 / (1 - 1 / 50))


def test_too_few_pairs_of_passes_say_nothing_of_blocks():
    residual, part = torch.ones(38).double(), torch.full((38,), 1 / 38).double()
    residual[:19] = 0.5
    chosen, rate = torch.arange(19).repeat(2), torch.full((38,), 0.5).double()
    assert _variance(residual, part, chosen, rate, 19)[0] == pytest.approx((0.25 + 1) / 2 / 38)
    residual, part = torch.ones(40).double(), torch.full((40,), 1 / 40).double()
    residual[:20] = 0.5
    chosen, rate = torch.arange(20).repeat(2), torch.full((40,), 0.5).double()
    found = _variance(residual, part, chosen, rate, 20)[0]  # the products of a block's two passes are .5, the squares .25 and 1
    assert found == pytest.approx((0.25 + 1 - 2 * 0.5) / 2 / 40)
    residual[:20] = 1  # nothing but deviations of blocks: rather too large an error than none
    assert _variance(residual, part, chosen, rate, 20)[0] == pytest.approx(1 / 40)


def test_a_residual_is_enlarged_by_what_the_fit_took():
    generator = torch.Generator().manual_seed(0)
    columns, weight = torch.randn(30, 10, generator=generator).double(), torch.rand(30, generator=generator).double() + 0.5
    squares = [
        _regress(torch.randn(30, generator=generator).double() / weight.sqrt(), columns, weight).residual.square() * weight
        for _ in range(400)
    ]
    assert torch.stack(squares).mean(dim=0).tolist() == pytest.approx([1.0] * 30, rel=0.35)
    assert float(torch.stack(squares).mean()) == pytest.approx(1, rel=0.03)


def test_features_have_no_mean_and_know_nothing_of_their_own_pass():
    text = MadeUpText(40, length=16)
    chosen, levels, weight = plan(40, 16, 320, torch.Generator().manual_seed(0))
    mask = exact_masks(levels, 16, torch.Generator().manual_seed(1))
    nll = in_batches(text, text.tokens[chosen], mask, 64)
    columns = torch.stack((torch.ones(320).double(), levels / 16), dim=1)
    found = _features(nll, mask, chosen, text.prior, columns, weight)
    assert found.shape == (320, 12)
    assert (found.mean(dim=0).abs() < 4 * found.std(dim=0) / math.sqrt(320)).all()
    contrasts = [0, 1, 2, 5, 6, 7, 10, 11]
    assert (found[levels == 16][:, contrasts].abs() < 1e-9).all()  # where all tokens are masked, no choice of them is left
    rate = (levels / 16).double()[:, None]
    explained = (0.3 + rate) * text.unigram[chosen] * mask
    assert (_features(explained, mask, chosen, text.prior, columns, weight)[:, 10:].abs() < 1e-9).all()
    # another NLL in one pass changes the hardness of the others of its block; its own only through the shared coefficients
    pass_ = int((levels == 1).nonzero()[0])
    other = nll.clone()
    other[pass_] += 5.0 * mask[pass_]
    change = (_features(other, mask, chosen, text.prior, columns, weight) - found)[:, 10].abs()
    assert change[pass_] < 0.4 * change[chosen == chosen[pass_]].max()


def test_students_t():
    known = {5: 2.5706, 10: 2.2281, 30: 2.0423, 100: 1.9840, 10**9: 1.95996}
    for freedom, quantile in known.items():
        assert student_t(freedom) == pytest.approx(quantile, rel=0.005 if freedom == 5 else 0.0005)


def test_masks_have_exactly_their_level_and_every_set_is_as_likely():
    masks = exact_masks(torch.full((6000,), 2), 4, torch.Generator().manual_seed(0))
    assert (masks.sum(dim=1) == 2).all()
    kinds, counts = masks.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert counts.min() > 800


def test_passes_keep_their_places_in_batches():
    text = MadeUpText(10, length=8)
    mask = exact_masks(torch.arange(10) % 8 + 1, 8, torch.Generator().manual_seed(0))
    found = in_batches(text, text.tokens, mask, 3)
    assert torch.equal(found[mask], text(text.tokens, mask))
    assert (found[~mask] == 0).all()


def test_llada_s_levels_are_evenly_spaced_around_a_random_start():
    """As in its released get_log_likelihood: the levels of a block are L / draws apart, on a circle."""
    starts = set()

    def score(tokens, mask):
        by_block = {}
        for block, level in zip(tokens[:, 0].tolist(), mask.sum(dim=1).tolist(), strict=True):
            by_block.setdefault(block, []).append(level)
        for levels in by_block.values():
            levels.sort()
            gaps = {after - before for before, after in zip(levels, [*levels[1:], levels[0] + 12], strict=True)}
            assert len(levels) == 4
            assert gaps == {3}
            starts.add(levels[0])
        return torch.zeros(int(mask.sum()))

    blocks = torch.arange(30)[:, None].expand(30, 12)
    assert llada_estimate(score, blocks, 4, torch.Generator().manual_seed(0), batch=1000) == 0
    assert starts == {1, 2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"nll_of": lambda tokens, mask: torch.tensor(3.2)},
            r"nll_of: shape \(\) is not allowed; allowed: \(\d+,\), the NLL of",
        ),
        ({"nll_of": lambda tokens, mask: torch.zeros(mask.shape)}, r"nll_of: shape \(\d+, 6\) is not allowed"),
        ({"nll_of": lambda tokens, mask: 3.2}, "nll_of: float is not allowed"),
        ({"blocks": torch.zeros(6, dtype=torch.int64)}, r"blocks: shape \(6,\) is not allowed"),
        ({"blocks": torch.zeros(0, 6, dtype=torch.int64)}, r"blocks: shape \(0, 6\) is not allowed"),
        ({"prior": torch.zeros(8, 6)}, r"prior: shape \(8, 6\) is not allowed; allowed: \(8, 6\) and 1 or 3 columns"),
        ({"prior": torch.zeros(8, 6, 2)}, r"prior: shape \(8, 6, 2\) is not allowed"),
        ({"generator": 0}, "generator: "),
    ],
)
def test_what_would_be_another_number_is_refused(change, message):
    given = {
        "nll_of": lambda tokens, mask: torch.ones(int(mask.sum())),
        "blocks": torch.zeros(8, 6, dtype=torch.int64),
        "prior": torch.zeros(8, 6, 1),
        "generator": torch.Generator(),
    }
    assert estimate(passes=240, **given).loss == pytest.approx(1)
    with pytest.raises(InputError, match=message):
        estimate(passes=240, **given | change)


def test_an_estimate_keeps_no_graph():
    scale = torch.ones((), requires_grad=True)
    kept = []

    def score(tokens, mask):
        kept.append(scale * torch.ones(int(mask.sum())))
        return kept[-1]

    estimate(score, torch.zeros(8, 6, dtype=torch.int64), torch.zeros(8, 6, 1), 240, torch.Generator())
    assert kept and not any(one.requires_grad for one in kept)

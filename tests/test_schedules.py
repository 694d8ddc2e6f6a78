"""The schedules of the field: each registered one is sound, and estimates what it says, by enumeration of all masks of a
small sequence."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.schedules import SCHEDULES, Corpus, describe, make
from baselines.schedules.annealed_window import AnnealedWindow
from baselines.schedules.cart import Cart
from baselines.schedules.frequency_informed import FrequencyInformed, informed_probabilities
from baselines.schedules.least_variance_window import FIRST, LeastVarianceWindow
from baselines.schedules.mirror import MirrorComplementary
from baselines.schedules.p_pots import BINS, EPSILON, UNIFORM, PPots
from baselines.schedules.papl import Papl
from baselines.schedules.puma import Puma
from mdlm_min.data.ngrams import count_ngrams
from mdlm_min.diffusion.mask_schedule import Context, in_place
from mdlm_min.diffusion.schedule_check import validate
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError

LENGTH = 4
MASKS = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
CORPUS = Corpus(np.random.default_rng(0).choice(5, 4000, p=[0.4, 0.3, 0.15, 0.1, 0.05]), 5)
GRID = 2000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table(seed=0):
    """A made-up model: the NLL of every token under every mask, [masks, length]."""
    return 5 * torch.rand(len(MASKS), LENGTH, generator=generator(seed), dtype=torch.float64)


def bernoulli_law(rate):
    """Probability of each mask at each rate, [rates, masks]."""
    count = MASKS.sum(dim=1)
    return rate[:, None] ** count * (1 - rate[:, None]) ** (LENGTH - count)


def exact_law(rate):
    count = (rate[:, None] * LENGTH).round().long()
    ways = torch.tensor([math.comb(LENGTH, level) for level in range(LENGTH + 1)])
    return (MASKS.sum(dim=1) == count).double() / ways[count]


LAWS = {"exact_count": exact_law, "papl": exact_law}


def law_of(name):
    return LAWS.get(name, bernoulli_law)


def rates_on_a_grid(schedule, context, monkeypatch):
    """The mask rates of `sample` when its noise is an even grid: its distribution, enumerated."""

    def rand(*size, generator=None, device=None, dtype=torch.float32):
        return ((torch.arange(size[0], dtype=torch.float64) + 0.5) / size[0]).to(dtype)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        return schedule.sample(context, generator()).double()


def expected_loss(name, schedule, costs, context, monkeypatch):
    """The mean of the loss over all rates and masks."""
    rate = rates_on_a_grid(schedule, context, monkeypatch)
    probability = law_of(name)(rate)
    total = 0.0
    for index, mask in enumerate(MASKS):
        masks = mask.expand(len(rate), LENGTH)
        nll = costs[index].expand(len(rate), LENGTH)[masks]
        seen = Context(**{**vars(context), "nll": nll})
        weight = schedule.weight(rate.float(), masks, seen).double()
        weighted = (weight if weight.dim() == 2 else weight[:, None]) * in_place(nll, masks)
        total += float((probability[:, index] * weighted.sum(dim=1)).mean()) / LENGTH
    return total


def part_of_the_bound(costs, low, high):
    """int_low^high (1/t) E[sum of masked NLL / L] dt by the midpoint rule."""
    t = low + (high - low) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    cost = (costs * MASKS).sum(dim=1) / LENGTH
    return float((bernoulli_law(t) @ cost / t).mean()) * (high - low)


def trained(schedule):
    """A schedule that has seen losses which differ between rates."""
    for step in range(120):
        context = Context(64, 8, step=step, steps=200)
        rate = schedule.sample(context, generator(step))
        mask = schedule.mask(rate, context, generator(1000 + step))
        nll = (1 + 3 * rate)[:, None].expand(64, 8)[mask]
        schedule.observe(rate, mask, Context(64, 8, step=step, steps=200, nll=nll))
    return schedule


UNBIASED = [name for name in SCHEDULES if make(name, CORPUS).estimates(Context(1, 1)) is not None]
REWEIGHTED = sorted(set(SCHEDULES) - set(UNBIASED))


def test_the_registry_says_which_are_reweightings():
    shown = {row["schedule"]: row["estimates"] for row in describe(CORPUS)}
    assert [name for name, estimates in shown.items() if estimates == "reweighting"] == [n for n in SCHEDULES if n in REWEIGHTED]
    assert shown["exact_count"] == "the bound"
    assert shown["signal_rich_window"] == "the bound's part on [0.45,0.55] times 10"
    assert len(UNBIASED) >= 15
    for name in SCHEDULES:
        assert make(name, CORPUS).name == name
    with pytest.raises(InputError, match=r"schedule: 'llada' is unknown; allowed: llada_0\.001, llada_0\.1"):
        make("llada", CORPUS)


def test_every_file_of_the_folder_is_registered_and_names_its_source():
    folder = Path(__file__).parents[1] / "baselines" / "schedules"
    registry = (folder / "__init__.py").read_text()
    for path in folder.glob("[!_]*.py"):
        assert f"from baselines.schedules.{path.stem} import" in registry
        docstring = path.read_text().split('"""')[1]
        assert re.search(r"arXiv:\d{4}\.\d{5}|mdlm window|An entry of our own", docstring), path


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_registered_schedule_is_sound(name):
    validate(make(name, CORPUS))


RATES = {  # of each reweighting at the first step and at the last: the ends of its mask rates, and their mean
    "bell_shaped": ((0.0, 1.0, 0.5), (0.0, 1.0, 0.5)),
    "llada2": ((0.3, 0.8, 0.55), (0.3, 0.8, 0.55)),
    "simple_cross_entropy": ((0.001, 1.0, 0.5005), (0.001, 1.0, 0.5005)),
    "cart": ((0.001, 1.0, 0.5005), (0.001, 1.0, 0.5005)),
    "window_mixture": ((0.001, 1.0, 0.50025), (0.001, 1.0, 0.50025)),
    "middle_to_full": ((0.45, 0.55, 0.5), (0.001, 1.0, 0.5005)),
    "full_to_middle": ((0.001, 1.0, 0.5005), (0.45, 0.55, 0.5)),
    "signal_rich_window": ((0.45, 0.55, 0.5), (0.45, 0.55, 0.5)),
    "frequency_informed": ((0.0, 0.6, 0.1526), (0.0, 1.0, 0.3164)),
}


@pytest.mark.parametrize("name", RATES)
def test_mask_rates_are_those_of_the_source(name):
    """Ends and mean, by sampling. (llada2_pairs, whose second row has 1 - t: below.)"""
    schedule = make(name, CORPUS)
    for step, (low, high, mean) in zip((0, 100), RATES[name], strict=True):
        rate = schedule.sample(Context(20_000, 8, step=step, steps=100), generator(7)).double()
        assert low <= rate.min() <= rate.max() <= high
        assert float(rate.mean()) == pytest.approx(mean, abs=5 * float(rate.std()) / math.sqrt(len(rate)) + 1e-6)
        if name not in ("frequency_informed", "window_mixture"):  # which have two modes
            wanted = 0.1909 if name == "bell_shaped" else (high - low) / math.sqrt(12)
            assert float(rate.std()) == pytest.approx(wanted, rel=0.02)
    if name == "window_mixture":
        assert float(((rate > 0.45) & (rate < 0.55)).double().mean()) == pytest.approx(0.5 + 0.5 * 0.1, abs=0.02)
    if name == "frequency_informed":  # six tenths of the rows around .12
        rate = schedule.sample(Context(20_000, 8, step=100, steps=100), generator(8))
        assert float((rate < 0.3).double().mean()) == pytest.approx(0.6, abs=0.02)


def test_a_pair_of_llada2_is_a_mask_and_its_complement():
    schedule, context = make("llada2_pairs", CORPUS), Context(2000, 40)
    rate = schedule.sample(context, generator())
    mask = schedule.mask(rate, context, generator(1))
    assert torch.equal(mask[::2], ~mask[1::2])
    assert torch.allclose(rate[::2] + rate[1::2], torch.ones(1000))
    assert 0.3 <= float(rate[::2].min()) <= float(rate[::2].max()) <= 0.8
    assert float(mask[::2].double().mean()) == pytest.approx(0.55, abs=0.01)


def test_weights_of_the_reweightings_are_those_of_the_source():
    """By the formulas of the docstrings, written anew. One row of eight tokens, the second, third and seventh masked."""
    mask = torch.tensor([[False, True, True, False, False, False, True, False]])
    rate, context = torch.tensor([0.25]), Context(1, 8, step=50, steps=100, nll=torch.tensor([1.0, 2.0, 0.5]))

    def given(name):
        weight = make(name, CORPUS).weight(rate, mask, context).double()
        return weight.expand(8) if weight.dim() == 1 else weight[0]

    assert given("simple_cross_entropy")[1] == 2.0
    assert given("llada2")[1] == given("llada2_pairs")[1] == pytest.approx(8 / 3)
    assert given("bell_shaped")[1] == given("window_mixture")[1] == given("middle_to_full")[1] == 4.0
    seen = [0, 3, 4, 5, 7]
    shares = {(i, j): 0.1 * 0.9 ** (abs(i - j) - 1) / 2 for i in range(8) for j in range(8) if i != j}
    assert given("cart")[1] == pytest.approx(sum(shares[1, place] for place in seen) / (sum(shares.values()) / 8 / 6))
    planner = math.exp(-2.0) / sum(math.exp(-nll) for nll in (1.0, 2.0, 0.5))
    assert given("papl")[2] == pytest.approx(4 * (1 + planner))

    def density(x, centre, deviation):  # of a normal cut to [0, 1]
        inside = math.erf((1 - centre) / deviation / math.sqrt(2)) + math.erf(centre / deviation / math.sqrt(2))
        return math.exp(-(((x - centre) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi)) / (inside / 2)

    moving = 0.2 + 0.65 * (1 - math.exp(-0.5))
    both = 0.6 * density(0.25, 0.12, 0.02) + 0.4 * density(0.25, moving, 0.08)
    assert given("frequency_informed")[1] == pytest.approx(both**-0.1 / 0.25, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("papl", "puma")])
def test_a_token_counts_one_on_average(name):
    """Gradient clipping sees the scale of a loss: no entry's may differ much from the others'. (PAPL's is 1 + 1 / masked tokens;
    PUMA's masks are its own.)"""
    schedule, total, tokens = make(name, CORPUS), 0.0, 0
    for step in range(40):
        copies = schedule.copies
        drawn = torch.randint(5, (240 // copies, 32), generator=generator(step)).repeat_interleave(copies, dim=0)
        context = Context(240, 32, tokens=drawn, step=step, steps=40)
        rate = schedule.sample(context, generator(100 + step))
        mask = schedule.mask(rate, context, generator(200 + step))
        nll = torch.ones(int(mask.sum()))
        weight = schedule.weight(rate, mask, Context(240, 32, tokens=drawn, step=step, steps=40, nll=nll)).double()
        total += float(((weight if weight.dim() == 2 else weight[:, None]) * mask).sum())
        tokens += mask.numel()
        schedule.observe(rate, mask, Context(240, 32, tokens=drawn, step=step, steps=40, nll=nll))
    assert total / tokens == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", UNBIASED)
def test_the_loss_is_what_it_says_it_estimates(name, seed, monkeypatch):
    schedule, costs = make(name, CORPUS), table(seed)
    if schedule.needs == ("nll",):
        trained(schedule)
    context = Context(GRID, LENGTH, step=121 if name == "least_variance_window" else 31, steps=200)
    part = schedule.estimates(context)
    found = expected_loss(name, schedule, costs, context, monkeypatch)
    assert found == pytest.approx(part.factor * part_of_the_bound(costs, part.low, part.high), rel=1e-3)


def test_exact_counts_give_the_whole_bound_as_a_mean_over_counts(monkeypatch):
    costs, count = table(), MASKS.sum(dim=1)
    level = [(costs * MASKS).sum(dim=1)[count == number].mean() / number for number in range(1, LENGTH + 1)]
    bound = sum(map(float, level)) / LENGTH
    assert part_of_the_bound(costs, 0, 1) == pytest.approx(bound, rel=1e-6)
    found = expected_loss("exact_count", make("exact_count", CORPUS), costs, Context(GRID, LENGTH), monkeypatch)
    assert found == pytest.approx(bound, rel=1e-6)
    assert expected_loss("papl", Papl(alpha=0), costs, Context(GRID, LENGTH), monkeypatch) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("name", ["simple_cross_entropy", "bell_shaped", "llada2", "window_mixture", "cart", "papl"])
def test_a_reweighting_is_another_number(name, monkeypatch):
    assert name in REWEIGHTED
    ratios = []
    for level in (1, 2, LENGTH):  # costs that only masks with so many tokens have
        costs = table() * (MASKS.sum(dim=1) == level)[:, None]
        found = expected_loss(name, make(name, CORPUS), costs, Context(GRID, LENGTH), monkeypatch)
        ratios.append(found / part_of_the_bound(costs, 0, 1))
    assert max(ratios) > 1.05 * min(ratios)


@pytest.mark.parametrize("name", UNBIASED)
def test_masks_follow_the_law_that_the_enumeration_takes(name):
    schedule, rows = make(name, CORPUS), 8000 * make(name, CORPUS).copies
    for rate in (0.25, 0.5):
        drawn = schedule.mask(torch.full((rows,), rate), Context(rows, LENGTH), generator())
        expected = law_of(name)(torch.tensor([rate], dtype=torch.float64))[0] * 8000
        for copy in range(schedule.copies):
            cells = (drawn[copy :: schedule.copies].long() * torch.tensor([8, 4, 2, 1])).sum(dim=1).bincount(minlength=16)
            possible = expected > 0
            assert cells[~possible].sum() == 0
            chi_squared = ((cells - expected)[possible] ** 2 / expected[possible]).sum()
            assert chi_squared < 45  # 15 degrees of freedom: one in 10,000


def test_shared_offset_and_strata_cover_the_range_in_every_batch():
    for name in ("mdlm", "shared_offset"):
        rate = make(name, CORPUS).sample(Context(10, 4), generator()).sort().values
        assert ((rate - torch.arange(10) / 10 > -0.002) & (rate - torch.arange(1, 11) / 10 < 0.002)).all()
    gaps = make("shared_offset", CORPUS).sample(Context(10, 4), generator()).sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((9,), 0.0999))


def test_md4_s_weight_is_the_slope_over_the_rate():
    """Against a numerical derivative of the rate by the time."""
    time = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    for name in ("md4_cosine", "md4_polynomial_2"):
        schedule = make(name, CORPUS)
        rate, above = (0.0001 + 0.9998 * schedule.masked(time + shift) for shift in (0, 1e-6))
        found = schedule.weight(rate, torch.ones(19, 1, dtype=torch.bool), Context(19, 1))
        torch.testing.assert_close(found, (above - rate) / 1e-6 / rate, rtol=1e-4, atol=1e-4)


def test_p_pots_draws_by_the_second_moment_and_gives_it_back():
    schedule = trained(PPots())
    middle = EPSILON + (1 - EPSILON) * (torch.arange(BINS) + 0.5) / BINS
    shares = schedule.shares()
    # The cost of a token is 1 + 3 t, so a row's loss is about that; its square's mean has v on top, most at low t.
    assert shares[-1] > shares[BINS // 2]
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= UNIFORM / BINS
    drawn = schedule.bins(schedule.sample(Context(100_000, 4), generator())).bincount(minlength=BINS) / 100_000
    torch.testing.assert_close(drawn.double(), shares, rtol=0, atol=0.005)
    weight = schedule.weight(middle, torch.ones(BINS, 1, dtype=torch.bool), Context(BINS, 1))
    torch.testing.assert_close(weight * middle * shares * BINS / (1 - EPSILON), torch.ones(BINS, dtype=torch.float64))
    fresh, rate = PPots(), middle.repeat_interleave(200)
    losses = torch.linspace(1, 3, len(rate), dtype=torch.float64)
    fresh.observe(rate, torch.ones(len(rate), 1, dtype=torch.bool), Context(len(rate), 1, nll=losses * rate))
    moments = losses.reshape(BINS, 200).square().mean(dim=1).sqrt()
    torch.testing.assert_close(fresh.shares(), UNIFORM / BINS + (1 - UNIFORM) * moments / moments.sum(), rtol=1e-5, atol=0)
    by_hand = (schedule.squares / schedule.rows).sqrt()
    torch.testing.assert_close(shares, UNIFORM / BINS + (1 - UNIFORM) * by_hand / by_hand.sum())


def test_the_least_variance_window_is_found_and_kept_in_a_checkpoint():
    schedule = LeastVarianceWindow()
    rate = (torch.arange(4000) + 0.5) / 4000
    noisy = torch.where((rate > 0.3) & (rate < 0.8), 0.1, 4.0) * torch.where(torch.arange(4000) % 2 == 0, 1, -1)
    # One masked token of one: a row's loss is its NLL over t.
    nll = (10 + noisy) * rate
    assert schedule.window(FIRST + 1) == (EPSILON, 1.0)
    schedule.observe(rate, torch.ones(4000, 1, dtype=torch.bool), Context(4000, 1, nll=nll))
    assert schedule.window(FIRST + 1) == (0.3, 0.8)
    assert schedule.window(FIRST + 10) == (EPSILON, 1.0)  # a step that looks at the whole range
    restored = LeastVarianceWindow()
    restored.restore(json.loads(json.dumps(schedule.state())))
    assert restored.window(FIRST + 1) == (0.3, 0.8)
    with pytest.raises(ValueError, match="no state of schedule least_variance_window"):
        restored.restore({"rows": []})


@pytest.mark.parametrize("kind", [PPots, LeastVarianceWindow])
def test_a_row_with_nothing_to_mask_is_not_counted(kind):
    """As a sequence whose every token is prompt or padding; its loss per token would be 0 / 0."""
    rate, mask = torch.tensor([0.21, 0.62, 0.9]), torch.tensor([[True, False], [False, False], [True, True]])
    allowed = torch.tensor([[True, True], [False, False], [True, True]])
    nll = torch.tensor([1.0, 2.0, 3.0])
    with_it, without = kind(), kind()
    with_it.observe(rate, mask, Context(3, 2, allowed=allowed, nll=nll))
    kept = torch.tensor([0, 2])
    without.observe(rate[kept], mask[kept], Context(2, 2, nll=nll))
    assert with_it.state() == without.state()


def test_a_window_s_variance_is_also_that_between_its_rates():
    """Within each rate the losses below .5 vary least; but there their mean falls with the rate."""
    schedule = LeastVarianceWindow()
    rate = (torch.arange(4000) + 0.5) / 4000
    noise = torch.where(rate < 0.5, 0.1, 1.0) * torch.where(torch.arange(4000) % 2 == 0, 1, -1)
    nll = (10 + 200 * (0.5 - rate).clamp(min=0) + noise) * rate
    schedule.observe(rate, torch.ones(4000, 1, dtype=torch.bool), Context(4000, 1, nll=nll))
    assert schedule.window(FIRST + 1) == (0.5, 1.0)


def test_mirror_s_complementary_masks_partition_the_sequence_at_one_half_and_never_overlap_below():
    schedule = MirrorComplementary()
    for rate, overlap in ((0.5, False), (0.3, False), (0.7, True)):
        mask = schedule.mask(torch.full((200,), rate), Context(200, 30), generator())
        assert bool((mask[::2] & mask[1::2]).any()) == overlap
        assert bool((mask[::2] | mask[1::2]).all()) == (rate >= 0.5)


def test_puma_shows_the_most_confident_tokens_and_takes_a_new_sequence_at_the_end():
    length, phases = 12, 3
    schedule, before, first_tokens = Puma(phases), None, None
    for step in range(2 * phases):
        tokens = torch.full((phases, length), step)
        context = schedule.admit(Context(phases, length, tokens, step=step, steps=2 * phases))
        rate = schedule.sample(context, generator(step))
        mask = schedule.mask(rate, context, generator())
        first_tokens = context.tokens if step == 0 else first_tokens
        torch.testing.assert_close(rate, mask.sum(dim=1) / length)
        assert (mask.sum(dim=1) >= 1).all()
        for row in range(phases):
            phase = (row + step) % phases
            assert phase / phases - 0.1 <= 1 - rate[row] <= (phase + 1) / phases + 0.1
            if phase == 0:  # a new sequence: that of this step
                assert (context.tokens[row] == step).all()
            elif step:  # the same sequence; what it shows now is what the model was most confident of
                assert (context.tokens[row] == before[2][row]).all()
                shown = before[0][row] & ~mask[row]
                assert not (mask[row] & ~before[0][row]).any()
                if shown.any():
                    assert before[1][row][shown].min() >= before[1][row][mask[row]].max()
        confidence = torch.rand(int(mask.sum()), generator=generator(50 + step))
        schedule.observe(rate, mask, Context(phases, length, context.tokens, nll=confidence, confidence=confidence))
        before = (mask, in_place(confidence, mask), context.tokens)
        restored = Puma(phases)
        restored.restore(json.loads(json.dumps(schedule.state())))
        schedule = restored
    with pytest.raises(InputError, match="schedule puma: admit comes before sample"):
        Puma().sample(Context(2, 4), generator())


def test_puma_s_sequences_stay_new_until_a_step_is_taken():
    schedule, context = Puma(3), Context(6, 10, torch.zeros(6, 10, dtype=torch.int64))
    for _ in range(2):  # the first of these steps is refused: nothing is observed
        schedule.admit(context)
        rate = schedule.sample(context, generator())
        assert schedule.pool["new"].all()
    mask = schedule.mask(rate, context, generator())
    schedule.observe(rate, mask, Context(6, 10, context.tokens, confidence=torch.rand(int(mask.sum()), generator=generator())))
    schedule.admit(context)
    assert schedule.pool["new"].tolist() == [False, False, True] * 2  # every third row began with its last phase


def test_puma_first_shows_random_tokens_and_a_random_share_of_them():
    schedule, context = Puma(2), Context(400, 10, torch.zeros(400, 10, dtype=torch.int64))
    schedule.admit(context)
    rate = schedule.sample(context, generator())
    shown = (~schedule.mask(rate, context, generator())).double().mean(dim=0)
    assert shown.max() < 1.3 * shown.min()
    assert len(rate.unique()) > 5


def test_papl_adds_the_softmax_of_the_confidence_in_the_truth():
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    nll = torch.tensor([0.5, 2.0, 1.0, 0.3])
    weight = Papl(alpha=2.0, tau=0.5).weight(torch.tensor([0.75, 0.25]), mask, Context(2, 4, nll=nll))
    exponents = [math.exp(-value / 0.5) for value in (0.5, 2.0, 1.0)]
    expected = [(1 + 2 * value / sum(exponents)) / 0.75 for value in exponents]
    assert weight[mask].tolist() == pytest.approx([*expected, 3 / 0.25])


def test_cart_is_a_plain_sum_over_visible_tokens_in_units_of_its_mean():
    mask = torch.tensor([[True, False, True, True, False]])
    padding_mask = torch.tensor([[True, True, True, True, False]])
    p = 0.3
    mean = sum(0.5 * p * (1 - p) ** (abs(i - j) - 1) for i in range(5) for j in range(5) if i != j) / 5 / 6
    for real in (None, padding_mask):
        weight = Cart(p).weight(torch.tensor([0.6]), mask, Context(1, 5, padding_mask=real))
        visible = [1, 4] if real is None else [1]
        for place in (0, 2, 3):
            expected = sum(0.5 * p * (1 - p) ** (abs(place - other) - 1) for other in visible)
            assert weight[0, place].item() == pytest.approx(expected / mean)


def test_frequency_informed_probabilities_mean_t_and_rare_tokens_come_first():
    schedule = FrequencyInformed(np.array([100, 5, 50, 1]))
    assert schedule.rarity.tolist() == [0.25, 0.75, 0.5, 1.0]
    weights = torch.tensor([[0.2, 0.9, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    allowed = torch.tensor([[True, True, True, False], [True, True, False, False]])
    for t in (0.0, 0.1, 0.5, 0.9, 1.0):
        found = informed_probabilities(torch.tensor([t, t]), weights, allowed)
        assert (found.sum(dim=1) / allowed.sum(dim=1)).tolist() == pytest.approx([t, t], abs=1e-7)
        assert found[0, 0] <= found[0, 2] <= found[0, 1]
    tokens = torch.tensor([[0, 1, 2, 3]]).expand(100_000, 4)
    rate = torch.full((100_000,), 0.5)
    for step, tilted in ((0, False), (100, True)):
        share = schedule.mask(rate, Context(100_000, 4, tokens, step=step, steps=100), generator()).double().mean(dim=0)
        assert share[3] - share[0] == pytest.approx(
            0.0138 if tilted else 0, abs=0.006
        )  # (1 - .25^.02) / 2 over the weights' mean


def test_an_annealed_window_moves_in_a_straight_line_and_stops():
    schedule = AnnealedWindow((0.4, 0.6), (0.0, 1.0), "test", over=0.5)
    for step, (low, high) in {0: (0.4, 0.6), 25: (0.2, 0.8), 50: (0, 1), 99: (0, 1)}.items():
        context = Context(5000, 2, step=step, steps=100)
        assert schedule.window(context) == pytest.approx((low, high))
        rate = schedule.sample(context, generator())
        assert (rate.min().item(), rate.max().item()) == pytest.approx((low, high), abs=0.002)


def test_the_predicted_window_is_around_the_formula_s_optimum():
    schedule = make("predicted_window", CORPUS)
    weights = count_ngrams(CORPUS.tokens).weights()
    t = np.linspace(0, 1, 10_001)
    best = t[np.argmax(sum(weight * t * (1 - t) ** (order - 1) for order, weight in enumerate(weights, 2)))]
    part = schedule.estimates(Context(1, 1))
    assert (part.low + part.high) / 2 == pytest.approx(best, abs=0.006)
    assert part.high - part.low == pytest.approx(0.1)


def test_the_contest_s_page_lists_every_schedule_with_its_source():
    page = (ROOT / "experiments/07_contest/README.md").read_text()
    lines = [line.split(" | ") for line in page.partition("| entry | idea |")[2].partition("\n\n")[0].splitlines()[2:]]
    listed = {line[0].removeprefix("| "): line[2].removesuffix(" |") for line in lines}
    assert listed == {name: entry.source for name, entry in SCHEDULES.items()}

"""The probabilities of theory/density_signal.py against all masks of a small problem, and against masks as they are drawn."""

import itertools
import math

import pytest
import torch

from mdlm_min.data.parity import is_signal
from mdlm_min.diffusion.density import InformationDensity
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import Context, ScheduledDiffusion
from mdlm_min.diffusion.masking import density_weights, priority_probabilities
from mdlm_min.theory.density_signal import hard_signal, soft_signal
from mdlm_min.theory.formulas import signal_probability

N, K = 5, 2
SECRET = torch.tensor([0, 3, N])  # two bits and the label
MARKS = torch.zeros(1, N + 1, dtype=torch.bool)
MARKS[:, SECRET] = True
MASKS = torch.tensor(list(itertools.product((False, True), repeat=N + 1)))


def soft(t, weight):
    """The probability of every mask, from the probabilities that training uses."""
    p = priority_probabilities(torch.tensor([t]), density_weights(MARKS, weight))
    return torch.where(MASKS, p, 1 - p).prod(dim=1)


def hard(t):
    """The same, dense tokens first: of the masks with so many tokens, those that leave no dense token for another."""
    found = torch.zeros(len(MASKS), dtype=torch.float64)
    fewer = math.floor(t * (N + 1))
    dense = MASKS[:, SECRET].sum(dim=1)
    for count, probability in ((fewer, fewer + 1 - t * (N + 1)), (fewer + 1, t * (N + 1) - fewer)):
        allowed = (MASKS.sum(dim=1) == count) & (dense == min(count, len(SECRET)))
        if allowed.any():
            found += allowed * probability / allowed.sum()
    return found


def enumerated(probabilities, pairs):
    """Probability, share of the loss, and hidden noise bits of signal masks, over all masks."""
    sides = (MASKS, ~MASKS) if pairs else (MASKS,)
    total = torch.zeros(3, dtype=torch.float64)
    for masks in sides:
        signal, size = is_signal(masks, SECRET), masks.sum(dim=1)
        for place, value in enumerate((signal.double(), signal / size.clamp(min=1).double(), signal * (size - 1))):
            total[place] += (probabilities * value).sum() / len(sides)
    return total[0].item(), total[1].item(), (total[2] / total[0]).item()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("weight", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("t", [0.3, 0.5, 0.62, 0.74, 0.8])  # w = 2 is clipped from .75, w = 5 from .6
def test_soft_masks_at_a_rate_are_those_of_enumeration(t, weight, pairs):
    found = soft_signal(t, t, N, K, weight, pairs)
    expected = enumerated(soft(t, weight), pairs)
    assert (found.probability, found.loss) == pytest.approx(expected[:2], abs=1e-7)  # rates are float32 in training
    assert found.probability < 1e-9 or found.hidden == pytest.approx(expected[2], abs=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("t", [0.2, 0.3, 0.4, 0.55, 0.8])
def test_hard_masks_at_a_rate_are_those_of_enumeration(t, pairs):
    found = hard_signal(t, t, N, K, pairs)
    expected = enumerated(hard(t), pairs)
    assert (found.probability, found.loss) == pytest.approx(expected[:2])
    assert math.isnan(found.hidden) if found.probability == 0 else found.hidden == pytest.approx(expected[2])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("weight", "is_hard"), [(1.0, False), (2.0, False), (5.0, False), (2.0, True)])
def test_a_window_has_the_mean_over_its_rates_clip_included(weight, is_hard, pairs):
    steps = 500
    rates = [0.3 + 0.5 * (step + 0.5) / steps for step in range(steps)]
    found = hard_signal(0.3, 0.8, N, K, pairs) if is_hard else soft_signal(0.3, 0.8, N, K, weight, pairs)
    each = [enumerated(hard(t) if is_hard else soft(t, weight), pairs)[:2] for t in rates]
    assert found.probability == pytest.approx(sum(one for one, _ in each) / len(each), abs=2e-4)
    assert found.loss == pytest.approx(sum(one for _, one in each) / len(each), abs=2e-4)


def test_uniform_masking_is_the_paper_s_formula():
    assert soft_signal(0.3, 0.8, 12, 5, 1, pairs=False).probability == pytest.approx(signal_probability(0.3, 0.8, 5))
    both = (signal_probability(0.3, 0.8, 5) + signal_probability(0.2, 0.7, 5)) / 2
    assert soft_signal(0.3, 0.8, 12, 5, 1, pairs=True).probability == pytest.approx(both)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("weight", "is_hard"), [(1.0, False), (2.0, False), (5.0, False), (2.0, True)])
def test_the_schedule_that_trains_draws_so_many_signal_masks(weight, is_hard, pairs):
    rows, n, k = 60_000, 12, 5
    secret = torch.tensor([1, 2, 5, 8, 11, 12])
    marks = torch.zeros(rows, n + 1, dtype=torch.bool)
    marks[:, secret] = True
    schedule = InformationDensity(MaskRate.parse("U[0.3,0.8]"), weight, is_hard, pairs)
    generator = torch.Generator().manual_seed(0)
    mask, _ = ScheduledDiffusion(schedule).mask(rows, n + 1, generator, Context(rows, n + 1, marks=marks))
    found = hard_signal(0.3, 0.8, n, k, pairs) if is_hard else soft_signal(0.3, 0.8, n, k, weight, pairs)
    share = is_signal(mask, secret).double().mean().item()
    assert share == pytest.approx(found.probability, abs=5 * (found.probability * (1 - found.probability) / rows) ** 0.5 + 1e-12)

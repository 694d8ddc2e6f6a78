import math

import pytest
import torch

from mdlm_min.run.errors import InputError
from mdlm_min.training.optimizer import SpikeGuard, TrainConfig, make_optimizer


def test_both_betas_reach_the_optimizer():
    assert make_optimizer(torch.nn.Linear(1, 1), TrainConfig(beta1=0.8, beta2=0.7)).defaults["betas"] == (0.8, 0.7)


def test_momentum_reaches_the_optimizer():
    assert make_optimizer(torch.nn.Linear(1, 1), TrainConfig(optimizer="sgd", momentum=0.9)).defaults["momentum"] == 0.9


def test_a_loss_that_is_not_finite_is_never_accepted():
    guard = SpikeGuard(2.0)
    assert guard.accepts(1e30)
    assert not guard.accepts(math.inf)
    assert not guard.accepts(math.nan)


def test_a_guard_compares_from_the_thirteenth_step_on():
    guard = SpikeGuard(2.0)
    for _ in range(11):
        guard.record(1.0, True)
    assert guard.accepts(100.0)
    guard.record(1.0, True)
    assert guard.accepts(1.9)
    assert not guard.accepts(2.1)


def test_a_guard_s_mean_forgets_half_in_35_steps():
    guard = SpikeGuard(2.0, mean=1.0, weight=1.0)
    for _ in range(35):
        guard.record(0.0, True)
    assert guard.mean == pytest.approx(0.5, abs=0.02)


def test_skips_that_are_not_in_a_row_are_no_divergence():
    guard = SpikeGuard(2.0)
    for _ in range(30):
        guard.record(9.0, False)
        guard.record(1.0, True)
    assert (guard.in_a_row, guard.skipped) == (0, 30)


def test_a_guard_goes_on_from_its_state():
    guard = SpikeGuard(2.0)
    guard.record(1.0, True)
    guard.record(9.0, False)
    assert SpikeGuard(2.0, **guard.state()) == guard


@pytest.mark.parametrize("spike", [0.5, 1.0])
def test_a_spike_that_would_skip_ordinary_steps_is_refused(spike):
    with pytest.raises(InputError, match=f"train.spike: {spike} is not allowed; above 1, or 0 to take every step"):
        TrainConfig(spike=spike)

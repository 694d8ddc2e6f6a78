"""Broken schedules are refused by name."""

import numpy as np
import pytest
import torch

from mdlm_min.diffusion.mask_schedule import MaskSchedule
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.diffusion.schedule_check import validate
from mdlm_min.run.errors import InputError


class Sound(MaskSchedule):
    name = "mine"

    def sample(self, context, generator):
        return 0.1 + 0.8 * torch.rand(context.rows, generator=generator)


class NegativeWeight(Sound):
    def weight(self, rate, mask, context):
        return 0.5 - rate


class InfiniteWeight(Sound):
    def weight(self, rate, mask, context):
        return 1 / (rate * 0)


class MisshapenWeight(Sound):
    def weight(self, rate, mask, context):
        return 1 / rate[:-1]


class OutsideTheSequence(Sound):
    def mask(self, rate, context, generator):
        return bernoulli(rate, context.length, generator)


class WrongShare(Sound):
    def mask(self, rate, context, generator):
        return super().mask(rate.square(), context, generator)


class RightShareOnAverageOnly(Sound):
    def mask(self, rate, context, generator):
        return super().mask(torch.full_like(rate, 0.5), context, generator)


class TooHigh(Sound):
    def sample(self, context, generator):
        return 1.2 * torch.rand(context.rows, generator=generator)


class NotANumber(Sound):
    def sample(self, context, generator):
        return torch.full((context.rows,), torch.nan)


class Nothing(Sound):
    def sample(self, context, generator):
        return torch.zeros(context.rows)


class OneRate(Sound):
    def sample(self, context, generator):
        return torch.rand(1, generator=generator)


class GlobalNoise(Sound):
    def sample(self, context, generator):
        return torch.rand(context.rows)


class OwnNoise(Sound):
    """A generator that all copies share, not the one that is given."""

    noise = torch.Generator().manual_seed(0)

    def sample(self, context, generator):
        return torch.rand(context.rows, generator=OwnNoise.noise)


class FloatMask(Sound):
    def mask(self, rate, context, generator):
        return super().mask(rate, context, generator).float()


class Forgetful(Sound):
    """Draws that depend on its past, which the state does not hold."""

    steps = 0

    def sample(self, context, generator):
        self.steps += 1
        return super().sample(context, generator) / self.steps


class UnstorableState(Sound):
    def state(self):
        return {"rows": torch.zeros(3)}


class NoisyWeight(Sound):
    def weight(self, rate, mask, context):
        return torch.rand(rate.shape)


class NumpyWeight(Sound):
    def weight(self, rate, mask, context):
        return torch.tensor(np.random.rand(len(rate)))  # of numpy's global generator


class CountingWeight(Sound):
    """Weights that depend on its past, which the state does not hold."""

    steps = 0

    def weight(self, rate, mask, context):
        self.steps += 1
        return self.steps / rate


class NoWeight(Sound):
    def weight(self, rate, mask, context):
        return torch.zeros_like(rate)


class ReflectedInQuarters(Sound):
    """The share is right in the mean of each quarter of the rates, and wrong at almost every one."""

    def sample(self, context, generator):
        return torch.rand(context.rows, generator=generator)

    def mask(self, rate, context, generator):
        return super().mask((rate * 4).floor() / 2 + 0.25 - rate, context, generator)


class WrongOnShortRows(Sound):
    def mask(self, rate, context, generator):
        short = context.sizes() * torch.ones_like(rate) < 6
        return super().mask(torch.where(short, rate / 2, rate), context, generator)


class WritesThroughNumpy(Sound):
    def mask(self, rate, context, generator):
        context.tokens.numpy()[:] = 0
        return super().mask(rate, context, generator)


class WritesLossesThroughNumpy(Sound):
    def weight(self, rate, mask, context):
        context.nll.numpy()[:] = 0
        return super().weight(rate, mask, context)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (NegativeWeight, r"a weight of -0\.\d+; allowed: weights of at least 0, finite"),
        (InfiniteWeight, r"a weight of inf; allowed: weights of at least 0, finite"),
        (MisshapenWeight, r"weights of shape \(95,\); allowed: \(96,\) or \(96, 32\)"),
        (OutsideTheSequence, r"a mask outside the sequence; allowed: tokens of context.allowed"),
        (
            WrongShare,
            r"masks 0\.\d+ of the tokens of rows whose mean rate is 0\.\d+; allowed: masks whose expected share is the rate",
        ),
        (RightShareOnAverageOnly, r"masks 0\.(49|50)\d of the tokens of rows whose mean rate is 0\.\d+"),
        (TooHigh, r"a rate of 1\.\d+; allowed: rates in \[0,1\]"),
        (NotANumber, r"a rate of nan; allowed: rates in \[0,1\]"),
        (Nothing, r"masks nothing, and nothing would be learned; allowed: rates above 0"),
        (OneRate, r"rates of shape \(1,\) and torch.float32; allowed: shape \(96,\)"),
        (GlobalNoise, r"draws from torch's global generator; allowed: the generator that it is given"),
        (OwnNoise, r"other draws or weights from a generator of the same seed"),
        (FloatMask, r"masks of shape \(96, 32\) and torch.float32; allowed: shape \(96, 32\) and torch.bool"),
        (Forgetful, r"its state does not bring the draws back"),
        (UnstorableState, r"its state is not JSON"),
        (NoisyWeight, r"draws from torch's global generator"),
        (NumpyWeight, r"other draws or weights from a generator of the same seed"),
        (CountingWeight, r"its state does not bring the draws back"),
        (NoWeight, r"gives every masked token the weight 0, and nothing would be learned; allowed: weights above 0"),
        (ReflectedInQuarters, r"masks 0\.\d+ of the tokens of rows whose mean rate is 0\.\d+"),
        (WrongOnShortRows, r"masks 0\.\d+ of the tokens of rows whose mean rate is 0\.\d+"),
        (WritesThroughNumpy, r"writes into a tensor that it was given"),
        (WritesLossesThroughNumpy, r"writes into a tensor that it was given"),
    ],
)
def test_a_broken_schedule_is_refused_by_name(schedule, message):
    with pytest.raises(InputError, match=f"schedule mine: {message}"):
        validate(schedule())


def test_what_is_no_schedule_is_refused():
    with pytest.raises(InputError, match="schedule: 'mine' is not allowed; allowed: an object of a class made from MaskSchedule"):
        validate("mine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="schedule: <class .*Sound'> is not allowed"):
        validate(Sound)  # type: ignore[arg-type]


class Rarely(Sound):
    """Masks so few tokens that many groups of rows have none."""

    def sample(self, context, generator):
        return 1e-4 + 1e-4 * torch.rand(context.rows, generator=generator)


def test_a_small_rate_is_no_wrong_share():
    validate(Rarely())


def test_a_sound_one_is_not_and_stays_as_it_was():
    schedule = Sound()
    validate(schedule)
    assert vars(schedule) == {}

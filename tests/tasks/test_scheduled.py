import json

import numpy as np
import pytest
import torch

from baselines.schedules import SCHEDULES, Corpus, make
from mdlm_min.data.text import TextConfig, TextData
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import RateSchedule
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask, ShapeConfig
from mdlm_min.tasks.scheduled import ScheduledTask
from mdlm_min.training.optimizer import TrainConfig

CORPUS = Corpus(np.random.default_rng(0).choice(5, 2000, p=[0.4, 0.3, 0.15, 0.1, 0.05]).astype(np.uint16), 5)
CONFIG = LanguageRunConfig(TextConfig(length=10), ShapeConfig(layers=1, heads=1, width=8), TrainConfig(steps=12), batch=8)


def task(schedule, config=CONFIG):
    data = TextData(dict.fromkeys(("train", "valid", "test"), CORPUS.tokens), CORPUS.vocab_size, "")
    return ScheduledTask(config, 0, schedule, data)


def steps(training, first, last):
    """Losses of plain gradient steps."""
    losses = []
    for step in range(first, last):
        training.model.zero_grad()
        loss = training.loss(step)
        loss.backward()
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter -= 0.1 * parameter.grad
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_and_resumes_bit_identically(name):
    training = task(make(name, CORPUS))
    steps(training, 0, 6)
    state, weights = json.loads(json.dumps(training.state())), training.model.state_dict()
    resumed = task(make(name, CORPUS))
    resumed.model.load_state_dict({key: value.clone() for key, value in weights.items()})
    resumed.restore(state)
    expected = steps(training, 6, 10)
    assert steps(resumed, 6, 10) == expected
    assert all(np.isfinite(expected))


def test_a_rate_schedule_is_the_run_that_it_always_was():
    plain = LanguageTask(CONFIG, 0, task(make("mdlm", CORPUS)).data)
    ours = task(RateSchedule(MaskRate.parse(CONFIG.mask_rate), CONFIG.weight))
    assert ours.loss(3).item() == pytest.approx(plain.loss(3).item(), rel=1e-6)


def test_what_the_schedule_decides_is_not_in_the_configuration():
    with pytest.raises(InputError, match="mask_rate: '0.5' is not allowed with schedule mdlm, which has its own"):
        task(make("mdlm", CORPUS), LanguageRunConfig(TextConfig(length=10), mask_rate="0.5"))
    with pytest.raises(InputError, match="weight: 'mean' is not allowed with schedule mdlm"):
        task(make("mdlm", CORPUS), LanguageRunConfig(TextConfig(length=10), weight="mean"))
    with pytest.raises(InputError, match="batch: 7 is not allowed with schedule llada2_pairs; a multiple of 2"):
        task(make("llada2_pairs", CORPUS), LanguageRunConfig(TextConfig(length=10), batch=7))

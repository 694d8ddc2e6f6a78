import numpy as np
import pytest

from baselines.bigram import STRENGTHS, bigram_loss
from baselines.unigram import unigram_loss
from mdlm_min.data.text import TextData


def small_text():
    rng = np.random.default_rng(0)
    splits = {
        name: rng.choice(5, size, p=[0.4, 0.3, 0.2, 0.1, 0]).astype(np.uint16)
        for name, size in (("train", 400), ("valid", 100), ("test", 90))
    }
    return TextData(splits, 5, "")


def test_the_unigram_loss_is_a_plain_mean():
    data = small_text()
    counts = np.bincount(data.splits["train"], minlength=5) + 1
    expected = -np.log(counts[data.splits["test"]] / counts.sum()).mean()
    assert unigram_loss(data, "test") == pytest.approx(expected, rel=1e-6)


def test_the_bigram_model_is_a_distribution_and_its_loss_a_plain_mean():
    data = small_text()
    train = data.splits["train"].astype(int)
    unigram = np.exp(-data.unigram_nll().numpy().astype(float))
    losses = {}
    for strength in STRENGTHS:
        pairs = np.zeros((5, 5))
        np.add.at(pairs, (train[:-1], train[1:]), 1)
        probability = (pairs + strength * unigram) / (np.bincount(train[:-1], minlength=5)[:, None] + strength)
        assert probability.sum(axis=1) == pytest.approx(np.ones(5), rel=1e-5)
        losses[strength] = [
            -np.log(probability[data.splits[name][:-1], data.splits[name][1:]]).mean() for name in ("valid", "test")
        ]
    best = min(losses.values())
    assert bigram_loss(data, "test") == pytest.approx(best[1], rel=1e-6)


def test_the_bigram_model_finds_an_order_that_the_unigram_model_cannot():
    data = TextData({name: np.tile(np.array([0, 1, 2, 3], dtype=np.uint16), 100) for name in ("train", "valid", "test")}, 4, "")
    assert unigram_loss(data, "test") == pytest.approx(np.log(4), rel=1e-3)
    assert bigram_loss(data, "test") < 0.01

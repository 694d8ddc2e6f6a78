import math

import numpy as np
import pytest
import torch

from mdlm_min.data.surprisal import Surprisal


def test_surprisal_by_hand():
    model = Surprisal(np.array([0, 1, 0, 1, 0, 2], dtype=np.uint16), 4, strength=2.0)
    unigram = [4 / 10, 3 / 10, 2 / 10, 1 / 10]  # counts 3, 2, 1, 0, one added to each
    tokens = torch.tensor([[0, 1, 3], [2, 0, 0]])
    expected = [[-math.log(unigram[token]) for token in row] for row in tokens.tolist()]
    torch.testing.assert_close(model.unigram(tokens), torch.tensor(expected, dtype=torch.float64))
    found = model.bigram(tokens)
    assert found[:, 0].tolist() == pytest.approx([-math.log(0.4), -math.log(0.2)])
    # count(0 1) = 2 of count(0) = 3; count(1 3) = 0 of 2; 2 is followed by nothing; count(0 0) = 0 of 3
    assert math.exp(-found[0, 1]) == pytest.approx((2 + 2 * 0.3) / (3 + 2))
    assert math.exp(-found[0, 2]) == pytest.approx((0 + 2 * 0.1) / (2 + 2))
    assert math.exp(-found[1, 1]) == pytest.approx(0.4)
    assert math.exp(-found[1, 2]) == pytest.approx((0 + 2 * 0.4) / (3 + 2))


def test_the_bigram_model_is_a_distribution():
    model = Surprisal(np.random.default_rng(0).integers(0, 5, 300), 5)
    every = np.arange(5)
    for before in range(5):
        assert np.exp(-model.given_previous(np.full(5, before), every)).sum() == pytest.approx(1)

"""Pair counts, and the NLL of tokens given a neighbour."""

import math

import numpy as np
import pytest
import torch

from mdlm_min.data.bigrams import STRENGTH, PairCounts, token_priors
from mdlm_min.data.text import TextData


def test_pairs_are_counted_in_their_order():
    pairs = PairCounts(np.array([0, 1, 0, 1, 2], dtype=np.uint16), 3)
    first, second = np.array([[0, 1, 1], [2, 2, 0]]), np.array([[1, 0, 2], [0, 2, 0]])
    assert pairs(first, second).tolist() == [[2, 1, 1], [0, 0, 0]]
    assert PairCounts(np.array([1], dtype=np.uint16), 3)(first, second).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_priors_are_given_nothing_the_token_before_and_the_token_after():
    data = TextData({"train": np.array([0, 1, 0, 1, 2, 0, 1], dtype=np.uint16)}, 3, "")
    blocks = torch.tensor([[0, 1, 2], [1, 1, 0]])
    found = token_priors(data, blocks)
    unigram = torch.tensor([3 + 1, 3 + 1, 1 + 1]) / 10  # one is added to each count
    torch.testing.assert_close(found[..., 0], -unigram[blocks].log())
    share = [float(STRENGTH * of) for of in unigram]
    assert float(found[0, 1, 1]) == pytest.approx(-math.log((3 + share[1]) / (3 + STRENGTH)))  # 1 after 0, which is there thrice
    assert float(found[0, 1, 2]) == pytest.approx(-math.log((1 + share[1]) / (1 + STRENGTH)))  # 1 before 2, which is there once
    assert float(found[1, 1, 1]) == pytest.approx(-math.log(share[1] / (3 + STRENGTH)))  # 1 after 1, never seen
    assert torch.equal(found[:, 0, 1], found[:, 0, 0])  # nothing is before the first
    assert torch.equal(found[:, -1, 2], found[:, -1, 0])

import math

import pytest
import torch

from mdlm_min.diffusion.generation_record import Generation, accuracy_under_parallelism


def test_aup_by_hand():
    """Accuracy 80 at one token per pass and 76 at three; 60 at five is more than 5 points below and not counted."""
    weight = 76 * math.exp(-3 * (1 - 76 / 80))
    expected = 1 * 80 + (3 - 1) * (80 + weight) / 2
    assert accuracy_under_parallelism([(5, 60), (1, 80), (3, 76)], 80) == pytest.approx(expected)


def test_without_loss_aup_is_the_plain_area_and_a_better_rival_lowers_it():
    points = [(1.0, 70.0), (4.0, 70.0)]
    assert accuracy_under_parallelism(points, 70) == pytest.approx(4 * 70)
    assert accuracy_under_parallelism(points, 90) == pytest.approx(70 + 3 * 70 * math.exp(-3 * (1 - 70 / 90)))


@pytest.mark.parametrize(
    ("points", "best"), [([], 80), ([(0, 50)], 80), ([(1, 101)], 80), ([(1, float("nan"))], 80), ([(1, 50)], 0)]
)
def test_bad_points_are_refused(points, best):
    with pytest.raises(ValueError, match="points"):
        accuracy_under_parallelism(points, best)


def test_rates_count_answers_alone():
    record = Generation(torch.zeros(2, 500, dtype=torch.int64), passes=[10, 30], answers=[20, 60], seconds=4.0)
    assert (record.tokens_per_pass, record.tokens_per_second) == (2.0, 20.0)
    assert str(record) == "NFE 20, 2.00 tokens per forward, 20.0 tokens/s"
    assert Generation(record.tokens, [0], [0], 0.0).tokens_per_pass == 0

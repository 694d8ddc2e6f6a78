import pytest
import torch

from mdlm_min.diffusion.remasking import confident


@pytest.mark.parametrize(
    ("threshold", "factor", "count"),
    [
        (0.5, 0.0, [2, 0]),  # a confidence that is the threshold reaches it
        (0.51, 0.0, [1, 0]),
        (0.0, 0.5, [1, 0]),  # 3/4 for one, 5/6 for two
        (0.0, 1.5, [2, 1]),  # 1/4 for one, 1/2 for two, 5/8 for three
        (0.0, 0.0, [0, 0]),
    ],
)
def test_those_are_confident_that_reach_the_threshold_or_what_the_factor_asks_of_so_many(threshold, factor, count):
    confidence = torch.tensor([[0.5, 0.9, 0.4], [0.3, 0.4, 1.0]], dtype=torch.float64)
    asked = torch.tensor([[True, True, True], [True, True, False]])
    assert confident(confidence, asked, threshold, factor).tolist() == count

"""03_wikitext_lasting: the trend of the gap that its figure shows."""

import math
from types import SimpleNamespace

import pytest

from mdlm_min.evidence.experiment import Experiment

CLAIMS = Experiment("wikitext_lasting").module("claims")


def table(slopes, early=0.0):
    """Two arms, a seed for each slope: a gap that falls by it per doubling of the steps, .1 at the end; `early` is added before a
    quarter of the run."""
    runs, curves = {}, {}
    for seed, slope in enumerate(slopes):
        for arm, share in (("uniform", 1.0), ("middle", 0.0)):
            name = f"{arm}/seed{seed}"
            runs[name] = {"config": {"arm": arm, "seed": seed}}
            curves[name] = [
                {
                    "step": float(step),
                    "valid_loss": 2.0 + share * (0.1 + slope * math.log2(step / 800) + (early if step < 200 else 0.0)),
                }
                for step in (50, 100, 200, 300, 400, 600, 800)
            ]
    return SimpleNamespace(runs=runs, curves=curves)


@pytest.mark.parametrize("early", [0.0, 0.5])
def test_the_trend_is_that_of_the_last_three_quarters_by_doubling(early):
    slope, end = CLAIMS.trend(table([-0.01, -0.03], early), "uniform", "middle")
    assert slope.values == pytest.approx((-0.01, -0.03))
    assert end == pytest.approx(0.1)
    assert slope.estimate == pytest.approx(-0.02)

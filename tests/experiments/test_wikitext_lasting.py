"""03_wikitext_lasting: the trend of the gap that its figure shows."""

import math
from types import SimpleNamespace

import pandas as pd
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
    line = CLAIMS.trend(table([-0.01, -0.03], early), "uniform", "middle")
    assert line.slopes == pytest.approx((-0.01, -0.03))
    assert line.ends == pytest.approx((0.1, 0.1))
    assert line.closes.estimate == pytest.approx(5)


def test_a_gap_that_grows_never_closes():
    assert CLAIMS.trend(table([0.01, 0.03]), "uniform", "middle").closes is None


def falling(ends):
    """One seed an arm, whose validation loss falls in a straight line from 5 to its end."""
    runs = {arm: {"config": {"arm": arm, "seed": 0}} for arm in ends}
    steps = range(0, 101, 20)
    curves = {
        arm: [{"step": float(step), "valid_loss": 5 - (5 - end) * step / 100} for step in steps] for arm, end in ends.items()
    }
    return SimpleNamespace(runs=runs, curves=curves)


@pytest.mark.parametrize(("uniform", "middle", "ratio"), [(3.0, 1.0, 2.0), (1.0, 3.0, 0.5)])
def test_the_ratio_of_steps_is_the_slower_arm_s_over_the_faster_s(uniform, middle, ratio):
    assert CLAIMS.step_ratios(falling({"uniform": uniform, "middle": middle}), "uniform", "middle") == pytest.approx([ratio])


def test_the_window_s_share_is_what_is_left_of_the_gain_without_the_weight():
    losses = {"uniform": 4.0, "middle": 3.0, "uniform_unweighted": 3.5, "middle_unweighted": 3.25}
    keys = [(arm, seed) for arm in losses for seed in (2, 0, 1)]
    frame = pd.DataFrame([{"arm": arm, "seed": seed, "test_loss": losses[arm] + seed} for arm, seed in keys])
    runs = {f"{arm}{seed}": {"config": {"arm": arm, "seed": seed}} for arm, seed in keys}
    said = CLAIMS.judge_window(SimpleNamespace(frame=lambda: frame, runs=runs))
    assert said.estimate == pytest.approx(0.25)

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.evidence.claim import (
    VERDICTS,
    MissingArmError,
    Verdict,
    above_one,
    arms_of,
    curves_of,
    every_seed,
    in_cell,
    mean_curve,
    mean_interval,
    rows_of,
    share_interval,
    steps_text,
)
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.golden import Table, golden_by_tier
from mdlm_min.evidence.verdicts import judge


def test_mean_interval_covers_the_mean_95_times_of_100():
    random = np.random.default_rng(0)
    covered = [low <= 2.0 <= high for _, low, high in (mean_interval(random.normal(2.0, 3.0, 4)) for _ in range(4000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_one_seed_says_nothing_of_its_spread():
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)


@given(st.integers(1, 60), st.data())
def test_share_interval_holds_the_share(trials, data):
    share, low, high = share_interval(data.draw(st.integers(0, trials)), trials)
    assert 0 <= low <= share <= high <= 1


def test_unknown_verdicts_are_refused():
    with pytest.raises(ValueError, match="confirmed"):
        Verdict("confirmed", "")


def test_claim_ids_are_unique_and_none_of_this_suite_s_is_missing():
    ids = [claim.id for folder in experiment_folders() for claim in Experiment(folder.name).module("claims").CLAIMS]
    assert len(set(ids)) == len(ids)
    assert {*(f"T{i}" for i in range(1, 10)), *(f"P{i}" for i in range(1, 6))} <= set(ids)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([2.0, 2.1, 1.9], "reproduced"),
        ([0.5, 0.6, 0.55], "not reproduced"),
        ([0.5, 2.0, 1.1], "underpowered"),
        ([3.0], "underpowered"),
    ],
)
def test_a_ratio_is_judged_by_its_interval(ratios, verdict):
    found = above_one(ratios, "note")
    assert found.verdict == verdict
    assert found.ours == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert ("smallest ratio" in found.note) == (verdict == "underpowered")


@pytest.mark.parametrize(
    ("found", "verdict"), [([True] * 3, "reproduced"), ([True, False], "not reproduced"), ([True, True, False], "underpowered")]
)
def test_a_claim_about_every_seed(found, verdict):
    assert every_seed(found, "").verdict == verdict


def test_steps_text():
    assert steps_text([250.0, float("inf")]) == "250, never"


@pytest.mark.parametrize("name", [folder.name for folder in experiment_folders()])
def test_every_claim_has_a_verdict_whatever_arms_were_run(name):
    """A table of one arm alone: a verdict or "not run", never a traceback."""
    experiment = Experiment(name)
    for tier, table in golden_by_tier(name).items():
        for arm in {record["config"]["arm"] for record in table.runs.values()}:
            runs = {key: record for key, record in table.runs.items() if record["config"]["arm"] == arm}
            part = Table(name, tier, runs, {key: table.curves[key] for key in runs})
            verdicts = [verdict.verdict for _, verdict in judge(experiment, {tier: part}, only=tier)]
            assert set(verdicts) <= set(VERDICTS)


def _small_table() -> Table:
    runs = {
        f"{cell}/{arm}/seed{seed}": {"cell": cell, "config": {"arm": arm, "seed": seed}}
        for cell in ("x", "y")
        for arm in ("late", "early")
        for seed in (1, 0)
    }
    curves = {
        name: [{"step": float(step), "loss": record["config"]["seed"] + step} for step in (0, 1)] for name, record in runs.items()
    }
    return Table("01_parity", "cpu", runs, curves)


def test_curves_come_in_the_order_of_the_seeds_and_average_over_them():
    part = _small_table().cell("x")
    assert arms_of(part) == ["late", "early"]
    assert [rows[0]["loss"] for rows in curves_of(part, "early")] == [0, 1]
    assert mean_curve(part, "early")["loss"].tolist() == [0.5, 1.5]
    with pytest.raises(MissingArmError, match="never"):
        curves_of(part, "never")
    with pytest.raises(MissingArmError, match="never"):
        rows_of(part, "never")


def test_a_judge_in_a_cell_sees_that_cell_alone():
    seen = in_cell(lambda table: Verdict("reproduced", " ".join(table.runs)), "y")(_small_table())
    assert "y/late/seed0" in seen.note
    assert "x/" not in seen.note

"""The claims of 04_8b_pt that depend on a search."""

import numpy as np
import pytest

from mdlm_min.evidence import golden
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.tasks.plan import GPUS

EXPERIMENT = Experiment("04_8b_pt")
CLAIMS = EXPERIMENT.module("claims")
ARMS = ("uniform_0_1", "middle")


def rates(cell, arm):
    """Learning rates of the runs of an arm in a cell of the cpu tier."""
    runs = EXPERIMENT.runs("cpu")
    return {spec.config["train"]["learning_rate"] for spec in runs if spec.cell == cell and spec.config["arm"] == arm}


def test_both_arms_have_the_same_search_at_every_size_and_its_seed_is_not_judged():
    for size in CLAIMS.SIZES:
        for rate in CLAIMS.RATES:
            for arm in ARMS:
                assert rates(f"{size}-{rate}", arm) == {float(rate)}
    searched = [spec for spec in EXPERIMENT.runs("cpu") if spec.cell.partition("-")[2] in CLAIMS.RATES]
    judged = [spec for spec in EXPERIMENT.runs("cpu") if "own" in spec.cell or spec.cell in CLAIMS.SIZES]
    assert {spec.config["seed"] for spec in searched} == {0}
    assert {spec.config["seed"] for spec in judged} == {3, 4, 5, 6, 7}


def test_what_the_published_hours_need_is_what_the_cost_arm_has_counted():
    """B5-gpu is judged by rounded copies, which a change of the count must not leave behind."""
    (row,) = [
        rows[-1] for rows in golden.accepted("04_8b_pt", "cpu").curves.values() if "pretraining_utilisation_masked" in rows[-1]
    ]
    assert round(row["pretraining_utilisation_masked"], 2) == CLAIMS.NEEDED
    assert GPUS["h100"].operations == CLAIMS.PEAK


def test_an_arm_s_own_rate_is_the_one_of_least_loss_in_the_search():
    table = golden.accepted("04_8b_pt", "cpu")
    cells = {record["cell"] for record in table.runs.values()}
    if missing := {f"{size}-{rate}" for size in CLAIMS.SIZES for rate in CLAIMS.RATES} - cells:
        pytest.skip(f"the golden table lacks {len(missing)} cells of the search")
    for size in CLAIMS.SIZES:
        for arm in ARMS:
            best = CLAIMS.own_rate(table, size, arm)
            assert rates(CLAIMS.OWN[size][arm], arm) == {float(best)}
            losses = [float(CLAIMS.by_seed(table.cell(f"{size}-{rate}"), arm, "test_loss")[0]) for rate in CLAIMS.RATES]
            assert CLAIMS.RATES[int(np.argmin(losses))] == best
            if arm == "uniform_0_1":
                assert best != CLAIMS.RATES[0]  # else the search ends too early

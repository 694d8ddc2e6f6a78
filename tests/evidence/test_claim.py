import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.evidence.claim import Verdict, mean_interval, share_interval
from mdlm_min.evidence.experiment import Experiment, experiment_folders


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

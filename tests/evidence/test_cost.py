"""The hours that would decide a claim: fresh seeds of every arm that its judge needs, as long as its arms' runs took."""

import dataclasses

import pytest

from mdlm_min.evidence import cost
from mdlm_min.evidence.claim import Verdict
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import golden_by_tier

OPEN = Verdict("underpowered", "", 0.6, 0.4, 0.8, 5, 0.1, 0.1, 40)


@pytest.fixture(scope="module")
def parity():
    return golden_by_tier("01_parity")["cpu"]


@pytest.fixture(scope="module")
def claims():
    return {claim.id: claim for claim in Experiment("01_parity").module("claims").CLAIMS}


def taking(table, seconds):
    """The table with runs that took so long, by cell and arm."""
    runs = {
        name: record | {"finished": record["finished"] | {"seconds": seconds(record["cell"], record["config"])}}
        for name, record in table.runs.items()
    }
    return dataclasses.replace(table, runs=runs)


def test_hours_are_those_of_the_claim_s_arms_alone(parity, claims):
    judged = {"01_parity": [(claims["P1-N600"], OPEN), (claims["P2b-N600"], OPEN)]}
    took = {"output": 90.0, "md_0.2": 360.0}
    found = cost.hours(judged, [taking(parity, lambda cell, config: took.get(config["arm"], 9e9))])
    assert found == {"P1-N600": 40 * 90 / 3600, "P2b-N600": 40 * (90 + 360) / 3600}


def test_an_arm_takes_what_most_of_its_runs_took_in_the_claim_s_cell(parity, claims):
    """The median: one run beside other work says nothing. Runs of other cells do not count."""
    judged = {"01_parity": [(claims["P1-N600"], OPEN), (claims["P1-N600-fresh"], OPEN)]}
    slow = taking(parity, lambda cell, config: 7200.0 if cell == "N600-fresh" else 9e9 if config["seed"] == 5 else 36.0)
    assert cost.hours(judged, [slow]) == {"P1-N600": 40 * 36 / 3600, "P1-N600-fresh": 80.0}


def test_what_is_not_known_is_left_out(parity, claims):
    pair = (claims["P2b-N600"], OPEN)
    assert cost.hours({"01_parity": [(claims["P2b-N600"], dataclasses.replace(OPEN, needed=0))]}, [parity]) == {}
    assert cost.hours({"01_parity": [pair]}, []) == {}
    without = parity.part(lambda record: record["config"]["arm"] != "output")
    assert cost.hours({"01_parity": [pair]}, [without]) == {}
    assert list(cost.hours({"01_parity": [pair]}, [parity])) == ["P2b-N600"]


@pytest.mark.parametrize(
    ("hours", "text"), [(0.034, "0.03 hours"), (0.96, "1 hour"), (1.4, "1 hour"), (1.6, "2 hours"), (413.06, "413 hours")]
)
def test_hours_in_words(hours, text):
    assert cost.as_text(hours) == text

"""Of a golden table an arm counts once all of its planned seeds are there: nobody chooses when to stop, and seeds that a judge
pairs are the same, within a cell and across cells."""

import pytest

from mdlm_min.evidence import report, verdicts
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.golden import golden_by_tier, golden_tables
from mdlm_min.evidence.pairing import judged_part, unfinished
from mdlm_min.evidence.plan_file import planned_seeds


def without(table, *runs):
    return table.part(lambda record: (record["cell"], record["config"]["arm"], record["config"]["seed"]) not in runs)


def said(table):
    judged = verdicts.judge_each([table])[table.experiment]
    return {claim.id: verdict for claim, verdict in judged if claim.tier == table.tier}


@pytest.fixture(scope="module")
def lasting():
    return golden_by_tier("03_wikitext_lasting")["cpu"]


def test_the_golden_tables_have_all_seeds_of_their_arms():
    for table in golden_tables():
        experiment = Experiment(table.experiment)
        assert unfinished(experiment, table) == {}
        assert judged_part(experiment, table) is table


def test_an_arm_that_lacks_a_seed_does_not_count_and_the_others_do(lasting, tmp_path):
    half = without(lasting, ("bytes-long", "middle_unweighted", 4))
    experiment = Experiment(lasting.experiment)
    assert unfinished(experiment, half) == {("bytes-long", "middle_unweighted"): (1, 2)}
    whole, found = said(lasting), said(half)
    for name in ("L2-bytes-long", "N5-bytes-long"):
        assert (whole[name].verdict, found[name].verdict) == ("underpowered", "not run")
    for name in ("L1-bytes-long", "L3-bytes-long", "L2-bytes"):
        assert (whole[name].ours, whole[name].seeds) == (found[name].ours, found[name].seeds)
    assert report.draw(experiment, {"cpu": judged_part(experiment, half)}, tmp_path)


def test_seeds_are_not_paired_with_others_across_cells():
    """C2 pairs the two budgets: one seed at 4x is no partner for five at 1x."""
    table = golden_by_tier("07_contest")["cpu"]
    cell = "track=bytes_budget=4"
    one = table.part(lambda record: record["cell"] != cell or record["config"]["seed"] == 6)
    assert said(table)["C2-bytes"].verdict == "reproduced"
    assert said(one)["C2-bytes"].verdict == "not run"
    assert said(one)["C1-bytes-1x"] == said(table)["C1-bytes-1x"]


def test_some_of_the_planned_seeds_are_not_judged():
    table = golden_by_tier("01_parity")["cpu"]
    some = table.part(lambda record: record["cell"] != "N600-fresh" or record["config"]["seed"] < 60)
    assert said(table)["P2-N600-fresh"].verdict == "reproduced"
    assert said(some)["P2-N600-fresh"].verdict == "not run"


def test_seeds_beyond_the_plan_do_not_count():
    table = golden_by_tier("01_parity")["cpu"]
    experiment = Experiment("01_parity")
    (block,) = [block for block in experiment.plan["tiers"]["cpu"]["grid"] if block.get("name") == "N600-fresh"]
    block["seeds"] -= 1
    part = judged_part(experiment, table)
    assert {record["config"]["seed"] for record in part.runs.values() if record["cell"] == "N600-fresh"} == set(range(40, 63))
    assert len(part.runs) == len(table.runs) - 2


def test_the_seeds_of_the_plan_are_those_of_its_runs():
    for folder in experiment_folders():
        experiment = Experiment(folder.name)
        for tier in experiment.plan["tiers"]:
            found = {}
            for spec in experiment.runs(tier, "all"):
                found.setdefault((spec.cell, spec.arm), set()).add(spec.seed)
            assert found == planned_seeds(experiment.plan, tier)

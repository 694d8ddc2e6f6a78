"""Of a table that grows, a seed counts once each arm of its cell has it: else one seed is paired with all of another arm."""

import pytest

from mdlm_min.evidence import report, verdicts
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import golden_by_tier
from mdlm_min.evidence.pairing import unpaired, whole_seeds

LASTING = Experiment("wikitext_lasting")
HALF = [("bytes-long", "middle_unweighted", 4)]  # of two seeds: the case in which nothing else fails


@pytest.fixture(scope="module")
def table():
    return golden_by_tier(LASTING.name)["cpu"]


def without(table, *runs):
    return table.part(lambda record: (record["cell"], record["config"]["arm"], record["config"]["seed"]) not in runs)


def said(table):
    return {claim.id: verdict for claim, verdict in verdicts.judge(LASTING, {"cpu": table}, only="cpu")}


def test_a_whole_table_is_itself(table):
    assert whole_seeds(LASTING, table) is table


def test_a_half_seed_counts_nowhere_in_its_cell_and_elsewhere_all_stay(table):
    found = whole_seeds(LASTING, without(table, *HALF))
    seeds = {(record["cell"], record["config"]["seed"]) for record in found.runs.values()}
    assert ("bytes-long", 3) in seeds
    assert ("bytes-long", 4) not in seeds
    assert len(found.runs) == len(table.runs) - 4


def test_an_arm_that_was_not_run_at_all_costs_no_seed(table):
    rest = without(table, *(("bytes-long", "middle_unweighted", seed) for seed in (3, 4)))
    assert whole_seeds(LASTING, rest) is rest


def test_arms_with_other_seeds_in_the_plan_are_not_paired():
    """The fresh seeds of one arm are not those of another cell's; probes have one seed."""
    for name in ("01_parity", "03_wikitext_bins", "05_8b_sft", "07_contest"):
        for table in golden_by_tier(name).values():
            assert unpaired(Experiment(name), table) == set()


def test_verdicts_and_figures_leave_half_seeds_out(table, tmp_path):
    whole, half = said(table), said(without(table, *HALF))
    only = said(
        without(table, *(("bytes-long", arm, 4) for arm in ("uniform", "middle", "uniform_unweighted", "middle_unweighted")))
    )
    for name in ("L1-bytes-long", "L2-bytes-long", "N5-bytes-long"):
        assert (whole[name].seeds, half[name].seeds) == (2, 1)
        assert half[name].ours == only[name].ours
    assert half["L1-bytes"] == whole["L1-bytes"]
    assert report.draw(LASTING, {"cpu": without(table, *HALF)}, tmp_path)

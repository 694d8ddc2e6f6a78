"""The rules that select 01_parity's networks."""

import dataclasses
import math

from mdlm_min.evidence import golden
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.run.config import build
from mdlm_min.run.run_folder import settings_of
from mdlm_min.tasks.parity import ParityRunConfig

SELECTION = Experiment("parity_search").module("selection")


def candidate(cell, output, masked, t_output=math.inf, t_masked=math.inf, parameters=100):
    return SELECTION.Candidate(cell, output, masked, t_output, t_masked, parameters)


def test_the_nearest_has_the_largest_lead_then_the_earliest_then_the_smallest():
    found = [candidate("a", 0.5, 0.7), candidate("b", 0.5, 0.9), candidate("c", 1.0, 1.0)]
    assert SELECTION.nearest(found).cell == "b"
    found.append(candidate("d", 0.5, 0.885, t_masked=900.0))  # within .02
    assert SELECTION.nearest(found).cell == "d"
    found.append(candidate("e", 0.5, 0.885, t_masked=900.0, parameters=50))
    assert SELECTION.nearest(found).cell == "e"


def test_the_best_for_output_supervision():
    found = [candidate("a", 0.7, 0.5), candidate("b", 0.9, 0.5)]
    assert SELECTION.best_for_output(found).cell == "b"
    found += [candidate("c", 0.995, 0.5, 9000.0), candidate("d", 0.99, 0.5, 4000.0)]
    assert SELECTION.best_for_output(found).cell == "d"


def test_a_golden_table_gives_a_candidate_for_every_network_with_both_arms():
    table = golden.accepted("01_parity_search", "gpu")
    found = SELECTION.candidates(table)
    assert len(found) == 8
    assert {one.cell for one in found} < {record["cell"] for record in table.runs.values()}
    [small] = [one for one in found if one.cell == "layers=2_width=64_batch=250"]
    assert (small.t_gen_output, small.t_gen_masked) == (4000.0, math.inf)
    assert small.parameters == 101_696


def test_01_parity_runs_on_the_networks_that_the_rules_select():
    """The plan of the paper tier has the network, batch and optimiser of the search's own cells."""
    tables = [golden.accepted("01_parity_search", tier) for tier in ("cpu", "gpu")]
    found = [one for table in tables for one in SELECTION.candidates(table)]
    searched = {record["cell"]: record["config"] for table in tables for record in table.runs.values()}
    plan = {spec.cell: build(ParityRunConfig, spec.settings) for spec in Experiment("parity").runs("paper")}
    for name, one in {"nearest": SELECTION.nearest(found), "best-for-output": SELECTION.best_for_output(found)}.items():
        ours, theirs = plan[name], build(ParityRunConfig, settings_of(searched[one.cell]))
        assert (ours.network, ours.batch, ours.data) == (theirs.network, theirs.batch, theirs.data)
        assert dataclasses.replace(ours.train, eval_every=theirs.train.eval_every) == theirs.train

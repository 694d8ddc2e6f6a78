"""Runs made elsewhere: what must be alike in them for a judge to compare them."""

from types import SimpleNamespace

import pytest

from mdlm_min.evidence import elsewhere, judging
from mdlm_min.evidence.asked import Log, Read
from mdlm_min.evidence.claim import Claim, Verdict
from mdlm_min.evidence.elsewhere import Plan
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.needs import Need
from mdlm_min.run.errors import InputError

FIVE = ([1, 2, 3, 4, 5], {})
HERE, THERE, RIVAL = ("x", "a"), ("y", "a"), ("x", "b")  # cell and arm


def unlike(runs, planned, curves=None, source="table"):
    """What is unlike in runs {(cell, arm): seeds} whose plan is {(cell, arm): (seeds, train)}."""
    keys = [(*place, seed) for place, seeds in runs.items() for seed in seeds]
    records = {elsewhere.run_name(key): {"cell": key[0], "config": {"arm": key[1], "seed": key[2]}} for key in keys}
    log = Log({Read(source, "x", *key) for key in keys})
    configs = {place: [{"seed": seed, "train": train} for seed in seeds] for place, (seeds, train) in planned.items()}
    points = {
        elsewhere.run_name((*place, seed)): [{"step": step} for step in steps]
        for place, steps in (curves or {}).items()
        for seed in runs[place]
    }
    return judging._unlike(SimpleNamespace(runs=records, log=log, curves=points), SimpleNamespace(configs=configs))


def test_cells_of_one_plan_need_the_same_seeds():
    both = {HERE: FIVE, THERE: FIVE}
    assert "needs the same seeds" in unlike({HERE: [1, 2, 3], THERE: [2, 3, 4]}, both)
    assert "needs the same seeds" in unlike({HERE: [1, 2, 3], THERE: [1]}, both)
    assert unlike({HERE: [1, 2, 3], THERE: [1, 2]}, both) == ""
    assert unlike({HERE: [1, 2, 3], THERE: [6, 7, 8]}, {HERE: FIVE, THERE: ([6, 7, 8], {})}) == ""


def test_arms_of_one_plan_need_curves_at_the_same_steps():
    plan = {HERE: ([1], {"steps": 200}), RIVAL: ([1], {"steps": 200})}
    runs = {HERE: [1], RIVAL: [1]}
    assert "needs curves at the same steps" in unlike(runs, plan, {HERE: [0, 100, 200], RIVAL: [0, 150, 200]}, "curves")
    assert unlike(runs, plan, {HERE: [0, 100], RIVAL: [0, 100, 200]}, "curves") == ""
    longer = plan | {RIVAL: ([1], {"steps": 400})}
    assert unlike(runs, longer, {HERE: [0, 100, 200], RIVAL: [0, 200, 400]}, "curves") == ""


def test_an_arm_that_one_cell_lacks_is_named_with_the_cell():
    runs = {"x": {"cell": "x", "config": {"arm": "a"}}}

    def part(keep):
        return SimpleNamespace(runs={name: record for name, record in runs.items() if keep(record)})

    table = SimpleNamespace(log=Log(), part=part)
    need = Need(None, {}, {"x": ["a"], "y": ["a"], "z": ["a", "b"]}, {})
    assert judging._missing_arms("a", need, table) == "the arm a in the cell y; the arms a, b in the cell z"


def test_a_verdict_without_a_number_was_not_run():
    claim = Claim("X", "", "exact", "", "", "", "cpu", lambda table: Verdict("reproduced", ""))
    assert judging._say(claim, SimpleNamespace(log=Log()), SimpleNamespace(), lambda: None).verdict == "not run"


@pytest.mark.parametrize("count", [2, 5])
def test_seeds_of_one_number_are_copies_of_one_run(tmp_path, count):
    lines = ["cell,arm,seed,test_loss", *(f"bytes,middle,{seed},1.5" for seed in range(count))]
    lines += [f"BPE,middle,{seed},2.{seed}" for seed in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match="copies of one run"):
        elsewhere._read_results(tmp_path / "t.csv", Plan.of(Experiment("wikitext_lasting"), "cpu"))

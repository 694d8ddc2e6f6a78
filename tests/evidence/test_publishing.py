"""A golden table that grows in pieces: what is added, kept, replaced and dropped, and what `mdlm run --missing` leaves out."""

import json
import shutil

import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import crate, golden, publishing
from mdlm_min.evidence import experiment as plans
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import RunError
from mdlm_min.run.run_folder import RunFolder

PLAN = """
title = "Counts"
[defaults]
length = 16
sequences = 4
[arms.full]
mask_rate = "U[0,1]"
[arms.window]
mask_rate = "U[0.4,0.6]"
[tiers.cpu]
seeds = 2
first_seed = 3
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An experiment of its own, the template's, whose plan a test may change; no golden table yet."""
    folder = tmp_path / "experiments" / "20_counts"
    shutil.copytree(ROOT / "templates" / "experiment", folder)
    (folder / "experiment.toml").write_text(PLAN)
    monkeypatch.setattr(plans, "EXPERIMENTS", tmp_path / "experiments")
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return folder


def run(*options):
    """The runs that the options select, in this process: a worker would look for the experiment in the repository."""
    experiment = Experiment("counts")
    for spec in experiment.runs("cpu", *options):
        folder = RunFolder(spec.folder(golden.RESULTS.parent / "runs"))
        if not folder.is_finished(spec.config):
            folder.write_json("config.json", spec.config)
            folder.write_json("environment.json", {"commit": "c", "torch": "t", "processor": "p"})
            experiment.runner()(spec.settings, spec.seed, folder, lambda line: None)


def published():
    return golden.accepted("20_counts", "cpu")


def publish(*options):
    return main(["publish", "counts", *options])


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("environment.json", {"commit": None}, "environment.commit of full/seed3 is None; allowed: a str"),
        ("environment.json", {"starts": 5}, "environment.starts of full/seed3 is no list of starts with their commits"),
        ("data.json", {"device": None}, "data.device of full/seed3 is None; allowed: a str"),
        ("data.json", {"sha256": 5}, "data.sha256 of full/seed3 is 5; allowed: a str"),
        ("finished.json", {"seconds": "x"}, "finished.seconds of full/seed3 is 'x'; allowed: a float"),
        ("config.json", {"length": 17}, "holds a run of another configuration (length: 17 there, 16 asked)"),
    ],
)
def test_a_damaged_record_is_named_and_the_golden_table_stays(file, changes, said, checkout, capsys):
    run()
    assert publish() == 0
    before = {path.name: path.read_bytes() for path in (golden.RESULTS / "20_counts" / "cpu").iterdir()}
    path = RunFolder(Experiment("counts").runs("cpu")[0].folder(golden.RESULTS.parent / "runs")).path
    assert path.parts[-2:] == ("full", "seed3")
    path = path / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    capsys.readouterr()
    assert publish() == 2
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (golden.RESULTS / "20_counts" / "cpu").iterdir()} == before


def test_a_table_grows_by_what_is_finished_in_the_order_of_the_plan(checkout, capsys):
    run("window", 1)
    assert publish("--finished") == 0
    assert (
        "1 of 4 runs added, 0 in the golden table already and left as they are there; 3 not finished" in capsys.readouterr().out
    )
    assert list(published().runs) == ["window/seed3"]
    before = published().runs["window/seed3"]
    run("full,window", 1)
    assert publish("--finished", "--arms", "full") == 0
    assert "1 of 2 runs added" in capsys.readouterr().out
    assert list(published().runs) == ["full/seed3", "window/seed3"]
    assert published().runs["window/seed3"] == before
    assert published().forged() == []
    assert (golden.RESULTS / "20_counts/cpu/table.csv").read_text() == published().csv()
    assert crate.stale([published()]) == []


def test_arms_that_do_not_count_yet_are_named(checkout, capsys):
    run("full", 2)
    run("window", 1)
    assert publish("--finished") == 0
    assert "does not count yet: window, which has 1 of 2 planned seeds\n" in capsys.readouterr().out
    run("window", 2)
    assert publish("--finished") == 0
    assert "does not count yet" not in capsys.readouterr().out


def test_a_run_that_the_table_has_is_replaced_only_when_asked(checkout, capsys):
    run("full", 1)
    publish("--finished")
    folder = RunFolder(Experiment("counts").runs("cpu", "full", 1)[0].folder(golden.RESULTS.parent / "runs"))
    folder.write_json("environment.json", {"commit": "later", "torch": "t", "processor": "p"})
    assert publish("--finished") == 0
    assert published().runs["full/seed3"]["environment"]["commit"] == "c"
    assert publish("--finished", "--replace") == 0
    assert "0 of 4 runs added, 1 replaced; 3 not finished" in capsys.readouterr().out
    assert published().runs["full/seed3"]["environment"]["commit"] == "later"
    assert publish("--replace") == 2
    assert "replace: only with --finished" in capsys.readouterr().err


def test_what_the_plan_no_longer_names_is_dropped_and_said(checkout, capsys):
    run("full,window")
    publish("--finished")
    path = checkout / "experiment.toml"
    path.write_text(
        PLAN.replace("first_seed = 3", "first_seed = 4").replace('mask_rate = "U[0.4,0.6]"', 'mask_rate = "U[0.4,0.5]"')
    )
    capsys.readouterr()
    assert publish("--finished") == 0
    dropped = [line.split(":")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("dropped")]
    assert dropped == ["full/seed3", "window/seed3", "window/seed4"]  # a seed, and an arm in another configuration
    assert list(published().runs) == ["full/seed4"]


def test_more_seeds_than_the_tier_s_own_stay_as_long_as_they_are_asked_for(checkout, capsys):
    run("full", 3)
    publish("--finished", "--seeds", "3")
    assert list(published().runs) == ["full/seed3", "full/seed4", "full/seed5"]
    publish("--finished", "--seeds", "1")  # fewer drop none of the plan's
    assert list(published().runs) == ["full/seed3", "full/seed4"]
    assert "dropped: full/seed5" in capsys.readouterr().out


def test_nothing_finished_is_an_error_and_changes_nothing(checkout, capsys):
    run("full", 1)
    publish("--finished")
    before = published().csv()
    assert publish("--finished", "--arms", "window") == 3
    assert "none of the 2 runs is finished in runs" in capsys.readouterr().err
    assert published().csv() == before


def test_a_forged_golden_table_is_not_added_to(checkout):
    run("full")
    publish("--finished")
    table = published()
    table.curves["full/seed3"][0]["masked_share"] += 0.1
    table.write(golden.RESULTS / "20_counts" / "cpu")
    new = golden.collect(Experiment("counts").runs("cpu", "full"), golden.RESULTS.parent / "runs")
    with pytest.raises(RunError, match="20_counts/cpu: the curves or items of full/seed3 are not those that its run recorded"):
        publishing.merge(published(), new, [], replace=False)


def test_a_run_without_recorded_columns_stays_genuine_beside_runs_with_other_columns(checkout):
    """Old records do not say in which order their columns stood; what is added must not change it."""
    run("full", 1)
    publish("--finished")
    old = published()
    record = old.runs["full/seed3"]
    row = {"a": 1.0, "step": 0.0, "masked_share": 0.5}
    record["finished"]["metrics_sha256"] = golden.metrics_sha256([row])
    del record["columns"]
    shuffled = golden.Table("20_counts", "cpu", old.runs, {"full/seed3": [dict(sorted(row.items()))]})
    assert shuffled.forged() == []
    shuffled.write(golden.RESULTS / "20_counts" / "cpu")
    run("window", 1)
    assert publish("--finished") == 0
    assert published().forged() == []
    assert published().runs["full/seed3"]["columns"] == list(row)


def test_items_leave_with_the_last_run_that_has_any(checkout, tmp_path):
    run("full", 1)
    publish("--finished")
    table = published()
    golden.Table("20_counts", "cpu", table.runs, table.curves, {"full/seed3": "task,item\na,1\n"}).write(tmp_path / "table")
    assert (tmp_path / "table" / "items.csv.gz").exists()
    table.write(tmp_path / "table")
    assert not (tmp_path / "table" / "items.csv.gz").exists()


def test_missing_runs_alone_are_done_and_all_are_judged(checkout, capsys, monkeypatch):
    run("full", 1)
    publish("--finished")
    asked = []

    def sweep(specs, runs, jobs, threads):
        asked.extend(spec.name for spec in specs)
        run("full,window")

    monkeypatch.setattr("mdlm_min.evidence.sweep.sweep", sweep)
    capsys.readouterr()
    assert main(["run", "counts", "--missing"]) == 0
    output = capsys.readouterr().out
    assert asked == ["window/seed3", "full/seed4", "window/seed4"]
    assert "1 runs are in the golden table and are left out" in output
    assert "X1        underpowered" in output  # not "cannot be judged", as by the three alone
    fresh = json.loads((golden.RESULTS.parent / "runs/20_counts/cpu/runs.json").read_text())
    assert list(fresh) == asked  # the fresh table holds what was run, the verdict is about all
    publish("--finished")
    asked.clear()
    assert main(["run", "counts", "--missing"]) == 0
    assert asked == []
    assert main(["run", "counts", "--missing", "--text", "corpus.txt"]) == 2


def test_golden_runs_are_taken_back_as_run_folders_that_count_as_finished(checkout, tmp_path):
    run("full")
    publish("--finished")
    table, specs = published(), Experiment("counts").runs("cpu")
    table = golden.Table("20_counts", "cpu", table.runs, table.curves, {})
    begun = specs[0].folder(tmp_path / "other")
    begun.mkdir(parents=True)
    (begun / "config.json").write_text("{}")
    assert publishing.take_back(table, specs, tmp_path / "other") == 1  # the one that was begun is left alone
    assert sorted(path.name for path in begun.iterdir()) == ["config.json"]
    assert publishing.take_back(table, specs, tmp_path / "new") == 2
    mine = [spec for spec in specs if spec.arm == "full"]
    assert golden.collect(mine, tmp_path / "new") == golden.collect(mine, golden.RESULTS.parent / "runs")
    assert not [spec for spec in specs if spec.arm != "full" and spec.folder(tmp_path / "new").exists()]
    table.curves["full/seed3"][0]["masked_share"] += 0.1
    with pytest.raises(RunError, match="the curves or items of full/seed3 are not those that its run recorded"):
        publishing.take_back(table, specs, tmp_path / "third")
    assert not (tmp_path / "third").exists()

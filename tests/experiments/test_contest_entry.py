"""An entry of one's own, from the command line to a submission that is accepted."""

import json
import re
import shutil

import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import golden, submission
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import metrics_sha256
from tests.experiments.made_contest import CONTEST, OWN, SMALL


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own.py:Negative", "schedule negative: a weight of -"),
        ("own.py:Outside", "schedule outside: a mask outside the sequence"),
        ("own.py:Half", "schedule half: masks 0."),
        ("own.py:Needs", "cannot be made (TypeError"),
        ("own.py:Taken", "the name 'puma' is taken"),
        ("own.py:All", "the name 'all' is not allowed; allowed: up to 64 letters, digits and _ . + = -, not `all`"),
        ("own.py:Five", "batch: 16 is not allowed with schedule five; a multiple of 5"),
        ("own.py:Marked", "schedule marked: needs marks, which this process does not have"),
        ("own.py:Absent", "own.py has no mask schedule 'Absent'; allowed: All, "),
        ("own.py:torch", "torch of own.py is no mask schedule; allowed: a mdlm_min.MaskSchedule"),
        ("none.py:Low", "schedule: none.py is no file; allowed: "),
        ("nowhere:Class", "nowhere cannot be imported (ModuleNotFoundError"),
        ("own.py", "schedule: 'own.py' is not allowed"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name_before_anything_runs(spec, said, small, capsys):
    assert main(["contest", "--schedule", spec, "--tracks", "parities"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (small / "runs").exists()


def test_runs_of_the_class_as_it_was_are_not_shown_as_the_class_as_it_is(small, capsys):
    specs = submission.entry_runs(Experiment("contest"), "low_half", "own.py:Low", ["parities"], [1], 1)
    for spec, state in zip(specs, ({}, {"finished.json": "{}"}), strict=False):  # one begun, one finished
        folder = spec.folder(small / "runs")
        folder.mkdir(parents=True)
        data = {"sha256": "d", "schedule_sha256": sha256(small / "own.py")}
        for name, text in {"config.json": json.dumps(spec.config), "data.json": json.dumps(data), **state}.items():
            (folder / name).write_text(text)
        (small / "own.py").write_text(OWN + "# edited\n")
        assert main(["contest", "--schedule", "own.py:Low", "--tracks", "parities", "--seeds", "1"]) == 2
        error = capsys.readouterr().err
        assert f"own.py is not the file that {folder.relative_to(small)} was run with" in error
        assert "delete runs/07_contest/cpu/*/low_half, or give the class another name" in error
        assert error.count("\n") == 1
        shutil.rmtree(folder)
        (small / "own.py").write_text(OWN)


def test_the_search_is_taken_from_the_golden_table_if_this_evaluator_judged_it(tmp_path, monkeypatch, capsys):
    command = ["contest", "--tracks", "bytes", "--budget", "4", "--missing"]
    asked: list[int] = []
    monkeypatch.chdir(tmp_path)
    search = golden.accepted("07_contest", "cpu").part(lambda record: record["config"]["seed"] == 0)  # before anything was judged
    monkeypatch.setattr(golden, "accepted", lambda name, tier: search)
    monkeypatch.setattr("mdlm_min.evidence.sweep.sweep", lambda specs, runs, jobs: asked.append(len(specs)))
    assert main([*command, "--schedule", "own.py:Low"]) == 2
    assert main(command) == 3  # the sweep did nothing
    assert "112 of them are taken from the golden table" in capsys.readouterr().out
    assert asked == [252]  # it finds those finished
    assert len(list(tmp_path.glob("runs/07_contest/cpu/track=bytes_learning_rate=*/*/seed0/finished.json"))) == 112
    shutil.rmtree(tmp_path / "runs")
    board, load = CONTEST.module("leaderboard"), Experiment.module
    board.EVALUATOR = ROOT / "pyproject.toml"
    monkeypatch.setattr(Experiment, "module", lambda self, name: board if name == "leaderboard" else load(self, name))
    assert main(command) == 3
    assert "0 of them are taken from the golden table" in capsys.readouterr().out


@pytest.mark.slow
def test_an_entry_of_one_s_own_is_ranked_sent_and_checked(small, capsys):
    assert main(["contest", "--schedule", "my_module.py:MySchedule", "--tracks", "parities", "--seeds", "1", "--jobs", "2"]) == 0
    arguments = ["contest", "--tracks", "parities,answers", "--jobs", "2"]
    assert main([*arguments, "--schedule", "my_module.py:MySchedule", "--submission", "sent"]) == 0  # the page's own example
    assert "no board: llada_0.001 was not run" in capsys.readouterr().out

    # the reference as it would be published, so that there is a board
    specs = [
        spec
        for spec in Experiment("contest").runs("cpu", "llada_0.001,puma")
        if spec.settings["track"] in SMALL and spec.settings["budget"] == 1
    ]
    from mdlm_min.evidence.sweep import sweep

    sweep(specs, small / "runs", 2)
    golden.collect(specs, small / "runs").write(small / "results" / "07_contest" / "cpu")
    assert main([*arguments, "--schedule", "my_module.py:MySchedule"]) == 0
    said = capsys.readouterr().out
    assert "parities 1x: low_half rank" in said
    assert "of 3;" in said
    assert "| low_half |" in (small / "runs/07_contest/leaderboard_low_half.md").read_text().replace("*", "")

    # not filled in yet, then accepted
    assert main(["contest", "--check", "sent"]) == 2
    assert "sent/README.md: was not filled in" in capsys.readouterr().err
    (small / "sent/README.md").write_text("# low_half\n\nThe lower half of the rates. Nothing was searched.\n")
    assert main(["contest", "--check", "sent"]) == 0
    assert "accepted as a record: low_half, 19 runs" in capsys.readouterr().out

    cell = "track=parities_budget=1"

    def tampered(change, said, record=True):
        shutil.rmtree("bad", ignore_errors=True)
        shutil.copytree("sent", "bad")
        records = json.loads((small / "bad/runs.json").read_text())
        change(records)
        (small / "bad/runs.json").write_text(json.dumps(records))
        (small / "bad/table.csv").write_text(golden.read(small / "bad", "07_contest", "cpu").csv())
        if not record:
            settings = json.loads((small / "bad/submission.json").read_text())
            (small / "bad/submission.json").write_text(json.dumps(settings | {"record": False}))
        if said:
            with pytest.raises(InputError, match=said):
                submission.read(small / "bad")
        else:
            assert submission.read(small / "bad")[0].record is record

    def in_all(field, value):
        return lambda records: [record["data"].update({field: value}) for record in records.values()]

    def longer(records):
        for record in records.values():
            record["config"]["tracks"]["parities"]["train"]["steps"] = 40

    tampered(lambda records: None, "")
    tampered(in_all("sha256", "0" * 64), "was run on other data")
    tampered(in_all("evaluator_sha256", "0" * 64), "judged by another evaluator")
    tampered(in_all("schedule_sha256", "0" * 64), "is not the file that")
    tampered(longer, r"run with other settings \(tracks\)")
    tampered(longer, "", record=False)
    tampered(
        lambda records: records[f"{cell}/low_half/seed7"]["finished"].update(metrics_sha256="0" * 64),
        "the curves of .*seed7 are not those",
    )
    tampered(lambda records: records[f"{cell}/low_half/seed7"]["finished"].update(log_sha256="0" * 64), "is not the log that")

    for name, said in (("logs", "every run has its log"), ("schedule.py", "schedule.py: is missing")):
        shutil.rmtree("bad")
        shutil.copytree("sent", "bad")
        target = small / "bad" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        with pytest.raises(InputError, match=said):
            submission.read(small / "bad")


@pytest.mark.slow
def test_seeds_that_are_missing_or_stand_there_twice_and_an_unsearched_rate_are_refused(small):
    assert main(["contest", "--tracks", "parities", "--jobs", "2", "--schedule", "own.py:Low", "--submission", "sent"]) == 0
    (small / "sent/README.md").write_text("# low_half\n\nThe lower half of the rates. Nothing was searched.\n")
    found, table = submission.read(small / "sent")
    first, second = (f"track=parities_budget=1/low_half/seed{seed}" for seed in (6, 7))

    def written(table):
        table.write(small / "sent")
        submission.read(small / "sent")

    without = table.part(lambda record: not (record["config"]["seed"] == 7 and "budget" in record["cell"]))
    with pytest.raises(InputError, match="low_half/seed7 is missing"):
        written(without)
    runs = {
        **table.runs,
        second: table.runs[second]
        | {"finished": table.runs[first]["finished"] | {"log_sha256": table.runs[second]["finished"]["log_sha256"]}},
    }
    with pytest.raises(InputError, match="a seed stands there twice"):
        written(Table(table.experiment, table.tier, runs, {**table.curves, second: table.curves[first]}))
    assert found.tracks == ["parities"]

    # the least validation NLL of the search is made another's
    searches = sorted(name for name in table.runs if "learning_rate=" in name)
    used = table.curves[first][-1]["learning_rate"]
    other = next(name for name in searches if f"learning_rate={used}/" not in name)
    rows = [dict(row) for row in table.curves[other]]
    rows[-1]["valid_nll"] = 0.0
    forged = table.runs[other] | {"finished": table.runs[other]["finished"] | {"metrics_sha256": metrics_sha256(rows)}}
    with pytest.raises(InputError, match="and the search's best is"):
        written(Table(table.experiment, table.tier, {**table.runs, other: forged}, {**table.curves, other: rows}))


def test_a_folder_that_holds_another_submission_is_not_overwritten(small, capsys):
    arguments = ["contest", "--schedule", "own.py:Low", "--tracks", "parities", "--submission", "sent"]
    (small / "sent").mkdir()
    (small / "sent/own_file.txt").write_text("mine")
    assert main(arguments) == 2
    assert capsys.readouterr().err == "mdlm: submission: sent holds something else; allowed: a new folder\n"
    (small / "sent/submission.json").write_text(
        json.dumps({"name": "low_half", "schedule": "Low", "tracks": ["parities"], "budgets": [1], "seeds": [1, 2]})
    )
    assert main([*arguments, "--budget", "4"]) == 2
    said = "submission: sent holds low_half on parities at 1x; allowed: another folder for other tracks or budgets"
    assert said in capsys.readouterr().err
    assert not (small / "runs").exists()


def test_a_class_that_needs_more_than_its_file_is_not_sent(small, monkeypatch, capsys):
    monkeypatch.syspath_prepend(small)  # as for `python -m mdlm_min`, started here
    (small / "helper.py").write_text("LOW = 0.001\n")
    (small / "own.py").write_text(f"from helper import LOW\n{OWN}")
    assert main(["contest", "--schedule", "own.py:Low", "--tracks", "parities", "--submission", "sent"]) == 2
    error = capsys.readouterr().err
    assert "own.py: is not whole by itself: schedule: schedule.py cannot be imported (ModuleNotFoundError" in error
    assert error.count("\n") == 1
    assert not (small / "runs").exists()


def test_the_page_names_its_example_in_one_way():
    page = (CONTEST.folder / "README.md").read_text()
    assert set(re.findall(r"(?:--schedule |SCHEDULE=)(\S+)", page)) == {"my_module.py:MySchedule"}

"""07_contest: its plan, its boards and judges on made tables, and an entry of one's own from the command line to a submission."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import entry_check, golden, submission
from mdlm_min.evidence import experiment as experiment_module
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.evidence.history import library_sha256
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import DivergedError, InputError, RunError
from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import metrics_sha256, open_run

CONTEST = Experiment("contest")
LEADERBOARD = CONTEST.module("leaderboard")
CLAIMS = {claim.id: claim for claim in CONTEST.module("claims").CLAIMS}
SCORES = ("valid_nll", *CONTEST.module("run").SCORES, "learning_rate")
FIELD = dict.fromkeys(CONTEST.plan["arms"], 4.0)  # every entry of the plan
MEANS = {"llada_0.001": 2.0, "signal_rich_window": 1.5, "window_mixture": 1.5, "puma": 3.0}


def made(means, track="bytes", budget=1, evaluator="", written=None, seeds=5):
    """A table of one board, in which an entry's losses fall in a straight line to its mean, and differ by seed a little."""
    runs, curves = {}, {}
    noise = np.random.default_rng(0)
    for arm, mean in means.items():
        for seed in range(1, 1 + seeds):
            end = mean + 0.01 * noise.normal()
            cell = f"track={track}_budget={budget}"
            name = f"{cell}/{arm}/seed{seed}"
            tracks = {track: {"batch": 32, "data": {"length": 64}, "rates": [1e-3, 2e-3, 4e-3]}}
            judged_by = evaluator or sha256(LEADERBOARD.EVALUATOR)
            runs[name] = {
                "cell": cell,
                "config": {"arm": arm, "seed": seed, "track": track, "tracks": tracks},
                "environment": {"commit": "c0ffee" * 4},
                "data": {"sha256": "d", "device": "cpu", "dtype": "float32", "evaluator_sha256": judged_by},
                "finished": {"seconds": 1.0, "log_sha256": "l", "metrics_sha256": "m"},
            }
            rows = [
                dict.fromkeys(SCORES, math.nan) | {"step": 10.0 * step, "valid_nll": 5 - (5 - end) * step / 10}
                for step in range(11)
            ]
            rows[-1] |= {"test_nll": end, "learning_rate": 1e-3, "written": (written or {}).get(arm, math.nan)}
            curves[name] = rows
    return Table("07_contest", "cpu", runs, curves)


def joined(*tables):
    return Table(
        "07_contest",
        "cpu",
        {k: v for t in tables for k, v in t.runs.items()},
        {k: v for t in tables for k, v in t.curves.items()},
    )


def test_every_schedule_of_the_field_is_an_entry_with_the_same_search():
    from baselines.schedules import SCHEDULES

    arms = CONTEST.plan["arms"]
    assert {settings["schedule"] for settings in arms.values()} == set(SCHEDULES)
    assert all(settings == {"schedule": arm} for arm, settings in arms.items())
    specs = CONTEST.runs("cpu")
    searched, judged = [spec for spec in specs if "learning_rate" in spec.cell], [spec for spec in specs if "budget" in spec.cell]
    assert ({spec.seed for spec in searched}, {spec.seed for spec in judged}) == ({0}, {6, 7, 8, 9, 10})
    assert all("learning_rate" not in spec.settings for spec in judged)
    for arm in arms:
        for track, settings in CONTEST.plan["defaults"]["tracks"].items():
            rates = [spec.settings["learning_rate"] for spec in searched if (spec.arm, spec.settings["track"]) == (arm, track)]
            assert sorted(rates) == sorted(settings["rates"])


def test_a_board_ranks_ties_and_compares_with_the_reference():
    lines = LEADERBOARD.board(made(MEANS), "bytes", 1)
    assert {line.name for line in lines if line.is_tie} == {"signal_rich_window", "window_mixture"}
    assert [line.name for line in lines][2:] == ["llada_0.001", "puma"]
    by_name = {line.name: line for line in lines}
    assert by_name["puma"].gain.estimate == pytest.approx(-1, abs=0.02)
    assert by_name["puma"].adjusted < 1e-6
    assert by_name["signal_rich_window"].steps[0] == pytest.approx(100 * 3 / 3.5, abs=1)  # on the straight line from 5 to 1.5
    assert all(math.isinf(steps) for steps in by_name["puma"].steps)
    assert math.isnan(by_name["llada_0.001"].adjusted)


def test_an_entry_without_all_seeds_is_not_ranked():
    table = made(MEANS)
    gone = "track=bytes_budget=1/puma/seed3"
    table = Table(
        "07_contest",
        "cpu",
        {k: v for k, v in table.runs.items() if k != gone},
        {k: v for k, v in table.curves.items() if k != gone},
    )
    assert {line.name for line in LEADERBOARD.board(table, "bytes", 1)} == set(MEANS) - {"puma"}
    assert LEADERBOARD.board(made({"puma": 1.0}), "bytes", 1) == []


def test_a_run_on_other_data_or_without_a_score_is_not_ranked_and_told_why(small, monkeypatch, capsys):
    table = made(MEANS)
    table.runs["track=bytes_budget=1/puma/seed3"]["data"]["sha256"] = "other"
    table.curves["track=bytes_budget=1/window_mixture/seed2"][-1]["test_nll"] = math.nan
    assert {line.name for line in LEADERBOARD.board(table, "bytes", 1)} == {"llada_0.001", "signal_rich_window"}
    why = LEADERBOARD.unranked(table, "bytes", 1)
    assert why == {
        "puma": "its data are not those of llada_0.001 (seed 3)",
        "window_mixture": "its test NLL on seed 2 is nan",
    }
    page = LEADERBOARD.leaderboard_page(table, LEADERBOARD.boards(table))
    assert "\nNot ranked: puma; its data are not those of llada_0.001 (seed 3).\n" in page

    from mdlm_min.cli import contest

    specs = [spec for spec in CONTEST.runs("cpu", "puma") if spec.cell == "track=bytes_budget=1"]
    monkeypatch.setattr(golden, "collect", lambda specs, runs: table)
    contest._print_boards(CONTEST, specs, small / "runs", "puma")
    assert "bytes 1x: puma is not ranked; its data are not those" in capsys.readouterr().out


def test_rows_of_another_evaluator_are_refused():
    with pytest.raises(ValueError, match="another evaluator"):
        LEADERBOARD.board(made(MEANS, evaluator="0" * 64), "bytes", 1)
    with pytest.raises(ValueError, match="another evaluator"):
        CLAIMS["C1-bytes-1x"].judge(made(MEANS, evaluator="0" * 64))


def test_judges():
    table = joined(made(MEANS), made(MEANS | {"signal_rich_window": 1.9}, budget=4))
    assert CLAIMS["C1-bytes-1x"].judge(table).estimate == pytest.approx(0.5, abs=0.02)
    assert CLAIMS["C1-bytes-4x"].judge(table).estimate == pytest.approx(0.1, abs=0.02)
    assert CLAIMS["C2-bytes"].judge(table).estimate == pytest.approx(0.4, abs=0.03)
    loses = joined(made(MEANS | {"signal_rich_window": 2.2}), made(MEANS | {"signal_rich_window": 2.9}, budget=4))
    assert CLAIMS["C2-bytes"].judge(loses).estimate == pytest.approx(-0.2, abs=0.02)  # no lead, however much more it loses later
    shares = {"llada_0.001": 0.2, "signal_rich_window": 0.3, "window_mixture": 0.45, "puma": 0.1}
    assert CLAIMS["C3-1x"].judge(made(MEANS, "answers", written=shares)).estimate == pytest.approx(0.15)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_nothing_is_written_nothing_is_decided(share):
    said = CLAIMS["C3-1x"].judge(made(MEANS, "answers", written=dict.fromkeys(MEANS, share)))
    assert said.verdict == "underpowered"
    assert "Every run of both writes the same share" in said.note


def test_the_entry_that_is_advised_is_surely_better_than_the_reference_most_often():
    """Neither the least mean nor the best place counts where seeds do not agree; being surely worse somewhere costs."""
    first = made({"llada_0.001": 2.0, "steady": 1.7, "split": 1.0})
    second = made({"llada_0.001": 2.0, "steady": 2.0, "split": 3.0}, "BPE")
    found = LEADERBOARD.boards(joined(first, second))
    advised = LEADERBOARD.advised(found)
    assert [(one.name, one.better, one.worse) for one in advised[:2]] == [("steady", 1, 0), ("llada_0.001", 0, 0)]
    assert (advised[2].name, advised[2].better, advised[2].worse) == ("split", 1, 1)


def test_where_no_entry_is_surely_better_there_is_no_one_answer():
    flat = dict.fromkeys(FIELD, 2.0)
    assert "**No entry is surely better than U[0,1]" in LEADERBOARD.pages(made(flat))["WHICH_SCHEDULE.md"]


def test_an_entry_that_is_merely_uncertain_is_not_advised():
    steady = made({"llada_0.001": 2.0, "steady": 1.02, "fair": 1.5})
    wild = made({"wild": 1.0})
    for seed, (name, rows) in enumerate(wild.curves.items()):
        rows[-1]["test_nll"] = 1.0 + 2.0 * (seed - 2)
        assert "wild" in name
    lines = LEADERBOARD.board(joined(steady, wild), "bytes", 1)
    assert lines[0].name == "wild"
    assert lines[0].is_tie
    assert LEADERBOARD.advised({("bytes", 1): lines})[0].name == "steady"


def test_a_cached_schedule_is_the_same_schedule_and_nobody_else_s():
    run, tokens = CONTEST.module("run"), np.arange(1000, dtype=np.uint16) % 7
    first, second = (run._schedule({"schedule": "frequency_informed"}, tokens.copy(), 7) for _ in range(2))
    assert first is not second
    assert run._field_schedule.cache_info().hits == 1
    run._schedule({"schedule": "frequency_informed"}, np.arange(1000, dtype=np.uint16) % 5, 7)
    assert run._field_schedule.cache_info().hits == 1


def test_a_rate_that_diverges_in_the_search_has_lost_and_a_judged_run_that_does_is_an_error(tmp_path, monkeypatch):
    run = CONTEST.module("run")
    specs = {spec.cell: spec for spec in CONTEST.runs("cpu", "puma") if spec.settings["track"] == "parities"}
    wild: set[float] = {0.00075, 0.0015, 0.012, 0.006}

    def trained(settings, config, seed, folder, progress):
        rate = config["train"]["learning_rate"]
        steps = run.evaluated_at(settings)
        for step in steps[:3] if rate in wild else steps:
            folder.append_metrics({"step": float(step), "loss": 1.0} | run._whole({"valid_nll": 1 + rate}, rate))
        if rate in wild:
            raise DivergedError("loss is nan")
        folder.finish({"steps": steps[-1], "seconds": 1.0})

    monkeypatch.setattr(run, "_run_text", trained)

    def executed(spec):
        with open_run(spec.folder(tmp_path), spec.config) as folder:
            run.run(spec.settings, spec.seed, folder, lambda line: None)
        return folder

    for rate in (0.00075, 0.0015, 0.003, 0.012, 0.006):
        folder = executed(specs[f"track=parities_learning_rate={rate}"])
    assert [row["step"] for row in folder.metrics()] == [0, 80, 160, 240]  # the next evaluation has the infinite loss
    assert folder.metrics()[-1]["valid_nll"] == math.inf
    assert folder.read_json("finished.json")["steps"] == 240
    assert "diverged: loss is nan" in (folder.path / "log.txt").read_text()
    judged = specs["track=parities_budget=1"]
    assert executed(judged).metrics()[-1]["learning_rate"] == 0.003
    shutil.rmtree(judged.folder(tmp_path))
    wild.add(0.003)
    with pytest.raises(DivergedError, match="loss is nan"):
        executed(judged)
    with pytest.raises(RunError, match="every learning rate of the search diverged"):
        run.best_rate({0.1: math.inf, 0.2: math.nan})


def test_a_text_board_has_the_nll_of_every_tenth_of_t():
    table = made(MEANS)
    assert "<details>" not in LEADERBOARD.pages(table)["LEADERBOARD.md"]  # not measured
    for place, rows in enumerate(table.curves.values()):
        rows[-1] |= {f"test_t{low / 10:.1f}": place + low / 10 for low in range(10)}
    text = LEADERBOARD.pages(table)["LEADERBOARD.md"]
    means = [2 + low / 10 for low in range(10)]  # of five seeds, 0 to 4, of the entry that was made first
    assert f"| {next(iter(MEANS))} | {' | '.join(f'{value:.2f}' for value in means)} |" in text


def test_the_pages_say_who_ties_and_what_is_advised():
    table = joined(made(FIELD | MEANS), made(FIELD | MEANS | {"window_mixture": 1.0}, "BPE"))
    pages = LEADERBOARD.pages(table)
    board, advice = pages["LEADERBOARD.md"], pages["WHICH_SCHEDULE.md"]
    assert board.count("\n## ") == 2
    assert "| **signal_rich_window** |" in board.split("## ")[1]
    assert "| signal_rich_window |" in board.split("## ")[2]
    assert "`window_mixture`.** It is surely better than U[0,1] on 2 of the 2 boards" in advice
    assert "surely worse on 0" in advice
    assert "100 x 32 (1x)" in advice
    assert "budgets beyond 1x. A gain at 1x may be an early lead" in advice
    assert "How sure: 5 seeds each" in advice
    assert "0.001*" in board
    assert len(advice) < 4000  # a screen
    assert LEADERBOARD.pages(made({"puma": 1.0})) == {}
    assert "nothing here is decided" in LEADERBOARD.pages(made(MEANS, seeds=3))["WHICH_SCHEDULE.md"]


def test_a_board_that_lacks_entries_does_not_turn_the_advice():
    whole = made(FIELD | MEANS)
    advised = LEADERBOARD.advice_page(whole, LEADERBOARD.boards(whole))
    part = joined(whole, made({"llada_0.001": 2.0, "puma": 1.0}, budget=4))
    page = LEADERBOARD.advice_page(part, LEADERBOARD.boards(part))
    assert page.split("\n")[4] == advised.split("\n")[4]  # the answer
    assert "100 x 32 (4x) | `puma`" in page
    assert "budgets beyond 4x" in page
    assert "**No answer yet" in LEADERBOARD.advice_page(made(MEANS), LEADERBOARD.boards(made(MEANS)))


OWN = """
import torch
from mdlm_min import MaskSchedule


class Low(MaskSchedule):
    name = "low_half"

    def sample(self, context, generator):
        return 0.001 + 0.499 * torch.rand(context.rows, generator=generator)


class Negative(Low):
    name = "negative"

    def weight(self, rate, mask, context):
        return -1 / rate


class Outside(Low):
    name = "outside"

    def mask(self, rate, context, generator):
        return torch.rand(context.rows, context.length, generator=generator) < rate[:, None]


class Half(Low):
    name = "half"

    def mask(self, rate, context, generator):
        return super().mask(rate / 2, context, generator)


class Needs(Low):
    def __init__(self, value):
        pass


class Taken(Low):
    name = "puma"


class Five(Low):
    name, copies = "five", 5


class Marked(Low):
    name, needs = "marked", ("marks",)
"""
SMALL = {
    "parities": {"rounds": 2, "batch": 16, "model": {"layers": 1, "heads": 2, "width": 16}, "train": {"steps": 20, "warmup": 2}},
    "answers": {
        "items": 4, "answer_tokens": 4, "batch": 4, "validation_answers": 4, "data": {"source": "arithmetic:2:60", "held_out": 8},
        "model": {"layers": 1, "heads": 2, "width": 16}, "train": {"steps": 20, "warmup": 2},
    },
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The contest with small tracks, in an empty folder of results, from a folder that holds the user's module."""

    def smaller(self):
        for track, settings in SMALL.items():
            for name, value in settings.items():
                mine = self.plan["defaults"]["tracks"][track]
                mine[name] = mine[name] | value if isinstance(value, dict) else value

    original = experiment_module.Experiment.__init__

    def initialised(self, name):
        original(self, name)
        if self.name == "07_contest":
            smaller(self)

    monkeypatch.setattr(experiment_module.Experiment, "__init__", initialised)
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(entry_check, "_check_sources", lambda folder, table: None)  # nobody commits before each test
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    page = (CONTEST.folder / "README.md").read_text()
    (tmp_path / "my_module.py").write_text(page.split("```python\n")[1].split("```")[0])
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own.py:Negative", "schedule negative: a weight of -"),
        ("own.py:Outside", "schedule outside: a mask outside the sequence"),
        ("own.py:Half", "schedule half: masks 0."),
        ("own.py:Needs", "cannot be made (TypeError"),
        ("own.py:Taken", "the name 'puma' is taken"),
        ("own.py:Five", "batch: 16 is not allowed with schedule five; a multiple of 5"),
        ("own.py:Marked", "schedule marked: needs marks, which this process does not have"),
        ("own.py:Absent", "own.py has no mask schedule 'Absent'"),
        ("own.py:torch", "own.py has no mask schedule 'torch'"),
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

    for name, said in (("logs", "every run has its log"), ("schedule.py", "schedule.py: cannot be read")):
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


@pytest.fixture
def one_commit(monkeypatch):
    """A history of one commit, whose sources are none."""

    class OneCommit:
        missing = ""

        def __init__(self, root):
            pass

        def has(self, commit):
            return commit == COMMIT

        def sources(self, commit):
            return {}

    monkeypatch.setattr(entry_check.history, "History", OneCommit)


COMMIT = "c0ffee" * 2


def forged_entry(folder, change=lambda runs, settings: None, record=lambda name, record: None, track="bytes", budget=1, name=""):
    """A submission that nothing trained: every number as a run has it, every hash as it should be. `change` alters the parts
    before the hashes are taken, `record` the records after that."""
    (folder / "logs").mkdir(parents=True)
    (folder / "README.md").write_text("# low_half\n\nMade up.\n")
    (folder / "schedule.py").write_text(OWN)
    settings = {"name": name or "low_half", "schedule": "Low", "tracks": [track], "budgets": [budget], "record": True}
    settings["seeds"] = [6, 7, 8, 9, 10]
    run = CONTEST.module("run")
    runs = {}
    for number, spec in enumerate(submission.entry_runs(CONTEST, settings["name"], "own.py:Low", [track], [budget], 0)):
        rate = spec.settings.get("learning_rate", CONTEST.plan["defaults"]["tracks"][track]["rates"][0])
        nll = 1 + rate + number / 1e6
        rows = [
            {"step": float(step), "loss": 1.0} | run._whole({"valid_nll": nll}, rate) for step in run.evaluated_at(spec.settings)
        ]
        rows[-1] |= {"test_nll": nll, "gradient_noise": 0.5}
        rows[-1] |= {"chosen": 0.5, "written": 0.25} if track == "answers" else {"test_bits_per_byte": nll / math.log(2)}
        log = f"the log of {spec.name}"
        runs[spec.name] = {"cell": spec.cell, "config": json.loads(json.dumps(spec.config)), "rows": rows, "log": log}
    change(runs, settings)
    accepted = golden.accepted("07_contest", "cpu").runs.values()
    ours = {entry_check._data_of(one): one["data"]["sha256"] for one in accepted}
    records, curves = {}, {}
    for place, made in runs.items():
        log = folder / "logs" / made["cell"] / f"seed{made['config']['seed']}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(made["log"])
        data = {"sha256": ours.get(entry_check._data_of(made), "d")}
        records[place] = {
            "cell": made["cell"],
            "config": made["config"],
            "environment": {"commit": COMMIT, "source_sha256": library_sha256({}), "torch": "2", "processor": "p"},
            "data": data
            | {"device": "cpu", "dtype": "float32", "schedule_sha256": sha256(folder / "schedule.py")}
            | {"evaluator_sha256": sha256(LEADERBOARD.EVALUATOR)},
            "finished": {
                "steps": int(made["rows"][-1]["step"]),
                "seconds": 1.0,
                "log_sha256": sha256(log),
                "metrics_sha256": metrics_sha256(made["rows"]),
            },
            "columns": list(made["rows"][0]),
        }
        record(place, records[place])
        curves[place] = made["rows"]
    Table("07_contest", "cpu", records, curves).write(folder)
    (folder / "submission.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(("track", "budget"), [("bytes", 1), ("answers", 4)])
def test_a_consistent_submission_is_read(track, budget, tmp_path, one_commit):
    assert len(submission.read(forged_entry(tmp_path / "sent", track=track, budget=budget))[1].runs) == 9


SECOND = "track=bytes_budget=1/low_half/seed7"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda runs, settings: runs[SECOND]["config"].update(seed=77), r"other settings \(seed\)"),
        (lambda runs, settings: runs[SECOND]["config"].update(arm="llada_0.001"), r"other settings \(arm\)"),
        (lambda runs, settings: runs[SECOND].update(cell="track=bytes_budget=4"), r"other settings \(cell\)"),
        (lambda runs, settings: runs[SECOND]["config"].update(schedule="own.py:Half"), "was not run with the class Low"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(step=4000.0), "540, 4000; allowed: 0, 60, .* 540, 600$"),
        (lambda runs, settings: runs[SECOND]["rows"].__delitem__(slice(0, -1)), "the steps 600; allowed: 0, 60, 120"),
        (lambda runs, settings: runs[SECOND]["rows"].insert(0, runs[SECOND]["rows"].pop(3)), "steps 180, 0, 60"),
        (lambda runs, settings: runs[SECOND]["rows"][4].update(valid_nll=math.nan), "valid_nll is nan at step 240"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(test_nll=-3.0), "test_nll is -3.0; allowed: at least 0"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(test_nll=math.nan), "test_nll is nan"),
        (lambda runs, settings: runs[SECOND]["rows"][-1].update(test_nll=-math.inf), "test_nll is -inf"),
        (
            lambda runs, settings: runs[SECOND]["rows"][-1].update(gradient_noise=1.1),
            "gradient_noise is 1.1; allowed: 0 to 1.0667",
        ),
        (
            lambda runs, settings: runs[SECOND]["rows"][-1].update(test_bits_per_byte=0.1),
            "test_bits_per_byte is 0.1; allowed, by",
        ),
        (lambda runs, settings: [run.update(log="") for run in runs.values()], "is missing or empty; every run has its log"),
        (lambda runs, settings: [run.update(log="one") for run in runs.values()], "has the log of"),
        (
            lambda runs, settings: settings.update(name="puma", record=False),
            "submission.json: schedule: the name 'puma' is taken",
        ),
        (
            lambda runs, settings: settings.update(budgets=[1, 1]),
            r"budgets: \[1, 1\] is not allowed; allowed: at least one, each",
        ),
        (lambda runs, settings: settings.update(name="../x", record=False), "the name '../x' is not allowed"),
        (lambda runs, settings: settings.update(name="x](y)", record=False), "is not allowed"),
    ],
)
def test_a_run_that_is_not_what_its_name_says_is_refused(change, said, tmp_path, one_commit):
    with pytest.raises(InputError, match=said):
        submission.read(forged_entry(tmp_path / "sent", change))


@pytest.mark.parametrize("score", ["chosen", "written"])
@pytest.mark.parametrize("value", [-1.0, 1.01, 0.505, math.nan])
def test_a_share_that_no_count_of_answers_gives_is_refused(score, value, tmp_path, one_commit):
    def change(runs, settings):
        runs["track=answers_budget=1/low_half/seed7"]["rows"][-1][score] = value

    with pytest.raises(InputError, match=f"{score} is {value}; allowed: a share of 100 answers"):
        submission.read(forged_entry(tmp_path / "sent", change, track="answers"))


def test_a_rate_that_diverged_is_a_run_of_the_search_and_no_judged_run(tmp_path, one_commit):
    def diverges(cell):
        def change(runs, settings):
            rows = next(run["rows"] for run in runs.values() if run["cell"] == cell)
            del rows[4:]
            rows[-1] |= {"valid_nll": math.inf, "test_nll": math.nan}

        return change

    submission.read(forged_entry(tmp_path / "sent", diverges("track=bytes_learning_rate=0.008")))
    with pytest.raises(InputError, match="steps 0, 60, 120, 180; allowed"):
        submission.read(forged_entry(tmp_path / "bad", diverges("track=bytes_budget=1")))


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("finished", {"seconds": -5.0}, "finished.seconds is -5.0"),
        ("finished", {"steps": 6000}, "finished.steps is 6000; allowed: 600"),
        ("data", {"device": "tpu", "dtype": "int4"}, "was run on tpu in int4; allowed: cpu, float32"),
        ("environment", {"commit": "x|y"}, r"the commit of .* is 'x\|y'; allowed: that of committed sources"),
        ("environment", {"commit": f"{COMMIT}+changed"}, r"\+changed'; allowed: that of committed sources"),
        ("environment", {"commit": "0" * 12}, "the commit of 9 runs, 000000000000, is not in the history; allowed"),
        ("environment", {"source_sha256": "0" * 64}, "does not contain the sources that they recorded"),
    ],
)
def test_a_record_that_no_run_of_committed_sources_writes_is_refused(part, values, said, tmp_path, one_commit):
    folder = forged_entry(tmp_path / "sent", record=lambda name, record: record[part].update(values))
    with pytest.raises(InputError, match=said):
        submission.read(folder)


@pytest.mark.parametrize("track", ["bytes", "answers"])
def test_a_budget_that_nobody_has_run_yet_has_the_same_data(track, tmp_path, one_commit):
    def other(name, record):
        if "budget=4" in name:
            record["data"]["sha256"] = "0" * 64

    with pytest.raises(InputError, match="was run on other data"):
        submission.read(forged_entry(tmp_path / "sent", record=other, track=track, budget=4))


@pytest.mark.parametrize("name", ["README.md", "schedule.py", "table.csv", "submission.json"])
def test_a_file_that_is_no_text_is_refused_by_name(name, tmp_path, one_commit):
    folder = forged_entry(tmp_path / "sent")
    (folder / name).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=f"{name}: cannot be read .UnicodeDecodeError"):
        submission.read(folder)


@pytest.mark.parametrize("seeds", [[6, 7, 8, 9], [6, 7, 8, 9, 11], [6, 6, 7, 8, 9, 10]])
def test_seeds_that_submission_json_does_not_name_are_refused(seeds, tmp_path, one_commit):
    with pytest.raises(InputError, match=r"submission\.json: seeds: .*(are not those of its judged runs|each once)"):
        submission.read(forged_entry(tmp_path / "sent", lambda runs, settings: settings.update(seeds=seeds)))


@pytest.mark.parametrize("folder", [path.parent for path in LEADERBOARD.SUBMISSIONS.glob("*/submission.json")], ids=str)
def test_every_folder_sent_in_is_accepted(folder):
    """With its class, which is executed: as `mdlm contest --check` does."""
    assert main(["contest", "--check", str(folder)]) == 0


def test_curves_of_an_accepted_run_are_mentioned(tmp_path, one_commit):
    table = submission.read(forged_entry(tmp_path / "sent"))[1]
    assert entry_check.copies(table, golden.accepted("07_contest", "cpu")) == []
    assert entry_check.copies(table, table.part(lambda record: record["config"]["seed"] == 7)) == [
        f"{SECOND} has the curves of {SECOND}"
    ]


def test_a_table_that_its_runs_do_not_give_is_refused(tmp_path, one_commit):
    folder = forged_entry(tmp_path / "sent")
    (folder / "table.csv").write_text((folder / "table.csv").read_text().replace("low_half,7,", "low_half,8,"))
    with pytest.raises(InputError, match=r"table.csv: is not the table"):
        submission.read(folder)


def test_two_submissions_share_no_run_that_differs(tmp_path, one_commit):
    forged_entry(tmp_path / "one")
    forged_entry(tmp_path / "two")
    assert len(submission.accepted_entries(tmp_path)[0]) == 2
    shutil.rmtree(tmp_path / "two")
    forged_entry(tmp_path / "two", lambda runs, settings: runs[SECOND]["rows"][-1].update(gradient_noise=0.4))
    with pytest.raises(InputError, match="two submissions have the run"):
        submission.accepted_entries(tmp_path)
    assert submission.accepted_entries(tmp_path, without="low_half") == ([], {})


def test_two_classes_are_not_two_halves_of_one_entry(tmp_path, one_commit, monkeypatch):
    forged_entry(tmp_path / "alice")
    monkeypatch.setitem(globals(), "OWN", OWN + "# another class\n")
    forged_entry(tmp_path / "bob", track="answers")
    with pytest.raises(InputError, match="bob: another submission has the name 'low_half' and another schedule.py"):
        submission.accepted_entries(tmp_path)


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


def test_git_leaves_the_line_ends_of_a_submitted_class(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "core.autocrlf=true", *arguments], cwd=tmp_path, check=True, capture_output=True)

    file = tmp_path / "experiments/07_contest/submissions/mine/schedule.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one\ntwo\n")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "x")
    file.unlink()
    git("checkout", "--", ".")
    assert file.read_bytes() == b"one\ntwo\n"


def test_runs_made_elsewhere_are_judged():
    table = made(MEANS)
    elsewhere = {name: {key: record[key] for key in ("cell", "config")} for name, record in table.runs.items()}
    assert LEADERBOARD.checked(Table(table.experiment, table.tier, elsewhere, table.curves)).runs == elsewhere

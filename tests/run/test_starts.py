"""environment.json keeps every start of a run."""

import json
import subprocess

import pytest

from mdlm_min.run import environment
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import open_run

CONFIG = {"arm": "a", "seed": 0}


def start(folder, commit, monkeypatch):
    monkeypatch.setattr(
        environment, "describe", lambda: {"commit": commit, "torch": "2", "processor": "p", "source_sha256": commit}
    )
    with open_run(folder, CONFIG) as run:
        return run


def test_every_start_is_kept_and_a_finished_run_has_no_more(tmp_path, monkeypatch):
    for commit in ("first", "second", "second"):
        run = start(tmp_path, commit, monkeypatch)
    record = run.read_json("environment.json")
    assert [one["commit"] for one in record["starts"]] == ["first", "second", "second"]
    assert record["commit"] == "second"  # what readers of one start see
    run.finish({"steps": 1})
    start(tmp_path, "third", monkeypatch)
    assert run.read_json("environment.json") == record


def test_a_run_begun_before_starts_were_listed_keeps_that_one(tmp_path, monkeypatch):
    old = {"commit": "old", "torch": "1", "processor": "p", "source_sha256": "old"}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "environment.json").write_text(json.dumps(old))
    record = start(tmp_path, "new", monkeypatch).read_json("environment.json")
    assert [one["commit"] for one in record["starts"]] == ["old", "new"]
    assert record["starts"][0] == old


@pytest.mark.parametrize("error", [InputError("no record"), RuntimeError("can't allocate memory"), MemoryError()])
def test_a_run_that_is_refused_before_it_begins_leaves_the_folder_free(tmp_path, error):
    with pytest.raises(type(error)), open_run(tmp_path / "run", CONFIG):
        raise error
    assert not (tmp_path / "run").exists()
    with pytest.raises(type(error)), open_run(tmp_path, CONFIG):
        raise error
    with open_run(tmp_path, CONFIG | {"seed": 1}) as run:
        assert run.read_json("config.json")["seed"] == 1


def test_a_run_that_has_begun_keeps_its_folder(tmp_path):
    with pytest.raises(InputError), open_run(tmp_path, CONFIG) as run:
        run.write_json("data.json", {"sha256": "d"})
        raise InputError("data: changed")
    with pytest.raises(InputError, match="another configuration"), open_run(tmp_path, CONFIG | {"seed": 1}):
        pass
    (tmp_path / "data.json").unlink()
    with pytest.raises(InputError, match="later"), open_run(tmp_path, CONFIG):  # a resumed run is not a new one
        raise InputError("later")
    assert (tmp_path / "config.json").exists()


def test_a_run_is_not_resumed_with_another_schedule_or_evaluator(tmp_path):
    begun = {"sha256": "d", "schedule_sha256": "A", "evaluator_sha256": "E"}
    with open_run(tmp_path, CONFIG) as run:
        run.record_data(begun, "data")
        run.record_data(begun, "data")
        with pytest.raises(InputError, match="was begun otherwise .schedule_sha256: 'A' there, 'B' asked"):
            run.record_data(begun | {"schedule_sha256": "B"}, "data")
        with pytest.raises(InputError, match="evaluator_sha256"):
            run.record_data(begun | {"evaluator_sha256": "F"}, "data")
        assert run.read_json("data.json") == begun


def test_a_submission_to_the_contest_is_no_changed_source(tmp_path, monkeypatch):
    def git(*arguments):
        line = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)

    entry, plan = (tmp_path / "experiments/07_contest" / name for name in ("submissions/mine/schedule.py", "experiment.toml"))
    entry.parent.mkdir(parents=True)
    plan.write_text("")
    for folder in ("mdlm_min", "baselines"):
        (tmp_path / folder).mkdir()
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "PACKAGE", tmp_path / "mdlm_min")
    entry.write_text("a class")
    assert not environment.code_version().endswith("+changed")
    plan.write_text("# other settings")
    assert environment.code_version().endswith("+changed")


@pytest.mark.parametrize("name", ["metrics.csv", "log.txt", "notes"])
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(InputError, match=f"holds something else \\('{name}'\\); allowed: a new or empty"),
        open_run(tmp_path, CONFIG),
    ):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}
    with pytest.raises(InputError, match="is a file; allowed: a new or empty folder"), open_run(tmp_path / name, CONFIG):
        pass


def test_a_run_does_not_lie_in_another_runs_folder(tmp_path):
    with open_run(tmp_path / "run", CONFIG):
        pass
    inside = tmp_path / "run" / "checkpoint" / "run"
    with (
        pytest.raises(InputError, match=f"run: {inside} lies in the folder of another run, {tmp_path / 'run'}; "),
        open_run(inside, CONFIG),
    ):
        pass
    assert not inside.parent.exists()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run", target_is_directory=True)
    with pytest.raises(InputError, match="lies in the folder of another run"), open_run(link / "run", CONFIG):
        pass
    with open_run(tmp_path / "run" / ".." / "beside", CONFIG):
        pass
    assert (tmp_path / "beside" / "config.json").exists()


def test_a_stop_request_and_what_a_kill_left_are_no_other_run(tmp_path):
    for name in ("stop", "lock", ".config.json.1.tmp"):
        (tmp_path / name).touch()
    with open_run(tmp_path, CONFIG) as run:
        assert run.read_json("config.json") == CONFIG

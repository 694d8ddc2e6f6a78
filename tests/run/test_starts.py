"""environment.json keeps every start of a run."""

import json

from mdlm_min.run import environment
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
    (tmp_path / "environment.json").write_text(json.dumps(old))
    record = start(tmp_path, "new", monkeypatch).read_json("environment.json")
    assert [one["commit"] for one in record["starts"]] == ["old", "new"]
    assert record["starts"][0] == old

"""A run without steps leaves the same record as one that trained."""

from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import open_run


def test_a_short_run_leaves_one_row_and_a_full_record_also_after_an_interruption(tmp_path):
    with open_run(tmp_path, {"arm": "cost", "seed": 0}) as folder:
        folder.append_metrics({"step": 0.0, "loss": 9.0})  # what an interrupted attempt left
        folder.finish_at_once({"loss": 1.5}, "abc", 0.12345)
        assert folder.metrics() == [{"step": 0.0, "loss": 1.5}]
        assert folder.read_json("data.json") == {"sha256": "abc", "device": "cpu", "dtype": "float64"}
        finished = folder.read_json("finished.json")
        assert (finished["steps"], finished["seconds"]) == (0, 0.123)
        assert finished["metrics_sha256"] == sha256(tmp_path / "metrics.csv")
        assert folder.is_finished({"arm": "cost", "seed": 0})

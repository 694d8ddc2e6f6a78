"""05_published_tables: its numbers are the published ones, its formulas those of a textbook."""

import math
import tomllib

import pytest

from mdlm_min.evaluation.paper_tasks import PAPER_TASKS
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import published


@pytest.fixture(scope="module")
def experiment():
    return Experiment("published_tables")


def test_the_settings_are_the_published_table_and_the_items_lm_eval_s(experiment):
    table = published("tables_1_to_3").set_index(["task", "window"])["accuracy"]
    arms = tomllib.loads((experiment.folder / "experiment.toml").read_text())["arms"]
    for arm, settings in arms.items():
        task = arm.removesuffix("_middle")
        middle, full, late = (table.get((task, window)) for window in ("U[0.45,0.55]", "U[0,1]", "U[0.5,1]"))
        expected = (middle, full) if arm != task else (full, middle if late is None else late)
        assert (settings["lower"], settings["higher"]) == expected
        assert settings["items"] == PAPER_TASKS[task].items
    assert set(arms) == {*PAPER_TASKS, "gsm8k_middle", "math_middle"}
    assert {claim.paper for claim in experiment.module("claims").CLAIMS if not math.isnan(claim.paper)} == {
        round(settings["higher"] - settings["lower"], 3) for settings in arms.values()
    }


def test_the_noise_is_that_of_two_proportions(experiment):
    found = experiment.module("run").noise(0.354, 0.400, 10042)
    assert found["z"] == pytest.approx(6.73, abs=0.005)
    assert found["error"] == pytest.approx(math.sqrt((0.354 * 0.646 + 0.4 * 0.6) / 10042))
    assert found["detectable"] == pytest.approx(2.8016 * found["error"], rel=1e-4)
    assert experiment.module("run").noise(0.5, 0.5, 100)["p"] == 1


def test_the_trend_is_that_of_two_proportions_where_there_are_two(experiment):
    trend = experiment.module("claims").trend
    z = experiment.module("run").noise(0.768, 0.785, 1319)["z"]
    assert trend([0.768, 0.785], [0.0, 0.5], 1319) == pytest.approx(z)
    assert trend([0.7, 0.7, 0.7], [0, 1, 5], 100) == pytest.approx(0)


def test_the_verdicts(experiment, tmp_path):
    from mdlm_min.evidence.golden import collect
    from mdlm_min.evidence.sweep import execute
    from mdlm_min.evidence.verdicts import judge

    specs = experiment.runs("cpu")
    for spec in specs:
        execute(spec, tmp_path, lambda line: None)
    table = collect(specs, tmp_path)
    verdicts = {claim.id: verdict for claim, verdict in judge(experiment, {"cpu": table})}
    assert {name for name, found in verdicts.items() if found.verdict == "reproduced"} == {
        "B2t-hellaswag", "B2t-arc_easy", "B4t-math", "B4t-scales-math",
    }  # fmt: skip
    assert {name for name, found in verdicts.items() if found.verdict == "not reproduced"} == {"B4t-scales-gsm8k"}
    assert all("published numbers, not ours" in found.note for found in verdicts.values())
    for row in table.rows():
        assert row["error_simulated"] == pytest.approx(row["error"], rel=0.03)
        assert row["power_simulated"] == pytest.approx(0.8, abs=0.02)

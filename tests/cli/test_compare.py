"""`mdlm compare` gives Student's interval of the paired difference, and refuses what cannot be compared."""

import json
import re
import shutil
from hashlib import sha256

import pytest
from scipy import stats

from mdlm_min.cli.main import main
from mdlm_min.run.run_folder import open_run

FIRST, SECOND = [3.61, 3.58, 3.66, 3.60, 3.59, 3.9], [3.70, 3.71, 3.69, 3.75, 3.70]


def made(folder, values, metric="test_loss", data="d", **settings):
    """Finished runs of seeds 1, 2, ... with these values of the metric."""
    for seed, value in enumerate(values, start=1):
        with open_run(folder / str(seed), {"seed": seed, "train": {"steps": 9}, **settings}) as run:
            run.write_json("data.json", {"sha256": data})
            run.append_metrics({"step": 0.0, metric: 9.0, "draw": 0.0})
            run.append_metrics({"step": 9.0, metric: value, "draw": seed / 7})
            run.finish({"steps": 9, "seconds": 1.0})
    return folder


@pytest.fixture
def folders(tmp_path):
    return made(tmp_path / "a", FIRST, mask_rate="U[0.45,0.55]"), made(tmp_path / "b", SECOND, mask_rate="U[0,1]")


def other(file, old, new):
    """The finished run of this config.json becomes one of another configuration."""
    file.write_text(file.read_text().replace(old, new))
    finished = file.parent / "finished.json"
    given = {"given_sha256": {"config.json": sha256(file.read_bytes()).hexdigest()}}
    finished.write_text(json.dumps(json.loads(finished.read_text()) | given))


def test_the_difference_is_that_of_a_paired_t_test(folders, capsys):
    assert main(["compare", *map(str, folders)]) == 0
    said = capsys.readouterr().out
    test = stats.ttest_rel(FIRST[:5], SECOND)
    low, high = test.confidence_interval(0.95)
    estimate, *bounds, p = map(float, re.search(r": (\S+) \[(\S+), (\S+)\] \(95% over 5 seeds, p = (\S+)\)", said).groups())
    assert estimate == pytest.approx(sum(a - b for a, b in zip(FIRST, SECOND, strict=False)) / 5, abs=6e-5)
    assert bounds == pytest.approx([low, high], abs=6e-5)
    assert p == pytest.approx(test.pvalue, rel=0.05)
    assert said.endswith(": told apart\n")
    assert f"mask_rate: 'U[0.45,0.55]' in {folders[0]}, 'U[0,1]' in {folders[1]}" in said
    assert f"left out, in {folders[0]} alone: seed 6" in said
    assert "seed 2: 3.5800 and 3.7100, difference -0.1300" in said
    assert "processors" not in said


def test_what_scatters_as_much_as_it_differs_is_not_told_apart_and_few_seeds_decide_nothing(tmp_path, capsys):
    first, second = made(tmp_path / "a", [3.6, 3.8, 3.5, 3.9, 3.7]), made(tmp_path / "b", [3.7, 3.6, 3.8, 3.6, 3.75])
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert said.endswith(": not told apart\n")
    assert "both have the same settings" in said
    for seed in (4, 5):
        shutil.rmtree(second / str(seed))
    assert main(["compare", str(first), str(second)]) == 0
    assert capsys.readouterr().out.endswith("(95% over 3 seeds, p = 0.69): nothing decided: fewer than 5 seeds\n")
    assert main(["compare", str(first / "1"), str(second / "1")]) == 0  # two runs
    assert "-0.1000 (1 seed: no interval): nothing decided" in capsys.readouterr().out


def test_two_files_of_one_schedule_differ_and_an_engine_does_not(tmp_path, capsys):
    first, second = made(tmp_path / "a", FIRST[:5], schedule="my.py:M"), made(tmp_path / "b", SECOND, schedule="my.py:M")
    for folder, schedule in ((first, "old"), (second, "new")):
        for file in folder.glob("*/data.json"):
            file.write_text(f'{{"sha256": "d", "schedule_sha256": "{schedule}"}}')
    other(first / "2" / "config.json", '"seed": 2', '"seed": 2, "engine": {"kind": "deepspeed"}')
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert f"schedule_sha256: 'old' in {first}, 'new' in {second}\n" in said
    assert "engine" not in said


def test_a_run_of_before_config_was_hashed_is_believed(folders, capsys):
    for file in folders[0].glob("*/finished.json"):
        finished = json.loads(file.read_text())
        del finished["given_sha256"]
        file.write_text(json.dumps(finished))
    assert main(["compare", *map(str, folders)]) == 0
    assert "told apart" in capsys.readouterr().out


def test_another_processor_is_said(folders, capsys):
    file = folders[0] / "1" / "environment.json"
    file.write_text(file.read_text().replace('"processor": "', '"processor": "another than '))
    assert main(["compare", *map(str, folders)]) == 0
    assert "several processors" in capsys.readouterr().out


def of_other_data(a, b):
    for file in b.glob("*/data.json"):
        file.write_text('{"sha256": "another"}')


def of_other_seeds(a, b):
    for seed in range(1, 6):
        (b / str(seed)).rename(b / f"{seed}.old")
        other(b / f"{seed}.old" / "config.json", f'"seed": {seed}', f'"seed": {seed + 10}')


def of_other_steps(a, b):
    other(a / "3" / "config.json", '"steps": 9', '"steps": 8')


def of_a_seed_that_is_none(a, b):
    other(a / "3" / "config.json", '"seed": 3', '"seed": "3"')


def of_another_schedule(a, b):
    (a / "3" / "data.json").write_text('{"sha256": "d", "schedule_sha256": "other"}')


def altered(a, b):
    file = b / "2" / "metrics.csv"
    file.write_text(file.read_text().replace("3.71", "3.01"))


def of_an_edited_config(a, b):
    file = b / "2" / "config.json"
    file.write_text(file.read_text().replace("U[0,1]", "U[0,.9]"))


def of_a_copied_run(a, b):
    shutil.rmtree(b / "2")
    shutil.copytree(a / "2", b / "2")
    other(b / "2" / "config.json", "U[0.45,0.55]", "U[0,1]")


def of_one_run_under_two_seeds(a, b):
    shutil.rmtree(b / "3")
    shutil.copytree(b / "2", b / "3")
    other(b / "3" / "config.json", '"seed": 2', '"seed": 3')


def of_a_copy_under_another_seed(a, b):
    shutil.rmtree(b / "3")
    shutil.copytree(a / "2", b / "3")
    other(b / "3" / "config.json", "U[0.45,0.55]", "U[0,1]")
    other(b / "3" / "config.json", '"seed": 2', '"seed": 3')


def without_metrics(a, b):
    (b / "2" / "metrics.csv").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (a / "3" / "finished.json").unlink(), "{a}/3 is not finished"),
        (lambda a, b: shutil.copytree(a / "1", a / "7"), "{a}/7 has the seed 1 of {a}/1; allowed: one run a seed"),
        (lambda a, b: shutil.rmtree(b), "{b} holds no runs"),
        (of_other_steps, "{a}/3: more than the seed differs (train.steps: 9 in {a}/1, 8 in {a}/3)"),
        (of_a_seed_that_is_none, "{a}/3/config.json: seed: '3' is not allowed; a whole number"),
        (of_another_schedule, "{a}/3: more than the seed differs (schedule_sha256: nothing in {a}/1, 'other' in {a}/3)"),
        (of_other_data, "second: {b} and {a} are runs on different data or tokenizers"),
        (of_other_seeds, "second: {b} has no seed of {a}"),
        (altered, "{b}/2/metrics.csv was altered after the run"),
        (of_an_edited_config, "{b}/2/config.json was altered after the run"),
        (without_metrics, "{b}/2/metrics.csv is gone"),
        (of_one_run_under_two_seeds, "{b}/3 has the metrics of {b}/2 to the byte; allowed: a run of its own for each seed"),
        (of_a_copy_under_another_seed, "second: {b}/3 has the metrics of {a}/2 to the byte; allowed: another run"),
        (of_a_copied_run, "second: {b}/2 has the metrics of {a}/2 to the byte; allowed: another run"),
    ],
)
def test_what_cannot_be_compared_is_refused(folders, change, message, capsys):
    change(*folders)
    assert main(["compare", *map(str, folders)]) == 2
    said = capsys.readouterr()
    assert message.format(a=folders[0], b=folders[1]) in said.err
    assert "difference" not in said.out


def test_a_metric_that_is_not_there_is_named(folders, capsys):
    assert main(["compare", *map(str, folders), "--metric", "accuracy"]) == 2
    assert f"metric: 'accuracy' is not measured in {folders[0]}/1; allowed: test_loss" in capsys.readouterr().err

import dataclasses
import gzip
import json
import shutil

import pandas as pd
import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import golden, verify
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.sweep import execute
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError, RunError
from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import RunFolder, metrics_sha256

COMMITTED = sorted((ROOT / "results").glob("*/*/table.csv")) + sorted((ROOT / "results" / "published").glob("*.csv"))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of results/ that a test may damage."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)  # without a folder of fresh runs
    return tmp_path / "results"


def test_every_experiment_with_results_has_a_golden_table_and_so_have_the_published_numbers():
    folders = {path.parent.parent.name for path in COMMITTED if path.name == "table.csv"}
    assert folders == {path.name for path in (ROOT / "results").glob("[0-9]*")} != set()
    assert {path.name for path in COMMITTED} >= {"fig5_uniform_attention.csv"}


def test_the_committed_results_verify(results, tmp_path, capsys):
    assert verify.verify(None, accept=False) == 0
    lines = capsys.readouterr().out.splitlines()
    ids = {line.split()[0] for line in lines}
    assert {*(f"T{i}" for i in range(1, 10)), *(f"P{i}" for i in range(1, 6))} <= ids


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: "/".join(path.parts[-3:]))
def test_an_altered_number_in_any_golden_table_is_found(path, results):
    alter(results / path.relative_to(ROOT / "results"))
    assert verify._moved_tables([]) == [f"{path.relative_to(ROOT / 'results').as_posix()}: altered, missing or new"]


def test_verify_fails_on_an_altered_number(results, capsys):
    alter(results / "03_wikitext_lasting" / "cpu" / "table.csv")
    assert verify.verify(None, accept=False) == 1
    assert "MOVED 03_wikitext_lasting/cpu/table.csv: altered" in capsys.readouterr().out


def alter(table):
    """Change one digit of the last number."""
    lines = table.read_text().splitlines(keepends=True)
    row = next(index for index in range(len(lines) - 1, 0, -1) if any(letter in "123456789" for letter in lines[index]))
    at = next(index for index, letter in enumerate(lines[row]) if letter in "123456789")
    lines[row] = lines[row][:at] + ("2" if lines[row][at] == "1" else "1") + lines[row][at + 1 :]
    table.write_text("".join(lines))


def test_a_table_altered_with_its_hash_is_found_by_its_curves(results, tmp_path, capsys):
    table = results / "00_theory" / "cpu" / "table.csv"
    table.write_text(table.read_text().replace("T9,t* linear,0.46", "T9,t* linear,0.47").replace("0.46296", "0.47296"))
    hashes = json.loads((results / "hashes.json").read_text())
    hashes["00_theory/cpu/table.csv"] = sha256(table)
    (results / "hashes.json").write_text(json.dumps(hashes))
    assert verify.verify(None, accept=False) == 1
    assert "not what its curves and runs give" in capsys.readouterr().out


def test_a_verdict_that_moved_is_found(results, tmp_path, capsys):
    path = results / "verdicts.json"
    path.write_text(path.read_text().replace('"verdict": "not reproduced"', '"verdict": "reproduced"', 1))
    assert verify.verify(None, accept=False) == 1
    assert "verdict was 'reproduced', is 'not reproduced'" in capsys.readouterr().out


def test_a_damaged_table_is_named(results, tmp_path, capsys):
    (results / "00_theory" / "cpu" / "curves.csv.gz").write_bytes(b"not gzip")
    assert main(["verify"]) == 2
    assert "00_theory/cpu/curves.csv.gz: cannot be read" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Two finished smoke runs of 01_parity."""
    runs = tmp_path_factory.mktemp("runs")
    for spec in Experiment("parity").runs("smoke", "output,secret", 1):
        execute(spec, runs)
    return runs


def specs():
    return Experiment("parity").runs("smoke", "output,secret", 1)


def test_a_table_rebuilds_from_its_curves_and_runs(fresh, tmp_path):
    table = golden.collect(specs(), fresh)
    table.write(tmp_path / "table")
    assert (
        golden.read(tmp_path / "table", "01_parity", "smoke").csv()
        == (tmp_path / "table" / "table.csv").read_text()
        == table.csv()
    )
    frame = pd.read_csv(tmp_path / "table" / "table.csv")
    assert len(frame) == 2
    assert {"seed", "t_gen", "seconds", "device", "dtype", "commit", "config_sha256", "data_sha256", "log_sha256"} <= set(frame)
    assert frame.notna().drop(columns="cell").all(axis=None)
    assert gzip.decompress((tmp_path / "table" / "curves.csv.gz").read_bytes()).startswith(b"run,step,loss")


def test_items_of_runs_with_different_columns_are_read_as_they_were_written(fresh, tmp_path):
    table = golden.collect(specs(), fresh)
    names = list(table.runs)
    texts = ["task,item,acc\nsums,0,1\nsums,1,0\n", "task,item,solved,passes\nsums,0,1,24\n"]
    items = dict(zip(names, texts, strict=True))
    golden.Table(table.experiment, table.tier, table.runs, table.curves, items).write(tmp_path)
    found = golden.read(tmp_path, table.experiment, table.tier)
    assert found.items == items
    assert found.item_frame().query("run == @names[1]")["passes"].tolist() == [24]
    text = gzip.decompress((tmp_path / "items.csv.gz").read_bytes()).decode().partition("\n")[2]
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match="its first line does not name the columns"):
        golden.read(tmp_path, table.experiment, table.tier)


def test_unfinished_and_altered_runs_are_no_results(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "runs")
    folder = specs()[0].folder(tmp_path / "runs")
    metrics = folder / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.", "0.1", 1))
    with pytest.raises(RunError, match="metrics.csv was altered after the run"):
        golden.collect(specs(), tmp_path / "runs")
    metrics.unlink()
    with pytest.raises(RunError, match="metrics.csv is gone"):
        golden.collect(specs(), tmp_path / "runs")
    (folder / "finished.json").unlink()
    with pytest.raises(RunError, match="this run is not finished"):
        golden.collect(specs(), tmp_path / "runs")


def test_items_that_were_altered_after_the_run_are_no_results(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "runs")
    spec = specs()[0]
    items, finished = (spec.folder(tmp_path / "runs") / name for name in ("items.csv", "finished.json"))
    items.write_text("task,item,acc\nsums,0,1\n")
    finished.write_text(json.dumps(json.loads(finished.read_text()) | {"items_sha256": sha256(items)}))
    table = golden.collect(specs(), tmp_path / "runs")
    assert table.items == {spec.name: items.read_text()}
    assert table.forged() == []
    table.write(tmp_path / "golden")
    assert (tmp_path / "golden" / "table.csv").read_text() == table.csv()
    assert golden.read(tmp_path / "golden", table.experiment, table.tier).items == table.items
    assert dataclasses.replace(table, items={}).forged() == [spec.name]
    assert dataclasses.replace(table, items=dict.fromkeys(table.runs, items.read_text())).forged() == [specs()[1].name]
    items.write_text("task,item,acc\nsums,0,0\n")
    with pytest.raises(RunError, match="items.csv was altered after the run"):
        golden.collect(specs(), tmp_path / "runs")


def test_items_of_no_run_and_starts_without_a_commit_are_named(fresh, tmp_path):
    table = golden.collect(specs(), fresh)
    dataclasses.replace(table, items={"nobody": "task,item,acc\nsums,0,1\n"}).write(tmp_path)
    with pytest.raises(InputError, match="items.csv.gz: cannot be read .*nobody is no run of runs.json"):
        golden.read(tmp_path, table.experiment, table.tier)
    table.runs["output/seed0"]["environment"]["starts"] = [{"torch": "2"}]
    (tmp_path / "runs.json").write_text(json.dumps(table.runs))
    with pytest.raises(InputError, match="environment.starts of output/seed0 is no list of starts with their commits"):
        golden.read(tmp_path, table.experiment, table.tier)


def test_fresh_runs_are_compared_with_golden_ones(fresh, results, tmp_path, capsys):
    golden.collect(specs(), fresh).write(results / "01_parity" / "smoke")
    runs = tmp_path / "runs"
    golden.collect(specs(), fresh).write(runs / "01_parity" / "smoke")
    assert verify._fresh_differences(runs) == (1, [])
    table = golden.read(runs / "01_parity" / "smoke", "01_parity", "smoke")
    table.curves["output/seed0"][-1]["validation_accuracy"] = 0.5
    table.write(runs / "01_parity" / "smoke")
    compared, [forged, line] = verify._fresh_differences(runs)
    assert compared == 1
    assert forged == "01_parity/smoke, fresh: the curves or items of output/seed0 are not those that its run recorded"
    assert line.startswith("01_parity/smoke output: final_validation differs by 0.")
    table.runs["output/seed0"]["finished"]["metrics_sha256"] = metrics_sha256(table.curves["output/seed0"])
    for record in table.runs.values():
        record["environment"]["processor"] = "another"
    table.write(runs / "01_parity" / "smoke")
    assert verify._fresh_differences(runs) == (1, [])  # one seed on another processor says nothing


def test_publishing_writes_the_three_files(fresh, results, capsys):
    assert main(["publish", "parity", "--tier", "smoke", "--arms", "output,secret", "--seeds", "1", "--runs", str(fresh)]) == 0
    assert {path.name for path in (results / "01_parity" / "smoke").iterdir()} == {"table.csv", "curves.csv.gz", "runs.json"}


def test_a_run_folder_knows_only_its_own_configuration(fresh):
    spec = specs()[0]
    assert RunFolder(spec.folder(fresh)).is_finished(spec.config)
    with pytest.raises(InputError, match="nothing.json cannot be read"):
        RunFolder(spec.folder(fresh)).read_json("nothing.json")

"""results/ro-crate-metadata.json: RO-Crate 1.1 that names every file as it is, with the same bytes for the same results."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from rocrate.rocrate import ROCrate

from mdlm_min.cli.main import main
from mdlm_min.evidence import crate, golden, history
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256

SMALL = "02_uniform_attention"


def committed():
    """The files of results/ that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name.removeprefix("results/") for name in listed.split("\0")[:-1]} - {crate.NAME}


def test_the_library_reads_the_crate_and_finds_every_file_as_it_is():
    found = ROCrate(str(ROOT / "results"))
    assert found.version == "1.1"
    files = {one.id: one for one in found.get_by_type("File") if one.id != crate.NAME}
    assert files.keys() == committed()
    for name, one in files.items():
        path = ROOT / "results" / name
        assert (one["sha256"], one["contentSize"]) == (sha256(path), str(path.stat().st_size))
    assert {one.id for one in found.root_dataset["hasPart"]} >= files.keys()
    for name in ("name", "description", "datePublished", "license"):  # which the specification asks for
        assert found.root_dataset[name]


def test_every_golden_table_is_named_with_its_files():
    found = ROCrate(str(ROOT / "results"))
    tables = [path.parent for path in (ROOT / "results").glob("*/*/runs.json")]
    assert tables
    for folder in tables:
        one = found.dereference(f"{folder.relative_to(ROOT / 'results').as_posix()}/")
        assert one.type == "Dataset"
        assert {part.id for part in one["hasPart"]} == {
            path.relative_to(ROOT / "results").as_posix() for path in folder.iterdir()
        }
        runs = json.loads((folder / "runs.json").read_text())
        assert f": {len(runs)} runs, made at the commits" in one["description"]


def test_every_term_that_the_vocabulary_lacks_is_defined():
    context = json.loads((ROOT / "results" / crate.NAME).read_text())["@context"]
    assert context == ["https://w3id.org/ro/crate/1.1/context", {"sha256": "http://schema.org/sha256"}]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of one experiment, of which a crate was written."""
    for name in (f"{SMALL}/cpu", "published", "figures"):
        shutil.copytree(ROOT / "results" / name, tmp_path / "results" / name)
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    crate.write(golden.golden_tables())
    return tmp_path / "results"


def test_the_same_results_give_the_same_bytes_at_any_time(monkeypatch, tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "results" / crate.NAME).unlink()
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    for module in ("root_dataset", "file"):
        monkeypatch.setattr(f"rocrate.model.{module}.iso_now", lambda: "2100-01-01T00:00:00")
    path = crate.write(golden.golden_tables())
    assert path.read_bytes() == (ROOT / "results" / crate.NAME).read_bytes()


def alter(name, text):
    def change(results):
        (results / name).write_text(text)

    return change


def rewrite(**changes):
    """Other properties of one entity, by its id."""

    def change(results):
        content = json.loads((results / crate.NAME).read_text())
        for one in content["@graph"]:
            if one["@id"] == changes["id"]:
                one |= {name: value for name, value in changes.items() if name != "id"}
        (results / crate.NAME).write_text(json.dumps(content))

    return change


def drop_part(results):
    content = json.loads((results / crate.NAME).read_text())
    table = next(one for one in content["@graph"] if one["@id"] == f"{SMALL}/cpu/")
    del table["hasPart"][0]
    (results / crate.NAME).write_text(json.dumps(content))


CHANGES = {
    "a table": (alter(f"{SMALL}/cpu/table.csv", "x"), f"{SMALL}/cpu/table.csv"),
    "a new file": (alter("published/new.csv", "x"), "./ and 2 more"),  # the folder of it, and the file
    "a lost file": (lambda results: (results / "published" / "README.md").unlink(), "./ and 2 more"),
    "the license": (rewrite(id="./", license="none"), "./"),
    "a description": (rewrite(id=f"{SMALL}/cpu/", description="other runs"), f"{SMALL}/cpu/"),
    "a hash": (rewrite(id="published/README.md", sha256="0" * 64), "published/README.md"),
    "a part": (drop_part, f"{SMALL}/cpu/"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_crate_of_other_results_is_stale_and_is_written_again(case, results):
    change, named = CHANGES[case]
    tables = golden.golden_tables()
    assert crate.stale(tables) == []
    change(results)
    assert crate.stale(tables) == [f"{crate.NAME}: not what the results are ({named}); `mdlm report` writes it again"]
    crate.write(tables)
    assert crate.stale(tables) == []


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"@graph": [1]}', '{"@graph": [{}]}', "[" * 100_000],
                         ids=["none", "empty", "no graph", "a list", "no entities", "no id", "deep"])  # fmt: skip
def test_a_crate_that_cannot_be_read_is_stale_and_is_written_again(content, results):
    tables, path = golden.golden_tables(), results / crate.NAME
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    assert crate.stale(tables)[0].startswith(f"{crate.NAME}: not what the results are (./ and ")
    crate.write(tables)
    assert path.read_bytes() == before


def test_the_order_of_parts_says_nothing(results):
    content = json.loads((results / crate.NAME).read_text())
    for one in content["@graph"]:
        one.get("hasPart", []).reverse()
    (results / crate.NAME).write_text(json.dumps(content))
    assert crate.stale(golden.golden_tables()) == []


def dated(results):
    return ROCrate(str(results)).root_dataset["datePublished"]


def test_the_date_is_that_of_the_newest_commit_of_the_runs(results):
    (table,) = golden.golden_tables()
    days = {
        subprocess.run(["git", "show", "-s", "--format=%cs", name], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for name in {one for record in table.runs.values() for one in golden.commits_of(record)}
    }
    assert dated(results) == max(days)
    assert dated(ROOT / "results") >= max(days)


def test_without_a_history_the_date_is_kept_and_none_is_made_up(results, monkeypatch, tmp_path):
    tables = golden.golden_tables()
    monkeypatch.setattr(crate, "ROOT", tmp_path)  # in no repository
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert crate.stale(tables) == []
    rewrite(id="./", datePublished="2001-02-03")(results)
    assert crate.stale(tables) == []
    (results / crate.NAME).unlink()
    with pytest.raises(InputError, match="the results cannot be dated: .* is in no git repository"):
        crate.write(tables)
    assert not (results / crate.NAME).exists()


def test_runs_of_unknown_commits_are_dated_once(results, monkeypatch):
    (table,) = golden.golden_tables()
    runs = {name: record | {"environment": {"commit": "c" * 12}} for name, record in table.runs.items()}
    unknown = [replace(table, runs=runs)]
    (results / crate.NAME).unlink()
    crate.write(unknown)
    first = dated(results)
    monkeypatch.setattr(history.History, "day", lambda self, commit: "2100-01-01")  # a later HEAD
    assert crate.stale(unknown) == []
    crate.write(unknown)
    assert dated(results) == first


@pytest.mark.parametrize(
    "command", [["publish", "uniform_attention"], ["report"], ["verify", "--accept"]], ids=lambda one: one[0]
)
def test_without_the_library_what_writes_the_crate_writes_nothing(command, results, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "rocrate", None)
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    assert main(command) == 2
    assert "rocrate" in (error := capsys.readouterr().err) and "is not installed, and this command needs it" in error
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
    assert crate.stale(golden.golden_tables()) == []  # to look at it takes no library

"""`mdlm verify` on damaged and on forged results: one line that names the file, never a traceback, nothing changed."""

import csv
import dataclasses
import gzip
import io
import json
import math
import shutil

import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import experiment, golden, history, pages, report, verify
from mdlm_min.run.environment import ROOT
from mdlm_min.run.run_folder import metrics_sha256

SMALL = ("02_uniform_attention/cpu",)


@pytest.fixture(scope="module")
def accepted(tmp_path_factory):
    """A small results folder whose verdicts and hashes are accepted: one experiment and the published numbers."""
    root = tmp_path_factory.mktemp("accepted")
    for name in (*SMALL, "published"):
        shutil.copytree(ROOT / "results" / name, root / "results" / name)
    shutil.copytree(ROOT / "experiments", root / "experiments")
    shutil.copy(ROOT / "README.md", root)
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        assert main(["report"]) == 0
        assert main(["verify", "--accept"]) == 0
    return root


def use(root, patch):
    """Results and pages are those of this folder; the history is that of the repository."""
    patch.setattr(golden, "RESULTS", root / "results")
    for module in (experiment, pages):
        patch.setattr(module, "EXPERIMENTS", root / "experiments")
    patch.chdir(root)


@pytest.fixture
def results(accepted, tmp_path, monkeypatch):
    """A copy of it that a test may damage."""
    shutil.copytree(accepted, tmp_path, dirs_exist_ok=True)
    use(tmp_path, monkeypatch)
    return tmp_path / "results"


FILES = [
    "verdicts.json", "hashes.json", "02_uniform_attention/cpu/table.csv", "02_uniform_attention/cpu/runs.json",
    "02_uniform_attention/cpu/curves.csv.gz", "published/fig5_uniform_attention.csv",
    "figures/record.json", "figures/02_uniform_attention_cpu.png", "report.md",
]  # fmt: skip


def packed(text):
    return gzip.compress(text.encode())


DAMAGE = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\x00\xff\xfe garbage",
    "list": lambda data: b"[1, 2]",
    "table": lambda data: b'{"a": 1}',
    "null": lambda data: b"null",
    "records without keys": lambda data: b'{"a": {"cell": "", "config": {}}}',
    "deep": lambda data: b"[" * 100_000,
    "packed nonsense": lambda data: packed("run,step\nnobody,1\n"),
    "packed text": lambda data: packed("no table at all"),
    "a flipped byte": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [*DAMAGE, "a folder"])
def test_a_damaged_file_is_one_line(results, name, damage, capsys):
    path = results / name
    data = DAMAGE[damage](path.read_bytes()) if damage in DAMAGE else None
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    before = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    code = main(["verify"])
    output = capsys.readouterr()
    assert code in (1, 2)
    if code == 2:
        assert len(output.err.splitlines()) == 1
        assert path.name in output.err
    else:
        assert any(line.startswith("MOVED") for line in output.out.splitlines())
    assert {file: file.read_bytes() for file in results.rglob("*") if file.is_file()} == before


def value_set(record, path, value):
    *parts, last = path
    for part in parts:
        record = record[part]
    record[last] = value


@pytest.mark.parametrize("name", [["x"], 3, None], ids=str)
def test_accepted_verdicts_need_an_id(results, name, capsys):
    records = json.loads((results / "verdicts.json").read_text())
    (results / "verdicts.json").write_text(json.dumps([{**records[0], "id": name}, *records[1:]]))
    assert main(["verify"]) == 2
    error = capsys.readouterr().err
    assert "verdicts.json: cannot be read (a record without an id)" in error
    assert error.count("\n") == 1


def test_an_accepted_number_beyond_the_floats_has_moved(results, capsys):
    records = json.loads((results / "verdicts.json").read_text())
    index = next(index for index, record in enumerate(records) if record["ours"] is not None)
    records[index]["ours"] = 10**400
    (results / "verdicts.json").write_text(json.dumps(records))
    assert main(["verify"]) == 1
    assert f"MOVED {records[index]['id']}: ours was inf" in capsys.readouterr().out


@pytest.mark.parametrize("value", [[], {}, None, 3, 10**400, -1], ids=str)
@pytest.mark.parametrize("path", ["cell", "config.arm", "config.seed", "environment.torch", "data.sha256", "finished.log_sha256"])
def test_a_damaged_record_of_fresh_runs_is_one_line(results, tmp_path, path, value, capsys):
    if path == "config.seed" and value == 3:
        value = 3.0
    folder = fresh(results, tmp_path)
    file = tmp_path / "fresh" / SMALL[0] / "runs.json"
    runs = json.loads(file.read_text())
    value_set(runs, (next(iter(runs)), *path.split(".")), value)
    file.write_text(json.dumps(runs))
    assert main(["verify", "--runs", folder]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mdlm: {file}: cannot be read (ValueError: ")
    assert path in error or "digits" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("column", ["step", "train_accuracy", "validation_accuracy", "signal_share"])
def test_a_column_that_fresh_curves_lack_is_named(results, tmp_path, column, capsys):
    folder = fresh(results, tmp_path)
    file = tmp_path / "fresh" / SMALL[0] / "curves.csv.gz"
    header, _, rows = gzip.decompress(file.read_bytes()).decode().partition("\n")
    assert f",{column}" in header
    file.write_bytes(packed(f"{header.replace(f',{column}', ',other')}\n{rows}"))
    assert main(["verify", "--runs", folder]) == 2
    error = capsys.readouterr().err
    assert error == f"mdlm: {file}: cannot be read (KeyError: '{column}')\n"


def test_the_undamaged_results_verify(results):
    assert main(["verify"]) == 0


def test_a_forged_curve_is_found_though_everything_else_is_made_again(results, capsys):
    folder = results / SMALL[0]
    rows = list(csv.DictReader(io.StringIO(gzip.decompress((folder / "curves.csv.gz").read_bytes()).decode())))
    forged = rows[len(rows) // 2]
    forged["validation_accuracy"] = "0.99"
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder / "curves.csv.gz").write_bytes(gzip.compress(out.getvalue().encode(), 9, mtime=0))
    (folder / "table.csv").write_text(golden.read(folder, *SMALL[0].split("/")).csv())
    accepted = (results / "hashes.json").read_bytes()
    for options in ([], ["--accept"], []):
        assert main(["verify", *options]) == 1
        output = capsys.readouterr().out
        assert f"MOVED {SMALL[0]}: the curves or items of {forged['run']} are not those that its run recorded" in output
        assert (results / "hashes.json").read_bytes() == accepted


def test_every_golden_run_s_curves_have_their_recorded_hash():
    assert [name for table in golden.golden_tables() for name in table.forged()] == []


def fresh(results, tmp_path, change=lambda runs, curves: None):
    """The golden table as if it had been run again, after `change`."""
    folder = tmp_path / "fresh" / SMALL[0]
    table = golden.read(results / SMALL[0], *SMALL[0].split("/"))
    change(table.runs, table.curves)
    table.write(folder)
    return str(tmp_path / "fresh")


def lower(runs, curves):
    for rows in curves.values():
        rows[-1]["validation_accuracy"] -= 0.4


def endless_elsewhere(runs, curves):
    """On another processor, where three standard errors are allowed on top."""
    for record in runs.values():
        record["environment"]["processor"] = "another"
    for rows in curves.values():
        rows[-1]["validation_accuracy"] = float("inf")


def undefine(runs, curves):
    for rows in curves.values():
        rows[-1]["validation_accuracy"] = float("nan")


def reconfigure(runs, curves):
    for record in runs.values():
        record["config"] = {**record["config"], "stop_after": 3}


def reseed(runs, curves):
    for record in runs.values():
        record["config"] = {**record["config"], "seed": 99}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lower, "differs by 0.4 from the golden mean"),
        (undefine, "differs by nan"),
        (endless_elsewhere, "differs by inf"),
        (reconfigure, "fresh rows have another configuration"),
        (reseed, "no fresh run has the configuration and seed of a golden one"),
    ],
)
def test_fresh_tables_that_differ_or_cannot_be_compared_are_found(results, tmp_path, change, message, capsys):
    assert main(["verify", "--runs", fresh(results, tmp_path, change)]) == 1
    assert message in capsys.readouterr().out


def test_fresh_runs_on_the_same_machine_have_the_tolerance_alone(results, tmp_path):
    def little(runs, curves):
        for rows in curves.values():
            rows[-1]["validation_accuracy"] -= 0.06

    fresh(results, tmp_path, little)
    found = verify._fresh_differences(tmp_path / "fresh")[1]
    assert any(line.endswith("differs by 0.06 from the golden mean, allowed 0.05") for line in found)


@pytest.mark.parametrize("what", ["torch", "processor"])
def test_fresh_runs_elsewhere_have_three_standard_errors_more(results, tmp_path, what):
    """Of two seeds, both lower by .4: the two means differ with an error of their distance over the root of two."""

    def lower_elsewhere(runs, curves):
        lower(runs, curves)
        for record in runs.values():
            record["environment"][what] = "another"

    fresh(results, tmp_path, lower_elsewhere)
    first, second = golden.accepted(*SMALL[0].split("/")).frame().query("arm == 'adamw_gpt2'")["final_validation"]
    allowed = 0.05 + 3 * abs(first - second) / math.sqrt(2)
    found = verify._fresh_differences(tmp_path / "fresh")[1]
    [line] = [line for line in found if line.startswith(f"{SMALL[0]} adamw_gpt2: final_validation ")]
    assert line.endswith(f"differs by 0.4 from the golden mean, allowed {allowed:.3g}")


def test_a_number_of_theory_is_the_same_everywhere(tmp_path):
    table = golden.accepted("00_theory", "cpu")
    for record in table.runs.values():
        record["environment"]["processor"] = "another"
    table.curves["T9/seed0"][0]["t* linear|check"] += 0.2
    table.write(tmp_path / "00_theory" / "cpu")
    assert any("t* linear: difference differs by 0.2" in line for line in verify._fresh_differences(tmp_path)[1])


def test_equal_fresh_tables_are_accepted(results, tmp_path):
    assert main(["verify", "--runs", fresh(results, tmp_path)]) == 0


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_a_folder_without_fresh_tables_is_bad_input(results, tmp_path, make, capsys):
    if make:
        (tmp_path / "elsewhere").mkdir()
    assert main(["verify", "--runs", str(tmp_path / "elsewhere")]) == 2
    assert "elsewhere" in capsys.readouterr().err


def test_a_tolerance_for_a_column_that_is_not_there_is_named(results, tmp_path, monkeypatch, capsys):
    original = verify.Experiment

    class Typo(original):
        def __init__(self, name):
            super().__init__(name)
            self.plan = {**self.plan, "tolerance": {"final_valdation": 0.1}}

    folder = fresh(results, tmp_path)
    monkeypatch.setattr(verify, "Experiment", Typo)
    assert main(["verify", "--runs", folder]) == 2
    assert "tolerance.final_valdation: the table has no such column" in capsys.readouterr().err


def moved(capsys, *options):
    """The lines about what has moved; `verify` says so with its exit code too."""
    code = main(["verify", *options])
    lines = [line.removeprefix("MOVED ") for line in capsys.readouterr().out.splitlines() if line.startswith("MOVED")]
    assert code == bool(lines)
    return lines


def test_an_accepted_number_that_is_a_thousandth_off_and_a_claim_that_is_gone_are_found(results, capsys):
    records = json.loads((results / "verdicts.json").read_text())
    record = next(one for one in records if one["ours"])
    gone = {**record, "id": "gone"}
    record["ours"] *= 1.001
    (results / "verdicts.json").write_text(json.dumps([*records, gone]))
    lines = moved(capsys)
    assert "gone: accepted, but no longer a claim" in lines
    assert any(line.startswith(f"{record['id']}: ours was ") for line in lines)


def test_a_verdict_whose_number_is_not_a_number_is_found(results, monkeypatch, capsys):
    def judge_each(tables):
        found = original(tables)
        (claim, verdict), *others = found["02_uniform_attention"]
        blank = dataclasses.replace(verdict, verdict="reproduced", ours=math.nan, low=math.nan, high=math.nan)
        return found | {"02_uniform_attention": [(claim, blank), *others]}

    original = verify.judge_each
    monkeypatch.setattr(verify, "judge_each", judge_each)
    assert "P5: its number is not a number" in moved(capsys)


def uncited(name):
    """What `verify` says of a file of results/ that is not the one that the crate names."""
    return f"ro-crate-metadata.json: not what the results are ({name}); `mdlm report` writes it again"


@pytest.mark.parametrize(
    "name", ["results/report.md", "README.md", "experiments/02_uniform_attention/README.md", "results/FINDINGS.md"]
)
def test_a_page_that_the_tables_do_not_give_is_stale(results, name, capsys):
    path = results.parent / name
    text = path.read_text()
    mark = {"README.md": report.README_MARKS[0], "experiments": pages.VERDICT_MARKS[0]}.get(name.split("/")[0])
    place = text.index(mark) + len(mark) if mark else len(text) // 2
    path.write_text(f"{text[:place]}x{text[place:]}")
    crate = [uncited(path.name)] if path.parent == results else []
    assert moved(capsys) == [f"{name}: not what the tables give; `mdlm report` writes it again", *crate]
    assert main(["report"]) == 0
    assert path.read_text() == text


def test_figures_of_other_tables_claims_or_bytes_are_stale(results, capsys):
    claims = results.parent / "experiments" / "02_uniform_attention" / "claims.py"
    claims.write_text(claims.read_text() + "# drawn otherwise\n")
    assert moved(capsys) == ["figures of 02_uniform_attention: drawn from other tables or claims; `mdlm report` draws them again"]
    claims.write_text(claims.read_text().removesuffix("# drawn otherwise\n"))
    picture = results / "figures" / "02_uniform_attention_cpu.png"
    picture.write_bytes(picture.read_bytes() + b" ")
    assert moved(capsys) == [
        "figures/02_uniform_attention_cpu.png: altered or missing; `mdlm report` draws it again",
        uncited("figures/02_uniform_attention_cpu.png"),
    ]


def rewrite(folder, change):
    """The golden table with changed records and curves whose hashes are made again: all but the history is forged well."""
    table = golden.read(folder / SMALL[0], *SMALL[0].split("/"))
    change(table.runs, table.curves)
    for name, record in table.runs.items():
        record["columns"] = list(table.curves[name][0])
        record["finished"]["metrics_sha256"] = metrics_sha256(table.curves[name])
    table.write(folder / SMALL[0])
    main(["report"])
    main(["verify", "--accept"])


def test_a_commit_that_is_not_there_or_has_other_sources_is_found_though_accepted(results, capsys):
    def change(runs, curves):
        first, second, third, *_ = runs.values()
        first["environment"]["commit"] = "0123456789ab"
        second["environment"]["source_sha256"] = "0" * 64
        third["environment"]["commit"] += "+changed"

    rewrite(results, change)
    capsys.readouterr()
    lines = moved(capsys)
    assert len(lines) == 3
    assert f"{SMALL[0]}: the commit of 1 runs, 0123456789ab, is not in the history" in lines
    assert sum("does not contain the sources that they recorded" in line for line in lines) == 1
    assert sum("had changes that were never committed" in line for line in lines) == 1


def test_a_metric_that_is_no_number_is_found_though_accepted(results, capsys):
    def change(runs, curves):
        (gap, *_), (last, *_) = ([name for name in curves if name.startswith(arm)] for arm in ("adamw_gpt2", "output_gpt2"))
        curves[gap][2]["validation_accuracy"] = float("nan")
        for row in curves[last]:
            row["train_accuracy"] = float("nan")

    rewrite(results, change)
    capsys.readouterr()
    lines = moved(capsys)
    assert f"{SMALL[0]}: validation_accuracy of adamw_gpt2/seed0 is not a number" in lines
    assert f"{SMALL[0]}: train_accuracy of output_gpt2/seed0 is not a number" in lines


def test_a_seed_that_stands_there_twice_is_found_though_accepted(results, capsys):
    def copy(runs, curves):
        first, second = (name for name in curves if name.startswith("adamw_gpt2/"))
        curves[second] = curves[first]
        runs[second]["finished"]["metrics_sha256"] = runs[first]["finished"]["metrics_sha256"]
        runs[second]["columns"] = runs[first].get("columns")

    rewrite(results, copy)
    capsys.readouterr()
    assert f"{SMALL[0]}: adamw_gpt2/seed1 has the curves of adamw_gpt2/seed0" in moved(capsys)


def test_a_run_that_the_plan_does_not_have_is_found_though_accepted(results, capsys):
    def change(runs, curves):
        runs["adamw_gpt2/seed1"]["config"]["train"] = {**runs["adamw_gpt2/seed1"]["config"]["train"], "learning_rate": 9.0}

    rewrite(results, change)
    capsys.readouterr()
    assert f"{SMALL[0]}: adamw_gpt2/seed1 is no run of the plan in this configuration" in moved(capsys)


def test_forged_fresh_curves_are_found(results, tmp_path, capsys):
    def nudge(runs, curves):
        next(iter(curves.values()))[-1]["validation_accuracy"] += 1e-9  # within every tolerance

    lines = moved(capsys, "--runs", fresh(results, tmp_path, nudge))
    assert [line for line in lines if "fresh: the curves or items of" in line] == lines
    assert len(lines) == 1


def test_claims_set_after_their_runs_are_said_and_accepted(results, capsys):
    records = {record["id"]: record["set_after"] for record in json.loads((results / "verdicts.json").read_text())}
    assert "no such claim at 938d58117f4d" in records["P5-AdamW"]
    main(["verify"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("P5-AdamW ")]
    assert f"SET AFTER THE RUNS: {records['P5-AdamW']}" in line


def test_without_a_history_the_accepted_marks_are_shown_and_it_says_so(results, monkeypatch, capsys):
    monkeypatch.setattr(history.History, "missing", "this clone is shallow; `git fetch --unshallow` brings the history")
    assert main(["verify"]) == 0
    output = capsys.readouterr().out
    assert "the history is not checked: this clone is shallow" in output
    assert "SET AFTER THE RUNS: no such claim at 938d58117f4d" in output

"""experiment.toml, damaged in every way that we could think of: one line that names the key, never another exception."""

import copy
import json
import shutil
import tomllib

import pytest

from mdlm_min.data import text as text_data
from mdlm_min.evidence import experiment as module
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.plan_file import read_plan
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError

GOOD = {
    "title": "A question?",
    "tolerance": {"final_validation": 0.1},
    "defaults": {"data": {"n": 8, "k": 2}, "train": {"steps": 10, "learning_rate": 1e-3}},
    "arms": {"output": {"supervision": "output"}, "md_0.2": {"supervision": "masked", "mask_rate": "U[0,0.2]"}},
    "tiers": {
        "smoke": {"seeds": 1},
        "cpu": {
            "seeds": 3,
            "first_seed": 2,
            "arms": ["output"],
            "jobs": 2,
            "gpu_minutes": 5,
            "worth": 3,
            "why": "because",
            "config": {"train": {"steps": 20}},
            "arms_config": {"output": {"train": {"steps": 30}}},
            "grid": [{"name": "small", "data.n": [9]}, {"data.n": [8, 9], "arms": ["output"], "seeds": 2, "first_seed": 0}],
        },
    },
}


def toml(value, prefix=""):
    """A nested table as TOML text, everything inline, so that any damage can be written down."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "nan" if value != value else json.dumps(value)


def text(plan):
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in plan.items()) + "\n"


def places(value, path=()):
    """Every key and list index of the good file."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        found += [(*path, key), *places(one, (*path, key))]
    return found


def changed(path, new, good=GOOD):
    plan = copy.deepcopy(good)
    inside = plan
    for key in path[:-1]:
        inside = inside[key]
    if new is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return text(plan)


WRONG = ["", "../../x", -1, 10**30, True, 1.5, [], {}, [[]], [{}], {"": 1}, {"seed": 5}, float("nan"), "a\nb", {"a\nb": 1}]
DAMAGED = [changed(path, new) for path in places(GOOD) for new in (None, *WRONG)]
DAMAGED += [text(GOOD)[:cut] for cut in range(0, len(text(GOOD)), 40)]


def write(folder, content):
    (folder / "00_probe").mkdir(exist_ok=True)
    path = folder / "00_probe" / "experiment.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_good_file_is_read_and_gives_its_runs(tmp_path, monkeypatch):
    write(tmp_path, text(GOOD))
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    names = {spec.name for spec in Experiment("probe").runs("cpu")}
    small = {f"small/output/seed{seed}" for seed in (2, 3, 4)}
    assert names == small | {f"n={n}/output/seed{seed}" for n in (8, 9) for seed in (0, 1)}
    fewer = {spec.name for spec in Experiment("probe").runs("cpu", seeds=1)}
    assert fewer == {"small/output/seed2", "n=8/output/seed0", "n=9/output/seed0"}


def test_a_damaged_file_gives_one_line_or_its_runs(tmp_path, monkeypatch):
    """Over 600 damaged files; what is still a good file must give runs whose folders lie inside the runs folder."""
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    refused = 0
    for content in DAMAGED:
        write(tmp_path, content)
        try:
            plan = read_plan(tmp_path / "00_probe" / "experiment.toml")
        except InputError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 700
            refused += 1
            continue
        for tier in plan["tiers"]:
            for spec in Experiment("probe").runs(tier, seeds=1):
                assert spec.folder(tmp_path).resolve().is_relative_to(tmp_path.resolve())
                assert spec.config["seed"] == spec.seed
                assert spec.config["arm"] == spec.arm
    assert len(DAMAGED) > 600
    assert refused > 0.6 * len(DAMAGED)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"title = ", b"\x00" * 100, b"[" * 5000, b"a = 1\na = 2\n", b"[a]\n[a]\n", b'title = "\\x"']
)
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    with pytest.raises(InputError, match=r"00_probe/experiment.toml: ") as error:
        read_plan(write(tmp_path, content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("tiers", "cpu", "sedes"), 3, r"tiers.cpu.sedes: no such key; allowed: seeds, first_seed, arms"),
        (("tiers", "cpu", "arms_config", "ouput"), {}, r"tiers.cpu.arms_config.ouput: no such arm; allowed: output, md_0.2"),
        (("tiers", "cpu", "arms"), ["ouput"], r"tiers.cpu.arms: .* allowed: a list of different arms from output, md_0.2"),
        (("tiers", "cpu", "grid", 0, "data.n"), [9, 10], r"grid.name: 'small' names 2 cells.*allowed: one cell"),
        (("tiers", "cpu", "grid", 1, "name"), "small", r"names 2 cells"),
        (("tiers", "cpu", "grid", 0, "name"), "n=8", r"two cells are named 'n=8'"),
        (("tiers", "cpu", "grid", 0, "name"), "../x", r"grid.name: '../x' is not allowed"),
        (("defaults", "seed"), 7, r"defaults.seed: .* settings other than arm and seed"),
        (("arms", "output", "arm"), "x", r"arms.output.arm: "),
        (("tiers", "cpu", "grid", 0, "seed"), [1], r"is not a dotted setting"),
        (("arms", "../../x"), {}, r"arms.'../../x': '../../x' is not allowed; allowed: letters"),
        (("tiers", "huge"), {"seeds": 1}, r"tiers.huge: no such tier; allowed: smoke, cpu, gpu, paper"),
        (("tolerance", "final_validation"), "0.1", r"tolerance.final_validation: '0.1' is not allowed; allowed: a number"),
        (("tiers", "cpu", "seeds"), 0, r"tiers.cpu.seeds: 0 is not allowed; allowed: a whole number from 1"),
        (("tiers", "cpu", "first_seed"), -1, r"tiers.cpu.first_seed: -1 is not allowed; allowed: a whole number from 0"),
        (("tiers", "cpu", "grid", 1, "first_seed"), 0.5, r"tiers.cpu.grid.first_seed: 0.5 is not allowed"),
        (("tiers", "cpu", "gpu_minutes"), None, r"tiers.cpu.gpu_minutes: is missing"),
        (("arms",), {}, r"arms: is empty; needed: at least one arm"),
        (("tiers", "cpu", "grid", 1, "data"), [1], r"overlap"),
        (("arms", "all"), {}, r"arms.all: 'all' is not allowed; .* not the name all"),
        (("arms", "a,b"), {}, r"arms.'a,b': 'a,b' is not allowed"),
        (("arms", "seed0 "), {}, r"arms.'seed0 ': "),
        (
            ("defaults", "data", "n"),
            float("nan"),
            r"defaults.data.n: nan is not allowed; allowed: text, numbers of at most 64 bits",
        ),
        (("defaults", "data", "n"), 2**63, r"defaults.data.n: 9223372036854775808 is not allowed"),
        (
            ("tiers", "cpu", "grid", 0, "data.n"),
            [float("nan")],
            r"tiers.cpu.grid.data.n: \[nan\] is not allowed",
        ),
        (("tiers", "cpu", "grid", 0, "a" + ".a" * 3000), [1], r"is not a dotted setting"),
        (("tiers", "cpu", "why"), "a\nb", r"tiers.cpu.why: .* allowed: one line of text"),
        (("tiers", "cpu", "a\nb"), 1, r"tiers.cpu.'a\\nb': no such key"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path, path, new, message):
    with pytest.raises(InputError, match=message):
        read_plan(write(tmp_path, changed(path, new)))


@pytest.mark.parametrize("key", ["defaults.a", "tiers.smoke.seeds", "tiers.cpu.jobs", "tolerance.final_validation"])
def test_an_integer_too_long_to_print_is_refused(tmp_path, key):
    tables, _, name = key.rpartition(".")
    good = text({table: value for table, value in GOOD.items() if table != key.partition(".")[0]})
    rest = {"defaults": "", "tiers": "seeds = 1\n" * (key == "tiers.cpu.jobs"), "tolerance": ""}[key.partition(".")[0]]
    content = f"{good}[{tables}]\n{rest}{name} = 0x{'f' * 20_000}\n"
    with pytest.raises(InputError, match=f"{key}: int of too many digits to print is not allowed"):
        read_plan(write(tmp_path, content))


def test_settings_nested_too_deeply_are_refused(tmp_path):
    for nested in ("a" + ".a" * 3000 + " = 1", "a = " + "[" * 60 + "]" * 60):
        with pytest.raises(InputError, match=r"defaults.*is nested too deeply; allowed: 10 tables and lists"):
            read_plan(write(tmp_path, f"{text(changed_table('defaults'))}[defaults]\n{nested}\n"))


def changed_table(name):
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_corpus_in_the_place_of_a_setting_that_is_no_table(tmp_path, monkeypatch):
    write(tmp_path, changed(("defaults", "data"), 3))
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    with pytest.raises(InputError, match="text: 00_probe has no corpus to replace"):
        Experiment("probe").runs("smoke", corpus="mine.txt")
    with pytest.raises(InputError, match="seeds: 1000000000 is not allowed; allowed: 1 to 10000, or 0"):
        Experiment("probe").runs("smoke", seeds=10**9)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"00_probe/run.py: is missing; an experiment needs"),
        ("def summarise(rows): return [{}]\n", r"00_probe/run.py: has no function 'run'; needed: run and summarise"),
        ("def run(*a): ...\nsummarise = 3\n", r"00_probe/run.py: has no function 'summarise'"),
    ],
)
def test_an_incomplete_run_py_is_found_before_anything_runs(tmp_path, monkeypatch, source, message):
    path = write(tmp_path, text(GOOD))
    if source is not None:
        (path.parent / "run.py").write_text(source)
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    with pytest.raises(InputError, match=message):
        Experiment("probe").check([])


RUN_PY = "def run(settings, seed, folder, progress): ...\ndef summarise(rows): return [{}]\n"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("final_validation", ""),
        ("final_validatoin", r"toml: tolerance.final_validatoin: the table has no such column; allowed: final_validation, last"),
        ("quantity", r"tolerance.quantity: the table has no such column"),
        ("arm", r"tolerance.arm: the table has no such column"),
        ("seconds", r"tolerance.seconds: the table has no such column"),
    ],
)  # fmt: skip
def test_a_tolerance_for_a_column_that_no_table_has_is_found_before_anything_runs(tmp_path, monkeypatch, column, message):
    (tmp_path / "experiments").mkdir()
    path = write(tmp_path / "experiments", text({**GOOD, "tolerance": {column: 0.1}}))
    (path.parent / "run.py").write_text(RUN_PY)
    table = tmp_path / "results" / "00_probe" / "cpu" / "table.csv"
    table.parent.mkdir(parents=True)
    table.write_text("cell,arm,seed,quantity,final_validation,last,seconds,commit\n,output,0,N,0.5,inf,3.5,123\n")
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path / "experiments")
    if not message:
        Experiment("probe").check([])
        for damaged in (b"", b"cell,arm\n", b"\xff\n\xff\n", b"a,b\n1,2\n", b'"' * 99, b"a,seconds\n1\n"):
            table.write_bytes(damaged)
            with pytest.raises(InputError, match="table.csv: cannot be read"):
                Experiment("probe").check([])
        return
    with pytest.raises(InputError, match=message):
        Experiment("probe").check([])


def test_check_is_optional_in_run_py(tmp_path, monkeypatch):
    path = write(tmp_path, text(GOOD))
    (path.parent / "run.py").write_text(RUN_PY)
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    experiment = Experiment("probe")
    experiment.check(experiment.runs("smoke"))


@pytest.mark.parametrize("name", ["01_parity", "03_wikitext_bins", "04_8b_pt"])
def test_damaged_settings_of_a_real_experiment_are_named_by_its_check(tmp_path, monkeypatch, name):
    """Every setting of the defaults and the arms, dropped or replaced: run.py's check finds it or the runs could start."""
    shutil.copytree(ROOT / "experiments" / name, tmp_path / name)
    good = tomllib.loads((tmp_path / name / "experiment.toml").read_text())
    good["tiers"] = {"smoke": good["tiers"]["smoke"]}
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(text_data, "HUB", {})  # no attempt to download
    arm = next(iter(good["arms"]))
    paths = [("defaults",), ("arms", arm), *places(good["defaults"], ("defaults",))]
    paths += places(good["tiers"]["smoke"]["config"], ("tiers", "smoke", "config"))
    refused = 0
    for path in paths:
        for new in (None, -1, True, "x", [1], {}, {"x": 1}, 1e300):
            (tmp_path / name / "experiment.toml").write_text(changed(path, new, good))
            try:
                experiment = Experiment(name)
                experiment.check(experiment.runs("smoke", arm, seeds=1))
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 4 * len(paths)

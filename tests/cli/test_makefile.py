"""The Makefile passes values to the program exactly as they were typed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ODD = [
    "a b",
    "folder/",
    "it's",
    'say "x"',
    "$(touch stolen)",
    "$(shell touch stolen)",
    "-x",
    "two\nlines",
    "`touch stolen`",
    "a;touch stolen",
    "$HOME",
    "a&b|c>d",
    "*",
    "\\n",
    "#x",
    "50%",
]


@pytest.fixture
def made(tmp_path):
    """A function that runs make in a copy of the Makefile whose `mdlm` writes down what it was given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    script = tmp_path / ".venv" / "bin" / "mdlm"
    script.parent.mkdir(parents=True)
    script.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        "json.dump([sys.argv[1:], os.environ.get('MDLM_DATA')], open('given.json', 'w'))\n"
    )
    script.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/installed"):
        (tmp_path / name).touch()

    def make(*values):
        done = subprocess.run(["make", *values], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "stolen").exists()
        return json.loads((tmp_path / "given.json").read_text())

    return make


@pytest.mark.parametrize("value", ODD)
def test_values_arrive_as_they_were_typed(made, value):
    names = {
        "TEXT": "--text",
        "ARMS": "--arms",
        "CELLS": "--cells",
        "HOSTFILE": "--hostfile",
        "TIER": "--tier",
        "SEEDS": "--seeds",
        "JOBS": "--jobs",
    }
    arguments, data = made("exp-wikitext-bins", f"DATA={value}", *(f"{name}={value}" for name in names))
    assert arguments[:2] == ["run", "wikitext_bins"]
    given = dict(argument.split("=", 1) for argument in arguments[2:])
    assert {option: given[option] for option in names.values()} == dict.fromkeys(names.values(), value)
    assert data == value


def test_what_is_not_given_is_left_to_the_program(made):
    arguments, data = made("exp-parity")
    assert arguments == ["run", "parity", "--tier=cpu", "--seeds=0", "--arms=", "--cells=", "--processes=0", "--hostfile="]
    assert data is None


def test_every_experiment_has_a_target():
    targets = (ROOT / "Makefile").read_text()
    for folder in sorted((ROOT / "experiments").glob("*/experiment.toml")):
        name = folder.parent.name.partition("_")[2]
        assert (f"$(RUN) {name} $(OPTIONS)" if name != "contest" else ".venv/bin/mdlm contest ") in targets


def test_the_contest_is_given_its_budget_and_schedule(made):
    assert made("contest")[0] == ["contest", "--budget=1", "--seeds=0"]
    arguments, data = made("contest", "BUDGET=4", "SCHEDULE=my file.py:$HOME", "DATA=folder", "JOBS=3")
    assert arguments == ["contest", "--budget=4", "--seeds=0", "--schedule=my file.py:$HOME", "--jobs=3"]
    assert data == "folder"


def test_another_tier_of_the_contest_is_run_like_that_of_other_experiments(made):
    with pytest.raises(AssertionError, match="BUDGET: not together with TIER, ARMS or CELLS"):
        made("contest", "TIER=smoke", "BUDGET=4")
    arguments, _ = made("contest", "TIER=smoke")
    assert arguments[:3] == ["run", "contest", "--tier=smoke"]

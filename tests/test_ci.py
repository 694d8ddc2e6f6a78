"""The files for other people's machines: workflow, action, pre-commit hooks, and the commands that CONTRIBUTING.md names."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mdlm_min.cli.main import main
from mdlm_min.evidence import golden

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
ACTION = ROOT / ".github" / "actions" / "verify" / "action.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"


def steps(path):
    content = yaml.safe_load(path.read_text())
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    return [step for job in jobs for step in job["steps"]]


def commands(path):
    """Every line that a file tells a shell to execute."""
    if path.suffix == ".md":
        blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    else:
        blocks = [step["run"] for step in steps(path) if "run" in step]
    return [line.strip() for block in blocks for line in block.strip().splitlines()]


@pytest.mark.parametrize(
    ("path", "command"),
    [(path, command) for path in (WORKFLOW, ACTION, ROOT / "CONTRIBUTING.md") for command in commands(path)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_command_names_a_target_or_a_command_that_exists(path, command):
    program, first, *_ = command.removeprefix(".venv/bin/").split()
    if program == "make":
        assert subprocess.run(["make", "--dry-run", first], cwd=ROOT, capture_output=True).returncode == 0
    elif program == "mdlm":
        with pytest.raises(SystemExit) as stop:
            main([first, "--help"])
        assert stop.value.code == 0
    else:
        assert program in ("python", "cp", "git")


def test_the_workflow_lints_verifies_and_tests():
    assert commands(WORKFLOW) == ["make setup", "make lint", "make verify", "make test"]


@pytest.mark.parametrize("path", [WORKFLOW, ACTION, HOOKS], ids=lambda path: path.name)
def test_no_file_names_a_host(path):
    assert not re.search(r"://|\.(com|org|io|net)\b", path.read_text())


def test_the_hooks_are_those_of_make_lint():
    hooks = [hook for repo in yaml.safe_load(HOOKS.read_text())["repos"] for hook in repo["hooks"]]
    assert [hook["entry"].split()[0] for hook in hooks] == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
    assert subprocess.run([Path(sys.prefix) / "bin" / "pre-commit", "validate-config", HOOKS], cwd=ROOT).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "code"), [(0.0, 0), (1.0, 1)], ids=["same", "moved"])
def test_the_action_fails_only_if_a_fresh_table_has_moved(shift, code, tmp_path):
    table = golden.read(golden.RESULTS / "00_theory" / "cpu", "00_theory", "cpu")
    name, rows = next(iter(table.curves.items()))
    column = next(column for column in rows[0] if column.endswith("|check"))
    moved = {**table.curves, name: [{**rows[0], column: rows[0][column] + shift}]}
    replace(table, curves=moved).write(tmp_path / "fresh" / "00_theory" / "cpu")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    step = steps(ACTION)[-1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUNS": str(tmp_path / "fresh")}
    done = subprocess.run([step["shell"], "-c", step["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "1 fresh tables compared with golden ones" in done.stdout
    assert ("MOVED 00_theory/cpu" in done.stdout) == (code == 1)

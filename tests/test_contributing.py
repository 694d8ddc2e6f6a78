"""The recipe of CONTRIBUTING.md, followed step by step in a checkout of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOMEONE = ["git", "-c", "user.name=someone", "-c", "user.email=someone@example.org"]
ROOT = Path(__file__).resolve().parents[1]


def commands(section: str) -> list[str]:
    """The lines of the sh blocks below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.strip().splitlines()]


def git(*arguments: str | Path) -> str:
    return subprocess.run(["git", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A clone of this repository with the changes of the working tree in it."""
    folder = tmp_path / "checkout"
    git("clone", "--quiet", ROOT, folder)
    for name in git("ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
        else:
            (folder / name).unlink()
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)  # runs that count are made from committed sources
    subprocess.run([*SOMEONE, "commit", "-q", "--allow-empty", "-m", "the working tree"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_the_steps_to_add_an_experiment_work_as_they_stand(checkout):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    someone = {f"GIT_{role}_{what}": "someone@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **someone, "PATH": path, "PYTHONPATH": str(checkout)}
    steps = commands("Add an experiment")
    assert len(steps) == 9
    for step in steps:
        done = subprocess.run(["bash", "-c", step], cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    assert "X1        reproduced" in done.stdout
    assert "1 fresh tables compared with golden ones; 0 differences" in done.stdout
    assert (checkout / "results" / "20_masked_share" / "cpu" / "table.csv").read_text().count("\n") == 1 + 2 * 5

"""requirements.lock and the container that is made from it: what they name is there, pinned and hashed."""

import json
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK, RECIPE = ROOT / "requirements.lock", ROOT / "Containerfile"


def locked():
    """Version and hashes of every package in the lock."""
    found = {}
    text = "".join(line for line in LOCK.read_text().splitlines(keepends=True) if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        pin, *hashes = line.split()
        name, _, pinned = pin.partition("==")
        assert canonicalize_name(name) not in found, f"{name} is there twice"
        found[canonicalize_name(name)] = (pinned, hashes)
    return found


def constraints():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, _, pinned in (line.partition("==") for line in lines)}


def test_the_lock_pins_what_the_constraints_pin():
    assert {name: pinned.removesuffix("+cpu") for name, (pinned, _) in locked().items()} == constraints()


def test_torch_is_the_cpu_build():
    assert [name for name, (pinned, _) in locked().items() if "+" in pinned] == ["torch"]
    assert not [name for name in locked() if name.startswith(("nvidia", "triton", "cuda"))]


def test_every_package_has_hashes():
    for name, (pinned, hashes) in locked().items():
        assert pinned and hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), name
        assert len(set(hashes)) == len(hashes), name


def test_the_lock_holds_every_requirement_of_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = locked()
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(found[canonicalize_name(requirement.name)][0]), requirement


def test_the_lock_is_what_runs_here():
    """Where a package is installed, it is the locked one."""
    for name, (pinned, _) in locked().items():
        try:
            assert version(name).removesuffix("+cpu") == pinned.removesuffix("+cpu"), name
        except PackageNotFoundError:
            continue


def test_the_head_names_the_command_that_makes_the_lock():
    head = [line.removeprefix("#").strip() for line in LOCK.read_text().splitlines() if line.startswith("#")]
    command = shlex.split(head[1])
    made = subprocess.run(
        ["make", "--no-print-directory", "--always-make", "--dry-run", "lock", "UV=uv"], cwd=ROOT, capture_output=True, text=True
    )
    recipe = [word for word in shlex.split(made.stdout.strip().splitlines()[-1]) if word not in ("DS_BUILD_OPS=0", "-q")]
    assert command == recipe
    assert command[:3] == ["uv", "pip", "compile"]
    assert command[-1] == LOCK.name


@pytest.mark.parametrize("path", [LOCK, RECIPE], ids=lambda path: path.name)
def test_no_file_names_a_host(path):
    assert not re.search(r"://|\.(com|org|io|net)\b", path.read_text())


def test_what_is_built_with_comes_first():
    """`make locked` picks setuptools and wheel, with their hashes and nothing else."""
    script = re.search(r"awk ('.*') requirements.lock", (ROOT / "Makefile").read_text())
    assert script
    done = subprocess.run(["awk", *shlex.split(script[1]), LOCK], capture_output=True, text=True, check=True)
    names = re.findall(r"^(\S+)==", done.stdout, re.MULTILINE)
    assert names == ["setuptools", "wheel"]
    assert done.stdout.count("--hash=") == sum(len(locked()[name][1]) for name in names)


def instructions():
    """Those of the container recipe, each with its text."""
    lines = [line for line in RECIPE.read_text().splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_recipe_is_made_of_known_instructions_in_their_order():
    order = ["FROM", "ARG", "ARG", "RUN", "WORKDIR", "COPY", "RUN", "RUN", "CMD"]
    assert [name for name, _ in instructions()] == order
    major = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert instructions()[0][1].startswith(f"python:{major}-")


def test_what_the_recipe_copies_and_makes_is_there():
    (copied,) = [text.split()[:-1] for name, text in instructions() if name == "COPY"]
    assert all((ROOT / name).exists() for name in copied)
    (last,) = [json.loads(text) for name, text in instructions() if name == "CMD"]
    assert last[:2] == ["sh", "-c"]
    commands = [text for name, text in instructions() if name == "RUN"] + [last[2]]
    steps = [step.split() for text in commands for step in text.split(" && ")]
    assert [step for step in steps if step[0] == "make"] == [["make", "locked"], ["make", "exp-theory"], ["make", "verify"]]
    for step in steps:
        if step[0] == "make":
            assert subprocess.run([*step, "--dry-run"], cwd=ROOT, capture_output=True).returncode == 0
        else:
            assert step[0] in ("apt-get", "git", "rm")
    tools = next(step for step in steps if step[:2] == ["apt-get", "install"])
    assert {"git", "make"} <= set(tools)  # which the base image lacks


def test_the_committed_files_alone_make_the_container(tmp_path):
    """The recipe's own two steps, COPY and `git reset`: what `make locked` reads is among what is committed."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, tmp_path / "copy"], check=True)
    (step,) = [text for name, text in instructions() if name == "RUN" and text.startswith("git")]
    subprocess.run(step.split(), cwd=tmp_path / "copy", check=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements.lock", "results/verdicts.json"):
        assert (tmp_path / "copy" / name).is_file(), name

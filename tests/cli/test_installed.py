"""A real wheel, installed outside the checkout: what works anywhere, and what asks for a checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WANTED = "run from a checkout of mdlm-min, or name one: mdlm --root DIR\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    source, wheels, target = folder / "source", folder / "wheels", folder / "site"
    source.mkdir()  # a build leaves files beside its sources
    for name in ("mdlm_min", "baselines", "experiments"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", source, "--no-deps", "--no-build-isolation", "-w", wheels], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", target, *wheels.iterdir()], check=True)
    return target


def mdlm(installed, cwd, *arguments, **environment):
    """The console script of the wheel."""
    kept = {name: value for name, value in os.environ.items() if name != "MDLM_ROOT"}
    return subprocess.run(
        [sys.executable, installed / "bin" / "mdlm", *arguments], cwd=cwd, capture_output=True, text=True,
        env={**kept, "PYTHONPATH": str(installed), **environment},
    )  # fmt: skip


def test_the_wheel_holds_the_library_and_its_templates_alone(installed):
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"mdlm_min", "bin"}
    templates = sorted(path.name for path in (ROOT / "mdlm_min" / "evidence" / "templates").iterdir())
    assert sorted(path.name for path in (installed / "mdlm_min" / "evidence" / "templates").iterdir()) == templates
    assert (installed / "mdlm_min" / "py.typed").exists()


@pytest.mark.parametrize("arguments", ["list", "run parity", "verify", "verify --accept", "report", "gpu-queue", "plan 8b_pt"])
def test_outside_a_checkout_one_line_says_what_to_do(arguments, installed, tmp_path):
    done = mdlm(installed, tmp_path, *arguments.split())
    assert done.returncode == 2
    assert done.stderr.endswith(WANTED)
    assert done.stderr.count("\n") == 1
    assert not (installed / "results").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["option", "environment", "folder", "folder within"])
def test_a_checkout_is_found(how, installed, tmp_path):
    options = ["--root", str(ROOT)] if how == "option" else []
    environment = {"MDLM_ROOT": str(ROOT)} if how == "environment" else {}
    cwd = {"folder": ROOT, "folder within": ROOT / "tests" / "cli"}.get(how, tmp_path)
    done = mdlm(installed, cwd, *options, "list", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "01_parity" in done.stdout


def test_help_and_window_work_anywhere(installed, tmp_path):
    assert mdlm(installed, tmp_path, "--help").returncode == 0
    (tmp_path / "corpus.txt").write_text("the cat sat on the mat\n" * 500)
    done = mdlm(installed, tmp_path, "window", "--text", "corpus.txt", MDLM_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "predicted window" in done.stdout
    assert (tmp_path / "window.png").exists()


@pytest.mark.slow
def test_a_run_finds_baselines_through_the_console_script(installed, tmp_path):
    cache = str(tmp_path / "cache")
    done = mdlm(installed, tmp_path, "--root", str(ROOT), "run", "wikitext_bins", "--tier", "smoke", MDLM_CACHE=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "03_wikitext_bins" / "smoke" / "table.csv").exists()

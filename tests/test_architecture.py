"""What never imports what (the layers of the library), read from the sources: imports inside functions count too."""

import ast
import os
import pkgutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from setuptools import find_packages

import mdlm_min.evidence

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ["run", "model", "data", "theory", "diffusion", "training", "tasks", "evaluation", "evidence", "cli"]

PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]

NEVER = {  # folder or file -> what it never imports
    "mdlm_min": ["baselines", "experiments", "tests"],
    "mdlm_min/run": [f"mdlm_min.{name}" for name in LIBRARY if name != "run"],
    "mdlm_min/model": [
        f"mdlm_min.{name}" for name in ("diffusion", "data", "training", "tasks", "evaluation", "evidence", "cli")
    ],
    "mdlm_min/data": [
        f"mdlm_min.{name}" for name in ("diffusion", "model", "training", "tasks", "evaluation", "evidence", "cli")
    ],
    "mdlm_min/theory": ["torch", *(f"mdlm_min.{name}" for name in LIBRARY if name not in ("theory", "run"))],
    "mdlm_min/diffusion": [f"mdlm_min.{name}" for name in ("training", "tasks", "evaluation", "evidence", "cli")],
    "mdlm_min/diffusion/objective.py": ["mdlm_min.data"],
    "mdlm_min/training": [f"mdlm_min.{name}" for name in ("data", "tasks", "evaluation", "evidence", "cli")],
    "mdlm_min/tasks": ["mdlm_min.evaluation", "mdlm_min.evidence", "mdlm_min.cli"],
    "mdlm_min/evaluation": ["mdlm_min.evidence", "mdlm_min.cli"],
    "mdlm_min/evidence": ["torch", *(f"mdlm_min.{name}" for name in LIBRARY if name not in ("evidence", "run"))],
    "baselines": ["experiments", "mdlm_min.evaluation", "mdlm_min.evidence", "mdlm_min.cli"],
    "experiments/*/run.py": ["experiments", "mdlm_min.evidence", "mdlm_min.cli"],  # a run never reads a result or a claim
    "experiments/*/claims.py": [
        "experiments",
        "mdlm_min.training",
        "mdlm_min.evaluation",
        "mdlm_min.cli",
    ],  # a claim never trains
}


def sources(place: str) -> list[Path]:
    """The Python files of a folder, or those that match a pattern."""
    return sorted((ROOT / place).rglob("*.py")) if (ROOT / place).is_dir() else sorted(ROOT.glob(place))


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(path: Path) -> str:
    """The import name of a file, such as mdlm_min.run.files."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def within(name: str, package: str) -> bool:
    """Whether an import name is the package or lies in it."""
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize("place", NEVER)
def test_layers(place):
    assert sources(place)
    found = [(str(path.relative_to(ROOT)), name) for path in sources(place) for name in sorted(imports(path))]
    assert [(path, name) for path, name in found if any(within(name, other) for other in NEVER[place])] == []


@pytest.mark.parametrize("depth", [2, 9], ids=["folders", "modules"])
def test_no_import_circles(depth):
    modules = {dotted(path): path for path in sources("mdlm_min")}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        used = {max((known for known in modules if within(name, known)), key=len, default=module) for name in imports(path)}
        part = ".".join(module.split(".")[:depth])
        graph.setdefault(part, set()).update({".".join(name.split(".")[:depth]) for name in used} - {part})
    assert len(graph) >= (len(LIBRARY) if depth == 2 else len(modules))
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


EVIDENCE = [module.name for module in pkgutil.iter_modules(mdlm_min.evidence.__path__, "mdlm_min.evidence.")]


@pytest.mark.parametrize(
    "program",
    [
        "import mdlm_min; mdlm_min.InputError",
        f"import {', '.join(EVIDENCE)}",
        "from mdlm_min.cli.main import main; main(['list'])",
        "from mdlm_min.cli.main import main; main(['verify'])",
        "import runpy\nfrom pathlib import Path\n"
        "for run in (*Path('experiments').glob('*/run.py'), Path('templates/experiment/run.py')): runpy.run_path(str(run))",
    ],
    ids=["library", "evidence", "list", "verify", "runs"],
)
def test_neither_torch_nor_matplotlib_is_loaded(program):
    check = (
        f"{program}\nimport sys\nfor name in ('torch', 'matplotlib'):\n    assert name not in sys.modules, f'{{name}} was loaded'"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_baselines_are_found_beside_the_library_and_not_installed(tmp_path):
    (tmp_path / "mdlm_min").symlink_to(ROOT / "mdlm_min")
    program = (
        "from mdlm_min.evidence.experiment import Experiment; Experiment('wikitext_bins').module('run')\n"
        "import baselines; print(baselines.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT / "baselines" / "__init__.py"), done.stderr
    assert not set(find_packages(ROOT, include=PACKAGES)) & {"baselines", "experiments", "tests", "templates"}

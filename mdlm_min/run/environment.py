"""What a run ran on: code version, interpreter, libraries, processor."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _find_root() -> Path:
    """The checkout with experiments/ and results/: $MDLM_ROOT, or the one that holds this package, or the one around the working
    directory. Where there is none, the folder of this package."""
    if named := os.environ.get("MDLM_ROOT"):
        return Path(named).resolve()
    here = Path(os.path.realpath("."))
    found = (folder for folder in (PACKAGE.parent, here, *here.parents) if (folder / "experiments" / "headlines.toml").is_file())
    return next(found, PACKAGE.parent)


ROOT = _find_root()


def code_version() -> str:
    """The commit, with "+changed" where the tree differs from it; "unknown" where the package is in no checkout. What is written
    as a submission to the contest is no source: a run names its class by its hash."""
    if PACKAGE.parent != ROOT:
        return "unknown"
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "mdlm_min", "experiments", "baselines", ":!experiments/*/submissions/"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+changed" if changed.stdout.strip() else "")


def source_sha256() -> str:
    """Hash of the library's source files, whatever git says."""
    return sources_sha256({path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in PACKAGE.rglob("*.py")})


def sources_sha256(files: Mapping[str, bytes]) -> str:
    """Hash of source files by their path, in the order of the paths."""
    digest = hashlib.sha256()
    for name in sorted(files, key=lambda name: name.split("/")):
        digest.update(name.encode() + b"\0" + files[name] + b"\0")
    return digest.hexdigest()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, str | int]:
    """One flat record, written into every run folder."""
    import torch

    return {
        "commit": code_version(),
        "source_sha256": source_sha256(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }

"""results/figures/record.json: from what each experiment's figures were drawn.

A picture's bytes differ between platforms (fonts, versions of the drawing library), so figures are not drawn again to see
whether they are the present ones. `mdlm report` records the hash of what they were drawn from, and of the pictures that it wrote.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mdlm_min.evidence import figure, golden
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.verdicts import read_json
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256, write_whole

NAME = "record.json"


@dataclass(frozen=True)
class _Drawn:
    """One experiment's figures: the hash of what they were drawn from, and that of each picture."""

    inputs: str
    figures: dict[str, str]


def inputs_sha256(experiment: Experiment) -> str:
    """Hash of what an experiment's figures are drawn from: its golden tables, the paper's, its claims.py, the drawing style."""
    tables = [*(golden.RESULTS / experiment.name).glob("*/*"), *(golden.RESULTS / "published").glob("*.csv")]
    digest = hashlib.sha256()
    for path in (*sorted(path for path in tables if path.is_file()), experiment.folder / "claims.py", Path(figure.__file__)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def write(folder: Path, figures: Mapping[str, Iterable[Path]]) -> None:
    """Record the figures in `folder`, by experiment."""
    record = {
        name: {"inputs": inputs_sha256(Experiment(name)), "figures": {path.name: sha256(path) for path in paths}}
        for name, paths in figures.items()
    }
    write_whole(folder / NAME, json.dumps(record, indent=1) + "\n")


def read(folder: Path) -> dict[str, dict[str, str]]:
    """The figures of each experiment, by file name, with their hashes. Raises InputError for a damaged record."""
    return {name: one.figures for name, one in _read(folder).items()}


def stale(folder: Path, experiments: Iterable[str]) -> list[str]:
    """What is not as it was drawn, or was drawn from something else, a line each."""
    record = _read(folder)
    lines = [
        f"figures of {name}: drawn from other tables or claims; `mdlm report` draws them again"
        for name in experiments
        if name not in record or record[name].inputs != inputs_sha256(Experiment(name))
    ]
    pictures = [(name, drawn) for one in record.values() for name, drawn in one.figures.items()]
    return lines + [
        f"figures/{name}: altered or missing; `mdlm report` draws it again"
        for name, drawn in pictures
        if not (folder / name).is_file() or sha256(folder / name) != drawn
    ]


def _read(folder: Path) -> dict[str, _Drawn]:
    found: dict[str, _Drawn] = {}
    for name, one in read_json(folder / NAME, dict, "mdlm report").items():
        figures = one.get("figures") if isinstance(one, dict) else None
        if not isinstance(figures, dict) or not all(isinstance(drawn, str) for drawn in figures.values()):
            raise InputError(f"{folder / NAME}: cannot be read (no record of figures); `mdlm report` writes it again")
        found[name] = _Drawn(str(one.get("inputs")), figures)
    return found

"""An experiment folder read as a list of runs: experiment.toml (plan_file.py) -> arms x cells x seeds, each with its
configuration."""

import csv
import importlib.util
import itertools
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mdlm_min.evidence.plan_file import MOST_SEEDS, cells, read_plan
from mdlm_min.evidence.plan_file import TIERS as TIERS
from mdlm_min.run.config import merge, shown
from mdlm_min.run.environment import ROOT
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row, RunFolder, settings_of

EXPERIMENTS = ROOT / "experiments"


@dataclass(frozen=True)
class RunSpec:
    """One run: where it stands in its experiment, its seed, and its configuration (JSON-able, seed included)."""

    experiment: str
    tier: str
    cell: str
    arm: str
    seed: int
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.cell, self.arm, f"seed{self.seed}") if part)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration without arm and seed: what run.py is given."""
        return settings_of(self.config)

    def folder(self, runs: Path) -> Path:
        """Its run folder below the `runs` folder."""
        return runs / self.experiment / self.tier / self.name


class Experiment:
    """One folder of experiments/, by its full name ("01_parity") or the part after the number ("parity")."""

    def __init__(self, name: str) -> None:
        found = [folder for folder in experiment_folders() if name in (folder.name, folder.name.partition("_")[2])]
        if not found:
            raise InputError(
                f"experiment: {name!r} is unknown; allowed: {', '.join(folder.name for folder in experiment_folders())}"
            )
        self.folder = found[0]
        self.name = self.folder.name
        self.plan: dict[str, Any] = read_plan(self.folder / "experiment.toml")

    @property
    def title(self) -> str:
        return str(self.plan["title"])

    def tolerance(self, columns: Collection[str]) -> dict[str, float]:
        """By how much the mean of a column may differ from the golden one. Raises InputError for a column that is not among the
        `columns` of numbers that the table has."""
        tolerance: dict[str, float] = self.plan.get("tolerance", {})
        if unknown := [column for column in tolerance if column not in columns]:
            path = self.folder / "experiment.toml"
            raise InputError(f"{path}: tolerance.{unknown[0]}: the table has no such column; allowed: {', '.join(columns)}")
        return tolerance

    def module(self, name: str) -> ModuleType:
        """run.py or claims.py of the folder. Raises InputError where it is missing."""
        path = self.folder / f"{name}.py"
        if not path.is_file():
            raise InputError(f"{path}: is missing; an experiment needs experiment.toml, run.py and claims.py")
        if str(ROOT) not in sys.path:
            sys.path.append(str(ROOT))  # for baselines/, which is not installed
        spec = importlib.util.spec_from_file_location(f"experiment_{self.name}_{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def tier(self, tier: str) -> dict[str, Any]:
        """The table of one tier. Raises InputError for an unknown one."""
        if tier not in self.plan["tiers"]:
            raise InputError(f"tier: {tier!r} is unknown in {self.name}; allowed: {', '.join(self.plan['tiers'])}")
        return dict(self.plan["tiers"][tier])

    def runs(self, tier: str, arms: str = "", seeds: int = 0, corpus: str = "", only: str = "") -> list[RunSpec]:
        """The runs of a tier, by seed and cell: what a run starts from, or takes its settings from, has a lower seed, or stands
        before it in the plan.

        `arms`: comma-separated names, "all", or "" for the tier's own choice; `seeds`: how many at most, from the first one, or 0
        for the tier's own number; `corpus`: in the place of the experiment's own, whose cells that are about another corpus are
        then left out; `only`: comma-separated cells, or "" for all.
        """
        for name, text in (("arms", arms), ("cells", only)):
            if text and not text.replace(",", "").strip():
                raise InputError(f"{name}: {text!r} names none; allowed: names with commas between them, or nothing for all")
        table, known = self.tier(tier), self.plan["arms"]
        chosen = list(known) if arms == "all" else [arm for arm in arms.split(",") if arm] or table.get("arms", list(known))
        if unknown := [arm for arm in chosen if arm not in known]:
            raise InputError(f"arms: {unknown[0]!r} is unknown in {self.name}; allowed: all, {', '.join(known)}")
        if not 0 <= seeds <= MOST_SEEDS:
            raise InputError(f"seeds: {seeds} is not allowed; allowed: 1 to {MOST_SEEDS}, or 0 for the tier's own number")
        if corpus and not _names_corpus(self.plan["defaults"]):
            raise InputError(f"text: {self.name} has no corpus to replace; allowed: an experiment on text")
        chosen_corpus = {"data": {"corpus": corpus}} if corpus else {}
        specs: dict[str, RunSpec] = {}  # by name: blocks of a grid may overlap
        grid = cells(table.get("grid", []))
        wanted = [name for name in only.split(",") if name]
        if unknown := [name for name in wanted if name not in {cell.name for cell in grid}]:
            allowed = ", ".join(dict.fromkeys(cell.name for cell in grid if cell.name)) or "none: the tier has no grid"
            raise InputError(f"cells: {unknown[0]!r} is unknown in {self.name}, tier {tier}; allowed: {allowed}")
        grid = [cell for cell in grid if cell.name in wanted or not wanted]
        for cell in grid:
            if corpus and _names_corpus(cell.settings):
                continue
            first = table.get("first_seed", 0) if cell.first_seed is None else cell.first_seed
            own_seeds = cell.seeds or table["seeds"]
            for seed in range(first, first + (min(seeds, cell.seeds or seeds) if seeds else own_seeds)):
                for arm in chosen:
                    if cell.arms and arm not in cell.arms:
                        continue
                    own = table.get("arms_config", {}).get(arm, {})
                    config = merge(self.plan["defaults"], table.get("config", {}), known[arm], own, cell.settings, chosen_corpus)
                    spec = RunSpec(self.name, tier, cell.name, arm, seed, {"arm": arm, "seed": seed, **config})
                    specs[spec.name] = spec
        if wanted and not specs:
            names = f"{shown(wanted[0])} of {self.name}, tier {tier}"
            allowed = "cells that name no corpus, with --text" if corpus else "cells and arms that the plan pairs"
            raise InputError(f"cells: no run is left of {names}; allowed: {allowed}")
        return sorted(specs.values(), key=lambda spec: spec.seed)

    def check(self, specs: list[RunSpec]) -> None:
        """What can be known before anything is written: the tolerance's columns, from the golden tables, run.py's functions, and
        its `check(settings)`, where it has one, on every run. Raises InputError naming the key, the file or the run."""
        for table in sorted((self.folder.parent.parent / "results" / self.name).glob("*/table.csv")):
            self.tolerance(_measured(table))
        self.runner()
        self.summariser()
        module = self.module("run")
        for spec in specs if hasattr(module, "check") else []:
            try:
                module.check(spec.settings)
            except InputError as error:
                raise InputError(f"{spec.name}: {error}") from error

    def runner(self) -> Callable[[dict[str, Any], int, RunFolder, Callable[[str], None]], None]:
        """run.py's `run(config, seed, folder, progress)`."""
        function: Callable[[dict[str, Any], int, RunFolder, Callable[[str], None]], None] = self._function("run")
        return function

    def summariser(self) -> Callable[[list[Row]], list[dict[str, Any]]]:
        """run.py's `summarise(rows)`: the table rows (usually one) that a run's metrics give."""
        function: Callable[[list[Row]], list[dict[str, Any]]] = self._function("summarise")
        return function

    def _function(self, name: str) -> Any:
        """A function of run.py. Raises InputError where it is missing."""
        function = getattr(self.module("run"), name, None)
        if not callable(function):
            raise InputError(f"{self.folder / 'run.py'}: has no function {name!r}; needed: run and summarise")
        return function


def _names_corpus(settings: Mapping[str, Any]) -> bool:
    data = settings.get("data")
    return isinstance(data, Mapping) and "corpus" in data


def _measured(table: Path) -> list[str]:
    """The columns of a table.csv, between seed and seconds, whose first row holds a number. Raises InputError for a damaged
    file."""
    try:
        with table.open(newline="") as file:
            names, first = itertools.islice(csv.reader(file), 2)
        return [name for name, value in list(zip(names, first, strict=True))[3 : names.index("seconds")] if _is_number(value)]
    except (OSError, ValueError, csv.Error) as error:  # a file that is not UTF-8, fewer rows or columns: ValueErrors
        raise InputError(f"{table}: cannot be read ({error}); `git checkout` brings it back") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def experiment_folders() -> list[Path]:
    """All experiments, in the order of their numbers. Raises InputError where there is none: outside a checkout."""
    folders = sorted(path.parent for path in EXPERIMENTS.glob("*/experiment.toml"))
    if not folders:
        raise InputError(f"no experiments in {EXPERIMENTS}; run from a checkout of mdlm-min, or name one: mdlm --root DIR")
    return folders

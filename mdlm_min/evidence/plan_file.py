"""experiment.toml: what it may hold, and the check of a whole file before anything runs.

title                 one line
[tolerance]           table column -> by how much a fresh run's mean may differ from the golden one
[defaults]            settings of every run
[arms.NAME]           the settings that make this arm
[tiers.TIER]          one of smoke, cpu, gpu, paper; fewer are allowed. Keys:
    seeds             how many: from first_seed (default 0) to first_seed + seeds - 1
    arms              run by default (default: all)
    jobs              runs at a time (default: one per core)
    gpu_minutes, worth, why    for `mdlm gpu-queue`: the cost of the tier, how much it is wanted, and what for
    config            overrides the defaults
    arms_config.NAME  overrides one arm
[[tiers.TIER.grid]]   dotted settings with lists of values. Every combination is a cell, in which every arm runs (or those in the
                      block's own `arms`) with the tier's seeds (or the block's own `seeds` and `first_seed`). A cell's settings
                      override an arm's. A cell is named after its settings, or by the block's `name` where the block has one cell
"""

import itertools
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_min.run.config import merge, shown
from mdlm_min.run.errors import InputError

TIERS = ("smoke", "cpu", "gpu", "paper")
MOST_SEEDS = 10_000
MOST_DEPTH = 10  # of nested settings
# An arm and a cell become folders of the runs folder. Arms are listed with commas on the command line.
_ARM = re.compile(r"(?!all$)[A-Za-z0-9_][A-Za-z0-9_.+=-]*")
_CELL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.,:+*=()\[\] -]*[A-Za-z0-9_.,:+*=()\[\]-])?")
_PATH = re.compile(rf"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*){{0,{MOST_DEPTH - 1}}}")
_RESERVED = ("arm", "seed")  # recorded beside the settings
_PLAIN = "text, numbers of at most 64 bits, true and false"
_BLOCK_KEYS = ("name", "arms", "seeds", "first_seed")


@dataclass(frozen=True)
class Cell:
    """One combination of a grid's values; `arms` is empty where every arm runs in it, `seeds` 0 and `first_seed` None where they
    are the tier's."""

    name: str
    settings: dict[str, Any]
    arms: tuple[str, ...] = ()
    seeds: int = 0
    first_seed: int | None = None


def cells(grid: list[dict[str, Any]]) -> list[Cell]:
    """Every combination of every block of a grid; one unnamed cell where there is no grid."""
    found: list[Cell] = []
    for block in grid:
        swept = {path: values for path, values in block.items() if path not in _BLOCK_KEYS}
        for values in itertools.product(*swept.values()):
            settings: dict[str, Any] = {}
            for path, value in zip(swept, values, strict=True):
                nested: Any = value
                for key in reversed(path.split(".")):
                    nested = {key: nested}
                settings = merge(settings, nested)
            parts = (f"{path.rpartition('.')[2]}={value}" for path, value in zip(swept, values, strict=True))
            name, own = block.get("name") or "_".join(parts), tuple(block.get("arms", ()))
            found.append(Cell(name, settings, own, block.get("seeds", 0), block.get("first_seed")))
    return found or [Cell("", {})]


def planned_seeds(plan: Mapping[str, Any], tier: str) -> dict[tuple[str, str], set[int]]:
    """The seeds that a plan names for every cell and arm of a tier; empty where it has no such tier."""
    table = plan["tiers"].get(tier, {})
    found: dict[tuple[str, str], set[int]] = {}
    for cell in cells(table.get("grid", [])) if table else ():
        first = table.get("first_seed", 0) if cell.first_seed is None else cell.first_seed
        for arm in cell.arms or plan["arms"]:
            found.setdefault((cell.name, arm), set()).update(range(first, first + (cell.seeds or table["seeds"])))
    return found


def read_plan(path: Path) -> dict[str, Any]:
    """The file as nested tables. Raises InputError naming the file, the key and what is allowed."""
    try:
        plan = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # tomllib's error and a file that is not UTF-8 are ValueErrors
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    try:
        _check(plan)
    except _WrongKeyError as wrong:
        raise InputError(f"{path}: {wrong}") from None
    return plan


class _WrongKeyError(Exception):
    """A key, its value and what is allowed."""


def _check(plan: dict[str, Any]) -> None:
    _keys(plan, "", required=("title", "defaults", "arms", "tiers"), optional=("tolerance",))
    _line("title", plan["title"])
    for column, allowed in _table("tolerance", plan.get("tolerance", {})).items():
        _value(
            f"tolerance.{_key(column)}", allowed, lambda value: _is_number(value) and 0 <= value < 1e300, "a number, at least 0"
        )
    _settings("defaults", plan["defaults"])
    for name, settings in _table("arms", plan["arms"], at_least_one="arm").items():
        _arm(name)
        _settings(f"arms.{name}", settings)
    for name, tier in _table("tiers", plan["tiers"], at_least_one="tier").items():
        if name not in TIERS:
            raise _WrongKeyError(f"tiers.{_key(name)}: no such tier; allowed: {', '.join(TIERS)}")
        _check_tier(f"tiers.{name}", tier, plan)


def _check_tier(where: str, tier: Any, plan: dict[str, Any]) -> None:
    arms = plan["arms"]
    optional = ("first_seed", "arms", "jobs", "gpu_minutes", "worth", "why", "config", "arms_config", "grid")
    _keys(_table(where, tier), f"{where}.", required=("seeds",), optional=optional)
    _seeds(where, tier)
    if "arms" in tier:
        _arms(f"{where}.arms", tier["arms"], arms)
    if "jobs" in tier:
        _whole(f"{where}.jobs", tier["jobs"], 1, 1024)
    if wanted := [name for name in ("gpu_minutes", "worth", "why") if name in tier]:
        _keys(tier, f"{where}.", required=("gpu_minutes", "worth", "why"), optional=tuple(tier))
        _value(
            f"{where}.{wanted[0]}", tier["gpu_minutes"], lambda value: _is_number(value) and 0 < value < 1e9, "minutes, above 0"
        )
        _whole(f"{where}.worth", tier["worth"], 0, 10)
        _line(f"{where}.why", tier["why"])
    _settings(f"{where}.config", tier.get("config", {}))
    for arm, settings in _table(f"{where}.arms_config", tier.get("arms_config", {})).items():
        if arm not in arms:
            raise _WrongKeyError(f"{where}.arms_config.{_key(arm)}: no such arm; allowed: {', '.join(arms)}")
        _settings(f"{where}.arms_config.{arm}", settings)
    grid = tier.get("grid", [])
    _value(f"{where}.grid", grid, lambda value: isinstance(value, list), "[[...grid]] tables")
    for block in grid:
        _check_block(f"{where}.grid", block, arms)
    named: dict[str, dict[str, Any]] = {}
    for cell in cells(grid):
        if cell.name:
            _cell(f"{where}.grid", cell.name)
        if named.setdefault(cell.name, cell.settings) != cell.settings:
            raise _WrongKeyError(f"{where}.grid: two cells are named {cell.name!r}, and one's results would replace the other's")


def _check_block(where: str, block: Any, arms: Mapping[str, Any]) -> None:
    _table(where, block)
    if "name" in block:
        _cell(f"{where}.name", block["name"])
    if "arms" in block:
        _arms(f"{where}.arms", block["arms"], arms)
    _seeds(where, block)
    swept = {path: values for path, values in block.items() if path not in _BLOCK_KEYS}
    if not swept and "name" not in block:
        raise _WrongKeyError(f"{where}: a block without a name and settings; allowed: dotted settings with lists of values")
    count = 1
    for path, values in swept.items():
        if not _PATH.fullmatch(path) or path.split(".")[0] in _RESERVED:
            raise _WrongKeyError(
                f'{where}.{shown(path)}: is not a dotted setting; allowed: such as "train.steps", not {" or ".join(_RESERVED)}'
            )
        _value(
            f"{where}.{path}",
            values,
            lambda value: isinstance(value, list) and value and all(map(_is_plain, value)),
            f"a list of {_PLAIN}",
        )
        count *= len(values)
    _value(where, count, lambda value: value <= 100_000, "at most 100000 cells")
    if "name" in block and count > 1:
        raise _WrongKeyError(
            f"{where}.name: {block['name']!r} names {count} cells, and their results would replace each other; allowed: one cell"
        )
    for cell in cells([block]):  # a setting cannot be a value and a table
        if len(_leaves(cell.settings)) != len(swept):
            raise _WrongKeyError(f"{where}: the settings {', '.join(swept)} overlap")


def _leaves(settings: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for value in settings.values():
        found += _leaves(value) if isinstance(value, Mapping) else [value]
    return found


def _keys(table: Mapping[str, Any], where: str, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    if missing := [key for key in required if key not in table]:
        raise _WrongKeyError(f"{where}{missing[0]}: is missing; needed: {', '.join(required)}")
    if unknown := [key for key in table if key not in required + optional]:
        raise _WrongKeyError(f"{where}{_key(unknown[0])}: no such key; allowed: {', '.join(required + optional)}")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w.+=-]{1,100}", name) else shown(name)


def _value(where: str, value: Any, holds: Callable[[Any], Any], allowed: str) -> None:
    if not holds(value):
        raise _WrongKeyError(f"{where}: {shown(value)} is not allowed; allowed: {allowed}")


def _line(where: str, value: Any) -> None:
    _value(where, value, lambda value: isinstance(value, str) and value.strip() and value.isprintable(), "one line of text")


def _whole(where: str, value: Any, least: int, most: int) -> None:
    _value(where, value, lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}")


def _seeds(where: str, table: Mapping[str, Any]) -> None:
    for key, least in (("seeds", 1), ("first_seed", 0)):
        if key in table:
            _whole(f"{where}.{key}", table[key], least, MOST_SEEDS)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(where: str, value: Any, at_least_one: str = "") -> dict[str, Any]:
    _value(where, value, lambda value: isinstance(value, dict), "a table")
    if at_least_one and not value:
        raise _WrongKeyError(f"{where}: is empty; needed: at least one {at_least_one}")
    return dict(value)


def _cell(where: str, value: Any) -> None:
    allowed = "letters, digits, _ . , : + * = ( ) [ ] - and spaces, not beginning with a dot or a space"
    _value(where, value, lambda value: isinstance(value, str) and _CELL.fullmatch(value) and len(value) <= 200, allowed)


def _arm(name: str) -> None:
    allowed = "letters, digits, _ . + = -, not beginning with a dot; and not the name all"
    _value(f"arms.{_key(name)}", name, lambda name: _ARM.fullmatch(name) and len(name) <= 200, allowed)


def _arms(where: str, value: Any, arms: Mapping[str, Any]) -> None:
    whole = isinstance(value, list) and value and all(isinstance(one, str) and one in arms for one in value)
    _value(
        where, value, lambda value: whole and len(set(value)) == len(value), f"a list of different arms from {', '.join(arms)}"
    )


def _settings(where: str, value: Any) -> None:
    """Settings are nested tables of plain values, and leave the recorded keys alone."""
    for key in _table(where, value):
        _value(f"{where}.{_key(key)}", key, lambda key: key not in _RESERVED, f"settings other than {' and '.join(_RESERVED)}")
    _check_plain(where, value, MOST_DEPTH)


def _check_plain(where: str, value: Any, depth: int) -> None:
    if depth < 0:
        raise _WrongKeyError(f"{where[:100]}...: is nested too deeply; allowed: {MOST_DEPTH} tables and lists in one another")
    if isinstance(value, dict):
        for key, one in value.items():
            _check_plain(f"{where}.{_key(key)}", one, depth - 1)
    elif isinstance(value, list):
        for one in value:
            _check_plain(where, one, depth - 1)
    else:
        _value(where, value, _is_plain, f"{_PLAIN}, lists and tables")


def _is_plain(value: Any) -> bool:
    """Whether a run's record, which is JSON, can hold the value and compare it: no date, no nan, no integer beyond 64 bits."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str) or (isinstance(value, float) and not math.isnan(value))

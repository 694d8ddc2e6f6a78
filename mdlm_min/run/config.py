"""From TOML tables to frozen dataclasses, with errors that name the field, the value and what is allowed."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from mdlm_min.run.errors import InputError

Config = TypeVar("Config")


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables merged left to right; a later value replaces an earlier one."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def build(kind: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """An instance of the dataclass `kind` from nested tables. Raises InputError for an unknown name, a wrong type or a
    value that the dataclass refuses."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - fields.keys()):
        raise InputError(f"{where}{unknown[0]}: no such setting; allowed: {', '.join(fields)}")
    return kind(**{name: _convert(fields[name], value, f"{where}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: {value!r} is not a table")
        return build(typing.cast(type, hint), value, f"{where}.")
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not any(type(value) is kind for kind in allowed):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise InputError(f"{where}: {value!r} is a {type(value).__name__}; allowed: {names}")
    return value

"""From TOML tables to frozen dataclasses, with errors that name the field, the value and what is allowed.

A field says what it allows beside its type: `steps: Annotated[int, Range(1)]`. The dataclass's __post_init__ calls
`check_fields`, so a value is checked however the instance is made. Rules about several fields stay in __post_init__.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from mdlm_min.run.errors import InputError

Config = TypeVar("Config")
PLAIN = {bool, int, float, str, types.NoneType}


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both allowed unless `open_least` or `open_most` leaves them out; never "not a number".

    The default `most` is a bound against mistakes: no size here is meant to be beyond it.
    """

    least: float = -math.inf
    most: float = 1e9
    open_least: bool = False
    open_most: bool = False

    def allows(self, value: float) -> bool:
        """Whether the value lies in the range."""
        low = value > self.least if self.open_least else value >= self.least
        return low and (value < self.most if self.open_most else value <= self.most)

    def __str__(self) -> str:
        low = f"{'above' if self.open_least else 'at least'} {self.least:g}"
        if math.isinf(self.most):
            return f"{low}, finite" if self.open_most else low
        return f"{low} and {'below' if self.open_most else 'at most'} {self.most:g}"


class OneOf(tuple[Any, ...]):
    """One of these values: OneOf(("adamw", "sgd"))."""


def check_fields(config: Any, where: str = "") -> None:
    """Check each field of a dataclass against its type, where that is a plain one, and against its Range or OneOf. Raises
    InputError for the first that is not allowed.

    `where` stands before the field's name in the message, such as "train.".
    """
    hints, plain = typing.get_type_hints(type(config), include_extras=True), typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        _check_type(plain[field.name], value, f"{where}{field.name}")
        for limit in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(limit, OneOf) and value not in limit:
                raise InputError(f"{where}{field.name}: {shown(value)} is unknown; allowed: {', '.join(map(str, limit))}")
            if isinstance(limit, Range) and not limit.allows(value):
                raise InputError(f"{where}{field.name}: {shown(value)} is not allowed; {limit}")


def refuse_set(config: Any, names: Iterable[str], why: str, where: str = "") -> None:
    """Raise InputError for the first of these fields that is not left at its default; `why` goes after "is not allowed"."""
    for name in names:
        if (value := getattr(config, name)) != getattr(type(config), name):
            raise InputError(f"{where}{name}: {value!r} is not allowed {why}")


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables merged left to right; a later value replaces an earlier one."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def differences(
    there: Mapping[str, Any], asked: Mapping[str, Any], where: str = "", names: tuple[str, str] = ("there", "asked")
) -> list[str]:
    """A line for each field in which two nested tables differ, such as "train.steps: 700 there, 900 asked"."""
    found = []
    for name in sorted(there.keys() | asked.keys()):
        old, new = there.get(name), asked.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{where}{name}.", names)
        elif old != new or (name in there) != (name in asked):
            before, now = (shown(table[name]) if name in table else "nothing" for table in (there, asked))
            found.append(f"{where}{name}: {before} {names[0]}, {now} {names[1]}")
    return found


def shown(value: object) -> str:
    """A value as an error message shows it: on one line, at most about 100 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return f"{type(value).__name__} of too many digits to print"
    return text if len(text) <= 100 else f"{text[:97]}..."


def build(kind: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """An instance of the dataclass `kind` from nested tables. Raises InputError for an unknown or a missing name, a wrong type or
    a value that the dataclass refuses."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where.rstrip('.') or 'settings'}: {shown(values)} is not a table")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in fields]:
        raise InputError(f"{where}{_key(unknown[0])}: no such setting; allowed: {', '.join(fields)}")
    if missing := [name for name, field in fields.items() if name not in values and _is_needed(field)]:
        raise InputError(f"{where}{missing[0]}: is missing")
    return kind(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _key(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 100 else shown(name)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, f"{where}.")
    if typing.get_origin(hint) is list:
        if type(value) is not list:
            raise InputError(f"{where}: {shown(value)} is a {type(value).__name__}; allowed: a list")
        return [_convert(typing.get_args(hint)[0], one, f"{where}[{place}]") for place, one in enumerate(value)]
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise InputError(f"{where}: {shown(value)} is not allowed; at most 1.8e308") from None
    _check_type(hint, value, where)
    return value


def _check_type(hint: Any, value: Any, where: str) -> None:
    """Raise InputError where the hint is plain (of PLAIN, or several of them) and the value has another type. A whole number
    stands for a float, too."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if not set(allowed) <= PLAIN or type(value) in allowed or (float in allowed and type(value) is int):
        return
    names = " or ".join(kind.__name__ for kind in allowed)
    raise InputError(f"{where}: {shown(value)} is a {type(value).__name__}; allowed: {names}")

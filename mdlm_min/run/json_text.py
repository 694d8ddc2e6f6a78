"""JSON that says one thing: a name that stands twice in an object is an error, since one of its values would be lost, and so is a
number that is none (NaN, 1e999), which could not be written again."""

import json
import math
from typing import Any

from mdlm_min.run.config import shown


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON, for a name given twice and for a number that is not
    finite, RecursionError where it is nested too deeply."""
    value = json.loads(text, object_pairs_hook=_one_value_each)
    if not _is_finite(value):  # in no object, which would have named it
        raise ValueError(f"{shown(value)} is no finite number")
    return value


def _one_value_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} is given twice in one object")
        if not _is_finite(value):
            raise ValueError(f"{shown(name)}: {shown(value)} is no finite number")
        found[name] = value
    return found


def _is_finite(value: Any) -> bool:
    """Of a number, or of all those in a list."""
    return all(map(_is_finite, value)) if isinstance(value, list) else not isinstance(value, float) or math.isfinite(value)

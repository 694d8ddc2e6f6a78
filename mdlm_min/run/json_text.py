"""JSON as people write it: a name that stands twice in one object is an error, since one of its values would be lost."""

import json
from typing import Any

from mdlm_min.run.config import shown


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON and for a name given twice, RecursionError where it is
    nested too deeply."""
    return json.loads(text, object_pairs_hook=_one_value_each)


def _one_value_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} is given twice in one object")
        found[name] = value
    return found

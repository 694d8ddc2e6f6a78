"""What decides each claim's verdict, read from the sources of one or more trees: a program of its own, since two versions of the
package cannot be imported side by side. history.py runs it.

Standard input is JSON: `trees`, a list of [folder, experiments], and `names`, the texts that name something in a table. Standard
output is JSON: for each tree and experiment the rule of every claim (see `_rule`), or the error that its claims.py raises.

A judge is compared by its compiled code, with that of all functions and classes that it reaches in claims.py, evidence/claim.py
and evidence/statistics.py, and with the constants that they read. So comments, docstrings, the formatting, the names of functions
and of local variables do not count. Text with a blank in it that names nothing in a table is a note for readers and does not
count either. Everything else does.

What a table's columns mean, the experiment's `summarise`, is not compared: `mdlm verify` makes every table again from the stored
curves, so a change there is a table that has moved.
"""

import functools
import hashlib
import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any

PACKAGE = "mdlm_min"
# Modules of the package by which judges decide; a claim's own claims.py goes without saying.
DECIDING = ("claims", "claim", "statistics", "summaries", "formulas", "generation_record", "density_signal")
OWN = "claims_of_an_experiment"
CLASSES = (OWN, "statistics")  # where a class is more than a record
KEPT = ("__post_init__", "__call__")
VERDICTS = ("not reproduced", "not run")


class _Loader(SourceFileLoader):
    """Compiles without docstrings, and neither reads nor writes compiled files."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", dont_inherit=True, optimize=2)


class Reader:
    """Turns a judge into text that is the same for the same rule."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = {*names, *VERDICTS}
        self.inside: list[int] = []  # the functions and classes that are being read, for those that call themselves

    def text(self, value: Any) -> str:
        """The value; a function or a class by what it does where it decides, else by its name."""
        if id(value) in self.inside:
            return f"again {self.inside.index(id(value))}"
        if isinstance(value, str):
            return repr(value) if " " not in value.strip() or value in self.names else "a note"
        if value is None or isinstance(value, bool | int | float | complex | bytes):
            return repr(value)
        if isinstance(value, tuple | list):
            return f"[{', '.join(map(self.text, value))}]"
        if isinstance(value, set | frozenset):
            return f"set {sorted(map(self.text, value))}"
        if isinstance(value, dict):
            return f"dict {[(self.text(key), self.text(one)) for key, one in value.items()]}"
        self.inside.append(id(value))
        try:
            return self._thing(value)
        finally:
            self.inside.pop()

    def _thing(self, value: Any) -> str:
        if isinstance(value, types.FunctionType) and _module(value) in (OWN, *DECIDING):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return f"function {self._code(value.__code__, value.__globals__)} {self.text([cells, value.__defaults__])}"
        if isinstance(value, type) and _module(value) in CLASSES:
            own = {name: one for name, one in sorted(vars(value).items()) if not name.startswith("_abc") and _counts(name)}
            return f"class {self.text([*value.__bases__])} {self.text(own)}"
        if isinstance(value, functools.partial):
            return f"partial {self.text([value.func, value.args, value.keywords])}"
        if isinstance(value, types.MethodType):
            return f"method {self.text([value.__func__, value.__self__])}"
        if isinstance(value, property):
            return f"property {self.text(value.fget)}"
        if isinstance(value, staticmethod | classmethod):
            return f"{type(value).__name__} {self.text(value.__func__)}"
        if isinstance(value, functools.cached_property):
            return f"property {self.text(value.func)}"
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
            return f"{type(value).__name__} {self.text({name: getattr(value, name) for name in value.__dataclass_fields__})}"
        if hasattr(value, "tolist"):
            return f"array {self.text(value.tolist())}"
        return str(getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__)))

    def _code(self, code: types.CodeType, scope: dict[str, Any]) -> str:
        constants = [self._code(one, scope) if isinstance(one, types.CodeType) else self.text(one) for one in code.co_consts]
        names = [self.text(scope[name]) if name in scope else name for name in code.co_names]
        shape = (code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable.hex())
        return f"{code.co_code.hex()} {shape} {constants} {names}"


def _module(value: Any) -> str:
    """The last part of the module's name where it may decide, else empty."""
    name = str(getattr(value, "__module__", ""))
    return name if name == OWN else name.rpartition(".")[2] if name.startswith(f"{PACKAGE}.") else ""


def _counts(name: str) -> bool:
    return not name.startswith("__") or name in KEPT


def _rule(claim: Any, claims: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """A claim's tier and tolerance, the judge's hash, and for a claim about trained models the smallest effect that
    would matter, the null value, and the claims of its family."""
    parts = [claim.judge]
    rule: dict[str, Any] = {"tier": claim.tier, "tolerance": claim.tolerance}
    if claim.kind != "exact":
        family = getattr(claim, "family", "")
        members = [one.id for one in claims if family and (one.tier, getattr(one, "family", "")) == (claim.tier, family)]
        rule["smallest effect"] = repr(getattr(claim, "smallest", None))
        rule["null value"] = repr(getattr(claim, "least", None))
        rule["family"] = members
        if statistics := sys.modules.get(f"{PACKAGE}.evidence.statistics"):
            parts.append(statistics.decide)
    rule["judge"] = hashlib.sha256(Reader(names).text(parts).encode()).hexdigest()
    return rule


def _rules(folder: Path, experiment: str, names: Sequence[str]) -> dict[str, Any]:
    """The rules of an experiment's claims, by id; empty where the tree has no claims.py."""
    path = folder / "experiments" / experiment / "claims.py"
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(OWN, path, loader=_Loader(OWN, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[OWN] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return {claim.id: _rule(claim, module.CLAIMS, names) for claim in module.CLAIMS}


def _read_tree(folder: Path, experiments: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    for name in [name for name in sys.modules if name.partition(".")[0] in (PACKAGE, "baselines")]:
        del sys.modules[name]

    def finder(path: str) -> FileFinder:
        if not Path(path).is_relative_to(folder):
            raise ImportError
        return FileFinder(path, (_Loader, [".py"]))

    sys.path_hooks.insert(0, finder)
    sys.path.insert(0, str(folder))
    sys.path_importer_cache.clear()
    found: dict[str, Any] = {}
    for experiment in experiments:
        try:
            found[experiment] = _rules(folder, experiment, names)
        except Exception as error:  # whatever code of another time raises here
            found[experiment] = f"{type(error).__name__}: {error}"
    sys.path_hooks.remove(finder)
    sys.path.remove(str(folder))
    return found


if __name__ == "__main__":
    request = json.load(sys.stdin)
    json.dump([_read_tree(Path(folder), experiments, request["names"]) for folder, experiments in request["trees"]], sys.stdout)

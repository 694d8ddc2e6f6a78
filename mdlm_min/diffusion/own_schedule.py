"""A mask schedule of the user's own, by its name on the command line: module:Class, or path/to/file.py:Class."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from mdlm_min.diffusion.mask_schedule import MaskSchedule
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError, one_line

ALLOWED = "module:Class or path/to/file.py:Class, a MaskSchedule that is made without arguments"


def load_schedule(spec: str) -> MaskSchedule:
    """The schedule that `spec` names, made anew. A module is looked for in the working directory too.

    Raises InputError for a module or a class that is not there, that fails, or that is no mask schedule.
    """
    place, _, class_name = spec.rpartition(":")
    if not place or not class_name.isidentifier():
        raise InputError(f"schedule: {shown(spec)} is not allowed; allowed: {ALLOWED}")
    module = _module(place)
    kind = getattr(module, class_name, None)
    if not _is_schedule(kind):
        if kind is not None:
            raise InputError(f"schedule: {class_name} of {place} is no mask schedule; allowed: a mdlm_min.MaskSchedule")
        own = sorted(name for name, value in vars(module).items() if _is_schedule(value) and value.__module__ == module.__name__)
        allowed = f"{', '.join(own)}, which it has" if own else ALLOWED
        raise InputError(f"schedule: {place} has no mask schedule {class_name!r}; allowed: {allowed}")
    try:
        schedule = kind()
        name = getattr(schedule, "name", None)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(f"schedule: {spec} cannot be made ({one_line(error)}); allowed: {ALLOWED}") from error
    if not isinstance(name, str):
        raise InputError(f"schedule: {spec} has no name; a line `name = ...` in the class gives it one")
    return schedule


def _is_schedule(value: object) -> TypeGuard[type[MaskSchedule]]:
    return isinstance(value, type) and issubclass(value, MaskSchedule)


def schedule_file(spec: str) -> Path:
    """The file of the class that `spec` names. Raises InputError as load_schedule."""
    source = sys.modules[type(load_schedule(spec)).__module__].__file__
    assert source is not None, "a class of module:Class has a file"
    return Path(source)


def _module(place: str) -> ModuleType:
    """The module, imported anew: what a run has left in its classes must not reach the next run of the same process."""
    if place.endswith(".py") and not Path(place).is_file():
        raise InputError(f"schedule: {place} is no file; allowed: {ALLOWED}")
    try:
        if not place.endswith(".py"):
            if (here := str(Path.cwd())) not in sys.path:
                sys.path.insert(0, here)
            importlib.invalidate_caches()
            sys.modules.pop(place, None)
            return importlib.import_module(place)
        path = Path(place).resolve()
        known = f"own_schedule_{path.stem}"
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None and spec.loader is not None
        sys.modules[known] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(f"schedule: {place} cannot be imported ({one_line(error)}); allowed: {ALLOWED}") from error

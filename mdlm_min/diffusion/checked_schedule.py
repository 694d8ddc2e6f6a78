"""A mask schedule held to the interface at every step: what a call gives is checked before it is used.

A schedule may be anybody's code. `schedule_check.validate` tries it for a few steps; this wraps it for as long as it trains, so
what it does at a late step, or on other data, is found too. The draws and the numbers are the schedule's own.
"""

import functools
import json
import math
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import BoundPart, Context, MaskSchedule, of_masked
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError, RunError, one_line
from mdlm_min.run.random_streams import stream

FIELDS = ("tokens", "allowed", "padding_mask", "marks", "nll", "confidence")  # of a Context, those that a schedule may need
MOST_COPIES = 64
LEARNED = ("nll", "confidence")  # of these, those that a model gives and no data


def refuse(name: str, what: str, allowed: str) -> NoReturn:
    """Raise InputError: what this schedule does that is not allowed, and what is."""
    raise InputError(f"schedule {name}: {what}; allowed: {allowed}")


class CheckedSchedule(MaskSchedule):
    """The schedule `own`, checked. Each method raises InputError, naming the schedule and what is wrong, where `own` raises
    anything, gives what the interface does not allow, or writes into what it is given.

    Of `admit`: the batch keeps its shape, and each row is one of this batch, or one that was trained on at the step before. So
    every row was once given, with its allowed tokens and its marks (which may be left out), and a checkpoint that holds the
    last rows' fingerprints holds all that this rests on.
    """

    def __init__(self, own: MaskSchedule) -> None:
        """Raises InputError for a name, copies or needs that cannot be ones."""
        _check_declared(own)
        self.own = own
        self.name, self.copies, self.needs = own.name, own.copies, own.needs
        self.admits = _has_own(own, "admit")
        self.last_rows: list[int] = []  # fingerprints

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        rate = self._call("sample", context, generator)
        self._check_tensor("rates", rate, (context.rows,), torch.float32)
        if not bool(((rate >= 0) & (rate <= 1)).all()):
            refuse(self.name, f"a rate of {_worst(rate, 1):g}", "rates in [0,1]")
        return rate

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        mask = self._call("mask", rate, context, generator)
        self._check_tensor("masks", mask, (context.rows, context.length), torch.bool)
        if context.allowed is not None and bool((mask & ~context.allowed).any()):
            refuse(self.name, "a mask outside the sequence", "tokens of context.allowed")
        return mask

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        weight = self._call("weight", rate, mask, context)
        if not isinstance(weight, Tensor):
            refuse(self.name, f"weights of type {type(weight).__name__}", "a torch tensor")
        if weight.shape not in (rate.shape, mask.shape):
            refuse(self.name, f"weights of shape {tuple(weight.shape)}", f"{tuple(rate.shape)} or {tuple(mask.shape)}")
        if weight.is_complex() or not _is_plain(weight):
            refuse(self.name, f"weights of {_kind(weight)}", "real numbers, in a plain tensor")
        counted = of_masked(weight, mask).float()
        if not bool(((counted >= 0) & (counted < math.inf)).all()):
            refuse(self.name, f"a weight of {_worst(counted, math.inf):g}", "weights of at least 0, finite")
        return weight

    def estimates(self, context: Context) -> BoundPart | None:
        part = self._call("estimates", context)
        if not (part is None or isinstance(part, BoundPart)):
            refuse(self.name, f"estimates gives {type(part).__name__}", "a BoundPart, or None")
        return part

    def admit(self, context: Context) -> Context:
        if not self.admits:
            return context
        known = {*self.last_rows, *_fingerprints(context)}
        admitted = self._call("admit", context)
        if not isinstance(admitted, Context):
            refuse(self.name, f"admit gives {type(admitted).__name__}", "a Context")
        for field in ("rows", "length", "step", "steps"):
            if (found := getattr(admitted, field)) != (given := getattr(context, field)):
                refuse(self.name, f"admit gives {field} = {shown(found)}", f"{given}, as it was given")
        self._check_tensor(
            "admit gives tokens", admitted.tokens, (context.rows, context.length), torch.int64
        )  # all else: Context
        rows = _fingerprints(admitted)
        if not known.issuperset(rows):
            refuse(
                self.name,
                "admit gives a row that is new",
                "rows of this batch or of the last one, each with its tokens, allowed, padding_mask and marks (or no marks)",
            )
        self.last_rows = rows
        return admitted

    def observe(self, rate: Tensor, mask: Tensor, context: Context) -> None:
        self._call("observe", rate, mask, context)

    def state(self) -> dict[str, Any]:
        """That of the schedule; with the last rows' fingerprints where it chooses rows."""
        state = self._call("state")
        try:
            json.dumps(state)
        except (TypeError, ValueError) as error:
            raise InputError(f"schedule {self.name}: its state is not JSON ({error}); allowed: numbers, lists, tables") from error
        if not isinstance(state, dict):
            refuse(self.name, f"its state is {shown(state)}", "a table (dict)")
        if state and not _has_own(self.own, "restore"):
            refuse(self.name, "it has a state and no restore", "both, or neither")
        return {"own": state, "last_rows": self.last_rows} if self.admits else state

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state."""
        if self.admits:
            if state.keys() != {"own", "last_rows"}:
                refuse(self.name, f"a state of {', '.join(state) or 'nothing'}", "own, last_rows")
            self.last_rows, state = state["last_rows"], state["own"]
        self._call("restore", state)

    def _call(self, method: str, *arguments: Any) -> Any:
        """What a method of the schedule gives."""
        before, outside = _versions(arguments), (torch.get_default_dtype(), torch.is_grad_enabled())
        try:
            found = getattr(self.own, method)(*arguments)
        except (InputError, RunError) as error:
            if str(error).startswith("schedule "):
                raise
            raise type(error)(f"schedule {self.name}: {method}: {error}") from error
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            frames = traceback.extract_tb(error.__traceback__)[1:2]  # the schedule's own
            place = "".join(f", line {frame.lineno} of {Path(frame.filename).name}" for frame in frames)
            raise InputError(f"schedule {self.name}: {method} raised {one_line(error)}{place}") from error
        if (torch.get_default_dtype(), torch.is_grad_enabled()) != outside:
            torch.set_default_dtype(outside[0])
            torch.set_grad_enabled(outside[1])
            refuse(self.name, f"{method} changes torch's own settings", "torch.no_grad() and the like as a context")
        if _versions(arguments) != before:
            refuse(self.name, f"{method} writes into a tensor that it was given", "new tensors")
        return found

    def _check_tensor(self, what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if not isinstance(value, Tensor):
            refuse(self.name, f"{what} of type {type(value).__name__}", f"a torch tensor of shape {shape} and {dtype}")
        if value.shape != shape or value.dtype != dtype:
            refuse(self.name, f"{what} of shape {tuple(value.shape)} and {value.dtype}", f"shape {shape} and {dtype}")
        if not _is_plain(value):
            refuse(self.name, f"{what} of {_kind(value)}", "numbers, in a plain tensor")


def check_fit(schedule: MaskSchedule, rows: int, data: tuple[str, ...]) -> None:
    """Raise InputError where the schedule cannot be trained in batches of so many rows, on data that have these fields."""
    if rows % schedule.copies:
        raise InputError(f"batch: {rows} is not allowed with schedule {schedule.name}; a multiple of {schedule.copies}")
    if lacking := [field for field in schedule.needs if field not in (*data, *LEARNED)]:
        has = ", ".join((*data, *LEARNED))
        raise InputError(f"schedule {schedule.name}: needs {lacking[0]}, which this process does not have; it has {has}")


def _check_declared(own: MaskSchedule) -> None:
    """Raise InputError for what stands in the class and cannot be."""
    try:
        name, copies, needs = getattr(own, "name", None), own.copies, own.needs
    except Exception as error:  # a property of the user's may raise anything
        raise InputError(f"schedule {type(own).__name__}: its name, copies or needs raised {one_line(error)}") from error
    if not (isinstance(name, str) and name.strip() and name.isprintable()):
        refuse(type(own).__name__, f"its name is {shown(name)}", "a text on one line")
    if type(copies) is not int or not 1 <= copies <= MOST_COPIES:
        refuse(name, f"copies is {shown(copies)}", f"a whole number from 1 to {MOST_COPIES}")
    if not isinstance(needs, tuple | list) or any(field not in FIELDS for field in needs):
        refuse(name, f"needs is {shown(needs)}", f'a tuple of names, such as ("tokens",), among {", ".join(FIELDS)}')


def _has_own(schedule: MaskSchedule, method: str) -> bool:
    """Whether the schedule has a method of its own in the place of the interface's."""
    return getattr(getattr(schedule, method), "__func__", None) is not getattr(MaskSchedule, method)


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor holds numbers, one for each place."""
    return value.layout == torch.strided and value.device.type != "meta"


def _kind(value: Tensor) -> str:
    return f"{value.dtype}, {value.layout}, on {value.device}"


def _worst(values: Tensor, high: float) -> float:
    """One of the values that do not lie in [0, high], or are not finite."""
    return float(values[~((values >= 0) & (values <= high) & values.isfinite())][0])


def _versions(arguments: tuple[Any, ...]) -> list[int]:
    """How often each tensor among the arguments has been written into."""
    parts = [part for one in arguments for part in (vars(one).values() if isinstance(one, Context) else (one,))]
    return [part._version for part in parts if isinstance(part, Tensor)]


@functools.lru_cache(maxsize=8)
def _factors(length: int, device: torch.device) -> Tensor:
    """Random odd numbers, int64 [2, length]."""
    drawn = torch.randint(-(2**62), 2**62, (2, length), generator=stream(0, "fingerprints"))
    return (2 * drawn + 1).to(device)


def _fingerprints(context: Context) -> list[int]:
    """Of each row a number that stands for its tokens, which of them are allowed and which are real; and where there are marks,
    of each row one that stands for these too. Equal rows have equal numbers, and others have not, but for a chance of 2^-60."""
    tokens = context.tokens
    assert tokens is not None, "rows are chosen among tokens"
    factors = _factors(context.length, tokens.device)
    allowed, real = (1 if part is None else part for part in (context.allowed, context.padding_mask))
    plain = ((4 * tokens + 2 * allowed + real) * factors[0]).sum(dim=1)
    marked = [] if context.marks is None else (plain + (context.marks * factors[1]).sum(dim=1)).tolist()
    return [*plain.tolist(), *marked]

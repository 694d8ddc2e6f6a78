"""Any way of choosing mask rates, masks and weights: the interface, and the process that trains with it.

A schedule of one's own is a class with `sample` (mask rates), `mask` (which tokens) and `weight` (what their losses count). Only
`sample` must be written: masks default to independent ones at the rate, weights to 1/t.

    class Low(MaskSchedule):
        name = "low"

        def sample(self, context: Context, generator: torch.Generator) -> Tensor:
            return 0.001 + 0.499 * torch.rand(context.rows, generator=generator, device=generator.device)

All three are given one `Context`, so a schedule that needs more than the batch's shape takes it from there, and one that does
not never sees it:
    the tokens       context.tokens (rare tokens first), context.marks (dense tokens), context.allowed (no prompt, no padding);
    the time         context.step of context.steps (windows that move);
    the model        context.nll and context.confidence of the masked tokens, which are known after the forward pass only: to
                     `weight` (weights by the planner's confidence) and to `observe` (mask rates by the loss's variance).
`needs` names the optional fields that a schedule cannot do without; a process that lacks one says so.

Three methods more have defaults that do nothing: `observe`, after each step; `state` and `restore`, for what a checkpoint must
hold; `admit`, for a schedule that keeps sequences over several steps. A schedule that masks each sequence more than once
says in `copies` how many rows a sequence takes; they stand next to each other. For equal cost a batch of n rows is n / copies
sequences: a pair counts as two samples.

Randomness comes from the generator alone, so a step's masks are a function of seed and step. Weights and masks of a row may
depend on that row only, so a batch can be cut into parts; what depends on the whole batch is drawn in `sample`, and seen in
`observe`, which both get all rows. `schedule_check.validate` holds a schedule to this.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_rate import MaskRate, check_generator
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.diffusion.objective import check_losses, check_masks
from mdlm_min.diffusion.process import MaskedDiffusion
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError


@dataclass(frozen=True)
class Context:
    """What a schedule may know about a batch.

    tokens: int64 [rows, length]. allowed: bool, same shape, tokens that may be masked (None: all). padding_mask: bool, same
    shape, True for a real token (None: all). marks: bool, same shape, the dense tokens. step: of the run's `steps`. nll,
    confidence: float [masked], row-major: -log p of the true token, and the largest probability, of each masked token; no
    gradient. All tensors are on the device of the masks.
    """

    rows: int
    length: int
    tokens: Tensor | None = None
    allowed: Tensor | None = None
    padding_mask: Tensor | None = None
    marks: Tensor | None = None
    step: int = 0
    steps: int = 1
    nll: Tensor | None = None
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a field of another shape or type, and for a step that the run has not."""
        if not 0 <= self.step <= self.steps:
            raise InputError(f"step: {self.step} is not allowed with steps = {self.steps}; from 0 to {self.steps}")
        for field, dtype in (
            ("tokens", torch.int64),
            ("allowed", torch.bool),
            ("padding_mask", torch.bool),
            ("marks", torch.bool),
        ):
            part: Tensor | None = getattr(self, field)
            if part is not None and (part.shape != (self.rows, self.length) or part.dtype != dtype):
                allowed = f"{(self.rows, self.length)} and {dtype}"
                raise InputError(f"{field}: shape {tuple(part.shape)} and {part.dtype} is not allowed; allowed: {allowed}")

    def sizes(self) -> Tensor | int:
        """Tokens of each row that may be masked: int64 [rows], or the length where all may."""
        return self.length if self.allowed is None else self.allowed.sum(dim=1)

    def within(self, mask: Tensor) -> Tensor:
        """The mask without the tokens that may not be masked."""
        return mask if self.allowed is None else mask & self.allowed

    def need(self, field: str, schedule: str) -> Tensor:
        """A field that must be there. Raises InputError where it is not."""
        value: Tensor | None = getattr(self, field)
        if value is None:
            raise InputError(f"schedule {schedule}: needs {field}, which this process does not have")
        return value


@dataclass(frozen=True)
class BoundPart:
    """What a loss estimates without bias: factor * int_low^high (1/t) E_mask[sum over masked tokens of -log p] dt / L. The
    likelihood bound itself is (0, 1, 1). A window [a,b] under the weight 1/t has the factor 1 / (b - a)."""

    low: float = 0.0
    high: float = 1.0
    factor: float = 1.0

    def __str__(self) -> str:
        part = "the bound" if (self.low, self.high) == (0, 1) else f"the bound's part on [{self.low:.4g},{self.high:.4g}]"
        return part if self.factor == 1 else f"{part} times {self.factor:.4g}"


class MaskSchedule(ABC):
    """A way of choosing mask rates, masks and weights. `name` stands in messages and tables."""

    name: str
    copies: int = 1
    needs: tuple[str, ...] = ()

    @abstractmethod
    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        """Mask rates in [0, 1], float32 [rows], on the generator's device."""

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        """Masks, bool [rows, length]. The expected share of a row's allowed tokens is its rate. Default: independent tokens."""
        return context.within(bernoulli(rate, context.length, generator))

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        """What the loss of a masked token is multiplied by, at least 0: [rows] or [rows, length]. The batch's loss is the
        weighted sum divided by its allowed tokens. Default: 1/t."""
        return 1 / rate

    def estimates(self, context: Context) -> BoundPart | None:
        """The part of the likelihood bound that the expected loss is at this step, or None for a reweighting."""
        return None

    def admit(self, context: Context) -> Context:
        """The sequences to train on, given the new ones of this step. Called once a step, before `sample`. The batch keeps its
        shape; each row is one of these, or one that was trained on at the step before, with its allowed tokens and marks."""
        return context

    def observe(self, rate: Tensor, mask: Tensor, context: Context) -> None:  # noqa: B027 - most schedules learn nothing
        """Learn from a step: context.nll is there, and context.confidence where `needs` names it. All rows of the batch."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state. Raises ValueError for one that is not this schedule's."""
        if state:
            raise ValueError(f"state: {state} is not that of schedule {self.name}")


class RateSchedule(MaskSchedule):
    """Masked diffusion as MaskedDiffusion has it, as a schedule: the same draws, the same weights. One thing differs: with weight
    "mean" a row counts by its share of the batch's allowed tokens, there all rows count alike. Of equal sizes this is the same.

    On one interval [a,b] it estimates BoundPart(a, b, 1 / (b - a)) without bias with weight "1/t", and BoundPart(a, b) with
    "1/(t p(t))". It says so where it was told so (`part`), as a subclass may have weights of its own.
    """

    def __init__(self, rate: MaskRate, weight: str = "1/t", name: str = "", part: BoundPart | None = None) -> None:
        """`part` is what `estimates` says. Raises InputError for what MaskedDiffusion refuses."""
        self.process = MaskedDiffusion(rate, weight)
        self.name, self.part = name or f"{rate.text}, {weight}", part

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        return self.process.rate.sample(context.rows, generator)

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        if self.process.weight == "mean":
            return context.sizes() / mask.sum(dim=1).clamp(min=1)
        if self.process.weight == "none":
            return torch.ones_like(rate)
        return 1 / rate if self.process.weight == "1/t" else 1 / (rate * self.process.rate.density(rate))

    def estimates(self, context: Context) -> BoundPart | None:
        return self.part


class ScheduledDiffusion:
    """A schedule as a process (process.py): the same `mask` and `loss`, each with an optional Context."""

    def __init__(self, schedule: MaskSchedule) -> None:
        """Raises InputError for what is no schedule. A schedule of one's own is checked at every step as CheckedSchedule(own)."""
        if not isinstance(schedule, MaskSchedule):
            allowed = "an object of a class made from MaskSchedule, such as RateSchedule(rate, weight)"
            raise InputError(f"schedule: {shown(schedule)} is not allowed; allowed: {allowed}")
        self.schedule = schedule

    def mask(self, batch: int, length: int, generator: torch.Generator, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Masks (bool, [batch, length]) and mask rates ([batch]) of `batch` rows. Raises InputError where the context lacks
        what the schedule needs or is of another batch, for rows that are no multiple of its copies, and where the copies of a
        sequence do not stand next to each other."""
        schedule, context = self.schedule, context or Context(batch, length)
        check_generator(generator)
        if (context.rows, context.length) != (batch, length):
            raise InputError(f"context: {context.rows} rows of {context.length} are not the batch; allowed: {batch} of {length}")
        if batch % schedule.copies:
            raise InputError(f"batch: {batch} is not allowed with schedule {schedule.name}; a multiple of {schedule.copies}")
        for field in ("tokens", "allowed", "marks") if schedule.copies > 1 else ():
            part: Tensor | None = getattr(context, field)
            if part is not None and bool((part != part[:: schedule.copies].repeat_interleave(schedule.copies, dim=0)).any()):
                times = f"{schedule.copies} times"
                raise InputError(
                    f"{field}: schedule {schedule.name} masks each sequence {times}, and the rows differ; allowed: each sequence "
                    f"{times}, next to each other (repeat_interleave)"
                )
        for field in schedule.needs:
            if field not in ("nll", "confidence"):
                context.need(field, schedule.name)
        rate = schedule.sample(context, generator)
        if not bool(((rate >= 0) & (rate <= 1)).all()):
            raise InputError(f"schedule {schedule.name}: rates from {rate.min():g} to {rate.max():g}; allowed: rates in [0,1]")
        return schedule.mask(rate, context, generator), rate

    def loss(
        self,
        nll: Tensor,
        mask: Tensor,
        rate: Tensor | None,
        whole: tuple[int, int] | None = None,
        divisor: Tensor | None = None,
        context: Context | None = None,
    ) -> Tensor:
        """The batch's loss, a scalar, from the loss of each masked token ([masked], row-major). `whole`: sequences and tokens
        of the whole batch, where these rows are a part of it. `divisor`: [batch], in the place of these tokens
        (objective.divisors). Losses of less than float32 are added in float32. Raises InputError for losses of another shape."""
        if rate is None:
            raise InputError("rate: None is not allowed; allowed: the mask rate of each row")
        check_masks(mask, rate)
        context = replace(context or Context(*mask.shape), nll=nll.detach())
        weight = self.schedule.weight(rate, mask, context)
        each = of_masked(weight, mask)
        check_losses(nll, each)
        nll = nll.to(torch.promote_types(nll.dtype, torch.float32))
        each = each.to(nll)
        if divisor is not None:
            return (nll * each / divisor[:, None].expand(mask.shape)[mask]).sum()
        sizes = context.sizes()
        tokens = whole[1] if whole else int(sizes.sum()) if isinstance(sizes, Tensor) else sizes * len(mask)
        return (nll * each).sum() / tokens


def of_masked(weight: Tensor, mask: Tensor) -> Tensor:
    """Of weights of rows or of tokens those of the masked tokens: [masked], row-major."""
    return (weight if weight.dim() == 2 else weight[:, None]).expand(mask.shape)[mask]


def in_place(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the masked tokens ([masked], row-major) at their positions, zero elsewhere: [rows, length]."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def row_losses(rate: Tensor, mask: Tensor, context: Context, schedule: str) -> tuple[Tensor, Tensor]:
    """Mask rate and loss of each row, sum over its masked tokens of -log p / (t L), L its allowed tokens: both [rows]. Rows
    without a token to mask have no such loss and are left out. Raises InputError where the context lacks nll."""
    sizes = torch.as_tensor(context.sizes(), device=rate.device).expand(rate.shape)
    loss = in_place(context.need("nll", schedule).double(), mask).sum(dim=1) / (rate * sizes)
    return rate[sizes > 0], loss[sizes > 0]

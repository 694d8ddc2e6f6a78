"""Is a mask schedule one? `validate` runs it on made-up data and refuses it by name where it breaks the interface's promises."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdlm_min.diffusion.checked_schedule import CheckedSchedule, refuse
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, of_masked
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError, one_line
from mdlm_min.run.random_streams import stream

ROWS, LENGTH, STEPS, VOCABULARY = 96, 32, 24, 5
SHARE_SIGMAS = 6.0  # a sound schedule is refused with probability 1e-8
GROUPS = 16  # of rows by their rate, and by how many tokens are allowed: a share that is right on average only is wrong


def validate(schedule: MaskSchedule) -> None:
    """Raise InputError, naming the schedule and what is wrong, for a schedule that
    gives rates that are not float32 [rows] in [0, 1], or that mask nothing; masks that are not bool [rows, length], or reach
    beyond the allowed tokens;
    masks whose expected share of a row's allowed tokens is not its rate; a negative or infinite weight, or none above 0; draws or
    weights that are not a function of its generator; data that it writes into; a state that is not JSON, or that does not bring
    the draws back.

    It is run on a copy, for 24 steps of 96 rows, on random tokens, marks and losses, with prompts and without. What a step alone
    can show is found by CheckedSchedule, here as in training.
    """
    if not isinstance(schedule, MaskSchedule):
        raise InputError(f"schedule: {shown(schedule)} is not allowed; allowed: an object of a class made from MaskSchedule")
    checked = CheckedSchedule(schedule)
    seen = list(_run(_copied(checked), 0))
    _check_share(schedule.name, seen)
    if not any(bool(step.mask.any()) for step in seen):
        refuse(schedule.name, "masks nothing, and nothing would be learned", "rates above 0")
    if not any(bool((step.weight > 0).any()) for step in seen):
        refuse(schedule.name, "gives every masked token the weight 0, and nothing would be learned", "weights above 0")
    _check_draws(checked, seen)


def _copied(schedule: CheckedSchedule) -> CheckedSchedule:
    """A copy that shares nothing with the schedule."""
    try:
        return copy.deepcopy(schedule)
    except Exception as error:  # the user's attributes may be anything
        raise InputError(
            f"schedule {schedule.name}: cannot be copied ({one_line(error)}); allowed: what copy.deepcopy can copy"
        ) from error


def _context(schedule: MaskSchedule, step: int) -> Context:
    """Made-up data of a step: every other step has prompts of different lengths."""
    noise = stream(step, "schedule_check")
    sequences = -(-ROWS // schedule.copies)
    tokens = torch.randint(VOCABULARY, (sequences, LENGTH), generator=noise)
    marks = torch.rand(sequences, LENGTH, generator=noise) < torch.rand(sequences, 1, generator=noise)
    prompts = torch.randint(LENGTH, (sequences, 1), generator=noise)
    allowed = torch.arange(LENGTH) >= prompts if step % 2 else None
    tokens, marks = (part.repeat_interleave(schedule.copies, dim=0) for part in (tokens, marks))
    allowed = None if allowed is None else allowed.repeat_interleave(schedule.copies, dim=0)
    return Context(len(tokens), LENGTH, tokens, allowed, marks=marks, step=step, steps=STEPS)


@dataclass(frozen=True)
class _Step:
    """What a schedule gave in a step; `weight` of the masked tokens."""

    rate: Tensor
    mask: Tensor
    weight: Tensor
    allowed: Tensor

    def is_like(self, other: "_Step") -> bool:
        """Whether the draws and weights are the same."""
        return all(torch.equal(getattr(self, name), getattr(other, name)) for name in ("rate", "mask", "weight"))


def _run(schedule: CheckedSchedule, first: int) -> Iterator[_Step]:
    """Steps first, first + 1, ... of a schedule."""
    for step in range(first, STEPS):
        context = schedule.admit(_context(schedule, step))
        generator, outside = stream(step, "masks"), torch.get_rng_state()
        rate = schedule.sample(context, generator)
        mask = schedule.mask(rate, context, generator)
        noise = stream(step, "schedule_check losses")
        nll = 3 * torch.rand(int(mask.sum()), generator=noise)
        seen = replace(context, nll=nll, confidence=torch.exp(-nll))
        given = [(part, part.clone()) for part in (rate, mask, *vars(seen).values()) if isinstance(part, Tensor)]
        weight = schedule.weight(rate, mask, seen)
        schedule.observe(rate, mask, seen)
        if not torch.equal(outside, torch.get_rng_state()):
            refuse(schedule.name, "draws from torch's global generator", "the generator that it is given")
        if not schedule.admits:  # what is written past torch, through numpy
            unread = _context(schedule, step)
            given += [(getattr(seen, name), getattr(unread, name)) for name in ("tokens", "allowed", "marks")]
        if any(part is not None and not torch.equal(part, before) for part, before in given):
            refuse(schedule.name, "writes into a tensor that it was given", "new tensors")
        yield _Step(rate, mask, of_masked(weight, mask), torch.ones_like(mask) if context.allowed is None else context.allowed)


def _check_share(name: str, seen: list[_Step]) -> None:
    """The masked share minus the rate has mean zero, also among rows of like rates, and among rows of like lengths."""
    rates = torch.cat([step.rate for step in seen]).double()
    sizes = torch.cat([step.allowed.sum(dim=1) for step in seen])
    shares = torch.cat([step.mask.sum(dim=1) for step in seen]).double() / sizes
    for group in (group for values in (rates, sizes) for group in values.argsort(stable=True).tensor_split(GROUPS)):
        gap = (shares - rates)[group]
        binomial = (rates * (1 - rates) / sizes)[group].mean()  # of few masked tokens the scatter that was seen says little
        error = math.sqrt(max(float(gap.var()), float(binomial)) / len(group))
        share, rate = float(shares[group].mean()), float(rates[group].mean())
        if abs(float(gap.mean())) > SHARE_SIGMAS * error + 1e-6:
            refuse(
                name,
                f"masks {share:.3f} of the tokens of rows whose mean rate is {rate:.3f}",
                "masks whose expected share is the rate",
            )


def _check_draws(schedule: CheckedSchedule, expected: list[_Step]) -> None:
    """The same draws and weights again, from the start and from a state in the middle."""
    middle, again = STEPS // 2, _copied(schedule)
    steps = _run(again, 0)
    for step in expected[:middle]:
        if not next(steps).is_like(step):
            refuse(
                schedule.name,
                "other draws or weights from a generator of the same seed",
                "draws that are a function of the generator, weights without draws",
            )
    restored = _copied(schedule)
    restored.restore(json.loads(json.dumps(again.state())))
    if not next(_run(restored, middle)).is_like(expected[middle]):
        refuse(schedule.name, "its state does not bring the draws back", "a state that holds all that the draws depend on")

"""Training with any mask schedule (diffusion/mask_schedule.py), on text, on answers and on parity, at equal cost: a batch has
`batch` rows, whatever a sequence's copies. Model, data, evaluation and checkpoints are those of tasks/language.py,
tasks/finetune.py and tasks/parity.py.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.data.parity import MASK_TOKEN, is_signal
from mdlm_min.data.text import TextData
from mdlm_min.diffusion.checked_schedule import CheckedSchedule, check_fit
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, ScheduledDiffusion
from mdlm_min.diffusion.objective import divisors, sign_cross_entropy
from mdlm_min.run.config import refuse_set
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.tasks.finetune import FinetuneConfig, FinetuneTask
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask
from mdlm_min.tasks.parity import ParityRunConfig, ParityTask
from mdlm_min.training.engine import EngineConfig

Marks = Callable[[Tensor], Tensor]  # tokens, int64 [rows, length] -> dense tokens, bool, the same shape


class _Scheduled:
    """The loss of a schedule's masks. A step that is taken is shown to the schedule, as it may learn from it; one that the guard
    against spikes refuses is not."""

    schedule: CheckedSchedule
    scheduled: ScheduledDiffusion
    last: tuple[Tensor, Tensor, Context]  # of the last loss: rates, masks, and what the schedule may see

    def _loss_of_scores(
        self, scores: Tensor, tokens: Tensor, mask: Tensor, rate: Tensor, context: Context, divisor: Tensor | None = None
    ) -> Tensor:
        """The batch's loss from the scores of its masked tokens."""
        nll = F.cross_entropy(scores, tokens[mask], reduction="none")
        confidence = scores.detach().softmax(dim=1).amax(dim=1) if "confidence" in self.schedule.needs else None
        return self._loss_of_nll(nll, confidence, mask, rate, context, divisor)

    def _loss_of_nll(
        self, nll: Tensor, confidence: Tensor | None, mask: Tensor, rate: Tensor, context: Context, divisor: Tensor | None = None
    ) -> Tensor:
        seen = replace(context, nll=nll.detach(), confidence=confidence)
        self.last = (rate, mask, seen)
        return self.scheduled.loss(nll, mask, rate, divisor=divisor, context=seen)

    def took(self, step: int) -> None:
        """See Task."""
        self.schedule.observe(*self.last)


class _KeepsSchedule(_Scheduled):
    """What a checkpoint of a scheduled task must hold."""

    def state(self) -> dict[str, Any]:
        """The schedule's state."""
        return self.schedule.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state. Raises InputError for one that is not this schedule's."""
        self.schedule.restore(state)


class ScheduledTask(_KeepsSchedule, LanguageTask):
    """A run on text whose mask rates, masks and weights are a schedule's."""

    fields = ("tokens",)  # what a schedule is given of the data

    def __init__(self, config: LanguageRunConfig, seed: int, schedule: MaskSchedule, data: TextData | None = None) -> None:
        """Raises InputError for a batch that is no multiple of the schedule's copies, and for a mask rate or a weight in the
        configuration: they are the schedule's."""
        self.schedule = CheckedSchedule(schedule)
        _check_own(config, schedule, self.fields)
        super().__init__(config, seed, data)
        self.scheduled = ScheduledDiffusion(self.schedule)
        self.work = replace(self.work, operations=math.nan)

    def loss(self, step: int) -> Tensor:
        """Training loss on this step's blocks and masks."""
        config, schedule, length = self.config, self.schedule, self.config.data.length
        tokens = self.data.batch("train", length, config.batch // schedule.copies, self.seed, step).to(self.device)
        tokens = tokens.repeat_interleave(schedule.copies, dim=0)
        context = schedule.admit(Context(config.batch, length, tokens, step=step, steps=config.train.steps))
        tokens = context.need("tokens", schedule.name)
        mask, rate = self.scheduled.mask(config.batch, length, stream(self.seed, "masks", step, self.device), context)
        with self.autocast():
            scores = self.model(tokens.masked_fill(mask, self.mask_token), mask).float()
        return self._loss_of_scores(scores, tokens, mask, rate, context)


class ScheduledFinetuneTask(_KeepsSchedule, FinetuneTask):
    """A fine-tuning run whose mask rates, masks and weights are a schedule's, in one process and one part. A prompt is never
    masked, and every batch is as wide as the longest sample, as a schedule may keep sequences over several steps."""

    fields = ("tokens", "allowed", "padding_mask")  # what a schedule is given of the data, besides the marks

    def __init__(
        self,
        config: FinetuneConfig,
        seed: int,
        folder: RunFolder,
        make: Callable[[FinetuneTask], MaskSchedule],
        make_marks: Callable[[FinetuneTask], Marks] | None = None,
    ) -> None:
        """`make` is given this task, whose model and data are there, and so is `make_marks`, where the data bring marks: what it
        makes is shown the answers alone, every other token hidden as the template's end. Raises InputError as ScheduledTask does,
        for a batch that is cut into parts, and for a division by the masked tokens: a schedule's weight may be a mean already."""
        if config.engine != EngineConfig():
            raise InputError(f"engine: {config.engine} is not allowed with a schedule; allowed: plain torch, one part")
        if config.divisor == "masked":
            raise InputError(
                "divisor: 'masked' is not allowed with a schedule: its weight says it; allowed: answer, token, batch"
            )
        super().__init__(config, seed, folder)
        self.work = replace(self.work, operations=math.nan)
        self.schedule = CheckedSchedule(make(self))
        self.marks = make_marks(self) if make_marks else None
        _check_own(config, self.schedule, (*self.fields, "marks") if self.marks else self.fields)
        self.scheduled = ScheduledDiffusion(self.schedule)
        self.width = max(len(sample.prompt) + len(sample.answer) for sample in self.data.train)

    def loss(self, step: int) -> Tensor:
        """Training loss on this step's answers and masks."""
        config, schedule = self.config, self.schedule
        batch = self.data.batch(self.seed, step, self.samples)
        tokens = F.pad(batch.tokens, (0, self.width - batch.tokens.shape[1]), value=self.template.special.end)
        column = torch.arange(self.width)
        padding_mask = column < batch.lengths[:, None]
        allowed = padding_mask & (column >= batch.prompts[:, None])
        marks = allowed & self.marks(tokens.where(allowed, self.template.special.end)) if self.marks else None
        marks = None if marks is None else marks.repeat_interleave(schedule.copies, dim=0).to(self.device)
        tokens, allowed, padding_mask = (
            part.repeat_interleave(schedule.copies, dim=0).to(self.device) for part in (tokens, allowed, padding_mask)
        )
        context = Context(config.batch, self.width, tokens, allowed, padding_mask, marks, step, config.train.steps)
        context = schedule.admit(context)
        tokens, allowed = context.need("tokens", schedule.name), context.need("allowed", schedule.name)
        mask, rate = self.scheduled.mask(config.batch, self.width, stream(self.seed, "masks", step, self.device), context)
        with self.autocast():
            scores = self.network(tokens.masked_fill(mask, self.mask_token), mask, context.padding_mask).float()
        divisor = divisors(config.divisor, allowed.sum(dim=1), mask.sum(dim=1))
        return self._loss_of_scores(scores, tokens, mask, rate, context, divisor)

    def part_loss(self, step: int, part: int) -> Tensor:
        """The whole step."""
        return self.loss(step)

    @property
    def samples(self) -> int:
        """Samples of a step: each has `copies` rows of the batch."""
        return self.config.batch // self.schedule.copies


class ScheduledParityTask(_Scheduled, ParityTask):
    """A run on parity whose mask rates, masks and weights are a schedule's. The marks are the secret tokens: an oracle.

    With a batch of 0 a step has as many rows as there are training samples: each sample once, or so many samples, drawn anew,
    that their copies are as many rows."""

    fields = ("tokens", "marks")  # what a schedule is given of the data

    def __init__(self, config: ParityRunConfig, seed: int, schedule: MaskSchedule) -> None:
        """Raises InputError as ScheduledTask does, and for settings of a loss that is not the cross-entropy."""
        self.schedule = CheckedSchedule(schedule)
        _check_own(config, schedule, self.fields)
        refuse_set(config, ("supervision", "token_loss"), f"with schedule {schedule.name}; leave it out")
        super().__init__(config, seed)
        self.scheduled = ScheduledDiffusion(self.schedule)

    def loss(self, step: int) -> Tensor:
        """Training loss on this step's samples and masks."""
        copies = self.schedule.copies
        rows = self.config.batch or len(self.train)
        chosen = torch.randperm(len(self.train), generator=stream(self.seed, "batches", step))[: rows // copies]
        tokens = self.train[chosen.to(self.device)].repeat_interleave(copies, dim=0)
        marks = torch.zeros_like(tokens, dtype=torch.bool)
        marks[:, self.secret] = True
        length = tokens.shape[1]
        context = Context(rows, length, tokens, marks=marks, step=step, steps=self.config.train.steps)
        context = self.schedule.admit(context)
        tokens = context.need("tokens", self.schedule.name)
        mask, rate = self.scheduled.mask(rows, length, stream(self.seed, "masks", step, self.device), context)
        self.masks_seen += len(mask)
        self.signal_masks += is_signal(mask, self.secret).sum()
        output = self.model(tokens.masked_fill(mask, MASK_TOKEN), mask)[:, 0]
        nll = sign_cross_entropy(output, (tokens[mask] - 1).to(output.dtype))
        return self._loss_of_nll(nll, output.detach().abs().sigmoid(), mask, rate, context)

    def captured_step(self) -> None:
        """A schedule is shown every loss, and may choose rows by it: its step cannot be captured."""

    def state(self) -> dict[str, Any]:
        """The counts since the last evaluation, and the schedule's state."""
        return {**super().state(), "schedule": self.schedule.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state. Raises InputError for one that is not this schedule's."""
        super().restore(state)
        self.schedule.restore(state["schedule"])


Config = LanguageRunConfig | FinetuneConfig | ParityRunConfig


def _check_own(config: Config, schedule: MaskSchedule, fields: tuple[str, ...]) -> None:
    """Raise InputError for a mask rate or a weight in the configuration, and for a batch or data that the schedule cannot use."""
    refuse_set(config, ("mask_rate", "weight"), f"with schedule {schedule.name}, which has its own")
    rows = config.batch or (config.data.train_samples if isinstance(config, ParityRunConfig) else 0)
    check_fit(schedule, rows, fields)

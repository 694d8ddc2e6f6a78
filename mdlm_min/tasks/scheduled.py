"""Training on text with any mask schedule (diffusion/mask_schedule.py), at equal cost: a batch has `batch` rows, whatever a
sequence's copies. Model, data, masks' noise, evaluation and checkpoints are those of tasks/language.py.
"""

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mdlm_min.data.text import TextData
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, ScheduledDiffusion
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask


class ScheduledTask(LanguageTask):
    """A run on text whose mask rates, masks and weights are a schedule's."""

    def __init__(self, config: LanguageRunConfig, seed: int, schedule: MaskSchedule, data: TextData | None = None) -> None:
        """Raises InputError for a batch that is no multiple of the schedule's copies, and for a mask rate or a weight in the
        configuration: they are the schedule's."""
        default = LanguageRunConfig()
        for name in ("mask_rate", "weight"):
            if getattr(config, name) != getattr(default, name):
                raise InputError(
                    f"{name}: {getattr(config, name)!r} is not allowed with schedule {schedule.name}, which has its own"
                )
        if config.batch % schedule.copies:
            raise InputError(
                f"batch: {config.batch} is not allowed with schedule {schedule.name}; a multiple of {schedule.copies}"
            )
        super().__init__(config, seed, data)
        self.schedule, self.scheduled = schedule, ScheduledDiffusion(schedule)

    def loss(self, step: int) -> Tensor:
        """Training loss on this step's blocks and masks. The schedule sees the losses, as it may learn from them."""
        config, schedule, length = self.config, self.schedule, self.config.data.length
        tokens = self.data.batch("train", length, config.batch // schedule.copies, self.seed, step).to(self.device)
        tokens = tokens.repeat_interleave(schedule.copies, dim=0)
        context = schedule.admit(Context(config.batch, length, tokens, step=step, steps=config.train.steps))
        tokens = context.need("tokens", schedule.name)
        mask, rate = self.scheduled.mask(config.batch, length, stream(self.seed, "masks", step, self.device), context)
        with self.autocast():
            scores = self.model(tokens.masked_fill(mask, self.mask_token), mask).float()
        nll = F.cross_entropy(scores, tokens[mask], reduction="none")
        confidence = scores.detach().softmax(dim=1).amax(dim=1) if "confidence" in schedule.needs else None
        seen = replace(context, nll=nll.detach(), confidence=confidence)
        loss = self.scheduled.loss(nll, mask, rate, context=seen)
        schedule.observe(rate, mask, seen)
        return loss

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: the schedule's state."""
        return self.schedule.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state. Raises ValueError for one that is not this schedule's."""
        self.schedule.restore(state)

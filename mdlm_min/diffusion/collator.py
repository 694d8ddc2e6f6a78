"""A mask schedule in a trainer that is not ours: one collator and one loss function, for Hugging Face's Trainer or any data
loader.

    trainer = Trainer(
        model,
        TrainingArguments(..., remove_unused_columns=False),
        train_dataset=Keyed(dataset),
        data_collator=MaskCollator(schedule, mask_token=103, pad_token=0, seed=0, steps=epochs),
        compute_loss_func=scheduled_loss,
    )

The masks of a sample are a function of the seed, the step and the sample's number, and of nothing else: not of the batch that it
is in, nor of the number of processes or workers. `Keyed` gives every sample its number, and as step the epoch, in which a Trainer
sees a sample once. A loop of one's own may set another step. As each sample is drawn alone, a stratified schedule is a plain one
here, and a schedule that learns from the loss (needs nll or confidence) or keeps sequences (admit) is refused.

Labels carry the weights to the loss function, because a Trainer hands it nothing else: int64 [rows, length, 3]. Of a token that
may be masked they are IGNORED, the token, and the bits of its weight as a float32 (0 where it is visible; whole numbers, because
DeepSpeed rounds whatever is not); elsewhere they are IGNORED. A Trainer counts the labels that are not IGNORED over processes and
accumulated batches, of a causal model's class all but the first of the last axis. So it counts each trainable token twice, either
way, and `scheduled_loss` divides by half of it.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mdlm_min.diffusion.checked_schedule import LEARNED, CheckedSchedule
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, ScheduledDiffusion
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

IGNORED = -100


class Samples(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class Keyed(Dataset[dict[str, Any]]):
    """A dataset whose samples know their number ("sample") and the epoch ("step")."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer's data loader at the start of each epoch."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], "sample": int(index), "step": int(self.epoch)}


class MaskCollator:
    """Masks a list of samples by a schedule, into what a model and `scheduled_loss` take.

    A sample has "input_ids" (token ids), "sample" and "step" (integers). It may have, as long as its tokens, "labels", IGNORED
    where a token is not trained on, such as a prompt, which is then never masked; "attention_mask", 0 at padding; and "marks",
    true at dense tokens. A schedule with two copies gives two rows for each sample.
    """

    def __init__(self, schedule: MaskSchedule, mask_token: int, pad_token: int, seed: int, steps: int) -> None:
        """`steps` of the whole run, for a schedule that moves: samples have steps below it. With `Keyed` they are epochs: of a
        trainer that is told `max_steps`, so many divided by the steps of an epoch, rounded up. Raises InputError for a schedule
        that learns from the loss or keeps sequences, and for what CheckedSchedule refuses."""
        self.schedule = CheckedSchedule(schedule)
        if missing := set(LEARNED) & set(schedule.needs):
            raise InputError(f"schedule {schedule.name}: needs {', '.join(sorted(missing))}, which a collator does not have")
        if self.schedule.admits:
            raise InputError(f"schedule {schedule.name}: keeps sequences over several steps (admit), which a collator cannot")
        for name, value, least in (("mask_token", mask_token, 0), ("pad_token", pad_token, 0), ("steps", steps, 1)):
            if type(value) is not int or value < least:
                raise InputError(f"{name}: {shown(value)} is not allowed; a whole number, at least {least}")
        self.mask_token, self.pad_token, self.seed, self.steps = mask_token, pad_token, seed, steps

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """input_ids and attention_mask (int64 [rows, length]) and labels (int64 [rows, length, 3], see above). Raises InputError
        for a sample that cannot be read."""
        if not len(samples):
            raise InputError("samples: none were given; at least one")
        drawn = [rows for sample in samples for rows in self._rows(sample)]
        length = max(len(tokens) for tokens, _, _ in drawn)
        inputs = torch.full((len(drawn), length), self.pad_token)
        attention_mask = torch.zeros(len(drawn), length, dtype=torch.int64)
        labels = torch.full((len(drawn), length, 3), IGNORED)
        for row, (tokens, real, label) in enumerate(drawn):
            inputs[row, : len(tokens)] = tokens
            attention_mask[row, : len(tokens)] = real
            labels[row, : len(tokens)] = label
        return {"input_ids": inputs, "attention_mask": attention_mask, "labels": labels}

    def _rows(self, sample: Mapping[str, Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Tokens as the model sees them, attention mask and labels of each copy of a sample."""
        if missing := {"input_ids", "sample", "step"} - set(sample):
            raise InputError(
                f"{sorted(missing)[0]}: a sample lacks it; wrap the dataset in Keyed, and set remove_unused_columns=False"
            )
        number, step, copies = _integer(sample, "sample"), _integer(sample, "step"), self.schedule.copies
        if not 0 <= step < self.steps:
            raise InputError(f"step: {step} is not allowed; from 0 to {self.steps - 1}, below the collator's steps")
        tokens = _tensor(sample, "input_ids")
        if tokens.dim() != 1 or not len(tokens):
            raise InputError(f"input_ids: shape {tuple(tokens.shape)} is not allowed; the ids of at least one token")
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise InputError(f"input_ids: {tokens.dtype} is not allowed; whole numbers")
        tokens = tokens.long()
        if (wrong := tokens[(tokens < 0) | (tokens == self.mask_token)]).numel():
            allowed_ids = f"token ids, at least 0, without mask_token = {self.mask_token}"
            raise InputError(f"input_ids: {int(wrong[0])} is not allowed; {allowed_ids}")
        real = _values(sample, "attention_mask", len(tokens), 1) != 0
        allowed = real & (_values(sample, "labels", len(tokens), 0) != IGNORED)
        marks = _values(sample, "marks", len(tokens), 0).bool().repeat(copies, 1) if "marks" in sample else None
        tokens, allowed, real = (part.repeat(copies, 1) for part in (tokens, allowed, real))
        context = Context(copies, tokens.shape[1], tokens, allowed, real, marks, step, self.steps)
        generator = stream(self.seed, f"masks of sample {number}", step)
        mask, rate = ScheduledDiffusion(self.schedule).mask(context.rows, context.length, generator, context)
        weight = self.schedule.weight(rate, mask, context).float()
        weight = (weight if weight.dim() == 2 else weight[:, None]).expand(mask.shape) * mask
        bits = weight.contiguous().view(torch.int32).long()  # of a number that is not negative: never IGNORED
        labels = torch.stack((torch.full_like(tokens, IGNORED), tokens, bits), dim=2).masked_fill(~allowed[..., None], IGNORED)
        return list(zip(tokens.masked_fill(mask, self.mask_token), real.long(), labels, strict=True))


def _values(sample: Mapping[str, Any], name: str, length: int, default: int) -> Tensor:
    """A field of a sample, one value for each token. Raises InputError for another number of them."""
    values = _tensor(sample, name) if name in sample else torch.full((length,), default)
    if values.shape != (length,):
        raise InputError(f"{name}: shape {tuple(values.shape)} is not allowed; ({length},), as many as input_ids has")
    return values


def _tensor(sample: Mapping[str, Any], name: str) -> Tensor:
    """A field of a sample. Raises InputError for what is no list of numbers."""
    try:
        return torch.as_tensor(sample[name])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: {shown(sample[name])} is not allowed; a list or tensor of numbers") from error


def _integer(sample: Mapping[str, Any], name: str) -> int:
    """A whole number of a sample. Raises InputError for any other type: 3.0 would be another number of a sample than 3."""
    try:
        return operator.index(sample[name])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: {shown(sample[name])} is not allowed; a whole number") from error


def scheduled_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The schedule's loss from a model's outputs (with `logits` [rows, length, vocabulary]) and a MaskCollator's labels.

    num_items_in_batch: as a Trainer counts it, over all processes and accumulated batches; None for these rows alone. Without a
    token to train on the loss is 0. Raises InputError for labels that are not a MaskCollator's.
    """
    if labels.dtype != torch.int64 or labels.dim() != 3 or labels.shape[2] != 3:
        raise InputError(
            f"labels: {labels.dtype} of shape {tuple(labels.shape)} are not allowed; a MaskCollator's, int64 [rows, length, 3]"
        )
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
    labels = labels.to(logits.device)
    weight = labels[..., 2].int().view(torch.float32)
    counted = (labels[..., 1] != IGNORED) & (weight > 0)
    nll = F.cross_entropy(logits[counted].float(), labels[..., 1][counted], reduction="none")
    items = torch.as_tensor((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
    items = items.to(logits.device).flatten()[0]  # a Trainer on several GPUs of one process repeats it for each
    return (nll * weight[counted]).sum() / (items / 2).clamp(min=1)

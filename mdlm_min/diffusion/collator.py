"""A mask schedule in a trainer that is not ours: one collator and one loss function, for Hugging Face's Trainer or any data
loader.

    trainer = Trainer(
        model,
        TrainingArguments(..., remove_unused_columns=False),
        train_dataset=Keyed(dataset),
        data_collator=MaskCollator(schedule, mask_token=103, pad_token=0, seed=0),
        compute_loss_func=scheduled_loss,
    )

The masks of a sample are a function of the seed, the step and the sample's number, and of nothing else: not of the batch that it
is in, nor of the number of processes or workers. `Keyed` gives every sample its number, and as step the epoch, in which a Trainer
sees a sample once. A loop of one's own may set another step. As each sample is drawn alone, a stratified schedule is a plain one
here, and a schedule that learns from the loss (needs nll or confidence) is refused.

Labels carry the weights to the loss function, because a Trainer hands it nothing else: float32 [rows, length, 2], the token
and its weight. The weight is 0 where a token is visible; both are -100 where it may not be masked. So a Trainer that counts
the labels that are not -100 over processes and accumulated batches counts each trainable token twice, and `scheduled_loss`
divides by half of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

IGNORED = -100
MOST_TOKENS = 1 << 24  # token ids that a float32 holds exactly


class Samples(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class Keyed(Dataset[dict[str, Any]]):
    """A dataset whose samples know their number ("sample") and the epoch ("step")."""

    def __init__(self, samples: Samples) -> None:
        self.samples, self.epoch = samples, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer's data loader at the start of each epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.samples[index], "sample": int(index), "step": self.epoch}


class MaskCollator:
    """Masks a list of samples by a schedule, into what a model and `scheduled_loss` take.

    A sample has "input_ids" (token ids), "sample" and "step" (integers), and may have "labels": IGNORED where a token is not
    trained on, such as a prompt, which is then never masked. A schedule with two copies gives two rows for each sample.
    """

    def __init__(self, schedule: MaskSchedule, mask_token: int, pad_token: int, seed: int, steps: int = 1) -> None:
        """`steps` of the whole run, for a schedule that moves. Raises InputError for a schedule that learns from the loss."""
        if missing := {"nll", "confidence"} & set(schedule.needs):
            raise InputError(f"schedule {schedule.name}: needs {', '.join(sorted(missing))}, which a collator does not have")
        self.schedule, self.mask_token, self.pad_token, self.seed, self.steps = schedule, mask_token, pad_token, seed, steps

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """input_ids and attention_mask (int64 [rows, length]) and labels (float32 [rows, length, 2], see above)."""
        drawn = [rows for sample in samples for rows in self._rows(sample)]
        length = max(len(tokens) for tokens, _, _ in drawn)
        inputs = torch.full((len(drawn), length), self.pad_token)
        attention_mask = torch.zeros(len(drawn), length, dtype=torch.int64)
        labels = torch.full((len(drawn), length, 2), float(IGNORED))
        for row, (tokens, mask, label) in enumerate(drawn):
            inputs[row, : len(tokens)] = tokens.masked_fill(mask, self.mask_token)
            attention_mask[row, : len(tokens)] = 1
            labels[row, : len(tokens)] = label
        return {"input_ids": inputs, "attention_mask": attention_mask, "labels": labels}

    def _rows(self, sample: Mapping[str, Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Tokens, mask and labels of each copy of a sample."""
        if missing := {"input_ids", "sample", "step"} - set(sample):
            raise InputError(
                f"{sorted(missing)[0]}: a sample lacks it; wrap the dataset in Keyed, and set remove_unused_columns=False"
            )
        tokens = torch.as_tensor(sample["input_ids"], dtype=torch.int64)
        if int(tokens.max()) >= MOST_TOKENS:
            raise InputError(f"input_ids: {int(tokens.max())} is not allowed; below {MOST_TOKENS}")
        trained = torch.ones_like(tokens, dtype=torch.bool)
        if "labels" in sample:
            trained = torch.as_tensor(sample["labels"]) != IGNORED
        copies, step = self.schedule.copies, int(sample["step"])
        repeated, allowed = tokens.repeat(copies, 1), trained.repeat(copies, 1)
        context = Context(copies, len(tokens), repeated, allowed, step=step, steps=self.steps)
        generator = stream(self.seed, f"masks of sample {sample['sample']}", step)
        context = self.schedule.admit(context)
        rate = self.schedule.sample(context, generator)
        mask = self.schedule.mask(rate, context, generator)
        weight = self.schedule.weight(rate, mask, context).float()
        weight = (weight if weight.dim() == 2 else weight[:, None]).expand(mask.shape)
        labels = torch.stack((repeated.float(), weight * mask), dim=2).masked_fill(~allowed[..., None], IGNORED)
        return list(zip(repeated, mask, labels, strict=True))


def scheduled_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The schedule's loss from a model's outputs (with `logits` [rows, length, vocabulary]) and a MaskCollator's labels.

    num_items_in_batch: as a Trainer counts it, over all processes and accumulated batches; None for these rows alone.
    """
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
    labels = labels.to(logits.device)
    tokens, weight = labels[..., 0].long(), labels[..., 1]
    counted = weight > 0
    nll = F.cross_entropy(logits[counted].float(), tokens[counted], reduction="none")
    items = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return (nll * weight[counted]).sum() / (items / 2)

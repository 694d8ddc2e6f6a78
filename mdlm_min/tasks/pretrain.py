"""Pre-training LLaDA's block, at any size between a laptop's and 8B, on one process or many."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from mdlm_min.data.items import items_file, load_items
from mdlm_min.data.samples import Batch, SamplesConfig, open_data
from mdlm_min.diffusion.answer_likelihood import LikelihoodConfig
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import training_operations
from mdlm_min.model.llada import scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import Range, build
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.language import LEAST_PASSES, STRATA, loss_over_rates
from mdlm_min.tasks.model_files import write_model_files
from mdlm_min.tasks.multiple_choice import judge_items
from mdlm_min.tasks.summaries import ITEM_COLUMNS, ITEM_TASKS, LEVELS
from mdlm_min.tasks.transformer_task import Step, TransformerConfig, TransformerTask, run_task
from mdlm_min.training import distributed
from mdlm_min.training.loop import Progress, check_device

BLOCK = tuple(f"{kind}{name}" for kind in ("", "error_") for name in LEVELS)


@dataclass(frozen=True)
class LladaShape:
    """LLaDA's block at another size (llada.scaled); 32, 32, 4096 is LLaDA-8B."""

    layers: int = 2
    heads: int = 2
    width: int = 64


@dataclass(frozen=True)
class PretrainConfig(TransformerConfig):
    """One pre-training run. `items` of each zero-shot task are judged at the end, by `item_passes` passes an answer."""

    data: SamplesConfig = SamplesConfig()
    model: LladaShape = LladaShape()
    validation_passes: Annotated[int, Range(0)] = 240  # forward passes of one block, for the curve; 0 for none
    test_passes: Annotated[int, Range(0)] = 2400  # and for the test loss at the end
    items: Annotated[int, Range(0)] = 0
    item_passes: Annotated[int, Range(1)] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("validation_passes", "test_passes"):
            if 0 < getattr(self, name) < LEAST_PASSES:
                raise InputError(f"{name}: {getattr(self, name)} is not allowed; 0 for none, or at least {LEAST_PASSES}")
        if self.data.length < STRATA:
            raise InputError(f"data.length: {self.data.length} is not allowed; at least {STRATA}, for the loss in tenths of t")
        self.model_config(vocab_size=256)

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The Transformer for this vocabulary, mask and end token included."""
        shape = self.model
        return scaled(shape.layers, shape.heads, shape.width, length=self.data.length, vocab_size=vocab_size, outputs=vocab_size)


class PretrainTask(TransformerTask):
    """A pre-training run as the training loop sees it."""

    config: PretrainConfig

    def __init__(self, config: PretrainConfig, seed: int, folder: RunFolder) -> None:
        self.data = open_data(config.data)
        self.prior = self.data.prior
        shape = config.model_config(self.data.vocab_size)
        super().__init__(config, seed, folder, Transformer(shape, stream(seed, "weights")), self.data.mask_token)
        self.samples = self.data.samples(seed)
        self._reader = ThreadPoolExecutor(1)  # the next batch is read while this one is computed
        self._coming: Future[tuple[Batch, dict[str, Any]]] | None = None
        self._state: dict[str, Any] = {}
        operations = training_operations(shape, config.batch, self.process.rate.mean)
        self.work = self.measured_work(config.batch * config.data.length, operations)

    def _read(self) -> tuple[Batch, dict[str, Any]]:
        return self.samples.take(self.config.batch), self.samples.state()

    def draw(self, step: int) -> Step:
        """See TransformerTask; the first process reads the samples."""
        size, length = self.config.batch, self.config.data.length
        if distributed.rank() == 0:
            batch, self._state = (self._coming or self._reader.submit(self._read)).result()
            self._coming = self._reader.submit(self._read)
        else:
            batch = Batch(torch.zeros(size, length, dtype=torch.int64), torch.zeros(size, dtype=torch.int64))
        if distributed.world() > 1:
            batch = Batch(*(distributed.from_first(part.to(self.device)).cpu() for part in (batch.tokens, batch.lengths)))
        mask, rate = self.process.mask(size, length, stream(self.seed, "masks", step))
        padding_mask = torch.arange(length) < batch.lengths[:, None]
        return Step(batch.tokens, mask & padding_mask, padding_mask, rate, (size, int(batch.lengths.sum())))

    def evaluate(self, step: int) -> Row:
        """Validation loss; after the last step the test loss and the zero-shot items too (before it, not a number)."""
        config, last = self.config, step == self.config.train.steps
        speed = self.speed(step)
        row: Row = {}
        for split, blocks, passes in (
            ("valid", self.data.valid, config.validation_passes),
            ("test", self.data.test, config.test_passes),
        ):
            names = (f"{split}_loss", f"{split}_error", *(f"{split}_{name}" for name in BLOCK))
            if passes and (last or split == "valid"):
                row |= loss_over_rates(self.shared_nll, blocks, self.prior[blocks][..., None], passes, split)
            else:
                row |= dict.fromkeys(names, math.nan)
        if config.items:
            row |= self._judge_items(last)
        row |= self.measured(step, speed)
        return row | {"epoch": float(self._state.get("epoch", 0)), "corrupt": float(self._state.get("corrupt", 0))}

    def _judge_items(self, last: bool) -> Row:
        config = self.config
        if not last:
            return {f"{task}_{name}": math.nan for task in ITEM_TASKS for name in ITEM_COLUMNS}
        means: Row = {}
        rows: list[dict[str, str | float]] = []
        likelihood = LikelihoodConfig(config.item_passes)
        for task in ITEM_TASKS:
            items = load_items(task, config.items)
            judged = judge_items(self.passes_nll, items, self.data.tokenizer, config.data.length, likelihood)
            for name in ITEM_COLUMNS:
                means[f"{task}_{name}"] = sum(float(getattr(one, name)) for one in judged) / len(judged)
            for index, one in enumerate(judged):
                rows.append(
                    {
                        "task": task,
                        "item": float(index),
                        "acc": float(one.acc),
                        "acc_norm": float(one.acc_norm),
                        "nll": round(one.nll, 5),
                    }
                )
        self.folder.write_items(rows)
        return means

    def state(self) -> dict[str, Any]:
        """The position in the data, behind the last batch that was trained on."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a position. Only the first process reads the samples in front of it again."""
        if self._coming:
            self._coming.result()
        self._coming, self._state = None, state
        if distributed.rank() == 0:
            self.samples.restore(state)
        self.forget()


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    config = build(PretrainConfig, settings)
    check_device(config.device)
    if config.items:
        for task in ITEM_TASKS:
            items_file(task)


def _check_answers(task: PretrainTask, config: PretrainConfig) -> None:
    """Raise InputError where an answer is longer than the model can read: before the training, not after it."""
    for name in ITEM_TASKS:
        choices = (choice for item in load_items(name, config.items) for choice in item.choices)
        longest = max(len(task.data.tokenizer.encode(choice)) for choice in choices)
        if longest > config.data.length:
            raise InputError(
                f"data.length: {config.data.length} is not allowed; at least {longest}, for {name}'s answers, or items = 0"
            )


def prepare(settings: dict[str, Any], seed: int, folder: RunFolder) -> PretrainTask:
    """The task of a run folder. Raises InputError where the folder was begun on other data."""
    config = build(PretrainConfig, settings)
    task = PretrainTask(config, seed, folder)
    if config.items:
        _check_answers(task, config)
    data = {"sha256": task.data.sha256, "device": task.device.type, "dtype": config.dtype}
    folder.record_data(data, f"data.source: {config.data.source!r}")
    write_model_files(folder, task.model.config, task.data.tokenizer, task.data.mask_token, task.data.end_token)
    return task


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Progress) -> None:
    """Train one configuration with one seed in its run folder, from the start or from where it stopped."""
    run_task("pretrain", build(PretrainConfig, settings), folder, progress, lambda: prepare(settings, seed, folder))

"""Pre-training LLaDA's block, at any size between a laptop's and 8B, on one process or many.

A step's samples, mask rates and masks are one function of seed and step for the whole batch; a process computes the rows that
are its part. So one process and many, with or without accumulation, take the same steps.
"""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.data.items import TASKS, items_file, load_items
from mdlm_min.data.samples import Batch, SamplesConfig, open_data
from mdlm_min.diffusion.answer_likelihood import LikelihoodConfig, Passes
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.process import MaskedDiffusion
from mdlm_min.model.flops import Work, matmul_ceiling, training_operations
from mdlm_min.model.llada import scaled
from mdlm_min.model.llada_weights import save_weights
from mdlm_min.model.transformer import ModelConfig, Transformer, empty_transformer
from mdlm_min.run.config import OneOf, Range, build, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row, RunFolder, settings_of
from mdlm_min.tasks.language import DTYPES, LEAST_PASSES, LEVELS, STRATA, loss_over_rates
from mdlm_min.tasks.multiple_choice import judge_items
from mdlm_min.training import distributed
from mdlm_min.training.checkpoint import Checkpoint, checkpoints
from mdlm_min.training.engine import EngineConfig
from mdlm_min.training.launch import launch
from mdlm_min.training.loop import Progress, check_device, train
from mdlm_min.training.optimizer import TrainConfig
from mdlm_min.training.task import Task

BLOCK = tuple(f"{kind}{name}" for kind in ("", "error_") for name in LEVELS)
ITEM_COLUMNS = ("acc", "acc_norm", "nll")


@dataclass(frozen=True)
class LladaShape:
    """LLaDA's block at another size (llada.scaled); 32, 32, 4096 is LLaDA-8B."""

    layers: int = 2
    heads: int = 2
    width: int = 64


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. `dtype` is what is computed in; `weights` what weights and optimiser states are kept in on plain
    torch (DeepSpeed keeps float32 ones). `items` of each zero-shot task are judged at the end, by `item_passes` passes an
    answer."""

    data: SamplesConfig = SamplesConfig()
    model: LladaShape = LladaShape()
    train: TrainConfig = TrainConfig()
    engine: EngineConfig = EngineConfig()
    mask_rate: str = "U[0.001,1]"
    weight: str = "1/t"
    batch: Annotated[int, Range(1, 1e7)] = 16
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    weights: Annotated[str, OneOf(DTYPES)] = "float32"
    device: str = "cpu"
    validation_passes: Annotated[int, Range(0)] = 240  # forward passes of one block, for the curve; 0 for none
    test_passes: Annotated[int, Range(0)] = 2400  # and for the test loss at the end
    items: Annotated[int, Range(0)] = 0
    item_passes: Annotated[int, Range(1)] = 8

    def __post_init__(self) -> None:
        check_fields(self)
        self.process()
        if self.engine.kind == "deepspeed" and self.weights != "float32":
            raise InputError(
                f"weights: {self.weights!r} is for engine.kind = torch; DeepSpeed keeps float32 weights beside bfloat16"
            )
        for name in ("validation_passes", "test_passes"):
            if 0 < getattr(self, name) < LEAST_PASSES:
                raise InputError(f"{name}: {getattr(self, name)} is not allowed; 0 for none, or at least {LEAST_PASSES}")
        if self.data.length < STRATA:
            raise InputError(f"data.length: {self.data.length} is not allowed; at least {STRATA}, for the loss in tenths of t")
        self.engine.parts(self.batch, self.engine.processes)
        self.model_config(vocab_size=256)

    def process(self) -> MaskedDiffusion:
        """How this run masks and weighs. Raises InputError for a mask rate or a weight that is not allowed."""
        return MaskedDiffusion(MaskRate.parse(self.mask_rate), self.weight)

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The Transformer for this vocabulary, mask and end token included."""
        shape = self.model
        return scaled(shape.layers, shape.heads, shape.width, length=self.data.length, vocab_size=vocab_size, outputs=vocab_size)


class PretrainTask(Task):
    """A pre-training run as the training loop sees it."""

    def __init__(self, config: PretrainConfig, seed: int, folder: RunFolder) -> None:
        self.config, self.seed, self.folder = config, seed, folder
        self.data = open_data(config.data)
        self.prior = self.data.prior
        self.device = (
            torch.device(config.device, distributed.rank() % max(1, torch.cuda.device_count()))
            if config.device == "cuda"
            else torch.device("cpu")
        )
        self.dtype = DTYPES[config.dtype]
        shape = config.model_config(self.data.vocab_size)
        place = self.device if config.engine.kind == "torch" else "cpu"  # DeepSpeed moves a model once it has shared it out
        self.model = Transformer(shape, stream(seed, "weights")).to(place, DTYPES[config.weights])
        self.model.recompute = config.engine.recompute
        self.network: Any = self.model  # what is called; an engine may wrap the model
        self.process = config.process()
        self.parts = config.engine.parts(config.batch, distributed.world())
        self.samples = self.data.samples(seed)
        self._reader = ThreadPoolExecutor(1)  # the next batch is read while this one is computed
        self._coming: Future[tuple[Batch, dict[str, Any]]] | None = None
        self._state: dict[str, Any] = {}
        self._clock = (0, time.monotonic())
        self._step, self._batch = -1, Batch(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        ceiling = matmul_ceiling(config.device, self.dtype, torch.get_num_threads()) * distributed.world()
        self.work = Work(
            config.batch * config.data.length, training_operations(shape, config.batch, self.process.rate.mean), ceiling
        )

    def _read(self) -> tuple[Batch, dict[str, Any]]:
        return self.samples.take(self.config.batch), self.samples.state()

    def batch(self, step: int) -> Batch:
        """The whole batch of a step, the same on every process; the first one reads it. Steps come in order."""
        if step != self._step:
            if distributed.rank() == 0:
                coming = self._coming or self._reader.submit(self._read)
                self._batch, self._state = coming.result()
                self._coming = self._reader.submit(self._read)
            else:
                self._batch = Batch(
                    torch.zeros(self.config.batch, self.config.data.length, dtype=torch.int64),
                    torch.zeros(self.config.batch, dtype=torch.int64),
                )
            if distributed.world() > 1:
                tokens, lengths = (
                    distributed.from_first(part.to(self.device)).cpu() for part in (self._batch.tokens, self._batch.lengths)
                )
                self._batch = Batch(tokens, lengths)
            self._step = step
            self._masks = self._draw_masks(step)
        return self._batch

    def _draw_masks(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the whole batch: mask rates [batch], masks and padding masks (True: a real token), both [batch, length]. Drawn once
        for all parts of a step."""
        size, length = self._batch.tokens.shape
        mask, rate = self.process.mask(size, length, stream(self.seed, "masks", step))
        padding_mask = torch.arange(length) < self._batch.lengths[:, None]
        return rate, mask & padding_mask, padding_mask

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def nll(self, tokens: Tensor, mask: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """-log p in nats of the masked tokens given the others: float32 [masked], in row-major order of `mask`."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        padding_mask = None if padding_mask is None or bool(padding_mask.all()) else padding_mask.to(self.device)
        with self.autocast():
            scores = self.network(tokens.masked_fill(mask, self.data.mask_token), mask, padding_mask)
        return F.cross_entropy(scores.float(), tokens[mask], reduction="none")

    def loss(self, step: int) -> Tensor:
        """Training loss of the whole batch in this one process, in nats per token."""
        return self._rows_loss(step, 0, self.config.batch)

    def part_loss(self, step: int, part: int) -> Tensor:
        """The summand of one pass of this process."""
        size = self.config.batch // distributed.world() // self.parts
        first = (distributed.rank() * self.parts + part) * size
        return self._rows_loss(step, first, first + size)

    def _rows_loss(self, step: int, first: int, last: int) -> Tensor:
        batch = self.batch(step)
        rate, mask, padding_mask = self._masks
        whole = (self.config.batch, int(batch.lengths.sum()))
        losses = self.nll(batch.tokens[first:last], mask[first:last], padding_mask[first:last])
        return self.process.loss(losses, mask[first:last].to(self.device), rate[first:last].to(self.device), whole)

    @torch.no_grad()
    def _shared_nll(self, tokens: Tensor, mask: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """`nll` with the rows shared among the processes: every one gets all values, on the CPU."""
        world = distributed.world()
        if world == 1:
            return self.nll(tokens, mask, padding_mask).cpu()
        shares = torch.arange(len(tokens)).tensor_split(world)
        counts = [int(mask[rows].sum()) for rows in shares]
        mine = shares[distributed.rank()]
        rows = (
            mine if len(mine) else torch.zeros(1, dtype=torch.int64)
        )  # every process must call a network whose weights are shared out
        found = self.nll(tokens[rows], mask[rows], None if padding_mask is None else padding_mask[rows])
        return distributed.joined(found[: counts[distributed.rank()]], counts).cpu()

    def evaluate(self, step: int) -> Row:
        """Validation loss; after the last step the test loss and the zero-shot items too (before it, not a number)."""
        config, last = self.config, step == self.config.train.steps
        row: Row = {}
        for split, blocks, passes in (
            ("valid", self.data.valid, config.validation_passes),
            ("test", self.data.test, config.test_passes),
        ):
            names = (f"{split}_loss", f"{split}_error", *(f"{split}_{name}" for name in BLOCK))
            if passes and (last or split == "valid"):
                row |= loss_over_rates(self._shared_nll, blocks, self.prior[blocks], passes, split)
            else:
                row |= dict.fromkeys(names, math.nan)
        if config.items:
            row |= self._judge_items(last)
        if self.device.type == "cuda":
            row |= self._measure(step)
        return row | {"epoch": float(self._state.get("epoch", 0)), "corrupt": float(self._state.get("corrupt", 0))}

    def _measure(self, step: int) -> Row:
        """On a GPU: the most memory held, in bytes, and tokens and operations per second since the last evaluation of this
        process."""
        torch.cuda.synchronize()
        (before, then), self._clock = self._clock, (step, time.monotonic())
        rate = (step - before) / max(self._clock[1] - then, 1e-9)
        return {
            "peak_memory": float(torch.cuda.max_memory_allocated()),
            "tokens_per_second": rate * self.work.tokens,
            "operations_per_second": rate * self.work.operations,
        }

    def _judge_items(self, last: bool) -> Row:
        config = self.config
        if not last:
            return {f"{task}_{name}": math.nan for task in TASKS for name in ITEM_COLUMNS}
        means: Row = {}
        rows: list[dict[str, str | float]] = []
        likelihood = LikelihoodConfig(config.item_passes)

        def score(passes: Passes) -> Tensor:
            return self._shared_nll(passes.tokens, passes.mask, passes.real)

        for task in TASKS:
            items = load_items(task, config.items)
            judged = judge_items(score, items, self.data.tokenizer, config.data.length, likelihood)
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
        """Go back to such a position."""
        if self._coming:
            self._coming.result()
        self._coming, self._state, self._step = None, state, -1
        self.samples.restore(state)


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    config = build(PretrainConfig, settings)
    check_device(config.device)
    if config.items:
        for task in TASKS:
            items_file(task)


def prepare(settings: dict[str, Any], seed: int, folder: RunFolder) -> PretrainTask:
    """The task of a run folder. Raises InputError where the folder was begun on other data."""
    config = build(PretrainConfig, settings)
    task = PretrainTask(config, seed, folder)
    data = {"sha256": task.data.sha256, "device": str(task.device), "dtype": config.dtype}
    folder.record_data(data, f"data.source: {config.data.source!r}")
    return task


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Progress) -> None:
    """Train one configuration with one seed in its run folder, from the start or from where it stopped."""
    config = build(PretrainConfig, settings)
    if config.engine.kind == "deepspeed":
        launch("pretrain", config.engine, folder, progress)
    else:
        train(prepare(settings, seed, folder), config.train, folder, progress)


def export(path: Path, output: Path, dtype: str) -> None:
    """Write the newest checkpoint of the run folder `path` as a folder in LLaDA's released form.

    At most one copy of the model is in memory, in `dtype`. Raises InputError for a folder without a checkpoint, and for a
    damaged one.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
    folder = RunFolder(path)
    found = checkpoints(folder.checkpoints)
    if not found:
        raise InputError(f"{path}: no checkpoint here; allowed: the folder of a pre-training run")
    config = build(PretrainConfig, settings_of(folder.read_json("config.json")))
    saved = Checkpoint(found[-1])
    model = empty_transformer(config.model_config(len(saved["model.head.weight"])), DTYPES[dtype])
    for name, parameter in model.named_parameters():
        parameter.detach().copy_(saved[f"model.{name}"])
    save_weights(output, model)

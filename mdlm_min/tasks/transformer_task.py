"""What pre-training and fine-tuning a Transformer have in common, on one process or many.

A step's samples, mask rates and masks are one function of seed and step for the whole batch; a process computes the rows that
are its part, and what a loss is divided by is counted over the whole batch. So one process and many, with or without
accumulation, take the same steps.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from mdlm_min.diffusion.answer_likelihood import Passes
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.process import MaskedDiffusion
from mdlm_min.model.flops import Work, matmul_ceiling
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.language import DTYPES
from mdlm_min.training import distributed
from mdlm_min.training.engine import EngineConfig
from mdlm_min.training.launch import launch
from mdlm_min.training.loop import Progress, train
from mdlm_min.training.optimizer import TrainConfig
from mdlm_min.training.task import Task


@dataclass(frozen=True)
class TransformerConfig:
    """How a Transformer is trained. `dtype` is what is computed in; `weights` what weights and optimiser states are kept in on
    plain torch (DeepSpeed keeps float32 ones)."""

    train: TrainConfig = TrainConfig()
    engine: EngineConfig = EngineConfig()
    mask_rate: str = "U[0.001,1]"
    weight: str = "1/t"
    batch: Annotated[int, Range(1, 1e7)] = 16
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    weights: Annotated[str, OneOf(DTYPES)] = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_fields(self)
        self.process()
        if self.engine.kind == "deepspeed" and self.weights != "float32":
            raise InputError(
                f"weights: {self.weights!r} is for engine.kind = torch; DeepSpeed keeps float32 weights beside bfloat16"
            )
        if self.weights != "float32" and self.dtype == "float32":
            raise InputError(f"weights: {self.weights!r} is not allowed with dtype = 'float32'; allowed: 'float32'")
        self.engine.parts(self.batch, self.engine.processes)

    def process(self) -> MaskedDiffusion:
        """How this run masks and weighs. Raises InputError for a mask rate or a weight that is not allowed."""
        return MaskedDiffusion(MaskRate.parse(self.mask_rate), self.weight)


@dataclass(frozen=True)
class Step:
    """What a step trains on, the whole batch: tokens (int64), what is masked of them, and which are no padding (bool), all
    [batch, length]; the mask rates, [batch]. `whole` and `divisor` as in objective.masked_loss."""

    tokens: Tensor
    mask: Tensor
    padding_mask: Tensor
    rate: Tensor
    whole: tuple[int, int]
    divisor: Tensor | None = None


class TransformerTask(Task):
    """A Transformer, its processes and its precision, as the training loop sees them. `draw`, `evaluate` and the data are a
    subclass's."""

    def __init__(self, config: TransformerConfig, seed: int, folder: RunFolder, model: Transformer, mask_token: int) -> None:
        """`model` is on the CPU."""
        self.config, self.seed, self.folder, self.mask_token = config, seed, folder, mask_token
        self.device = (
            torch.device(config.device, distributed.rank() % max(1, torch.cuda.device_count()))
            if config.device == "cuda"
            else torch.device("cpu")
        )
        self.dtype = DTYPES[config.dtype]
        place = self.device if config.engine.kind == "torch" else "cpu"  # DeepSpeed moves a model once it has shared it out
        self.model = model.to(place, DTYPES[config.weights])
        self.model.recompute = config.engine.recompute
        self.network: Any = self.model  # what is called; an engine may wrap the model
        self.process = config.process()
        self.parts = config.engine.parts(config.batch, distributed.world())
        self._step = -1
        self._drawn: Step | None = None
        self._clock: tuple[int, float] | None = None  # step and time since which speed is measured

    def measured_work(self, tokens: int, operations: float) -> Work:
        """The work of a step of so many tokens and operations, beside what this device could do."""
        ceiling = matmul_ceiling(self.config.device, self.dtype, torch.get_num_threads()) * distributed.world()
        return Work(tokens, operations, ceiling)

    @abstractmethod
    def draw(self, step: int) -> Step:
        """What a step trains on, the same on every process. Called once for each step, and steps come in order."""

    def forget(self) -> None:
        """The next step is drawn anew: the position in the data has been changed."""
        self._step = -1

    def drawn(self, step: int) -> Step:
        """`draw`, which is done once for all parts of a step."""
        self._clock = self._clock or (step, time.monotonic())
        if self._drawn is None or step != self._step:
            self._step, self._drawn = step, self.draw(step)
        return self._drawn

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def nll(self, tokens: Tensor, mask: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """-log p in nats of the masked tokens given the others: float32 [masked], in row-major order of `mask`."""
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        padding_mask = None if padding_mask is None or bool(padding_mask.all()) else padding_mask.to(self.device)
        with self.autocast():
            found: Tensor = self.network(tokens.masked_fill(mask, self.mask_token), mask, padding_mask, tokens[mask])
        return found

    def loss(self, step: int) -> Tensor:
        """Training loss of the whole batch in this one process, in nats per token."""
        return self._rows_loss(step, 0, self.config.batch)

    def part_loss(self, step: int, part: int) -> Tensor:
        """The summand of one pass of this process."""
        size = self.config.batch // distributed.world() // self.parts
        first = (distributed.rank() * self.parts + part) * size
        return self._rows_loss(step, first, first + size)

    def _rows_loss(self, step: int, first: int, last: int) -> Tensor:
        all_rows, rows = self.drawn(step), slice(first, last)
        mask = all_rows.mask[rows]
        losses = self.nll(all_rows.tokens[rows], mask, all_rows.padding_mask[rows])
        divisor = None if all_rows.divisor is None else all_rows.divisor[rows].to(self.device)
        return self.process.loss(losses, mask.to(self.device), all_rows.rate[rows].to(self.device), all_rows.whole, divisor)

    @torch.no_grad()
    def shared_nll(self, tokens: Tensor, mask: Tensor, padding_mask: Tensor | None = None) -> Tensor:
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

    def passes_nll(self, passes: Passes) -> Tensor:
        """`shared_nll` as answer_likelihood.answer_nll wants it."""
        return self.shared_nll(passes.tokens, passes.mask, passes.real)

    def speed(self, step: int) -> Row:
        """On a GPU, before an evaluation: tokens and operations per second of all processes since the last one, or since this
        start; not a number where it has taken no step."""
        if self.device.type != "cuda":
            return {}
        assert self.work is not None
        torch.cuda.synchronize()
        before, then = self._clock or (step, 0.0)
        rate = (step - before) / max(time.monotonic() - then, 1e-9) if step > before else math.nan
        return {"tokens_per_second": rate * self.work.tokens, "operations_per_second": rate * self.work.operations}

    def measured(self, step: int, speed: Row) -> Row:
        """On a GPU, after an evaluation: that speed, and the most memory held so far, in bytes. The next steps' time begins."""
        if self.device.type != "cuda":
            return {}
        self._clock = (step, time.monotonic())
        return {"peak_memory": float(torch.cuda.max_memory_allocated()), **speed}


def run_task(
    name: str, config: TransformerConfig, folder: RunFolder, progress: Progress, prepare: Callable[[], TransformerTask]
) -> None:
    """Train in a run folder, from the start or from where it stopped: here, or on DeepSpeed's processes, where the worker makes
    the task that it knows by `name`."""
    if config.engine.kind == "deepspeed":
        launch(name, config.engine, folder, progress)
    else:
        train(prepare(), config.train, folder, progress)

"""Training a masked diffusion language model on text: its configuration, and the task as the training loop sees it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from mdlm_min.data.bigrams import token_priors
from mdlm_min.data.parity_corpus import PREFIX, layout, make_parities
from mdlm_min.data.text import TextConfig, TextData, find_sources, load_text
from mdlm_min.data.tokenizer import check_tokenizer
from mdlm_min.diffusion.likelihood import MaskedNLL, estimate
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.process import MaskedDiffusion
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import Work, matmul_ceiling, training_operations
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import OneOf, Range, build, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.model_files import write_model_files
from mdlm_min.tasks.summaries import LEVELS
from mdlm_min.training.loop import Progress, check_device, train
from mdlm_min.training.optimizer import TrainConfig
from mdlm_min.training.task import Task

STRATA = len(LEVELS)
LEAST_PASSES = 24 * STRATA  # of an estimate in all strata
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ShapeConfig:
    """The Transformer's shape; vocabulary and length come with the data."""

    layers: int = 3
    heads: int = 4
    width: int = 96
    position_encoding: str = "rotary"
    init: str = "width"
    tied: bool = False
    causal: bool = False  # for baselines/autoregressive.py


@dataclass(frozen=True)
class LanguageRunConfig:
    """One run on text. `mask_rate` and `weight` are those of masked diffusion (diffusion/process.py)."""

    data: TextConfig = TextConfig()
    model: ShapeConfig = ShapeConfig()
    train: TrainConfig = TrainConfig()
    mask_rate: str = "U[0.001,1]"
    weight: str = "1/t"
    batch: Annotated[int, Range(1, 1e7)] = 32
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    device: str = "cpu"
    validation_passes: Annotated[int, Range(LEAST_PASSES)] = 480  # forward passes of one block, for the curve
    test_passes: Annotated[int, Range(LEAST_PASSES)] = 4800  # and for the test loss at the end

    def __post_init__(self) -> None:
        check_fields(self)
        self.process()
        if self.data.length < STRATA:
            raise InputError(f"data.length: {self.data.length} is not allowed; at least {STRATA}, for the loss in tenths of t")
        if self.data.corpus.startswith(PREFIX):
            layout(self.data.corpus, self.data.length)
        else:
            check_tokenizer(self.data.tokenizer)
        self.model_config(vocab_size=256)

    def process(self) -> MaskedDiffusion:
        """How this run masks and weighs. Raises InputError for a mask rate or a weight that is not allowed."""
        return MaskedDiffusion(MaskRate.parse(self.mask_rate), self.weight)

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The Transformer for data with this vocabulary; the mask token (or the start token) is one more."""
        shape = self.model
        return ModelConfig(
            vocab_size + 1, self.data.length, vocab_size + shape.tied, shape.layers, shape.heads, shape.width,
            causal=shape.causal, init=shape.init, position_encoding=shape.position_encoding, tied=shape.tied,
        )  # fmt: skip


class LanguageTask(Task):
    """A run on text as the training loop sees it. Raises InputError unless model.causal is `causal`: a masked token's right
    neighbours are seen."""

    causal = False

    def __init__(self, config: LanguageRunConfig, seed: int, data: TextData | None = None) -> None:
        if config.model.causal != self.causal:
            asked, allowed = (str(causal).lower() for causal in (config.model.causal, self.causal))
            raise InputError(f"model.causal: {asked} is not allowed for this kind of run; allowed: {allowed}")
        self.config, self.seed = config, seed
        self.data = data or load_data(config.data)
        self.priors: dict[str, Tensor] = {}  # by split, for the estimate of its loss
        self.device = torch.device(config.device)
        self.dtype = DTYPES[config.dtype]
        shape = config.model_config(self.data.vocab_size)
        self.model = Transformer(shape, stream(seed, "weights")).to(self.device)
        self.mask_token = self.data.vocab_size
        self.process = config.process()
        ceiling = matmul_ceiling(config.device, self.dtype, torch.get_num_threads())
        operations = training_operations(shape, config.batch, selected=self.process.rate.mean)
        self.work = Work(config.batch * config.data.length, operations, ceiling)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def nll(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """-log p in nats of the masked tokens given the others: float32 [masked], in row-major order of `mask`."""
        with self.autocast():
            return self.model(tokens.masked_fill(mask, self.mask_token), mask, targets=tokens[mask])

    def loss(self, step: int) -> Tensor:
        """Training loss on this step's blocks (and masks), in nats per token."""
        config = self.config
        tokens = self.data.batch("train", config.data.length, config.batch, self.seed, step).to(self.device)
        mask, rate = self.process.mask(len(tokens), tokens.shape[1], stream(self.seed, "masks", step, self.device))
        return self.process.loss(self.nll(tokens, mask), mask, rate)

    @torch.no_grad()
    def test_loss(self, split: str, passes: int) -> Row:
        """Loss over t in [0, 1] on the blocks of a split, its standard error, and both in each tenth of t."""
        blocks = self.data.blocks(split, self.config.data.length)
        if split not in self.priors:
            self.priors[split] = token_priors(self.data, blocks)
        return loss_over_rates(
            lambda tokens, mask: self.nll(tokens.to(self.device), mask.to(self.device)), blocks, self.priors[split], passes, split
        )

    def evaluate(self, step: int) -> Row:
        """Validation loss; after the last step the test loss too (before it, those columns are not a number)."""
        row = self.test_loss("valid", self.config.validation_passes)
        if step == self.config.train.steps:
            return row | self.test_loss("test", self.config.test_passes)
        return row | {name.replace("valid", "test", 1): math.nan for name in row}


def loss_over_rates(nll_of: MaskedNLL, blocks: Tensor, prior: Tensor, passes: int, split: str) -> Row:
    """Test loss of `nll_of` on `blocks` as columns named after the split: the loss over t in [0, 1], its standard error, and both
    in each tenth of t (likelihood.estimate).

    The passes' blocks and masks are the same for every arm and seed, so that a comparison is not of their luck.
    """
    result = estimate(nll_of, blocks, prior, passes, stream(0, f"likelihood {split}"), STRATA)
    return {
        f"{split}_loss": result.loss,
        f"{split}_error": result.error,
        **{f"{split}_{name}": value for name, value in zip(LEVELS, result.levels, strict=True)},
        **{f"{split}_error_{name}": value for name, value in zip(LEVELS, result.level_errors, strict=True)},
    }


def load_data(config: TextConfig) -> TextData:
    """The corpus of a configuration: text, or the mixture of parities."""
    return make_parities(config) if config.corpus.startswith(PREFIX) else load_text(config)


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    config = build(LanguageRunConfig, settings)
    check_device(config.device)
    if not config.data.corpus.startswith(PREFIX):
        find_sources(config.data.corpus)


def run(
    settings: dict[str, Any],
    seed: int,
    folder: RunFolder,
    progress: Progress,
    make: Callable[[LanguageRunConfig, int], LanguageTask] = LanguageTask,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Train one configuration with one seed in its run folder, from the start or from where it stopped.

    `make` makes the task: masked diffusion, or a subclass; `more` is recorded in data.json. Raises InputError where the folder
    was begun on other data.
    """
    config = build(LanguageRunConfig, settings)
    task = make(config, seed)
    data = {"sha256": task.data.sha256, "device": str(task.device), "dtype": config.dtype, **(more or {})}
    folder.record_data(data, f"data.corpus: {config.data.corpus!r}")
    if task.data.tokenizer is not None and not task.causal:
        write_model_files(folder, task.model.config, task.data.tokenizer, task.mask_token, None)
    train(task, config.train, folder, progress)

"""Training on parity: output supervision, masked diffusion and the control between them, on one loop.

The three differ in nothing but which tokens of a training sequence are masked:
  output   the label (section 4.5's "standard training");
  secret   one of the k + 1 secret positions, each equally likely: every target of masked diffusion, no noise masks
           (open point 7);
  masked   each token with probability t, t from the mask rate (Definition 3.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from mdlm_min.data.parity import MASK_TOKEN, VOCAB_SIZE, ParityConfig, is_signal, make_parity
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.objective import TOKEN_LOSSES, sign_cross_entropy, squared_error
from mdlm_min.diffusion.process import MaskedDiffusion, OneMasked, Process
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import Work
from mdlm_min.model.mlp import MLPConfig, UniformAttentionMLP
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import OneOf, Range, build, check_fields, refuse_set
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import SOLVED
from mdlm_min.training.captured_engine import CapturedEngine, CapturedStep
from mdlm_min.training.engine import TorchEngine
from mdlm_min.training.loop import EngineMaker, Progress, check_device, train
from mdlm_min.training.optimizer import TrainConfig
from mdlm_min.training.task import Task

SUPERVISIONS = ("output", "secret", "masked")


@dataclass(frozen=True)
class NetworkConfig:
    """The Transformer, or ("mlp") the reduced model of section 4.1 with `width` hidden units and nothing else."""

    kind: Annotated[str, OneOf(("transformer", "mlp"))] = "transformer"
    layers: int = 1
    heads: int = 4
    width: int = 128
    attention: str = "learned"
    init: str = "gpt2"

    def __post_init__(self) -> None:
        check_fields(self, "network.")
        if self.kind == "mlp":
            refuse_set(self, ("layers", "heads", "attention"), "with network.kind = 'mlp'; it has none", "network.")


@dataclass(frozen=True)
class ParityRunConfig:
    """One run on parity. A batch of 0 is the full training set, each sequence once, with fresh masks every step."""

    data: ParityConfig = ParityConfig()
    network: NetworkConfig = NetworkConfig()
    train: TrainConfig = TrainConfig()
    supervision: Annotated[str, OneOf(SUPERVISIONS)] = "output"
    mask_rate: str = ""
    weight: str = "mean"
    token_loss: Annotated[str, OneOf(TOKEN_LOSSES)] = "cross_entropy"
    batch: int = 0
    stop_after: Annotated[int, Range(0)] = (
        0  # evaluations in a row with both accuracies at .99 after which a run has generalised for good
    )
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.supervision == "masked":
            MaskedDiffusion(MaskRate.parse(self.mask_rate), self.weight)
        elif self.mask_rate or self.weight != "mean":
            raise InputError(
                f"mask_rate, weight: supervision {self.supervision!r} masks one token; allowed: no mask_rate, weight = mean"
            )
        if not 0 <= self.batch <= self.data.train_samples:
            raise InputError(f"batch: {self.batch} is not allowed; 0 (all) to data.train_samples = {self.data.train_samples}")
        self.network_config()

    def network_config(self) -> ModelConfig | MLPConfig:
        """The configuration of the network. Raises InputError for a shape that is not allowed."""
        network, length = self.network, self.data.n + 1
        if network.kind == "mlp":
            return MLPConfig(VOCAB_SIZE, length, network.width, network.init)
        shape = (network.layers, network.heads, network.width)
        return ModelConfig(VOCAB_SIZE, length, 1, *shape, attention=network.attention, init=network.init)

    def make_network(self, seed: int) -> nn.Module:
        """The network with this seed's weights."""
        config, generator = self.network_config(), stream(seed, "weights")
        return UniformAttentionMLP(config, generator) if isinstance(config, MLPConfig) else Transformer(config, generator)


class ParityTask(Task):
    """A run on parity as the training loop sees it. The network's one output is the log-odds (or the value) of +1."""

    work: Work | None = None  # the distinct-input table makes the usual count of operations meaningless here

    def __init__(self, config: ParityRunConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.data = make_parity(config.data, seed)
        self.device = torch.device(config.device)
        self.train, self.validation, self.secret = (
            part.to(self.device) for part in (self.data.train, self.data.validation, self.data.secret)
        )
        self.model = config.make_network(seed).to(self.device)
        self.process = self._process()
        self._reset_counts()

    def _reset_counts(self) -> None:
        self.masks_seen = 0
        self.signal_masks = torch.zeros((), dtype=torch.int64, device=self.device)

    def _process(self) -> Process:
        if self.config.supervision == "masked":
            return MaskedDiffusion(MaskRate.parse(self.config.mask_rate), self.config.weight)
        return OneMasked(self.secret[-1:] if self.config.supervision == "output" else self.secret)

    def _masked(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """This step's samples, int64 [batch, n + 1], their masks (bool, same shape), and their mask rates."""
        tokens = self.train
        if self.config.batch:
            chosen = torch.randperm(len(tokens), generator=stream(self.seed, "batches", step))[: self.config.batch]
            tokens = tokens[chosen.to(self.device)]
        mask, rate = self.process.mask(len(tokens), tokens.shape[1], stream(self.seed, "masks", step, self.device))
        self.masks_seen += len(mask)
        self.signal_masks += is_signal(mask, self.secret).sum()
        return tokens, mask, rate

    def _token_loss(self, output: Tensor, tokens: Tensor) -> Tensor:
        target = (tokens - 1).to(output.dtype)
        return (sign_cross_entropy if self.config.token_loss == "cross_entropy" else squared_error)(output, target)

    @property
    def _factor(self) -> int:
        """Eq. 1 sums over a sequence; AdamW does not see the factor, plain gradient descent does."""
        return self.train.shape[1] if self.config.weight.startswith("1/") else 1

    def loss(self, step: int) -> Tensor:
        """Loss of Eq. 1 (or its cross-entropy form) on this step's samples and masks."""
        tokens, mask, rate = self._masked(step)
        output = self.model(tokens.masked_fill(mask, MASK_TOKEN), mask)[:, 0]
        return self.process.loss(self._token_loss(output, tokens[mask]), mask, rate) * self._factor

    def captured_step(self) -> CapturedStep | None:
        """`loss` as a CUDA graph needs it; None where that cannot be: with a guard, or a learning rate that changes."""
        train = self.config.train
        return CapturedStep(self._draw, self._drawn_loss) if train.constant_rate and not train.spike else None

    def _draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, masks, and by what each token's loss counts; the shapes of all steps are the same."""
        tokens, mask, rate = self._masked(step)
        return tokens, mask, self.process.token_weights(mask, rate)

    def _drawn_loss(self, tokens: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """`loss` of what was drawn, computed at every position: no shape depends on the masks."""
        output = self.model(tokens.masked_fill(mask, MASK_TOKEN))[..., 0]
        return (self._token_loss(output, tokens) * weights).sum() * self._factor

    @torch.no_grad()
    def accuracy(self, tokens: Tensor) -> float:
        """Share of sequences whose label, the only masked token, has the output's sign (section 3.4)."""
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        mask[:, -1] = True
        output = self.model(tokens.masked_fill(mask, MASK_TOKEN), mask)[:, 0]
        return float(((output > 0) == (tokens[:, -1] == 2)).float().mean())

    def evaluate(self, step: int) -> dict[str, float]:
        """Accuracy on training and validation inputs; share of signal masks among those drawn since the last call."""
        row = {
            "train_accuracy": self.accuracy(self.train),
            "validation_accuracy": self.accuracy(self.validation),
            "signal_share": int(self.signal_masks) / self.masks_seen if self.masks_seen else float("nan"),
        }
        self._reset_counts()
        return row

    def state(self) -> dict[str, Any]:
        """The counts since the last evaluation."""
        return {"masks_seen": self.masks_seen, "signal_masks": int(self.signal_masks)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting from there."""
        self.masks_seen = state["masks_seen"]
        self.signal_masks += state["signal_masks"]

    def is_done(self, rows: list[Row]) -> bool:
        """Whether the last `stop_after` evaluations all had both accuracies at .99 or above."""
        last = rows[-self.config.stop_after :]
        enough = 0 < self.config.stop_after <= len(rows)
        return enough and all(min(row["train_accuracy"], row["validation_accuracy"]) >= SOLVED for row in last)


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    check_device(build(ParityRunConfig, settings).device)


def run(
    settings: dict[str, Any],
    seed: int,
    folder: RunFolder,
    progress: Progress,
    make: Callable[[ParityRunConfig, int], ParityTask] = ParityTask,
) -> None:
    """Train one configuration with one seed in its run folder, from the start or from where it stopped. `make` makes the task,
    where it is a subclass."""
    config = build(ParityRunConfig, settings)
    task = make(config, seed)
    folder.write_json("data.json", {"sha256": task.data.sha256(), "device": str(task.device), "dtype": "float32"})
    train(task, config.train, folder, progress, engine_maker(task))


def engine_maker(task: ParityTask) -> EngineMaker:
    """How the task's steps are taken: on a GPU captured, where they can be."""
    captured = task.captured_step() if task.device.type == "cuda" else None
    return TorchEngine if captured is None else lambda made, given: CapturedEngine(made, given, captured)

"""What a run will take: memory on each GPU by part, operations, hours, and what to change if it does not fit.

The memory of activations is counted, not estimated. One training step of the real model runs on fake tensors, which have
shapes but no storage, and torch's memory tracker counts what is alive at each moment. ZeRO, which splits weights, gradients
and optimiser states over the GPUs, is arithmetic (arXiv:1910.02054, section 3).
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from mdlm_min.data.chat import NAMES
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import training_operations
from mdlm_min.model.llada import LLADA_8B, parameter_count, read_config
from mdlm_min.model.scoring import SLICE, classes_at_a_time
from mdlm_min.model.selection import Selection, grid_size
from mdlm_min.model.transformer import empty_transformer
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.time_left import duration_text
from mdlm_min.tasks.finetune import FinetuneConfig, new_shape, start_folder
from mdlm_min.tasks.language import DTYPES
from mdlm_min.tasks.pretrain import PretrainConfig
from mdlm_min.training.engine import EngineConfig

GB = 1e9
Config = PretrainConfig | FinetuneConfig


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes and dense bf16 matrix operations per second, both as the maker states them."""

    memory: float
    operations: float


GPUS = {
    "a100": Gpu(80 * GB, 312e12),
    "h100": Gpu(80 * GB, 989e12),
    "h800": Gpu(80 * GB, 989e12),
    "h200": Gpu(141 * GB, 989e12),
    "b200": Gpu(180 * GB, 2250e12),
}
RESERVE = 4 * GB  # bytes for the CUDA context, NCCL buffers and fragmentation
BUCKET = 500_000_000  # gradients in one bucket of DeepSpeed. There are two: one fills while the other is sent
LIVE = 1_000_000_000  # the most weights that ZeRO 3 gathers at a time
SEEN = "seen elsewhere: LLaDA-8B 26%, a 7B causal model with FSDP 46%"


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step.

    `logits` is the memory of the scores and their gradients when they are largest, which need not be the peak. `logits_in_full`
    is the same if every position had scores and all classes were scored at a time. `host` lies in the memory of the node.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    logits_in_full: float
    host: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """A configuration on a number of GPUs of one kind. `available` is the memory of one of them, in bytes."""

    memory: Memory
    available: float
    parameters: int
    tokens: float  # of the whole run
    operations: float  # of the whole run, as the model needs them; recomputation is not counted
    rate: float  # operations per second of all GPUs at their peak

    @property
    def fits(self) -> bool:
        return self.memory.total + RESERVE <= self.available

    def hours(self, utilisation: float) -> float:
        """Hours of the run if the GPUs reach this share of their peak."""
        return self.operations / (self.rate * utilisation) / 3600


def step_memory(
    model: ModelConfig,
    batch: int,
    rate: float,
    weights: torch.dtype,
    compute: torch.dtype,
    recompute: bool,
    keep_gradients: bool,
    optimizer: bool,
) -> dict[str, float]:
    """Peak bytes of one training step of `batch` sequences masked at `rate`, in one process.

    The scores come in slices, as large as on a GPU. Keys: "weights" (buffers included), "gradients", "optimizer", "activations".
    Without `keep_gradients` each gradient is freed as soon as it is made, as with ZeRO 2 and 3.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    selected_each = max(1, round(rate * model.length))
    with FakeTensorMode():
        network = empty_transformer(model, weights)
        network.recompute, network.head.slice = recompute, SLICE["cuda"]
        stepper = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if optimizer:
            stepper.step()
        stepper.zero_grad(set_to_none=True)
        if not keep_gradients:
            for parameter in network.parameters():
                parameter.register_post_accumulate_grad_hook(lambda made: setattr(made, "grad", None))
        tokens = torch.zeros(batch, model.length, dtype=torch.int64)
        count = batch * selected_each
        index = torch.zeros(min(grid_size(count), tokens.numel()), dtype=torch.int64)
        slots = min(grid_size(selected_each), model.length)
        selection = Selection(count, index, index.clone(), index.clone(), slots)
        tracker = MemTracker()
        tracker.track_external(network, stepper, tokens, selection.row, selection.column, selection.slot)
        with tracker, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Expected a tensor or a traceable")  # the tracker's own: some outputs are None
            with torch.autocast("cpu", compute, enabled=compute != torch.float32):
                losses = network(tokens, selection, targets=index[:count])
            losses.mean().backward()
            if optimizer:
                stepper.step()
    [found] = [parts for parts in tracker.get_tracker_snapshot("peak").values() if parts["Total"]]
    parts = {str(kind.value if hasattr(kind, "value") else kind): float(size) for kind, size in found.items()}
    return {
        "weights": parts["Parameter"] + parts["Buffer"],
        "gradients": parts["Gradient"],
        "optimizer": parts["Optstate"],
        "activations": parts["Activation"] + parts["Temp"] + parts["Other"],
    }


def memory(config: Config, gpus: int) -> Memory:
    """Memory on each of `gpus` GPUs."""
    engine, model = config.engine, model_of(config)
    parameters = parameter_count(model)
    batch = config.batch // gpus // engine.parts(config.batch, gpus)
    rate, compute = config.process().rate.highest, DTYPES[config.dtype]
    sharded = engine.kind == "deepspeed" and engine.zero > 0
    weights = (torch.bfloat16 if config.dtype == "bfloat16" else torch.float32) if sharded else DTYPES[config.weights]
    found = step_memory(
        model, batch, rate, weights, compute, engine.recompute, keep_gradients=engine.zero < 2, optimizer=not sharded
    )
    rounded = 2 if compute == torch.bfloat16 else 0  # bytes of a score as computed
    rows = batch * model.length
    full = float(rows * model.outputs * (4 + 4 + 4 + rounded))  # scores in float32, log-probabilities, gradient
    masked = max(1, round(rows * rate))
    classes = classes_at_a_time(masked, model.outputs, SLICE["cuda"])
    logits = full * rate if classes == model.outputs else float(masked * classes * (4 + rounded))
    if not sharded:
        return Memory(found["weights"], found["gradients"], found["optimizer"], found["activations"], logits, full)
    each = parameters * weights.itemsize
    share = each / gpus
    buckets = 2 * min(BUCKET, parameters) * weights.itemsize
    states = 12 * parameters / gpus  # float32 weights, and Adam's two moments
    gathered = min(LIVE, parameters) * weights.itemsize
    return Memory(
        share + gathered if engine.zero == 3 else each,
        (each if engine.zero == 1 else share) + buckets + 4 * parameters / gpus,  # last: a float32 copy during the step
        0.0 if engine.offload else states,
        found["activations"],
        logits,
        full,
        states * engine.processes if engine.offload else 0.0,
    )


def config_of(settings: dict[str, Any]) -> Config:
    """The configuration that settings describe: fine-tuning where they name a `kind` finetune, pre-training without a kind."""
    rest = {name: value for name, value in settings.items() if name not in ("kind", "start_run")}
    if settings.get("kind", "pretrain") == "pretrain":
        return build(PretrainConfig, rest)
    if settings["kind"] != "finetune" or settings.get("start_run"):
        raise InputError("arm: is no run that stands for itself; allowed: one that pre-trains, or fine-tunes from a folder")
    return build(FinetuneConfig, rest)


def model_of(config: Config) -> ModelConfig:
    """The Transformer of a configuration whose data are not read; a start whose folder is not named here counts as LLaDA-8B.

    A vocabulary size that is not stated follows from the tokenizer's name. Raises InputError for a tokenizer whose name does
    not tell it.
    """
    if isinstance(config, FinetuneConfig):
        return _model_of_start(config)
    size = config.data.vocab_size or _vocabulary(config.data.tokenizer, 2)
    return config.model_config(size)


def _model_of_start(config: FinetuneConfig) -> ModelConfig:
    if not config.start:
        return new_shape(config, _vocabulary(config.data.tokenizer or "bytes", len(NAMES)))
    unknown = config.start.startswith("$") and not os.environ.get(config.start[1:])
    return replace(LLADA_8B if unknown else read_config(start_folder(config.start)), length=config.data.length)


def _vocabulary(tokenizer: str, special: int) -> int:
    """Size by the tokenizer's name, and so many special tokens."""
    known = {"bytes": 256, "gpt2": 50257}
    if tokenizer not in known and not tokenizer.startswith("bpe:"):
        raise InputError(
            f"data.vocab_size: 0 is not allowed with data.tokenizer = {tokenizer!r}; state the vocabulary size, at least 1"
        )
    return (known[tokenizer] if tokenizer in known else int(tokenizer.removeprefix("bpe:"))) + special


def plan(config: Config, gpus: int, gpu: Gpu) -> Plan:
    """The plan of a configuration. Raises InputError if its batch cannot be divided among the GPUs."""
    model = model_of(config)
    operations = training_operations(model, config.batch, config.process().rate.mean) * config.train.steps
    tokens = float(config.batch * config.data.length * config.train.steps)
    return Plan(memory(config, gpus), gpu.memory, parameter_count(model), tokens, operations, gpus * gpu.operations)


def alternatives(config: Config, gpus: int) -> list[tuple[str, Config]]:
    """Changes that need less memory, the cheapest first. Every change keeps those before it."""
    engine, found = config.engine, []
    share = config.batch // gpus

    def add(text: str, **changes: Any) -> None:
        nonlocal engine
        engine = replace(engine, **changes)
        found.append((text, replace(config, engine=engine, weights="float32" if engine.kind == "deepspeed" else config.weights)))

    if not engine.recompute:
        add("engine.recompute = true", recompute=True)
    if (engine.micro_batch or share) > 1:
        add("engine.micro_batch = 1", micro_batch=1)
    for zero in (1, 2, 3):
        if gpus > 1 and engine.zero < zero:
            add(f"engine.zero = {zero}", kind="deepspeed", processes=gpus, zero=zero)
    if engine.zero and not engine.offload:
        add("engine.offload = true", offload=True)
    return found


def describe(config: Config, gpus: int, gpu: str, utilisation: float, say: Callable[[str], None] = lambda line: None) -> str:
    """The plan as text; `say` is told before it takes time. Raises InputError for an unknown GPU and for as many as the
    configuration cannot use."""
    if gpu not in GPUS:
        raise InputError(f"gpu: {gpu!r} is unknown; allowed: {', '.join(GPUS)}")
    if gpus < 1:
        raise InputError(f"gpus: {gpus} is not allowed; at least 1")
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation: {utilisation} is not allowed; a share above 0, at most 1")
    if config.engine.kind == "torch" and gpus > 1:
        raise InputError(f"gpus: {gpus} is not allowed with engine.kind = 'torch', which is one process; allowed: 1")
    if config.engine.kind == "deepspeed":
        config = replace(config, engine=replace(config.engine, processes=gpus))
    model, passes = model_of(config), config.engine.parts(config.batch, gpus)
    say("a step is followed on tensors without values, to find its peak memory: half a minute for 8B")
    found = plan(config, gpus, GPUS[gpu])
    need = found.memory
    kept = 3 * DTYPES[config.weights].itemsize * found.parameters  # of a checkpoint: weights and Adam's two moments
    lines = [
        f"model       {found.parameters:,} parameters: {model.layers} layers of width {model.width}, length {model.length}, "
        f"vocabulary {model.vocab_size:,}",
        f"step        {config.batch} sequences: {gpus} GPU{'s' * (gpus != 1)} x {passes} passes x "
        f"{config.batch // gpus // passes}; masked at up to {config.process().rate.highest:.0%}",
        f"engine      {engine_text(config.engine)}, {config.dtype}",
        f"memory      per {gpu}, at a step's peak",
        f"  weights     {need.weights / GB:8.2f} GB",
        f"  gradients   {need.gradients / GB:8.2f} GB",
        f"  optimiser   {need.optimizer / GB:8.2f} GB"
        + (f"  ({need.host / GB:,.0f} GB in the memory of the node)" if need.host else ""),
        f"  activations {need.activations / GB:8.2f} GB  (scores alone: {need.logits / GB:.2f} GB at a time, "
        f"{need.logits_in_full / GB:.2f} GB at all positions)",
        f"  together    {need.total / GB:8.2f} GB of {found.available / GB:.0f} GB, {RESERVE / GB:.0f} GB of them in reserve",
        f"host        {4 * found.parameters * config.engine.processes / GB:,.0f} GB on each node while the weights are made",
        f"disk        {3 * kept / GB:,.0f} GB: two checkpoints and a third while it is written",
        f"work        {found.tokens / 1e9:,.3f} billion tokens, {found.operations:.3g} operations",
        f"time        {duration_text(3600 * found.hours(utilisation))} at {utilisation:.0%} of {found.rate / 1e12:,.0f} TFLOP/s "
        f"({SEEN})",
    ]
    if found.fits:
        return "\n".join([*lines, "fits        yes"])
    for text, other in alternatives(config, gpus):
        less = replace(found, memory=memory(other, gpus))
        verdict = f"{text}: {less.memory.total / GB:.1f} GB"
        if less.fits:
            return "\n".join([*lines, f"fits        no. It does with {verdict} (in the tier's part of experiment.toml)"])
        lines.append(f"            still too much with {verdict}")
    return "\n".join([*lines, "fits        no, and none of these changes is enough; use more GPUs or larger ones"])


def engine_text(engine: EngineConfig) -> str:
    """The engine in a few words, for people."""
    words = [f"DeepSpeed ZeRO {engine.zero}" if engine.kind == "deepspeed" else "plain torch"]
    words += ["recomputation"] * engine.recompute + ["offload"] * engine.offload
    return ", ".join(words)

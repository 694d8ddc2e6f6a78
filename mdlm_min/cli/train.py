"""`mdlm train`: a small masked diffusion model of anyone's text, in a few minutes, and then text that it fills in and writes."""

import argparse
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_min.cli.command import (
    TOKENIZER,
    add_text,
    add_threads,
    fields_as_options,
    folder_path,
    text_name,
    trained_run,
    use_threads,
)
from mdlm_min.run.errors import InputError

if TYPE_CHECKING:
    from mdlm_min.data.text import TextData
    from mdlm_min.run.run_folder import Row, RunFolder
    from mdlm_min.tasks.text_model import TextModel

HEAD_WIDTH = 24
MASK_RATE, WEIGHT = "U[0.2,0.5]", "none"  # unless they, or a schedule, are given
HIDDEN = 0.4  # share of a held-out passage that is hidden and filled in
PASSAGES = 16


# The defaults come from a short search on WikiText-2's validation split (1.1 MB): one seed each, 80 CPU-seconds on one thread,
# then validation loss in bits per byte. bpe:512, 3 layers of width 96, length 128, batch 8, learning rate 3e-3, tied:
#   U[0.2,0.5] weight none 2.88, weight 1/t 2.95; U[0.1,0.4] weight none 3.01; U[0.45,0.55] weight 1/t 3.05
# and, from there, width 128 with U[0.2,0.5] and weight none 3.29. At learning rate 2e-3, length 64, batch 32, U[0.45,0.55], 1/t:
# tied 3.02, untied 3.01. 4 layers of width 128, batch 16, U[0.45,0.55], 100 s: 3.53; bpe:1024 and U[0.001,1], 150 s: 3.38.
# A masked diffusion model first learns only how often each token occurs. How soon it gets further depends on the number of steps
# more than on tokens or width: hence a small batch, a small vocabulary, and mask rates at which much of the context is visible.
# One thread, because a step is short (about 40 ms): on two shared cores a second thread cost 6 to 9 times the CPU time.


def add_parsers(commands: Any) -> None:
    """`mdlm train`."""
    text = "Train a small masked diffusion model on a text, then show text that it fills in and text that it writes."
    units = (
        "While it trains, loss is the training loss: over the mask rates of --mask-rate, with --weight, so runs of other "
        "settings cannot be compared by it. It is divided by all tokens, hidden or not: without a weight it is about t times "
        "the NLL of a hidden token. valid_loss and the test loss: held-out text, nats per token over all mask rates; +- is the "
        "standard error over test masks, not over seeds. "
        "A checkpoint is written every 20 seconds (MDLM_CHECKPOINT_SECONDS), and the same command resumes from it."
    )
    parser: argparse.ArgumentParser = commands.add_parser("train", help=text, description=f"{text} {units}")
    add_text(parser)
    parser.add_argument("--mask-rate", help=f"mask rates to train on (default: {MASK_RATE})")
    parser.add_argument("--weight", help=f"weight of a masked token: {WEIGHT} (default), 1/t, 1/(t p(t)) or mean")
    parser.add_argument(
        "--schedule",
        help="in the place of both: a mask schedule as module:Class or path/to/file.py:Class (CONTRIBUTING.md), such as "
        "baselines.schedules.p_pots:PPots",
    )
    parser.add_argument(
        "--tokenizer",
        default=TOKENIZER,
        help=f"bytes, gpt2, bpe:SIZE or the path (with a /) of a tokenizer.json (default: {TOKENIZER})",
    )
    parser.add_argument("--steps", type=int, default=4000, help="training steps (default: 4000, about three minutes on one core)")
    parser.add_argument("--length", type=int, default=128, help="tokens per block (default: 128)")
    parser.add_argument("--batch", type=int, default=8, help="blocks per step (default: 8)")
    parser.add_argument("--layers", type=int, default=3, help="layers (default: 3)")
    parser.add_argument("--width", type=int, default=96, help=f"width, a multiple of {HEAD_WIDTH} (default: 96)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="highest learning rate (default: 0.003)")
    add_threads(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--run", type=folder_path, help="run folder (default: runs/train/NAME, NAME being the text's)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.set_defaults(handler=train)


def settings_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """A language run's configuration, without mask rate and weight where a schedule is given. Raises InputError for a width that
    is no multiple of HEAD_WIDTH, for too few steps, and for a mask rate or a weight beside a schedule."""
    if arguments.width < HEAD_WIDTH or arguments.width % HEAD_WIDTH:
        raise InputError(f"width: {arguments.width} is not allowed; a multiple of {HEAD_WIDTH}")
    if arguments.steps < 1:
        raise InputError(f"steps: {arguments.steps} is not allowed; at least 1")
    given = {name: value for name in ("mask_rate", "weight") if (value := getattr(arguments, name)) is not None}
    if arguments.schedule is not None and given:
        name, value = next(iter(given.items()))
        raise InputError(f"{name}: {value!r} is not allowed with --schedule, whose own it is; allowed: one of them")
    masking = {"mask_rate": MASK_RATE, "weight": WEIGHT, **given} if arguments.schedule is None else {}
    corpus = Path(arguments.text)
    return {
        # An absolute path: `mdlm sample` may be called from elsewhere.
        "data": {
            "corpus": str(corpus.resolve()) if corpus.exists() else arguments.text,
            "tokenizer": arguments.tokenizer,
            "length": arguments.length,
        },
        "model": {"layers": arguments.layers, "heads": arguments.width // HEAD_WIDTH, "width": arguments.width, "tied": True},
        "train": {
            "steps": arguments.steps,
            "eval_every": -(-arguments.steps // 4),
            "learning_rate": arguments.learning_rate,
            "warmup": arguments.steps // 20,
            "schedule": "cosine",
            "clip": 1.0,
        },
        **masking,
        "batch": arguments.batch,
        "device": arguments.device,
        "validation_passes": 240,
        "test_passes": 1920,
    }


@fields_as_options(corpus="text")
def train(arguments: argparse.Namespace) -> int:
    """Train, or go on, or only show what a finished run writes; returns the exit code."""
    from mdlm_min.data.text import TextConfig, load_text
    from mdlm_min.run.config import build
    from mdlm_min.tasks import language
    from mdlm_min.tasks.text_model import TextModel

    use_threads(arguments.threads)
    settings = settings_from(arguments)
    language.check(settings)
    path = arguments.run or Path("runs/train", text_name(settings["data"]["corpus"]))
    if arguments.schedule is not None:
        _check_schedule(arguments.schedule, path)
        settings["schedule"] = arguments.schedule
    run = language.run if arguments.schedule is None else _run_scheduled
    with trained_run(path, arguments.seed, settings, run) as folder:
        row, record = folder.metrics()[-1], folder.read_json("finished.json")
    model = TextModel.load(path, arguments.device)
    data = load_text(build(TextConfig, settings["data"]))
    folder.check_text(data.sha256, f"text: {settings['data']['corpus']}")
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    print(f"{path}: {parameters / 1e6:.2f}M parameters, {record['steps']} steps in {record['seconds']:.0f} s")
    print(_loss_line(model, data, row))
    _show_filled(model, data)
    _show_written(model)
    quoted = shlex.quote(str(path))
    print(f'\nmore: mdlm sample {quoted} --prompt "..."   or   mdlm sample {quoted} --infill "... ____ ..."')
    return 0


def _check_schedule(spec: str, path: Path) -> None:
    """Raise InputError for a schedule that does not keep to the interface, and for one whose file is no longer that of the run
    that is there."""
    from mdlm_min.diffusion.own_schedule import load_schedule, schedule_file
    from mdlm_min.diffusion.schedule_check import validate
    from mdlm_min.run.files import sha256
    from mdlm_min.run.run_folder import RunFolder

    validate(load_schedule(spec))
    folder = RunFolder(path)
    if (path / "data.json").exists() and folder.read_json("data.json").get("schedule_sha256") != sha256(schedule_file(spec)):
        raise InputError(f"schedule: {spec} is not the one that {path} was trained with; delete {path}, or name another folder")


def _run_scheduled(settings: dict[str, Any], seed: int, folder: "RunFolder", progress: Callable[[str], None]) -> None:
    from mdlm_min.diffusion.own_schedule import load_schedule, schedule_file
    from mdlm_min.run.files import sha256
    from mdlm_min.tasks import language
    from mdlm_min.tasks.scheduled import ScheduledTask

    language_settings = dict(settings)
    spec = language_settings.pop("schedule")
    language.run(
        language_settings, seed, folder, progress, lambda config, seed: ScheduledTask(config, seed, load_schedule(spec)),
        {"schedule_sha256": sha256(schedule_file(spec))},
    )  # fmt: skip


def _loss_line(model: "TextModel", data: "TextData", row: "Row") -> str:
    blocks = data.blocks("test", model.length)
    size = len(model.tokenizer.decode(blocks.flatten().tolist()).encode())  # in one piece: a block's edge may cut a character
    bits = row["test_loss"] / math.log(2) * blocks.numel() / size
    return (
        f"test loss: {row['test_loss']:.3f} +- {row['test_error']:.3f} nats per token over t in [0, 1], {bits:.2f} bits per byte"
    )


def _show_filled(model: "TextModel", data: "TextData") -> None:
    """Hide a part of held-out passages and fill it in; print one of them and the share that is right."""
    import torch

    from mdlm_min.cli.sample import FILLING, show
    from mdlm_min.diffusion.likelihood import exact_masks
    from mdlm_min.diffusion.sampling import SamplingConfig
    from mdlm_min.run.random_streams import stream

    blocks = data.blocks("test", model.length)[:PASSAGES]
    hidden = max(1, round(HIDDEN * model.length))
    mask = exact_masks(torch.full((len(blocks),), hidden), model.length, stream(0, "passages"))
    templates = blocks.masked_fill(mask, model.mask_token)
    filled = model.fill(templates, SamplingConfig(FILLING[0], 16, FILLING[1]))
    right = (filled == blocks) & mask
    print(f"\nfilled in: a held-out passage with {hidden} of {model.length} tokens hidden, {int(right[0].sum())} of them right")
    print(f"({right.sum() / mask.sum():.0%} in {len(blocks)} passages; wrong ones as guess/original)\n")
    show(model, templates[0].tolist(), filled[0].tolist(), blocks[0].tolist())


def _show_written(model: "TextModel") -> None:
    import torch

    from mdlm_min.cli.sample import WRITING, show
    from mdlm_min.diffusion.sampling import SamplingConfig

    template = model.continuation()
    filled = model.fill(torch.tensor([template]), SamplingConfig(WRITING[0], len(template), WRITING[1]))
    print("\nwritten from nothing:\n")
    show(model, template, filled[0].tolist(), marked=False)

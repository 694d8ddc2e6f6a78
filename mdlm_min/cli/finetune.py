"""`mdlm finetune`: a model that answers, from conversations and a released LLaDA folder or a run, and then answers of its own."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_min.cli.command import (
    add_threads,
    fields_as_options,
    folder_path,
    say_if_unfinished,
    source_name,
    text_name,
    trained_run,
    use_threads,
)
from mdlm_min.run.errors import InputError

if TYPE_CHECKING:
    from mdlm_min.data.chat import ChatTemplate
    from mdlm_min.data.conversations import Sample
    from mdlm_min.run.run_folder import RunFolder
    from mdlm_min.tasks.text_model import TextModel

SHOWN = 3  # held-out prompts that are answered
FINISHED = ("steps", "seconds")
DATA = (
    "samples",
    "records",
    "held_out_samples",
    "malformed",
    "truncated",
    "too_long",
    "malformed_records",
    "sha256",
    "start_sha256",
)


RATE, RATE_OF_RELEASED = 1e-3, 2e-5


def add_parsers(commands: Any) -> None:
    """`mdlm finetune`."""
    text = "Fine-tune a model on the answers of conversations, then show what it answers to held-out prompts."
    parser: argparse.ArgumentParser = commands.add_parser("finetune", help=text, description=text)
    parser.add_argument(
        "--data", required=True, type=source_name,
        help="JSON lines with a field messages (.jsonl, also .gz; a file or a folder), a hub data set's name, gsm8k, or "
        "arithmetic:STEPS[:COUNT]",
    )  # fmt: skip
    parser.add_argument(
        "--start", required=True, type=source_name, help="a released LLaDA folder, or a run folder, such as runs/train/corpus"
    )
    parser.add_argument("--mask-rate", default="U[0.001,1]", help="mask rates to train on (default: U[0.001,1], LLaDA's)")
    parser.add_argument("--weight", default="1/t", help="weight of a masked token: 1/t (default), 1/(t p(t)) or none")
    parser.add_argument("--divisor", default="answer", help="what the loss is divided by: answer (default), token, batch, masked")
    parser.add_argument("--padding", default="eos", help="end tokens behind an answer, in the loss: eos (default), one, none")
    parser.add_argument("--answers", default="last", help="the last answer of a conversation (default), or each")
    parser.add_argument(
        "--held-out",
        type=int,
        help="openings kept from training, and answers whose NLL is measured (default: a tenth of the openings, 64 at most)",
    )
    parser.add_argument("--malformed", type=float, default=0.01, help="share of records that may be malformed (default: 0.01)")
    parser.add_argument("--steps", type=int, default=400, help="training steps (default: 400)")
    parser.add_argument("--length", type=int, default=0, help="most tokens of a sample (default: as many as the model reads)")
    parser.add_argument("--batch", type=int, default=8, help="samples per step (default: 8)")
    parser.add_argument("--micro-batch", type=int, default=0, help="samples of one pass (default: the whole batch)")
    parser.add_argument(
        "--learning-rate", type=float, help="highest learning rate (default: 0.001 from a run folder, 2e-5 from a released LLaDA)"
    )
    add_threads(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--run", type=folder_path, help="run folder (default: runs/finetune/NAME, NAME being the data's)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    parser.set_defaults(handler=finetune)


def settings_from(arguments: argparse.Namespace, length: int, rate: float) -> dict[str, Any]:
    """A fine-tuning run's configuration. Raises InputError for too few steps."""
    from mdlm_min.data.conversations import default_held_out

    if arguments.steps < 1:
        raise InputError(f"steps: {arguments.steps} is not allowed; at least 1")
    data = Path(arguments.data)
    held_out = default_held_out(arguments.data) if arguments.held_out is None else arguments.held_out
    return {
        "start": str(Path(arguments.start).resolve()),  # absolute, as the data: `mdlm generate` may be called from elsewhere
        "data": {
            "source": str(data.resolve()) if data.exists() else arguments.data,
            "length": arguments.length or length,
            "padding": arguments.padding,
            "answers": arguments.answers,
            "held_out": held_out,
            "malformed": arguments.malformed,
        },
        "train": {
            "steps": arguments.steps,
            "eval_every": -(-arguments.steps // 4),
            "learning_rate": rate,
            "warmup": arguments.steps // 8,
            "weight_decay": 0.0,
            "clip": 1.0,
        },
        "engine": {"micro_batch": arguments.micro_batch},
        "mask_rate": arguments.mask_rate,
        "weight": arguments.weight,
        "divisor": arguments.divisor,
        "validation_answers": held_out,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "device": arguments.device,
    }


@fields_as_options(source="data")
def finetune(arguments: argparse.Namespace) -> int:
    """Fine-tune, or go on, or only show what a finished run answers; returns the exit code."""
    from mdlm_min.model.llada import is_released
    from mdlm_min.tasks import finetune
    from mdlm_min.tasks.text_model import TextModel, context_length

    use_threads(arguments.threads)
    start = finetune.start_folder(arguments.start)
    # Models of billions of weights are the ones that are released; the small ones here learn at fifty times the rate.
    usual = RATE_OF_RELEASED if is_released(start) else RATE
    rate = usual if arguments.learning_rate is None else arguments.learning_rate
    settings = settings_from(arguments, arguments.length or context_length(start), rate)
    finetune.check(settings)
    say_if_unfinished(start)
    path = arguments.run or Path("runs/finetune", text_name(arguments.data))
    with trained_run(path, arguments.seed, settings, finetune.run) as folder:
        rows, record, data = folder.metrics(), folder.read_json("finished.json", FINISHED), folder.read_json("data.json", DATA)
    model = TextModel.load(path, arguments.device)
    template = model.chat_template()
    held_out = _held_out(template, folder, settings)
    print(
        f"{path}: {record['steps']} steps on {data['samples']} samples in {record['seconds']:.0f} s; "
        f"{data['held_out_samples']} held out, with all that share their opening; of {data['records']} records "
        f"{data['malformed']} malformed, {data['truncated']} answers cut, {data['too_long']} prompts too long"
    )
    for line in data["malformed_records"]:
        print(f"malformed: {line}")
    before, after = rows[0], rows[-1]
    error = f" +- {after['valid_error']:.3f}" if math.isfinite(after["valid_error"]) else ""  # of one answer it is unknown
    print(f"held-out answers: {before['valid_loss']:.3f} before, {after['valid_loss']:.3f}{error} nats per token after")
    _show_answers(model, template, held_out)
    return 0


def _held_out(template: "ChatTemplate", folder: "RunFolder", settings: dict[str, Any]) -> "list[Sample]":
    """The first held-out samples of the run's data, each prompt once. Raises InputError where these have changed: they could be
    some that it was trained on."""
    from mdlm_min.data.conversations import ChatConfig, Conversations
    from mdlm_min.run.config import build
    from mdlm_min.tasks.finetune import data_sha256

    found = Conversations(build(ChatConfig, settings["data"], "data."), template)
    start_sha256 = folder.read_json("data.json", DATA)["start_sha256"]
    folder.check_text(data_sha256(found.sha256, start_sha256), f"data: {settings['data']['source']}")
    different: dict[tuple[int, ...], Sample] = {}
    for sample in found.held_out:
        different.setdefault(tuple(sample.prompt.tolist()), sample)
    return list(different.values())[:SHOWN]


def _show_answers(model: "TextModel", template: "ChatTemplate", held_out: "list[Sample]") -> None:
    """Held-out prompts, and what the model answers to them in as many tokens as their own answers have."""
    from mdlm_min.diffusion.sampling import SamplingConfig

    special = template.special
    for sample in held_out:
        prompt, size = sample.prompt.tolist(), len(sample.answer)
        rules = model.rules(stop=(special.end_turn, special.end))
        found = model.generate([prompt + [special.mask] * size], SamplingConfig("low-confidence", size, 0.0), rules=rules)
        headers = [place for place, token in enumerate(prompt) if token == special.end_header]  # the last is the answer's
        question = template.answer(prompt[headers[-2] + 1 :]).strip() if len(headers) > 1 else ""
        print(f"\n{question}\n> {template.answer(found.tokens[0, len(prompt) :].tolist())}")

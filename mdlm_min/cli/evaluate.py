"""`mdlm eval`: benchmarks by lm-eval on a run or a released LLaDA, the paper's tasks by name, also over local files."""

import argparse
from pathlib import Path
from typing import Any

from mdlm_min.cli.command import add_command, folder_path, say_if_unfinished
from mdlm_min.run.errors import InputError

MODEL = {  # HarnessConfig's fields that the command has options for
    "passes": (int, "forward passes of an answer; short answers are exact, in fewer (default: 128)"),
    "estimator": (str, "balanced (default), or llada: that of LLaDA's Eq. 6"),
    "guidance": (float, "classifier-free guidance, of likelihoods and of generation (default: 0, none)"),
    "seed": (int, "seed of masks and of generation (default: 0)"),
    "device": (str, "cpu (default) or cuda"),
    "dtype": (str, "what is computed in: float32 or bfloat16 (default: the model's own)"),
    "batch_tokens": (int, "the most tokens of a batch; changes no result but for rounding (default: 8192)"),
}


def add_parsers(commands: Any) -> None:
    """`mdlm eval`."""
    text = (
        "Evaluate a run folder or a released LLaDA on lm-eval's tasks, or go on with an evaluation that was stopped (needs the "
        "extra `evaluation`)."
    )
    parser = add_command(commands, "eval", text, evaluate)
    parser.add_argument("folder", type=folder_path, help="a run folder, such as runs/train/corpus, or a released LLaDA folder")
    parser.add_argument(
        "--tasks", required=True,
        help="comma-separated: lm-eval's names; over the files in MDLM_DATA hellaswag_local, arc_easy_local, "
        "arc_challenge_local, mmlu_local, mmlu_stem_local, gsm8k_local; paper or paper_offline for all of the paper's",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=0, help="items of each task (default: 0, all)")
    parser.add_argument(
        "--shots", "--num_fewshot", type=int, help="examples in a prompt (default: the paper's, or the task's own)"
    )
    parser.add_argument(
        "--gen-kwargs",
        "--gen_kwargs",
        default="",
        help="of generation: max_gen_toks=64,steps=64,block_length=32 ...",
    )
    parser.add_argument("--chat", "--apply_chat_template", action="store_true", help="prompts as conversations")
    parser.add_argument("--include-path", "--include_path", default="", help="folder of more task files of lm-eval (.yaml)")
    parser.add_argument("--log-samples", "--log_samples", action="store_true", help="keep all texts too (never GPQA's)")
    parser.add_argument(
        "--cache", "--use_cache", default="", help="keep answers under this path, for other evaluations of the same model too"
    )
    parser.add_argument("--output", type=folder_path, help="folder of the results (default: runs/eval/FOLDER's name/TASKS)")
    for name, (kind, explanation) in MODEL.items():
        options = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(*options, dest=name, type=kind, help=explanation)


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate, print the scores; returns the exit code."""
    from mdlm_min.evaluation.run import Request
    from mdlm_min.evaluation.run import evaluate as run

    of = arguments.tasks.replace("/", "_")[:100] + (f",limit={arguments.limit}" if arguments.limit else "")
    output = arguments.output or Path("runs/eval", arguments.folder.resolve().name or "model", of)
    request = Request(
        tuple(task for task in arguments.tasks.split(",") if task), output, arguments.limit, arguments.shots,
        gen_kwargs(arguments.gen_kwargs), arguments.chat, arguments.include_path, arguments.log_samples, arguments.cache,
    )  # fmt: skip
    given = {name: value for name in MODEL if (value := getattr(arguments, name)) is not None}
    log = run(request, {"folder": str(arguments.folder), **given})
    say_if_unfinished(arguments.folder)
    for task, scores in log["scores"].items():
        items = f"  ({scores['items']:.0f} items)" if "items" in scores else ""
        numbers = ", ".join(_score(name, scores) for name in scores if name != "items" and "_stderr" not in name)
        print(f"{task}: {numbers}{items}")
    if fixed := [task for task, shots in log["shots"].items() if arguments.shots and not shots]:
        print(f"shots: {', '.join(fixed)}: the prompts are fixed, and --shots has no effect on them")
    if log["items_cut"]:
        print(f"{log['items_cut']} items have prompts that are too long for this model, which lost their beginning")
    if log["generation"]["sequences"]:
        print(generation_line(log["generation"]))
    print(f"results: {output}/results.json, every item: {output}/items.jsonl")
    return 0


def generation_line(speed: dict[str, float]) -> str:
    """What generation took, in one line: forward passes, tokens per pass, tokens of the answers alone per second."""
    passes, tokens, seconds = speed["passes"], speed["tokens"], speed["seconds"]
    each = f"NFE {passes / speed['sequences']:,.4g}, {tokens / max(1, passes):.2f} tokens per forward"
    return f"generation: {each}, {tokens / max(1e-9, seconds):,.1f} tokens/s of the answers alone"


def _score(name: str, scores: dict[str, float]) -> str:
    first, _, rest = name.partition(" ")
    error = scores.get(f"{first}_stderr {rest}".strip())
    return f"{name} {scores[name]:.4f}" + (f" +- {error:.4f}" if error is not None else "")


def gen_kwargs(text: str) -> dict[str, Any]:
    """`name=value,name=value` with numbers and true or false as such. Raises InputError for a part without "="."""
    found: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        name, sign, value = part.partition("=")
        if not sign or not name.strip():
            raise InputError(f"gen_kwargs: {part!r} is not allowed; name=value, separated by commas")
        if name.strip() in found:
            raise InputError(f"gen_kwargs: {name.strip()!r} is given twice; once is allowed")
        found[name.strip()] = value if name.strip() == "until" else _value(value.strip())  # a stop string is as it is written
    if not found.get("until", "x"):
        raise InputError("gen_kwargs: until: '' is not allowed; a text at which an answer ends")
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text

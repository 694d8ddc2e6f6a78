"""`mdlm plan` and `mdlm export`: before and after a large pre-training run."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mdlm_min.cli.command import add_command, folder_path, say_if_unfinished
from mdlm_min.run.errors import InputError

if TYPE_CHECKING:
    from mdlm_min.evidence.experiment import Experiment


def add_parsers(commands: Any) -> None:
    """`mdlm plan`, `mdlm export`."""
    from mdlm_min.evidence.plan_file import TIERS

    text = "Say what a run takes: memory on each GPU by part, hours, and what to change where it does not fit."
    parser = add_command(commands, "plan", text, plan)
    parser.add_argument("experiment", help="one that trains LLaDA: 04_8b_pt, 05_8b_sft")
    parser.add_argument("--tier", default="paper", help=f"one of {', '.join(TIERS)} (default: paper)")
    parser.add_argument("--arm", default="", help="whose settings (default: the tier's first arm)")
    parser.add_argument("--gpus", type=int, help="how many GPUs (default: as many as the tier's engine has processes)")
    parser.add_argument("--gpu", default="h100", help="a100, h100, h800, h200, b200 (default: h100)")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the GPUs' peak rate that is reached (default: 0.4)"
    )
    text = (
        "Write the newest checkpoint of a run of LLaDA's block (04_8b_pt, 05_8b_sft) as a folder in LLaDA's released form. A run "
        "of mdlm train is another block: its checkpoint is plain safetensors, and its shape and tokenizer lie beside it."
    )
    parser = add_command(commands, "export", text, export)
    parser.add_argument("run", type=folder_path, help="a run folder, such as runs/04_8b_pt/paper/middle/seed0")
    parser.add_argument("--output", type=folder_path, required=True, help="folder to write")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 (default) or float32")


def plan(arguments: argparse.Namespace) -> int:
    """Print the plan of the first run of a tier."""
    from mdlm_min.evidence.experiment import Experiment, experiment_folders

    experiment = Experiment(arguments.experiment)
    if not _has_plan(experiment):
        planned = [folder.name for folder in experiment_folders() if _has_plan(Experiment(folder.name))]
        raise InputError(f"experiment: {experiment.name} trains no LLaDA and has no plan; allowed: {', '.join(planned)}")
    from mdlm_min.tasks.finetune import FinetuneConfig
    from mdlm_min.tasks.plan import GPUS, config_of, describe, model_of

    settings = experiment.runs(arguments.tier, arguments.arm, seeds=1)[0].settings
    config = config_of(settings)
    gpus = config.engine.processes if arguments.gpus is None else arguments.gpus
    print(describe(config, gpus, arguments.gpu, arguments.utilisation, lambda line: print(line, file=sys.stderr)))
    if isinstance(config, FinetuneConfig):
        from mdlm_min.evaluation import plan as evaluation  # needs lm-eval

        print(evaluation.describe(model_of(config), gpus, GPUS[arguments.gpu], arguments.utilisation))
    return 0


def _has_plan(experiment: "Experiment") -> bool:
    """Whether its runs are on LLaDA's samples, or on conversations."""
    defaults = experiment.plan["defaults"]
    data = defaults.get("data")
    return defaults.get("kind") == "finetune" or (isinstance(data, dict) and "source" in data)


def export(arguments: argparse.Namespace) -> int:
    """Write the weights and say where."""
    from mdlm_min.tasks.text_model import export

    export(arguments.run, arguments.output, arguments.dtype)
    say_if_unfinished(arguments.run)
    print(arguments.output)
    print("transformers opens it with two files of LLaDA's release beside it: configuration_llada.py, modeling_llada.py")
    return 0

"""mdlm_min: masked diffusion language models, small enough to read, and the evidence about arXiv:2601.22450.

The names below are the public ones. Each is loaded from its module when it is first used, so `import mdlm_min` is quick
and does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A public name is listed twice: here, for the interpreter, and below, for type checkers. A test compares the two lists.
_HOMES = {
    # the method
    "MaskRate": "mdlm_min.diffusion.mask_rate",
    "bernoulli": "mdlm_min.diffusion.masking",
    "masked_loss": "mdlm_min.diffusion.objective",
    "MaskedDiffusion": "mdlm_min.diffusion.process",
    # schedules of one's own, and their use in other trainers
    "MaskSchedule": "mdlm_min.diffusion.mask_schedule",
    "Context": "mdlm_min.diffusion.mask_schedule",
    "BoundPart": "mdlm_min.diffusion.mask_schedule",
    "RateSchedule": "mdlm_min.diffusion.mask_schedule",
    "ScheduledDiffusion": "mdlm_min.diffusion.mask_schedule",
    "InformationDensity": "mdlm_min.diffusion.density",
    "validate": "mdlm_min.diffusion.schedule_check",
    "Keyed": "mdlm_min.diffusion.collator",
    "MaskCollator": "mdlm_min.diffusion.collator",
    "scheduled_loss": "mdlm_min.diffusion.collator",
    "stream": "mdlm_min.run.random_streams",
    # likelihood and sampling
    "estimate": "mdlm_min.diffusion.likelihood",
    "Estimate": "mdlm_min.diffusion.likelihood",
    "SamplingConfig": "mdlm_min.diffusion.sampling",
    "TokenRules": "mdlm_min.diffusion.remasking",
    "generate": "mdlm_min.diffusion.sampling",
    "Generation": "mdlm_min.diffusion.generation_record",
    "accuracy_under_parallelism": "mdlm_min.diffusion.generation_record",
    "unmask": "mdlm_min.diffusion.sampling",
    # the network
    "ModelConfig": "mdlm_min.model.config",
    "Transformer": "mdlm_min.model.transformer",
    "LLADA_8B": "mdlm_min.model.llada",
    "read_config": "mdlm_min.model.llada",
    "load_weights": "mdlm_min.model.llada_weights",
    "save_weights": "mdlm_min.model.llada_weights",
    "TextModel": "mdlm_min.tasks.text_model",
    # the paper's formulas
    "sample_bound": "mdlm_min.theory.formulas",
    "corrected_sample_bound": "mdlm_min.theory.formulas",
    "signal_probability": "mdlm_min.theory.formulas",
    "signal_optimal_rate": "mdlm_min.theory.formulas",
    "signal_optimal_high": "mdlm_min.theory.formulas",
    "sample_optimal_high": "mdlm_min.theory.formulas",
    "mixture_signal": "mdlm_min.theory.formulas",
    "mixture_optimum": "mdlm_min.theory.formulas",
    # training
    "Task": "mdlm_min.training.task",
    "TrainConfig": "mdlm_min.training.optimizer",
    "train": "mdlm_min.training.loop",
    "open_run": "mdlm_min.run.run_folder",
    # what a command or a call raises
    "InputError": "mdlm_min.run.errors",
    "RunError": "mdlm_min.run.errors",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from mdlm_min.diffusion.collator import Keyed as Keyed
    from mdlm_min.diffusion.collator import MaskCollator as MaskCollator
    from mdlm_min.diffusion.collator import scheduled_loss as scheduled_loss
    from mdlm_min.diffusion.density import InformationDensity as InformationDensity
    from mdlm_min.diffusion.generation_record import Generation as Generation
    from mdlm_min.diffusion.generation_record import accuracy_under_parallelism as accuracy_under_parallelism
    from mdlm_min.diffusion.likelihood import Estimate as Estimate
    from mdlm_min.diffusion.likelihood import estimate as estimate
    from mdlm_min.diffusion.mask_rate import MaskRate as MaskRate
    from mdlm_min.diffusion.mask_schedule import BoundPart as BoundPart
    from mdlm_min.diffusion.mask_schedule import Context as Context
    from mdlm_min.diffusion.mask_schedule import MaskSchedule as MaskSchedule
    from mdlm_min.diffusion.mask_schedule import RateSchedule as RateSchedule
    from mdlm_min.diffusion.mask_schedule import ScheduledDiffusion as ScheduledDiffusion
    from mdlm_min.diffusion.masking import bernoulli as bernoulli
    from mdlm_min.diffusion.objective import masked_loss as masked_loss
    from mdlm_min.diffusion.process import MaskedDiffusion as MaskedDiffusion
    from mdlm_min.diffusion.remasking import TokenRules as TokenRules
    from mdlm_min.diffusion.sampling import SamplingConfig as SamplingConfig
    from mdlm_min.diffusion.sampling import generate as generate
    from mdlm_min.diffusion.sampling import unmask as unmask
    from mdlm_min.diffusion.schedule_check import validate as validate
    from mdlm_min.model.config import ModelConfig as ModelConfig
    from mdlm_min.model.llada import LLADA_8B as LLADA_8B
    from mdlm_min.model.llada import read_config as read_config
    from mdlm_min.model.llada_weights import load_weights as load_weights
    from mdlm_min.model.llada_weights import save_weights as save_weights
    from mdlm_min.model.transformer import Transformer as Transformer
    from mdlm_min.run.errors import InputError as InputError
    from mdlm_min.run.errors import RunError as RunError
    from mdlm_min.run.random_streams import stream as stream
    from mdlm_min.run.run_folder import open_run as open_run
    from mdlm_min.tasks.text_model import TextModel as TextModel
    from mdlm_min.theory.formulas import corrected_sample_bound as corrected_sample_bound
    from mdlm_min.theory.formulas import mixture_optimum as mixture_optimum
    from mdlm_min.theory.formulas import mixture_signal as mixture_signal
    from mdlm_min.theory.formulas import sample_bound as sample_bound
    from mdlm_min.theory.formulas import sample_optimal_high as sample_optimal_high
    from mdlm_min.theory.formulas import signal_optimal_high as signal_optimal_high
    from mdlm_min.theory.formulas import signal_optimal_rate as signal_optimal_rate
    from mdlm_min.theory.formulas import signal_probability as signal_probability
    from mdlm_min.training.loop import train as train
    from mdlm_min.training.optimizer import TrainConfig as TrainConfig
    from mdlm_min.training.task import Task as Task
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""One run: a masked diffusion model whose masks follow the information density of its tokens, on text, on answers or on parity.

What loads torch is imported where it is used: a table is made again without it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mdlm_min.run.config import Range, build, check_fields, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import sha256
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import LEVELS, stays_above, summarise_parity

if TYPE_CHECKING:
    from mdlm_min.diffusion.density import InformationDensity, Surprisal

Progress = Callable[[str], None]
# Of a track's settings, those that are not its task's.
OWN = {"text": ("share",), "arithmetic": ("tested", "answer_tokens"), "gsm8k": (), "parity": ()}
TEXT = ("test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS))
ANSWERS = ("test_nll", "chosen", "written")
PARITY = ("t_90", "t_mem", "t_gen", "final_train", "final_validation", "signal_share")


@dataclass(frozen=True)
class DensityConfig:
    """How dense tokens are preferred (diffusion/density.py)."""

    rate: str = "U[0.3,0.8]"
    weight: Annotated[float, Range(0, 1e6, open_least=True)] = 2.0
    hard: bool = False
    pairs: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "density.")

    def schedule(self, surprisal: "Surprisal | None" = None, share: float = 0.0) -> "InformationDensity":
        """The schedule: with the data's own marks, or with those of the corpus's surprisal."""
        from mdlm_min.diffusion.density import InformationDensity
        from mdlm_min.diffusion.mask_rate import MaskRate

        return InformationDensity(MaskRate.parse(self.rate), self.weight, self.hard, self.pairs, surprisal, share)


@dataclass(frozen=True)
class _Settings:
    """The density's settings, the track's name, those of its task, and its own (OWN of the track)."""

    density: DensityConfig
    track: str
    task: dict[str, Any]
    own: dict[str, Any]


def _split(settings: dict[str, Any]) -> _Settings:
    name, tracks = settings.get("track"), settings.get("tracks", {})
    if name not in _RUNNERS or name not in tracks:
        raise InputError(f"track: {shown(name)} is unknown; allowed: {', '.join(_RUNNERS)}")
    density = build(DensityConfig, settings.get("density", {}), "density.")
    task, own = ({key: value for key, value in tracks[name].items() if (key in OWN[name]) == wanted} for wanted in (False, True))
    return _Settings(density, name, task, own)


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.tasks import finetune, language, parity

    found = _split(settings)
    found.density.schedule(share=found.own.get("share", 0.0))
    {"text": language, "arithmetic": finetune, "gsm8k": finetune, "parity": parity}[found.track].check(found.task)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Progress) -> None:
    """Train one configuration with one seed in its run folder, from the start or from where it stopped."""
    found = _split(settings)
    _RUNNERS[found.track](found, seed, folder, progress)


def _run_text(found: _Settings, seed: int, folder: RunFolder, progress: Progress) -> None:
    from mdlm_min.data.surprisal import token_counts, unigram_surprisal
    from mdlm_min.tasks import language
    from mdlm_min.tasks.scheduled import ScheduledTask

    def task(config: language.LanguageRunConfig, seed: int) -> ScheduledTask:
        data = language.load_data(config.data)
        surprisal = unigram_surprisal(token_counts(data.splits["train"], data.vocab_size))
        return ScheduledTask(config, seed, found.density.schedule(surprisal, found.own["share"]), data)

    language.run(found.task, seed, folder, progress, task)


def _run_arithmetic(found: _Settings, seed: int, folder: RunFolder, progress: Progress) -> None:
    """Judged by the contest's evaluator."""
    from mdlm_min.data.density_marks import find_marks
    from mdlm_min.evaluation import contest_evaluator
    from mdlm_min.evaluation.judged_answers import JudgedAnswersTask
    from mdlm_min.tasks.finetune import FinetuneConfig, prepare
    from mdlm_min.training.loop import train

    def make(config: FinetuneConfig, seed: int, folder: RunFolder) -> JudgedAnswersTask:
        return JudgedAnswersTask(
            config,
            seed,
            folder,
            lambda _: found.density.schedule(),
            found.own["tested"],
            found.own["answer_tokens"],
            lambda task: find_marks("arithmetic", task.template),
        )

    judged_by = sha256(Path(contest_evaluator.__file__))
    task = prepare(found.task, seed, folder, make, {"marks": "arithmetic", "evaluator_sha256": judged_by})
    train(task, task.config.train, folder, progress)


def _run_gsm8k(found: _Settings, seed: int, folder: RunFolder, progress: Progress) -> None:
    """Judged as in 05_8b_sft: the contest's evaluator masks an answer once for each of its tokens, which is too often here."""
    from mdlm_min.data.density_marks import find_marks
    from mdlm_min.tasks.finetune import FinetuneConfig, prepare
    from mdlm_min.tasks.scheduled import ScheduledFinetuneTask
    from mdlm_min.training.loop import train

    def make(config: FinetuneConfig, seed: int, folder: RunFolder) -> ScheduledFinetuneTask:
        return ScheduledFinetuneTask(
            config, seed, folder, lambda _: found.density.schedule(), lambda task: find_marks("gsm8k", task.template)
        )

    task = prepare(found.task, seed, folder, make, {"marks": "gsm8k"})
    train(task, task.config.train, folder, progress)


def _run_parity(found: _Settings, seed: int, folder: RunFolder, progress: Progress) -> None:
    from mdlm_min.tasks.parity import run
    from mdlm_min.tasks.scheduled import ScheduledParityTask

    run(found.task, seed, folder, progress, lambda config, seed: ScheduledParityTask(config, seed, found.density.schedule()))


_RUNNERS = {
    "text": _run_text,
    "arithmetic": _run_arithmetic,
    "gsm8k": _run_gsm8k,
    "parity": _run_parity,
}


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: on text its losses at the end, over all mask rates and in each tenth of them; of answers
    their NLL per token, and the shares of choices and of written results that are right; on parity when it generalised (t_90:
    at an accuracy of .9, the others: at .99). What a track does not measure is not a number."""
    last = rows[-1]
    if "train_accuracy" in last:
        found = {"t_90": stays_above(rows, "validation_accuracy", 0.9), **summarise_parity(rows)[0]}
    elif "acc" in last:  # GSM8K, by the names of 05_8b_sft
        found = {"test_nll": last["valid_loss"], "chosen": last["acc"]}
    else:
        found = last
    return [{**{name: found.get(name, math.nan) for name in (*TEXT, *ANSWERS, *PARITY)}, "last_step": last["step"]}]

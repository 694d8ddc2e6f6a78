"""One run: a masked diffusion model of text whose masks follow the information density of its tokens.

What loads torch is imported where it is used: a table is made again without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from mdlm_min.run.config import Range, build, check_fields
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import LEVELS


@dataclass(frozen=True)
class DensityConfig:
    """How dense tokens are preferred (diffusion/density.py)."""

    rate: str = "U[0.3,0.8]"
    weight: Annotated[float, Range(0, 1e6, open_least=True)] = 2.0
    hard: bool = False
    pairs: bool = True
    share: Annotated[float, Range(0, 1)] = 0.2

    def __post_init__(self) -> None:
        check_fields(self, "density.")


def _split(settings: dict[str, Any]) -> tuple[DensityConfig, dict[str, Any]]:
    """The density's settings, and those of the language run."""
    rest = {name: value for name, value in settings.items() if name != "density"}
    return build(DensityConfig, settings.get("density", {}), "density."), rest


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.diffusion.mask_rate import MaskRate
    from mdlm_min.tasks import language

    density, rest = _split(settings)
    MaskRate.parse(density.rate)
    language.check(rest)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Train one configuration with one seed in its run folder, from the start or from where it stopped."""
    from mdlm_min.data.surprisal import Surprisal
    from mdlm_min.diffusion.density import InformationDensity
    from mdlm_min.diffusion.mask_rate import MaskRate
    from mdlm_min.tasks import language
    from mdlm_min.tasks.scheduled import ScheduledTask

    density, rest = _split(settings)

    def task(config: language.LanguageRunConfig, seed: int) -> ScheduledTask:
        data = language.load_data(config.data)
        surprisal = Surprisal(data.splits["train"], data.vocab_size).unigram
        schedule = InformationDensity(
            MaskRate.parse(density.rate), density.weight, density.hard, density.pairs, surprisal, density.share
        )
        return ScheduledTask(config, seed, schedule, data)

    language.run(rest, seed, folder, progress, task)


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: its losses at the end, over all mask rates and in each tenth of them."""
    names = ["test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS)]
    return [{**{name: rows[-1][name] for name in names}, "last_step": rows[-1]["step"]}]

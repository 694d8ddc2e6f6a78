"""One arm: a training run, a probe, a baseline without training, or a count of n-grams.

What loads torch is imported where it is used: a table is made again without it.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdlm_min.run.config import build, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import LEVELS, suggested_rate
from mdlm_min.theory.formulas import mixture_optimum

if TYPE_CHECKING:
    from mdlm_min.data.text import TextData
    from mdlm_min.tasks.language import LanguageTask

TRAINED = ("masked", "probe", "autoregressive")
COUNTED = ("unigram", "bigram", "ngrams")


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.data.parity_corpus import PREFIX
    from mdlm_min.data.text import TextConfig, find_sources
    from mdlm_min.tasks import language

    kind, rest = settings.get("kind"), {name: value for name, value in settings.items() if name != "kind"}
    if kind not in (*TRAINED, *COUNTED):
        raise InputError(f"kind: {shown(kind)} is unknown; allowed: {', '.join((*TRAINED, *COUNTED))}")
    if kind in TRAINED:
        language.check(rest)
    elif not (data := build(TextConfig, rest.get("data", {}), "data.")).corpus.startswith(PREFIX):
        find_sources(data.corpus)


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Do the run of these settings in its folder."""
    from mdlm_min.data.ngrams import load_countable
    from mdlm_min.data.text import TextConfig
    from mdlm_min.tasks import language

    kind, rest = settings["kind"], {name: value for name, value in settings.items() if name != "kind"}
    if kind in TRAINED:
        language.run(rest, seed, folder, progress, _task(kind))
        return
    started = time.monotonic()
    config = build(TextConfig, rest.get("data", {}), "data.")
    if kind == "ngrams":
        tokens, digest = load_countable(config)
        row = _ngrams(tokens)
    else:
        data = language.load_data(config)
        digest = data.sha256
        row = _baseline(kind, data)
    progress(f"{kind}: {len(row)} quantities")
    folder.finish_at_once(row, digest, time.monotonic() - started)


def _task(kind: str) -> "type[LanguageTask]":
    from baselines.autoregressive import AutoregressiveTask
    from mdlm_min.tasks.gradient_probe import ProbeTask
    from mdlm_min.tasks.language import LanguageTask

    return {"masked": LanguageTask, "probe": ProbeTask, "autoregressive": AutoregressiveTask}[kind]


def _baseline(kind: str, data: "TextData") -> Row:
    from baselines.bigram import bigram_loss
    from baselines.unigram import unigram_loss

    loss = unigram_loss if kind == "unigram" else bigram_loss
    return {"test_loss": loss(data, "test"), "test_error": 0.0, "valid_loss": loss(data, "valid")}


def _ngrams(tokens: Any) -> Row:
    from mdlm_min.data.ngrams import ORDERS, count_ngrams

    counts = count_ngrams(tokens)
    row: Row = {"tokens": float(len(tokens))}
    for reading in ("occurrences", "types"):
        weights = counts.weights(reading)
        row |= {f"{reading}_w{order}": weight for order, weight in zip(ORDERS, weights, strict=True)}
        row |= {f"{reading}_{form}": mixture_optimum(weights, form) for form in ("linear", "order", "sum_of_squares")}
    return row


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: losses; for a predictor the mask rate that it predicts."""
    last = rows[-1]
    names = ["test_loss", "test_error", "valid_loss", *(f"test_{name}" for name in LEVELS)]
    predicted = last.get("occurrences_linear", suggested_rate(rows, "gain") if "gain_0.05" in last else float("nan"))
    return [{**{name: last.get(name, float("nan")) for name in names}, "predicted_rate": predicted, "last_step": last["step"]}]

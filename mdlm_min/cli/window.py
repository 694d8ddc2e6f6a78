"""Predict a signal-rich window for a corpus: from its n-gram counts (F.4), or from a short training run's gradients.

`mdlm window` is the command. Neither prediction is a law: the report says on which corpora each was right (claims W5).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mdlm_min.data.ngrams import MINIMUM, ORDERS, count_ngrams, load_countable
from mdlm_min.data.text import TextConfig
from mdlm_min.evidence import figure
from mdlm_min.run.progress import open_display
from mdlm_min.run.run_folder import Row, open_run
from mdlm_min.theory.formulas import mixture_optimum, mixture_signal

FORMS = {
    "linear": "sum w_i t (1-t)^(i-1), as published",
    "order": "sum i w_i t (1-t)^(i-1), with the order factor",
    "sum_of_squares": "sum w_i [t (1-t)^(i-1)]^2, quadratic",
}
READINGS = {"occurrences": "every occurrence counts", "types": "every different n-gram counts once"}


def window(rate: float, width: float = 0.1) -> str:
    """The window of this width around a rate, moved inside [0, 1], in the notation of mask rates."""
    low = min(max(rate - width / 2, 0.0), 1 - width)
    return f"U[{low:.2f},{low + width:.2f}]"


def from_ngrams(config: TextConfig, figure_path: Path, say: Callable[[str], None]) -> float:
    """Count the corpus's n-grams, say the weights and t* in every reading, draw Signal(t); returns t* as published.

    Raises InputError for a corpus that cannot be read or has no n-gram often enough.
    """
    tokens, digest = load_countable(config)
    counts = count_ngrams(tokens)
    say(
        f"{config.corpus}: {len(tokens):,} tokens ({config.tokenizer}), SHA-256 {digest[:12]}; n-grams seen at least {MINIMUM} "
        f"times"
    )
    fig, axes = figure.grid(1, len(READINGS), width=5.0)
    t = np.linspace(0, 1, 201)
    for ax, (reading, meaning) in zip(axes[0], READINGS.items(), strict=True):
        weights = counts.weights(reading)
        say(
            f"  {reading} ({meaning}): "
            + "  ".join(f"w{order} {weight:.4f}" for order, weight in zip(ORDERS, weights, strict=True))
        )
        for form, formula in FORMS.items():
            best = mixture_optimum(weights, form)
            say(f"    t* = {best:.3f}   {formula}")
            values = mixture_signal(t, weights, form)
            ax.plot(t, values / values.max(), label=f"{form}: {best:.3f}")
        ax.set(
            xlabel="mask rate t",
            ylabel="Signal(t), largest = 1",
            title=f"{Path(config.corpus).name}, {config.tokenizer}: {reading}",
        )
        ax.legend(fontsize=8)
    best = mixture_optimum(counts.weights())
    say(f"predicted window: mask_rate = {window(best)}")
    say(f"figure: {figure.save(fig, figure_path)}")
    return best


def from_probe(config: TextConfig, steps: int, seed: int, runs: Path, figure_path: Path, say: Callable[[str], None]) -> float:
    """Train a small model for a few steps, measure each rate's gradients, say and draw them; returns the suggested rate."""
    from mdlm_min.tasks.gradient_probe import RATES, ProbeTask, suggested_rate
    from mdlm_min.tasks.language import run  # torch is not needed to count

    settings = {
        "data": {"corpus": config.corpus, "tokenizer": config.tokenizer, "length": config.length},
        "train": {
            "steps": steps,
            "eval_every": max(1, steps // 3),
            "learning_rate": 2e-3,
            "warmup": min(50, steps // 2),
            "clip": 1.0,
        },
    }
    with open_run(runs / "probe", {"seed": seed, **settings}) as folder:
        if not folder.is_finished({"seed": seed, **settings}):
            with open_display(1) as display:
                run(settings, seed, folder, partial(display.update, "probe"), ProbeTask)
        rows: list[Row] = folder.metrics()
    fig, axes = figure.grid(1, 2, width=5.0)
    for ax, measure, name in (
        (axes[0, 0], "gain", "first-order gain of a step"),
        (axes[0, 1], "snr", "signal-to-noise ratio of a gradient"),
    ):
        for row in rows[1:]:
            ax.plot(RATES, [row[f"{measure}_{rate}"] for rate in RATES], "o-", label=f"step {row['step']:.0f}")
        ax.set(xlabel="mask rate t", title=f"{name}: best at {suggested_rate(rows, measure)}")
        ax.legend(fontsize=8)
    for measure in ("gain", "snr"):
        say(f"  {measure}: largest at t = {suggested_rate(rows, measure)}")
    best = suggested_rate(rows, "gain")
    say(f"suggested window: mask_rate = {window(best)}")
    say(f"figure: {figure.save(fig, figure_path)}")
    return best

"""`mdlm window`: predict a signal-rich window for a corpus, from its n-gram counts (F.4) or from a short training run's
gradients.

A window is a range of mask rates, here and in all of the suite. The readings of the counts are those of data/ngrams.py, the
forms of Signal(t) those of theory/formulas.py, the probe is tasks/gradient_probe.py. What is counted are the tokens that a model
would train on: what training holds out of a text is left out here too.

Neither prediction is a law. Beside each stands how often its predictor was right in our tables (claims W5), and what the
contest's table says of it.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_min.cli.command import TOKENIZER, add_command, add_text, fields_as_options, folder_path, text_name, trained_run
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import check_writable

if TYPE_CHECKING:
    from mdlm_min.data.ngrams import Counts
    from mdlm_min.data.text import TextConfig
    from mdlm_min.run.run_folder import Row

FORMS = {
    "linear": "sum w_i t (1-t)^(i-1), as published",
    "order": "sum i w_i t (1-t)^(i-1), with the order factor",
    "sum_of_squares": "sum w_i [t (1-t)^(i-1)]^2, quadratic",
}
PAPER_WINDOW = "U[0.45,0.55]"
STEPS = 300  # of a probe, unless it is said
READINGS = {"occurrences": "every occurrence counts", "types": "every different n-gram counts once"}


def add_parsers(commands: Any) -> None:
    """`mdlm window`."""
    text = "Predict the signal-rich window of a corpus from its n-grams, or from a short training run's gradients."
    parser = add_command(commands, "window", text, predict)
    add_text(parser)
    parser.add_argument(
        "--tokenizer",
        default=TOKENIZER,
        help="what the model will read: bytes, gpt2, bpe:SIZE or the path (with a /) of a tokenizer.json "
        f"(default: {TOKENIZER}, as for mdlm train); or words, to count",
    )
    parser.add_argument("--probe", action="store_true", help="train a small model for --steps and measure its gradients")
    parser.add_argument("--steps", type=int, help=f"with --probe: training steps (default: {STEPS}, some two minutes)")
    parser.add_argument("--seed", type=int, help="with --probe: seed (default: 0)")
    parser.add_argument("--figure", type=Path, default=Path("window.png"), help="figure to write (default: window.png)")
    parser.add_argument(
        "--runs",
        type=folder_path,
        help="with --probe: folder of the run (default: runs/window/NAME/TOKENIZER, NAME being the text's)",
    )


@fields_as_options(corpus="text")
def predict(arguments: argparse.Namespace) -> int:
    """Print and draw the chosen prediction."""
    from mdlm_min.data.text import TextConfig

    say = partial(print, flush=True)
    check_writable(arguments.figure, "figure")
    if arguments.figure.suffix != ".png":
        raise InputError(f"figure: {arguments.figure} is not allowed; a name that ends in .png")
    if arguments.probe:
        steps = STEPS if arguments.steps is None else arguments.steps
        if steps < 3:
            raise InputError(f"steps: {steps} is not allowed; at least 3")
        config = TextConfig(arguments.text, arguments.tokenizer, length=64)
        runs = arguments.runs or Path("runs/window", text_name(arguments.text), text_name(arguments.tokenizer))
        from_probe(config, steps, arguments.seed or 0, runs, arguments.figure, say)
    else:
        for option in ("steps", "seed", "runs"):
            if getattr(arguments, option) is not None:
                raise InputError(f"{option}: only with --probe; n-grams are counted without")
        from_ngrams(TextConfig(arguments.text, arguments.tokenizer), arguments.figure, say)
    return 0


def from_ngrams(config: "TextConfig", figure_path: Path, say: Callable[[str], None]) -> float:
    """Count the corpus's n-grams, say the weights and t* in every reading, draw Signal(t); returns t* as published.

    Raises InputError for a corpus that cannot be read or has no n-gram often enough.
    """
    from mdlm_min.data.ngrams import MINIMUM, ORDERS, count_ngrams, load_countable
    from mdlm_min.diffusion.mask_rate import window_around
    from mdlm_min.theory.formulas import mixture_optimum

    tokens, digest = load_countable(config)
    counts = count_ngrams(tokens)
    size = f"{len(tokens):,} training tokens ({config.tokenizer}), SHA-256 {digest[:12]}"
    say(f"{config.corpus}: {size}; n-grams seen at least {MINIMUM} times")
    for reading, meaning in READINGS.items():
        weights = counts.weights(reading)
        shares = (f"w{order} {weight:.4f}" for order, weight in zip(ORDERS, weights, strict=True))
        say(f"  {reading} ({meaning}): {'  '.join(shares)}")
        for form, formula in FORMS.items():
            say(f"    t* = {mixture_optimum(weights, form):.3f}   {formula}")
    best = mixture_optimum(counts.weights())
    window = window_around(best)
    say(f"predicted window, around the first of these: mask_rate = {window}")
    if config.tokenizer != "words":
        say(f"    to train on it: {_train_command(config, window)}")
    say_record("ngrams", say)
    say_contest(config, "ngrams", say)
    _draw_signal(counts, f"{Path(config.corpus).name}, {config.tokenizer}", figure_path)
    say(f"figure: {figure_path}")
    return best


def say_record(predictor: str, say: Callable[[str], None]) -> None:
    """Say how often a predictor (ngrams, snr, gain) was right in our tables: claim W5. Outside a checkout there are none."""
    from mdlm_min.evidence import golden
    from mdlm_min.evidence.verdicts import read_accepted

    if not golden.RESULTS.is_dir():
        say("    how often this predictor was right: in the tables of a checkout of mdlm-min")
        return
    record = read_accepted().get(f"W5-{predictor}")
    if record is None or record["verdict"] == "not run":
        say("    in our tables: this predictor was not tried yet")
        return
    say(
        f"    in our tables within .1 of the best window in {record['ours']:.0%} of the seeds, on the worst of three corpora "
        f"(W5-{predictor}: {record['verdict']}; each seed's in results/report.md)"
    )


def say_contest(config: "TextConfig", predictor: str, say: Callable[[str], None]) -> None:
    """Say what the contest's table supports on the kind of text that is nearest to this one, at its largest budget: how a window
    that is predicted from n-grams does there, and what to train on where that is not surely better than U[0,1] and another entry
    is. Outside a checkout there is no table."""
    from mdlm_min.evidence import golden
    from mdlm_min.evidence.experiment import Experiment

    if not golden.RESULTS.is_dir():
        return
    if config.tokenizer == "words":  # no board is near
        return
    leaderboard, track = Experiment("contest").module("leaderboard"), "bytes" if config.tokenizer == "bytes" else "BPE"
    table = golden.accepted("07_contest", "cpu")
    try:
        table, _ = leaderboard.with_submissions(table)
    except InputError as error:  # a draft in the folder of submissions is no reason not to say what the others show
        say(f"the contest's submissions are left out: {error}")
    found = leaderboard.boards(table)
    budget = max((place[1] for place in found if place[0] == track), default=None)
    if budget is None:
        say(f"the contest's table has no board of {leaderboard.TRACKS[track]} yet; `make contest` makes it")
        return
    lines, nearest = found[track, budget], "" if config.tokenizer in ("bytes", "bpe:512") else " (the nearest)"
    where = f"in the contest, {leaderboard.TRACKS[track]}{nearest}, WikiText-2, {budget}x"
    best, entry = lines[0], {"ngrams": "predicted_window"}.get(predictor)
    predicted = next((line for line in lines if line.name == entry), None)
    if predicted:
        say(
            f"{where}: a window predicted in this way has rank {predicted.ranked.text} of {len(lines)}, gain on U[0,1] "
            f"{leaderboard.gain_text(predicted)}"
        )
    else:
        say(f"{where}: no entry predicts its window in this way")
    if predicted and predicted.is_better:
        say("  surely better than U[0,1] there: on that text the table supports it")
    elif best.is_better:
        say(f"  the table supports {best.name} instead: gain on U[0,1] {leaderboard.gain_text(best)} (results/WHICH_SCHEDULE.md)")
        if best.name == "signal_rich_window":
            say(f"    to train on the paper's window: {_train_command(config, PAPER_WINDOW)}")
    else:
        say("  no entry is surely better than U[0,1] there (results/WHICH_SCHEDULE.md)")


def _train_command(config: "TextConfig", window: str) -> str:
    settings = {"text": config.corpus, "tokenizer": config.tokenizer, "mask-rate": window, "weight": "1/t"}
    return shlex.join(["mdlm", "train", *(part for name, value in settings.items() for part in (f"--{name}", value))])


def _draw_signal(counts: "Counts", title: str, path: Path) -> None:
    import numpy as np

    from mdlm_min.evidence import figure
    from mdlm_min.theory.formulas import mixture_optimum, mixture_signal

    fig, axes = figure.grid(1, len(READINGS), width=5.0)
    t = np.linspace(0, 1, 201)
    for ax, reading in zip(axes[0], READINGS, strict=True):
        weights = counts.weights(reading)
        for form in FORMS:
            values = mixture_signal(t, weights, form)
            ax.plot(t, values / values.max(), label=f"{form}: {mixture_optimum(weights, form):.3f}")
        ax.set(xlabel="mask rate t", ylabel="Signal(t), largest = 1", title=f"{title}: {reading}")
        ax.legend(fontsize=8)
    figure.save(fig, path)


def from_probe(config: "TextConfig", steps: int, seed: int, runs: Path, figure_path: Path, say: Callable[[str], None]) -> float:
    """Train a small model for a few steps, measure each rate's gradients, say and draw them; returns the suggested rate."""
    from mdlm_min.diffusion.mask_rate import window_around
    from mdlm_min.tasks.gradient_probe import ProbeTask
    from mdlm_min.tasks.language import run
    from mdlm_min.tasks.summaries import suggested_rate

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
    path = runs / "probe"
    with trained_run(path, seed, settings, partial(run, make=ProbeTask), needs_weights=False) as folder:
        rows = folder.metrics()
    for measure in ("snr", "gain"):
        say(f"  {measure}: largest at t = {suggested_rate(rows, measure)}")
        say_record(measure, say)
    best = suggested_rate(rows, "gain")
    say(f"the window around the largest gain: mask_rate = {window_around(best)}")
    say_contest(config, "probe", say)
    _draw_probes(rows, figure_path)
    say(f"figure: {figure_path}")
    return best


def _draw_probes(rows: "Sequence[Row]", path: Path) -> None:
    from mdlm_min.evidence import figure
    from mdlm_min.tasks.summaries import RATES, suggested_rate

    fig, axes = figure.grid(1, 2, width=5.0)
    for ax, measure, name in (
        (axes[0, 0], "gain", "first-order gain of a step"),
        (axes[0, 1], "snr", "signal-to-noise ratio of a gradient"),
    ):
        for row in rows[1:]:
            ax.plot(RATES, [row[f"{measure}_{rate}"] for rate in RATES], "o-", label=f"step {row['step']:.0f}")
        ax.set(xlabel="mask rate t", title=f"{name}: best at {suggested_rate(list(rows), measure)}")
        ax.legend(fontsize=8)
    figure.save(fig, path)

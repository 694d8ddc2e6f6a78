"""One run of the contest: one schedule, one track, one seed, judged by mdlm_min/evaluation/contest_evaluator.py.

What loads torch is imported where it is used: a table is made again without it.
"""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_min.run.config import merge, shown
from mdlm_min.run.errors import DivergedError, InputError, RunError
from mdlm_min.run.files import locked, sha256
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.summaries import LEVELS

if TYPE_CHECKING:
    from mdlm_min.diffusion.mask_schedule import MaskSchedule

SCORES = ("test_nll", "test_bits_per_byte", *(f"test_{name}" for name in LEVELS), "chosen", "written", "gradient_noise")
EVALUATIONS = 10  # of a run, after step 0
GRADIENTS = 16
PATIENCE = 6 * 3600.0  # seconds to wait for another process that is at a run of the search


def _track(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run's track. Raises InputError for a track that is not there."""
    name, tracks = settings.get("track"), settings.get("tracks", {})
    if name not in tracks:
        raise InputError(f"track: {shown(name)} is unknown; allowed: {', '.join(tracks)}")
    found: dict[str, Any] = tracks[name]
    return found


def _config(settings: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    """The configuration of the run's task: its track's, for its budget, at a learning rate."""
    track = {
        name: value
        for name, value in _track(settings).items()
        if name not in ("kind", "rates", "items", "rounds", "answer_tokens")
    }
    steps = track["train"]["steps"] * settings["budget"]
    train = {"steps": steps, "eval_every": steps // EVALUATIONS, "learning_rate": learning_rate}
    return merge(track, {"train": train})


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    from mdlm_min.tasks import finetune, language

    track = _track(settings)
    config = _config(settings, track["rates"][0])
    {"text": language, "answers": finetune}[track["kind"]].check(config)
    spec = settings.get("schedule", "")
    if ":" in spec:
        from mdlm_min.diffusion.checked_schedule import check_fit
        from mdlm_min.diffusion.own_schedule import load_schedule
        from mdlm_min.tasks.scheduled import ScheduledFinetuneTask, ScheduledTask

        task = {"text": ScheduledTask, "answers": ScheduledFinetuneTask}[track["kind"]]
        check_fit(load_schedule(spec), config["batch"], task.fields)
    else:
        from baselines.schedules import SCHEDULES

        if spec not in SCHEDULES:
            raise InputError(f"schedule: {shown(spec)} is unknown; allowed: module:Class, or {', '.join(SCHEDULES)}")


def evaluated_at(settings: dict[str, Any]) -> list[int]:
    """The steps of a run's rows of metrics."""
    train = _config(settings, _track(settings)["rates"][0])["train"]
    return sorted({*range(0, train["steps"], train["eval_every"]), train["steps"]})


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]) -> None:
    """Train one schedule on one track with one seed, from the start or from where it stopped. A run of the search, which is given
    its learning rate, may diverge: then that rate has lost."""
    track, started = _track(settings), time.monotonic()
    rate = settings.get("learning_rate") or _searched(settings, folder, progress)
    runner = {"text": _run_text, "answers": _run_answers}[track["kind"]]
    try:
        runner(settings, _config(settings, rate), seed, folder, progress)
    except DivergedError as error:
        if "learning_rate" not in settings:
            raise
        _lose(settings, folder, error, time.monotonic() - started)


def _lose(settings: dict[str, Any], folder: RunFolder, error: DivergedError, seconds: float) -> None:
    """End a run that diverged: its last row is that of the next evaluation, where there is one, with an infinite loss."""
    before = folder.metrics()[-1]
    step = next((step for step in evaluated_at(settings) if step > before["step"]), None)
    if step is not None:
        now = {"step": float(step), "valid_nll": math.inf, "learning_rate": settings["learning_rate"]}
        folder.append_metrics({**dict.fromkeys(before, math.nan), **now})
    folder.log(f"diverged: {error}")
    folder.finish({"steps": int(folder.metrics()[-1]["step"]), "seconds": round(seconds, 3)})


def _searched(settings: dict[str, Any], folder: RunFolder, progress: Callable[[str], None]) -> float:
    """The learning rate whose run of the search, with this schedule and on this track, ended with the least validation NLL."""
    arm, tier = folder.path.parent.name, folder.path.parents[2]
    losses = {}
    for rate in _track(settings)["rates"]:
        path = tier / f"track={settings['track']}_learning_rate={rate}" / arm / "seed0"
        if not (path / "finished.json").exists() and path.is_dir():
            progress(f"waits for {path.parent.parent.name}")
            with locked(path / "lock", PATIENCE):
                pass
        if not (path / "finished.json").exists():
            raise RunError(
                f"{path} is not finished, and the learning rate is taken from there; the same command finishes it first"
            )
        losses[rate] = RunFolder(path).metrics()[-1]["valid_nll"]
    return best_rate(losses)


def best_rate(losses: dict[float, float]) -> float:
    """The rate of the least loss, given by rate; what is not finite is no loss. Raises RunError where none is."""
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        raise RunError(f"every learning rate of the search diverged: {', '.join(map(str, losses))}")
    return min(finite, key=lambda rate: finite[rate])


def _schedule(settings: dict[str, Any], tokens: Any, vocab_size: int) -> "MaskSchedule":
    """The run's schedule: one of the field, or one of the user's own."""
    if ":" in settings["schedule"]:
        from mdlm_min.diffusion.own_schedule import load_schedule

        return load_schedule(settings["schedule"])
    from baselines.schedules import Corpus, make

    return make(settings["schedule"], Corpus(tokens, vocab_size))


def _judged_by(settings: dict[str, Any]) -> dict[str, Any]:
    """What data.json says besides the data: which evaluator judged, and which file a schedule of the user's own is in."""
    from mdlm_min.evaluation import contest_evaluator

    found = {"evaluator_sha256": sha256(Path(contest_evaluator.__file__))}
    if ":" in settings["schedule"]:
        from mdlm_min.diffusion.own_schedule import schedule_file

        found["schedule_sha256"] = sha256(schedule_file(settings["schedule"]))
    return found


class _Measured:
    """A scheduled task that measures its gradient's noise once, after a fifth of its steps, and keeps the number."""

    noise = math.nan

    def measure_noise(self, step: int) -> float:
        """The share of noise in a step's gradient: its variance over steps, summed over the weights, in its mean square. Not a
        number before it is measured. The batches are the next ones; weights and schedule are left as they are."""
        import torch

        task: Any = self
        if step != 2 * task.config.train.eval_every:
            return self.noise
        kept = task.schedule
        task.schedule = task.scheduled.schedule = copy.deepcopy(kept)
        weights = [weight for weight in task.model.parameters() if weight.requires_grad]
        size, place = sum(weight.numel() for weight in weights), weights[0].device
        total, squares = torch.zeros(size, dtype=torch.float64, device=place), 0.0
        with torch.enable_grad():
            for later in range(step, step + GRADIENTS):
                found = torch.autograd.grad(task.loss(later), weights)
                gradient = torch.cat([part.flatten() for part in found]).double()
                total, squares = total + gradient, squares + float(gradient.square().sum())
        task.schedule = task.scheduled.schedule = kept
        mean_square, square_of_mean = squares / GRADIENTS, float((total / GRADIENTS).square().sum())
        excess = (mean_square - square_of_mean) * GRADIENTS / (GRADIENTS - 1)
        self.noise = excess / mean_square if mean_square else math.nan  # of no gradient there is no share
        return self.noise

    def state(self) -> dict[str, Any]:
        """The schedule's state, and the number once it is there."""
        task: Any = super()
        return {"schedule": task.state(), "noise": [] if math.isnan(self.noise) else [self.noise]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state."""
        task: Any = super()
        task.restore(state["schedule"])
        self.noise = state["noise"][0] if state["noise"] else math.nan


def _whole(row: Row, learning_rate: float) -> Row:
    """The row with every column, in one order: what an evaluation before the end does not have is not a number."""
    return {**{name: row.get(name, math.nan) for name in ("valid_nll", *SCORES)}, "learning_rate": learning_rate}


def _run_text(
    settings: dict[str, Any], config: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]
) -> None:
    import torch
    from torch import Tensor

    from mdlm_min.evaluation import contest_evaluator as evaluator
    from mdlm_min.tasks import language
    from mdlm_min.tasks.scheduled import ScheduledTask

    rounds = _track(settings)["rounds"]

    class Entry(_Measured, ScheduledTask):
        """Text, judged by the contest's evaluator."""

        def predict(self, tokens: Tensor, mask: Tensor, real: Tensor) -> Tensor:
            scores: Tensor = self.model(tokens.to(self.device), mask.to(self.device))
            return scores.cpu()  # where the evaluator's tensors are

        @torch.no_grad()
        def evaluate(self, step: int) -> Row:
            """NLL on the validation split; after the last step on the test split too, more finely."""
            blocks = {split: self.data.blocks(split, self.config.data.length) for split in ("valid", "test")}
            row = {"valid_nll": evaluator.text_nll(self.predict, self.mask_token, blocks["valid"], rounds)["nll"]}
            if step == self.config.train.steps:
                found = evaluator.text_nll(self.predict, self.mask_token, blocks["test"], 8 * rounds)
                row |= {f"test_{name}": value for name, value in found.items()}
                if self.data.tokenizer is not None:
                    tokens = blocks["test"].flatten()
                    size = len(self.data.tokenizer.decode(tokens.tolist()).encode())
                    row["test_bits_per_byte"] = evaluator.bits_per_byte(found["nll"], len(tokens), size)
            row["gradient_noise"] = self.measure_noise(step)
            return _whole(row, self.config.train.learning_rate)

    def entry(built: language.LanguageRunConfig, seed: int) -> Entry:
        data = language.load_data(built.data)
        return Entry(built, seed, _schedule(settings, data.splits["train"], data.vocab_size), data)

    language.run(config, seed, folder, progress, entry, _judged_by(settings))


def _run_answers(
    settings: dict[str, Any], config: dict[str, Any], seed: int, folder: RunFolder, progress: Callable[[str], None]
) -> None:
    import numpy as np

    from mdlm_min.evaluation.judged_answers import JudgedAnswersTask
    from mdlm_min.tasks.finetune import FinetuneTask, prepare
    from mdlm_min.training.loop import train

    track = _track(settings)

    class Entry(_Measured, JudgedAnswersTask):
        """Answers, judged by the contest's evaluator."""

        def evaluate(self, step: int) -> Row:
            """See JudgedAnswersTask; and the gradient's noise."""
            row = super().evaluate(step) | {"gradient_noise": self.measure_noise(step)}
            return _whole(row, self.config.train.learning_rate)

    def schedule(task: FinetuneTask) -> "MaskSchedule":
        answers = [sample.answer for sample in task.data.train]
        return _schedule(settings, np.concatenate(answers), task.template.vocab_size)

    judged = (track["items"], track["answer_tokens"])
    task = prepare(
        config, seed, folder, lambda built, seed, folder: Entry(built, seed, folder, schedule, *judged), _judged_by(settings)
    )
    train(task, task.config.train, folder, progress)


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run."""
    last = rows[-1]
    return [{**{name: last[name] for name in ("valid_nll", *SCORES, "learning_rate")}, "last_step": last["step"]}]

"""Supervised fine-tuning: the answers of conversations, given their prompts, which are never masked.

From a released LLaDA folder, from a run (pre-trained, fine-tuned or of `mdlm train`), or from new weights. A model that lacks
tokens of the chat template gets new rows for them. Where the source has exercises (data/exercises.py), held-out ones are scored
both ways at the end: by the likelihood of the right ending among wrong ones, and by what the model writes.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from mdlm_min.data.chat import ChatTemplate, ChatTokens
from mdlm_min.data.conversations import ChatConfig, Conversations
from mdlm_min.data.exercises import Exercise, result_of
from mdlm_min.data.items import Item
from mdlm_min.data.text import cache_folder, data_folder
from mdlm_min.data.tokenizer import find_tokenizer
from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, answer_nll
from mdlm_min.diffusion.objective import DIVISORS, divisors
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.flops import training_operations
from mdlm_min.model.identity import weights_sha256
from mdlm_min.model.llada import scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import OneOf, Range, build, refuse_set, shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream
from mdlm_min.run.run_folder import Row, RunFolder
from mdlm_min.tasks.model_files import write_model_files
from mdlm_min.tasks.multiple_choice import judge
from mdlm_min.tasks.pretrain import LladaShape
from mdlm_min.tasks.summaries import DECODERS, EXERCISE_COLUMNS, SOLVED_COLUMNS, TOKENS_PER_STEP
from mdlm_min.tasks.text_model import TextModel
from mdlm_min.tasks.transformer_task import Step, TransformerConfig, TransformerTask, run_task
from mdlm_min.training.loop import Progress, check_device

BATCH_TOKENS = 8192  # of one pass of generation


@dataclass(frozen=True)
class FinetuneConfig(TransformerConfig):
    """One fine-tuning run. `start` is a folder (see start_folder); empty for new weights of the shape `model`.

    `divisor` is what the loss is divided by (objective.divisors). The NLL of the first `validation_answers` held-out answers is
    measured at every evaluation; `items` held-out exercises are scored at the end, and answered in `generation_tokens` tokens.
    """

    start: str = ""
    data: ChatConfig = ChatConfig()
    model: LladaShape = LladaShape()
    vocab_size: Annotated[int, Range(0, 1e7)] = 0  # of new weights; 0 for no more than is needed
    divisor: Annotated[str, OneOf(DIVISORS)] = "answer"
    validation_answers: Annotated[int, Range(0)] = 64
    validation_passes: Annotated[int, Range(1)] = 8
    items: Annotated[int, Range(0)] = 0
    item_passes: Annotated[int, Range(1)] = 8
    generation_tokens: Annotated[int, Range(0)] = 0  # 0: nothing is generated

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight == "mean":
            raise InputError("weight: 'mean' is not allowed in fine-tuning; weight = none with divisor = masked is its mean")
        if self.start and self.data.tokenizer:
            raise InputError(f"data.tokenizer: {self.data.tokenizer!r} is not allowed with start, whose tokenizer is used")
        if self.start:
            refuse_set(self, ("model", "vocab_size"), "with start, whose shape is used; allowed: none")
        if self.generation_tokens and not self.items:
            raise InputError(f"generation_tokens: {self.generation_tokens} is not allowed with items = 0; allowed: 0")
        if self.generation_tokens >= self.data.length:
            raise InputError(
                f"generation_tokens: {self.generation_tokens} is not allowed; below data.length = {self.data.length}"
            )


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer that the model wrote, its forward passes, and its tokens before the first end."""

    text: str
    passes: int
    tokens: int


class FinetuneTask(TransformerTask):
    """A fine-tuning run as the training loop sees it."""

    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, seed: int, folder: RunFolder) -> None:
        """Raises InputError for a start or data that cannot be used."""
        model, self.template = open_start(config, seed)
        self.start_sha256 = weights_sha256(model)
        self.data = Conversations(config.data, self.template)
        if config.items > len(self.data.exercises):
            raise InputError(f"items: {config.items} are wanted, {config.data.source!r} has {len(self.data.exercises)} held out")
        super().__init__(config, seed, folder, model, self.template.special.mask)
        samples = self.data.train
        tokens = sum(len(sample.prompt) + len(sample.answer) for sample in samples) / len(samples)
        answers = sum(len(sample.answer) for sample in samples) / len(samples) / tokens
        mean = replace(model.config, length=math.ceil(tokens))
        operations = training_operations(mean, config.batch, answers * self.process.rate.mean)
        self.work = self.measured_work(round(config.batch * tokens), operations)

    @property
    def samples(self) -> int:
        """Samples of a step."""
        return self.config.batch

    def draw(self, step: int) -> Step:
        """See TransformerTask; a prompt is never masked."""
        batch = self.data.batch(self.seed, step, self.samples)
        size, width = batch.tokens.shape
        column = torch.arange(width)
        padding_mask = column < batch.lengths[:, None]
        answer = padding_mask & (column >= batch.prompts[:, None])
        mask, rate = self.process.mask(size, width, stream(self.seed, "masks", step))
        mask = mask & answer
        divisor = divisors(self.config.divisor, answer.sum(dim=1), mask.sum(dim=1))
        return Step(batch.tokens, mask, padding_mask, rate, (size, int(answer.sum())), divisor)

    def evaluate(self, step: int) -> Row:
        """NLL of held-out answers; after the last step the exercises too (before it, those columns are not a number)."""
        row: Row = {}
        speed = self.speed(step)
        if self.config.validation_answers:
            row |= self._held_out_loss()
        if self.config.items:
            last = step == self.config.train.steps
            row |= self._score_items() if last else dict.fromkeys(EXERCISE_COLUMNS, math.nan)
        row |= self.measured(step, speed)
        return row | {"epoch": step * self.samples / len(self.data.train)}

    def _held_out_loss(self) -> Row:
        """NLL per token of the held-out answers (LLaDA's bound), and its standard error over answers, which is not a number where
        there is one answer."""
        samples = self.data.held_out[: self.config.validation_answers]
        answers = [Answer(torch.from_numpy(one.prompt).long(), torch.from_numpy(one.answer).long()) for one in samples]
        config = LikelihoodConfig(self.config.validation_passes)
        found = answer_nll(self.passes_nll, answers, config, self.model.config.length)
        sizes = torch.tensor([len(one.answer) for one in answers], dtype=torch.float64)
        loss = found.sum() / sizes.sum()
        count = len(answers)
        scatter = (found - loss * sizes).square().sum() * count / (count - 1) if count > 1 else torch.tensor(math.nan)
        error = scatter.sqrt() / sizes.sum()
        return {"valid_loss": float(loss), "valid_error": float(error)}

    def _score_items(self) -> Row:
        exercises = self.data.exercises[: self.config.items]
        rows = [
            {"item": float(index), **one, **two}
            for index, (one, two) in enumerate(zip(self._choose(exercises), self._solve(exercises), strict=True))
        ]
        self.folder.write_items([{"task": self.config.data.source, **row} for row in rows])
        return {name: sum(row[name] for row in rows) / len(rows) for name in EXERCISE_COLUMNS}

    def _prompt(self, exercise: Exercise) -> list[int]:
        return self.template.render([{"role": "user", "content": exercise.question}], add_generation_prompt=True)

    def _prompts(self, exercises: list[Exercise]) -> list[list[int]]:
        """The prompts, cut from the left where an answer would not fit behind them."""
        most = self.model.config.length - self.config.generation_tokens
        return [self._prompt(exercise)[-most:] for exercise in exercises]

    def _choose(self, exercises: list[Exercise]) -> list[Row]:
        """Each exercise by the likelihood of its endings."""
        length = self.model.config.length
        answers = []
        for exercise in exercises:
            prompt = torch.tensor([*self._prompt(exercise), *self.template.tokenizer.encode(exercise.given).tolist()])
            endings = [torch.tensor(self.template.content(choice)) for choice in exercise.choices]
            answers += [Answer.within(length, prompt, ending) for ending in endings]
        found = answer_nll(self.passes_nll, answers, LikelihoodConfig(self.config.item_passes), length)
        rows = []
        for exercise, losses in zip(exercises, found.split([len(one.choices) for one in exercises]), strict=True):
            judged = judge(Item(exercise.question, exercise.choices, 0), losses)
            rows.append({"acc": float(judged.acc), "acc_norm": float(judged.acc_norm), "nll": round(judged.nll, 5)})
        return rows

    def _solve(self, exercises: list[Exercise]) -> list[Row]:
        """Each exercise by what is written: whether its result is right, for each number of tokens per step."""
        size = self.config.generation_tokens
        if not size:
            return [dict.fromkeys(SOLVED_COLUMNS, math.nan) for _ in exercises]
        prompts, rows = self._prompts(exercises), [Row() for _ in exercises]
        for name, tokens in zip(SOLVED_COLUMNS, TOKENS_PER_STEP, strict=True):
            written = self.write(prompts, _decoder(size, tokens))
            for row, exercise, one in zip(rows, exercises, written, strict=True):
                row[name] = _solves(one, exercise)
        return rows

    def decode(self) -> Row:
        """Every way of writing (DECODERS) on the same exercises: the share that it solves, its forward passes for each answer,
        and the tokens of the answers for each pass. Each exercise's own numbers go to the run's items."""
        exercises, size = self.data.exercises[: self.config.items], self.config.generation_tokens
        prompts, rows = self._prompts(exercises), [Row(item=float(index)) for index in range(len(exercises))]
        found: Row = {}
        for name, way in DECODERS.items():
            written = self.write(prompts, _decoder(size, **way))
            for row, exercise, one in zip(rows, exercises, written, strict=True):
                row |= {f"solved_{name}": _solves(one, exercise), f"passes_{name}": float(one.passes)}
            found |= {f"{what}_{name}": sum(row[f"{what}_{name}"] for row in rows) / len(rows) for what in ("solved", "passes")}
            found[f"tokens_per_pass_{name}"] = sum(one.tokens for one in written) / sum(one.passes for one in written)
        self.folder.write_items([{"task": self.config.data.source, **row} for row in rows])
        return found

    def write(self, prompts: list[list[int]], config: SamplingConfig) -> list[WrittenAnswer]:
        """An answer of up to `generation_tokens` tokens to every prompt (token ids)."""
        size, special = self.config.generation_tokens, self.template.special
        text = TextModel(self.model, self.template.tokenizer, special.mask, special.end, self.dtype)
        rules = text.rules(stop=(special.end_turn, special.end))
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, WrittenAnswer] = {}
        rows = max(1, BATCH_TOKENS // (len(prompts[order[-1]]) + size))
        for first in range(0, len(order), rows):
            chosen = order[first : first + rows]
            templates = [prompts[index] + [special.mask] * size for index in chosen]
            found = text.generate(templates, config, rules=rules, items=chosen)
            for tokens, passes, counted, index in zip(found.tokens.tolist(), found.passes, found.answers, chosen, strict=True):
                answer = self.template.answer(tokens[len(prompts[index]) : len(prompts[index]) + size])
                answers[index] = WrittenAnswer(answer, passes, counted)
        return [answers[index] for index in range(len(prompts))]


def _solves(written: WrittenAnswer, exercise: Exercise) -> float:
    """1 where what was written has the exercise's result, else 0."""
    return float(result_of(written.text) == result_of(exercise.answer))


def _decoder(size: int, tokens_per_step: int = 1, blocks: int = 1, **way: Any) -> SamplingConfig:
    """A way of DECODERS for answers of `size` tokens."""
    steps, block_length = -(-size // tokens_per_step), -(-size // blocks) if blocks > 1 else 0
    return SamplingConfig("low-confidence", steps, 0.0, block_length, **way)


def open_start(config: FinetuneConfig, seed: int) -> tuple[Transformer, ChatTemplate]:
    """The model that a run starts from, on the CPU, and the template that goes with it. Raises InputError for a folder that
    holds none, and for a model that cannot read samples of unequal lengths, or not so long ones."""
    length = config.data.length
    if not config.start:
        name = config.data.tokenizer or "bytes"
        if name.startswith("bpe:") or name == "words":
            raise InputError(f"data.tokenizer: {name!r} is for plain text; new weights need bytes, gpt2 or a tokenizer.json")
        template = ChatTemplate(find_tokenizer(name, list, "", cache_folder(), data_folder()))
        return Transformer(new_shape(config, template.vocab_size), stream(seed, "weights")), template
    found = TextModel.load(start_folder(config.start))
    model = found.model
    if model.config.position_encoding != "rotary" or model.config.causal:
        raise InputError(f"start: {config.start} has learned positions or a causal mask; allowed: a model with rotary positions")
    if length > model.config.length:
        raise InputError(f"data.length: {length} is not allowed; {config.start} reads at most {model.config.length} tokens")
    template = ChatTemplate(found.tokenizer, ChatTokens.of(found.tokenizer, found.mask_token, found.end_token))
    return grown(model, template.vocab_size, stream(seed, "weights")), template


def new_shape(config: FinetuneConfig, vocab_size: int) -> ModelConfig:
    """The Transformer of a run that starts from new weights, for a template of this vocabulary."""
    shape, size = config.model, max(config.vocab_size, vocab_size)
    return scaled(shape.layers, shape.heads, shape.width, length=config.data.length, vocab_size=size, outputs=size)


def start_folder(name: str) -> Path:
    """The folder that a start names: a path, or "$NAME" for the path that this environment variable holds. Raises InputError
    where there is none."""
    path = os.environ.get(name[1:], "") if name.startswith("$") else name
    if not path or not Path(path).is_dir():
        holds = f", which holds {path!r}," if name.startswith("$") and path else ""
        allowed = "a run folder, a released folder, or $NAME, set to one"
        raise InputError(f"start: {shown(name)}{holds} is no folder; allowed: {allowed}")
    return Path(path)


def grown(model: Transformer, vocab_size: int, generator: torch.Generator) -> Transformer:
    """The model with at least so many embeddings and scores; new rows are as new weights are."""
    config = model.config
    wanted = replace(config, vocab_size=max(config.vocab_size, vocab_size), outputs=max(config.outputs, vocab_size))
    if wanted == config:
        return model
    new = Transformer(wanted, generator).to(next(model.parameters()).dtype)
    old = model.state_dict()
    with torch.no_grad():
        for name, value in new.state_dict().items():
            value[: len(old[name])] = old[name]
    return new


def data_sha256(samples: str, start: str) -> str:
    """Hash of all that a run learns from: its samples and its start, by theirs."""
    return hashlib.sha256(f"{samples} {start}".encode()).hexdigest()


Maker = Callable[[FinetuneConfig, int, RunFolder], FinetuneTask]


def check(settings: dict[str, Any]) -> None:
    """Raise InputError where a run with these settings could not start here."""
    config = build(FinetuneConfig, settings)
    check_device(config.device)
    if config.start:
        start_folder(config.start)


def prepare(
    settings: dict[str, Any], seed: int, folder: RunFolder, make: Maker = FinetuneTask, more: Mapping[str, Any] | None = None
) -> FinetuneTask:
    """The task of a run folder, which from now on says itself what its model is (model_files.py). `make` makes it, where it
    is a subclass; `more` is recorded in data.json.

    Raises InputError where the folder was begun on other data or from another start.
    """
    config = build(FinetuneConfig, settings)
    task = make(config, seed, folder)
    report = task.data.report
    data = {
        "sha256": data_sha256(task.data.sha256, task.start_sha256),
        "start_sha256": task.start_sha256, "device": task.device.type, "dtype": config.dtype,
        "divisor": config.divisor, "padding": config.data.padding, "answers": config.data.answers, **report, **(more or {}),
    }  # fmt: skip
    folder.record_data(data, f"data.source: {config.data.source!r} or start: {config.start!r}")
    special = task.template.special
    write_model_files(folder, task.model.config, task.template.tokenizer, special.mask, special.end)
    for line in report["malformed_records"]:
        folder.log(f"left out, malformed: {line}")
    folder.log(
        f"{report['samples']} samples of {report['records']} records, {report['held_out_samples']} held out; "
        f"{report['malformed']} malformed, {report['truncated']} answers cut, {report['too_long']} prompts too long"
    )
    if report["held_out_samples"] > report["samples"]:
        folder.log(f"more is held out than trained on: held_out is {config.data.held_out} openings, and fewer would leave more")
    return task


def run(settings: dict[str, Any], seed: int, folder: RunFolder, progress: Progress) -> None:
    """Fine-tune one configuration with one seed in its run folder, from the start or from where it stopped."""
    run_task("finetune", build(FinetuneConfig, settings), folder, progress, lambda: prepare(settings, seed, folder))

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.schedules import SCHEDULES, Corpus, make
from mdlm_min.data.conversations import ChatConfig
from mdlm_min.data.density_marks import find_marks
from mdlm_min.data.parity import ParityConfig
from mdlm_min.data.text import TextConfig, TextData
from mdlm_min.diffusion.density import InformationDensity
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import RateSchedule
from mdlm_min.diffusion.schedule_check import validate
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder, open_run
from mdlm_min.tasks.finetune import FinetuneConfig
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask, ShapeConfig
from mdlm_min.tasks.parity import NetworkConfig, ParityRunConfig, engine_maker
from mdlm_min.tasks.pretrain import LladaShape
from mdlm_min.tasks.scheduled import ScheduledFinetuneTask, ScheduledParityTask, ScheduledTask
from mdlm_min.theory.density_signal import hard_signal, soft_signal
from mdlm_min.training.engine import TorchEngine
from mdlm_min.training.loop import train
from mdlm_min.training.optimizer import TrainConfig

CORPUS = Corpus(np.random.default_rng(0).choice(5, 2000, p=[0.4, 0.3, 0.15, 0.1, 0.05]).astype(np.uint16), 5)
CONFIG = LanguageRunConfig(TextConfig(length=10), ShapeConfig(layers=1, heads=1, width=8), TrainConfig(steps=32), batch=8)


def task(schedule, config=CONFIG):
    data = TextData(dict.fromkeys(("train", "valid", "test"), CORPUS.tokens), CORPUS.vocab_size, "")
    return ScheduledTask(config, 0, schedule, data)


def steps(training, first, last):
    """Losses of plain gradient steps."""
    losses = []
    for step in range(first, last):
        training.model.zero_grad()
        loss = training.loss(step)
        loss.backward()
        training.took(step)
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter -= 0.1 * parameter.grad
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_and_resumes_bit_identically(name):
    training = task(make(name, CORPUS))
    steps(training, 0, 6)
    state, weights = json.loads(json.dumps(training.state())), training.model.state_dict()
    resumed = task(make(name, CORPUS))
    resumed.model.load_state_dict({key: value.clone() for key, value in weights.items()})
    resumed.restore(state)
    expected = steps(training, 6, 10)
    assert steps(resumed, 6, 10) == expected
    assert all(np.isfinite(expected))


def test_a_rate_schedule_is_the_run_that_it_always_was():
    plain = LanguageTask(CONFIG, 0, task(make("mdlm", CORPUS)).data)
    ours = task(RateSchedule(MaskRate.parse(CONFIG.mask_rate), CONFIG.weight))
    assert ours.loss(3).item() == pytest.approx(plain.loss(3).item(), rel=1e-6)


def test_what_the_schedule_decides_is_not_in_the_configuration():
    with pytest.raises(InputError, match="mask_rate: '0.5' is not allowed with schedule mdlm, which has its own"):
        task(make("mdlm", CORPUS), LanguageRunConfig(TextConfig(length=10), mask_rate="0.5"))
    with pytest.raises(InputError, match="weight: 'mean' is not allowed with schedule mdlm"):
        task(make("mdlm", CORPUS), LanguageRunConfig(TextConfig(length=10), weight="mean"))
    with pytest.raises(InputError, match="batch: 7 is not allowed with schedule llada2_pairs; a multiple of 2"):
        task(make("llada2_pairs", CORPUS), LanguageRunConfig(TextConfig(length=10), batch=7))


class Late(RateSchedule):
    """Sound for as many steps as are tried before a run."""

    def __init__(self):
        super().__init__(MaskRate.parse("U[0.2,0.8]"), name="late")

    def weight(self, rate, mask, context):
        return super().weight(rate, mask, context) * (1 if context.step < 24 else -1)


class Eightfold(Late):
    def admit(self, context):
        return replace(context, rows=8 * context.rows, tokens=context.tokens.repeat(8, 1))


def test_a_schedule_is_checked_for_as_long_as_it_trains():
    validate(Late())
    training = task(Late())
    assert np.isfinite(training.loss(23).item())
    with pytest.raises(InputError, match=r"schedule late: a weight of -\d\.\d+; allowed: weights of at least 0, finite"):
        training.loss(24)
    with pytest.raises(InputError, match="schedule late: admit gives rows = 64; allowed: 8, as it was given"):
        task(Eightfold()).loss(0)


def test_what_a_schedule_needs_and_the_data_lack_is_known_before_a_step():
    with pytest.raises(
        InputError, match="schedule information_density: needs marks, which this process does not have; it has tok"
    ):
        task(InformationDensity())


class Seen(InformationDensity):
    """Keeps the context and the masks of each step."""

    def mask(self, rate, context, generator):
        self.context, self.masks = context, super().mask(rate, context, generator)
        return self.masks


ANSWERS = FinetuneConfig(data=ChatConfig("arithmetic:2:60", 64, padding="one", held_out=8), model=LladaShape(1, 1, 8), batch=8)


def answers(folder, make_marks, pairs=True, weight=1e6):
    return ScheduledFinetuneTask(ANSWERS, 0, RunFolder(folder), lambda _: Seen(density_weight=weight, pairs=pairs), make_marks)


@pytest.mark.parametrize("pairs", [True, False])
def test_marks_reach_the_schedule_and_never_lie_in_a_prompt(pairs, tmp_path):
    training = answers(tmp_path, lambda task: find_marks("arithmetic", task.template), pairs)
    assert np.isfinite(training.loss(0).item())
    context = training.schedule.own.context
    for row in range(context.rows):
        answer = bytes(context.tokens[row][context.allowed[row]].tolist()[:-2]).decode()
        marked = bytes(context.tokens[row][context.marks[row]].tolist()).decode()
        steps, result = answer.split("#")
        assert marked == "".join(step[1] + step[4] for step in steps.split(",")) + result  # "7-5=2": - and 2
    shown = bytes(context.tokens[0][: int(context.allowed[0].int().argmax())].clamp(max=255).tolist())
    assert any(sign in shown for sign in b"+-")  # the question has what the rule would mark
    assert not (context.marks & ~context.allowed).any()
    assert not (training.schedule.own.masks & ~context.allowed).any()
    if pairs:
        assert torch.equal(training.schedule.own.masks[1::2], context.allowed[1::2] & ~training.schedule.own.masks[::2])


def test_what_marks_are_made_of_is_the_answer_alone_and_all_that_it_marks_elsewhere_is_left_out(tmp_path):
    seen = []

    def everything(tokens):
        seen.append(tokens)
        return torch.ones_like(tokens, dtype=torch.bool)

    training = answers(tmp_path, lambda _: everything)
    training.loss(0)
    context = training.schedule.own.context
    assert torch.equal(context.marks, context.allowed)
    answer = context.allowed[::2]  # both copies of a sample are marked alike
    assert (seen[0][~answer] == training.template.special.end).all()
    assert torch.equal(seen[0][answer], context.tokens[::2][answer])


def test_a_schedule_that_needs_marks_says_so_where_the_data_bring_none(tmp_path):
    with pytest.raises(InputError, match="schedule information_density: needs marks, which this process does not have"):
        answers(tmp_path, None).loss(0)


PARITY = ParityRunConfig(ParityConfig(8, 3, 100, 50), NetworkConfig(heads=2, width=8), TrainConfig(steps=100))
ORACLES = [(1.0, False, False), (1.0, False, True), (2.0, False, True), (5.0, False, True), (2.0, True, True)]


@pytest.mark.parametrize(("weight", "is_hard", "pairs"), ORACLES)
def test_parity_s_oracle_masks_are_signal_masks_as_often_as_was_predicted(weight, is_hard, pairs):
    training = ScheduledParityTask(PARITY, 0, Seen(None, weight, is_hard, pairs))
    with torch.no_grad():
        for step in range(100):
            training.loss(step)
    context = training.schedule.own.context
    assert context.rows == 100
    assert context.marks.sum(dim=1).tolist() == [4] * 100
    assert context.marks[0].nonzero()[:, 0].tolist() == training.secret.tolist()
    expected = hard_signal(0.3, 0.8, 8, 3, pairs) if is_hard else soft_signal(0.3, 0.8, 8, 3, weight, pairs)
    share = training.evaluate(0)["signal_share"]
    assert share == pytest.approx(expected.probability, abs=5 * (expected.probability / 10_000) ** 0.5)


def test_a_scheduled_step_of_parity_is_never_captured():
    """On a GPU a graph would draw the masks of output supervision in place of the schedule's."""
    training = ScheduledParityTask(PARITY, 0, InformationDensity())
    training.device = torch.device("cuda")
    assert engine_maker(training) is TorchEngine


def test_a_pair_is_two_samples_of_one_parity_sequence():
    schedule = Seen(pairs=True)
    training = ScheduledParityTask(PARITY, 0, schedule)
    training.loss(0)
    tokens = schedule.context.tokens
    assert torch.equal(tokens[::2], tokens[1::2])
    assert len(tokens[::2].unique(dim=0)) == 50
    assert torch.equal(schedule.masks[1::2], ~schedule.masks[::2])


class Watched(RateSchedule):
    """Keeps its calls, in order, and the context that it is shown at the end of a step."""

    needs = ("confidence",)

    def __init__(self):
        super().__init__(MaskRate.parse("0.5"), name="watched")
        self.calls, self.steps = [], []

    def weight(self, rate, mask, context):
        self.calls.append("weight")
        return super().weight(rate, mask, context)

    def observe(self, rate, mask, context):
        self.calls.append("observe")
        self.steps.append(context.step)
        self.context = context


def test_a_schedule_learns_from_a_step_after_it_has_weighed_it():
    schedule = Watched()
    take_step(ScheduledParityTask(PARITY, 0, schedule), 1)
    assert schedule.calls == ["weight", "observe"]


def take_step(training, step):
    training.loss(step)
    training.took(step)


@pytest.mark.parametrize("kind", ["text", "parity", "answers"])
def test_a_schedule_learns_nothing_from_a_step_that_the_guard_refuses(kind, tmp_path):
    schedule, refused = Watched(), []
    training = {
        "text": lambda: task(schedule),
        "parity": lambda: ScheduledParityTask(PARITY, 0, schedule),
        "answers": lambda: ScheduledFinetuneTask(ANSWERS, 0, RunFolder(tmp_path / "of it"), lambda _: schedule),
    }[kind]()
    whole = training.loss

    def loss(step):
        refused.append(step == 30)
        return whole(step) * (math.nan if refused[-1] else 1)

    training.loss = loss
    training.evaluate = lambda step: {"seen": float(step)}
    with open_run(tmp_path / "run", {}) as folder:
        train(training, TrainConfig(steps=32, eval_every=32, spike=10.0), folder, lambda line: None)
    assert refused.count(True) == 1
    assert schedule.calls.count("weight") == 32 and schedule.steps == [*range(30), 31]


def test_an_epoch_is_every_sample_once_whatever_the_copies(tmp_path):
    of = {}
    for pairs in (True, False):
        training = answers(tmp_path / str(pairs), lambda task: find_marks("arithmetic", task.template), pairs)
        of[pairs] = training.evaluate(10)["epoch"] * len(training.data.train)
    assert of == {True: pytest.approx(10 * 4), False: pytest.approx(10 * 8)}


@pytest.mark.parametrize("kind", ["text", "parity", "answers"])
def test_each_seed_has_its_own_samples_and_masks_of_the_training_split(kind, tmp_path):
    other = np.full(200, 4, dtype=np.uint16)
    data = TextData({"train": CORPUS.tokens.clip(max=3), "valid": other, "test": other}, 5, "")
    steps = []
    for seed in (0, 1):
        training = {
            "text": lambda: ScheduledTask(CONFIG, 0, Late(), data),
            "parity": lambda: ScheduledParityTask(replace(PARITY, batch=20), 0, Late()),
            "answers": lambda: ScheduledFinetuneTask(ANSWERS, 0, RunFolder(tmp_path), lambda _: Late()),
        }[kind]()
        training.seed = seed
        training.loss(0)
        rate, _, context = training.last
        steps.append((context.tokens, rate))
    assert not any(torch.equal(*pair) for pair in zip(*steps, strict=True))
    assert kind != "text" or int(torch.cat([tokens for tokens, _ in steps]).max()) < 4


def test_a_division_by_the_masked_tokens_is_refused_as_a_weight_may_be_a_mean_already(tmp_path):
    with pytest.raises(InputError, match="divisor: 'masked' is not allowed with a schedule: its weight says it"):
        ScheduledFinetuneTask(replace(ANSWERS, divisor="masked"), 0, RunFolder(tmp_path), lambda _: Watched())


def test_the_confidence_in_one_of_two_values_is_at_least_a_half():
    schedule = Watched()
    take_step(ScheduledParityTask(PARITY, 0, schedule), 0)
    assert schedule.context.confidence.min() >= 0.5


def test_a_schedule_knows_the_step_and_how_many_there_are(tmp_path):
    schedule = Watched()
    take_step(ScheduledParityTask(PARITY, 0, schedule), 1)
    assert (schedule.context.step, schedule.context.steps) == (1, 100)
    take_step(task(schedule), 3)
    assert (schedule.context.step, schedule.context.steps) == (3, 32)
    training = answers(tmp_path, lambda task: find_marks("arithmetic", task.template))
    training.loss(2)
    assert (training.schedule.own.context.step, training.schedule.own.context.steps) == (2, 1000)


def test_a_network_is_told_which_tokens_of_answers_are_padding(tmp_path):
    talks = [[{"role": "user", "content": f"{size}?"}, {"role": "assistant", "content": "a" * size}] for size in range(1, 10)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    data = ChatConfig(str(tmp_path / "talk.jsonl"), 64, padding="one", held_out=1)
    config = FinetuneConfig(data=data, model=LladaShape(1, 1, 8), batch=8)
    training = ScheduledFinetuneTask(config, 0, RunFolder(tmp_path), lambda _: Watched())
    network, given = training.network, []
    training.network = lambda *arguments: given.append(arguments) or network(*arguments)
    training.loss(0)
    [(_, _, padding_mask)] = given
    batch = training.data.batch(0, 0, 8)
    assert padding_mask.sum(dim=1).tolist() == batch.lengths.tolist()
    assert batch.lengths.unique().numel() == 8


def test_parity_resumes_with_the_schedule_s_state():
    training = ScheduledParityTask(PARITY, 0, make("puma", CORPUS))
    steps(training, 0, 3)
    state, weights = json.loads(json.dumps(training.state())), training.model.state_dict()
    resumed = ScheduledParityTask(PARITY, 0, make("puma", CORPUS))
    resumed.model.load_state_dict({key: value.clone() for key, value in weights.items()})
    resumed.restore(state)
    assert steps(resumed, 3, 6) == steps(training, 3, 6)


def test_parity_s_settings_that_a_schedule_decides_are_refused():
    with pytest.raises(InputError, match="supervision: 'secret' is not allowed with schedule information_density; leave it out"):
        ScheduledParityTask(ParityRunConfig(supervision="secret"), 0, InformationDensity())
    odd = ParityRunConfig(ParityConfig(8, 3, 101, 50))
    with pytest.raises(InputError, match="batch: 101 is not allowed with schedule information_density; a multiple of 2"):
        ScheduledParityTask(odd, 0, InformationDensity())

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.data.chat import NAMES
from mdlm_min.data.exercises import Exercise
from mdlm_min.diffusion.answer_likelihood import LikelihoodConfig
from mdlm_min.diffusion.objective import DIVISORS
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.model.flops import training_operations
from mdlm_min.model.identity import weights_sha256
from mdlm_min.model.llada import scaled
from mdlm_min.model.llada_weights import save_weights
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import build, merge
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import open_run
from mdlm_min.tasks import finetune, pretrain
from mdlm_min.tasks.finetune import FinetuneConfig, FinetuneTask, grown
from mdlm_min.tasks.summaries import DECODERS, SOLVED_COLUMNS
from mdlm_min.tasks.text_model import TextModel, export


@pytest.fixture
def settings(tmp_path):
    """Answers of very different lengths."""
    records = [
        {"messages": [{"role": "user", "content": f"{index}?"}, {"role": "assistant", "content": "ab" * (index % 9 + 1)}]}
        for index in range(30)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "data": {"source": str(path), "length": 64, "held_out": 4},
        "model": {"layers": 2, "heads": 2, "width": 16},
        "batch": 8,
        "validation_passes": 2,
        "train": {"steps": 4, "eval_every": 2, "learning_rate": 1e-2, "checkpoint_seconds": 0},
    }


def started(settings, folder, more=None):
    """The settings of a run that starts from a folder, whose shape it has."""
    return merge({name: value for name, value in settings.items() if name != "model"}, {"start": str(folder)}, more or {})


def task(settings, folder=None):
    return FinetuneTask(build(FinetuneConfig, settings), 0, folder)


def execute(path, settings, seed=0):
    with open_run(path, {"arm": "any", "seed": seed, "kind": "finetune", **settings}) as folder:
        finetune.run(settings, seed, folder, lambda line: None)
        return folder.metrics()


def test_a_prompt_is_never_masked_and_padding_only_where_it_is_part_of_the_answer(settings):
    for padding in ("eos", "one", "none"):
        made = task(merge(settings, {"data": {"padding": padding}, "mask_rate": "1"}))
        drawn = made.drawn(0)
        header = made.template.render([], add_generation_prompt=True)[1:]
        for tokens, mask, real in zip(drawn.tokens, drawn.mask, drawn.padding_mask, strict=True):
            masked = mask.nonzero()[:, 0].tolist()
            assert tokens[masked[0] - len(header) : masked[0]].tolist() == header  # the answer begins behind its header
            assert masked == list(range(masked[0], int(real.sum())))
            answer = tokens[masked].tolist()
            ends = [made.template.special.end] * (len(masked) - answer.index(made.template.special.end_turn) - 1)
            assert answer[len(answer) - len(ends) :] == ends
            assert {"none": len(ends) == 0, "one": len(ends) == 1, "eos": bool(real.all())}[padding]


@pytest.mark.parametrize("divisor", DIVISORS)
def test_the_loss_is_the_field_s_by_hand_and_the_sum_of_its_parts(settings, divisor):
    made = task(merge(settings, {"divisor": divisor, "data": {"padding": "one"}, "engine": {"micro_batch": 1}}))
    drawn = made.drawn(0)
    by_hand, counts = [], []
    for row in range(8):
        real = drawn.padding_mask[row]
        alone = made.nll(drawn.tokens[row : row + 1, real], drawn.mask[row : row + 1, real])
        by_hand.append(float(alone.detach().sum()) / float(drawn.rate[row]))
        text = drawn.tokens[row][real].tolist()
        counts.append(len(text) - len(text[: -text[::-1].index(made.template.special.end_header)]) - 2)
    whole = {
        "answer": sum(found / count for found, count in zip(by_hand, counts, strict=True)) / 8,
        "token": sum(by_hand) / sum(counts),
        "batch": sum(by_hand) / 8,
        "masked": sum(by_hand) / int(drawn.mask.sum()),
    }
    assert float(made.loss(0).detach()) == pytest.approx(whole[divisor], rel=1e-4)
    parts = [made.part_loss(0, part) for part in range(8)]
    assert float(sum(parts).detach()) == pytest.approx(whole[divisor], rel=1e-4)
    assert len({round(value, 3) for value in whole.values()}) == 4  # the conventions do differ here


def test_a_pass_in_which_nothing_is_masked_has_a_gradient_of_zero(settings):
    made = task(merge(settings, {"mask_rate": "0.001", "engine": {"micro_batch": 1}}))
    assert not made.drawn(0).mask[0].any()
    loss = made.part_loss(0, 0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(parameter.grad.abs().sum()) == 0 for parameter in made.model.parameters() if parameter.grad is not None)


def test_a_run_says_where_more_is_held_out_than_trained_on(settings, tmp_path):
    execute(tmp_path / "run", merge(settings, {"data": {"held_out": 16}, "train": {"steps": 1, "eval_every": 1}}))
    assert "more is held out than trained on: held_out is 16 openings" in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_is_recorded_resumed_and_read_again(settings, tmp_path):
    rows = execute(tmp_path / "run", settings)
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (data["divisor"], data["padding"], data["samples"], data["truncated"]) == ("answer", "eos", 26, 0)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "26 samples of 30 records, 4 held out; 0 malformed" in log and "more is held out" not in log
    found = TextModel.load(tmp_path / "run")
    assert (found.mask_token, found.end_token, found.length) == (256, 257, 64)
    stopping = merge(settings, {"train": {"steps": 4}})

    class Stop(FinetuneTask):
        def draw(self, step):
            if step == 2:
                (tmp_path / "stopped" / "stop").touch()
            return super().draw(step)

    from mdlm_min.training.loop import train

    with open_run(tmp_path / "stopped", {"arm": "any", "seed": 0, "kind": "finetune", **stopping}) as folder:
        config = build(FinetuneConfig, stopping)
        with pytest.raises(KeyboardInterrupt):
            train(Stop(config, 0, folder), config.train, folder, lambda line: None)
    execute(tmp_path / "stopped", stopping)
    assert "resumed at step 3" in (tmp_path / "stopped" / "log.txt").read_text()
    assert (tmp_path / "stopped" / "metrics.csv").read_bytes() == (tmp_path / "run" / "metrics.csv").read_bytes()


def test_malformed_records_are_in_the_log_and_the_record(settings, tmp_path):
    with Path(settings["data"]["source"]).open("a") as file:
        file.write("{broken\n")
    execute(tmp_path / "run", merge(settings, {"data": {"malformed": 0.1}, "train": {"steps": 1}}))
    assert json.loads((tmp_path / "run" / "data.json").read_text())["malformed_records"][0].startswith(
        "talk.jsonl line 31: no JSON"
    )
    assert "left out, malformed: talk.jsonl line 31: no JSON" in (tmp_path / "run" / "log.txt").read_text()


def test_other_data_or_another_start_under_a_begun_run_is_refused(settings, tmp_path):
    execute(tmp_path / "base", settings)
    again = started(settings, tmp_path / "base", {"data": {"length": 48}})
    with open_run(tmp_path / "run", {"arm": "any", "seed": 0, **again}) as folder:
        finetune.prepare(again, 0, folder)
        execute(tmp_path / "other", settings, seed=1)
        (tmp_path / "base" / "checkpoints").rename(tmp_path / "kept")
        (tmp_path / "other" / "checkpoints").rename(tmp_path / "base" / "checkpoints")
        with pytest.raises(InputError, match="or start: .* has changed since this run began"):
            finetune.prepare(again, 0, folder)


def test_a_pretrained_run_is_the_start_and_gets_rows_for_the_template(settings, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {index**2} of the text" for index in range(2000)))
    before = {
        "data": {"source": str(text), "tokenizer": "bytes", "length": 64}, "model": {"layers": 1, "heads": 2, "width": 16},
        "batch": 4, "validation_passes": 0, "test_passes": 0, "train": {"steps": 2, "eval_every": 2},
    }  # fmt: skip
    with open_run(tmp_path / "base", {"arm": "any", "seed": 0, "kind": "pretrain", **before}) as folder:
        pretrain.run(before, 0, folder, lambda line: None)
    base = TextModel.load(tmp_path / "base")
    made = task(started(settings, tmp_path / "base"))
    assert (base.model.config.vocab_size, made.model.config.vocab_size, made.model.config.layers) == (258, 262, 1)
    assert (made.template.special.mask, made.template.special.end) == (base.mask_token, base.end_token)
    for name, value in base.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name][: len(value)], value), name
    other = FinetuneTask(made.config, 1, None).model.state_dict()["token_embedding.weight"][258:]
    assert other.abs().sum() > 0 and not torch.equal(made.model.state_dict()["token_embedding.weight"][258:], other)


def test_a_released_folder_is_the_start_with_its_own_tokenizer_and_ids(settings, tmp_path):
    import tokenizers
    from tokenizers import models, pre_tokenizers

    folder = tmp_path / "released"
    letters = {letter: index for index, letter in enumerate(["?", *"0123456789ab", "\n", *"userit"])}
    made = tokenizers.Tokenizer(models.WordLevel(letters, "?"))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    made.add_special_tokens(list(NAMES))
    size = made.get_vocab_size()
    model = Transformer(scaled(1, 2, 16, length=64, vocab_size=size, outputs=size), torch.Generator().manual_seed(0))
    from mdlm_min.model.llada import SpecialTokens

    ids = [made.token_to_id(name) for name in NAMES]
    save_weights(folder, model, SpecialTokens(ids[0], ids[1], ids[1]))
    made.save(str(folder / "tokenizer.json"))
    first = task(started(settings, folder))
    assert first.template.special.mask == ids[0]
    assert first.template.special.end_turn == ids[5]
    assert weights_sha256(first.model) == weights_sha256(model)
    rows = execute(tmp_path / "run", started(settings, folder))
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert TextModel.load(tmp_path / "run").mask_token == ids[0]


@pytest.mark.parametrize(
    "more", [{"end_token": 258, "vocab_size": 300}, {"mask_token": 290, "end_token": 280, "vocab_size": 300}, {}]
)
def test_a_run_and_its_export_answer_in_the_template_that_they_were_trained_in(settings, tmp_path, more):
    """Whatever ids the model that it started from has for its mask and its end."""
    (tmp_path / "text.txt").write_text("\n".join(f"line {index**2} of the text" for index in range(2000)))
    before = {
        "data": {"source": str(tmp_path / "text.txt"), "tokenizer": "bytes", "length": 64, **more}, "batch": 4,
        "model": {"layers": 1, "heads": 2, "width": 16}, "validation_passes": 0, "test_passes": 0,
        "train": {"steps": 2, "eval_every": 2},
    }  # fmt: skip
    with open_run(tmp_path / "base", {"arm": "any", "seed": 0, "kind": "pretrain", **before}) as folder:
        pretrain.run(before, 0, folder, lambda line: None)
    tuned = started(settings, tmp_path / "base")
    execute(tmp_path / "run", tuned)
    export(tmp_path / "run", tmp_path / "export", "float32")
    wanted = task(tuned).template.special
    assert len(wanted.ids) == 6
    assert wanted.end == more.get("end_token", 257)
    for place in ("run", "export"):
        found = TextModel.load(tmp_path / place)
        assert found.chat_template().special == wanted, place
        assert (found.mask_token, found.end_token) == (wanted.mask, wanted.end)


def test_the_error_of_the_held_out_loss_is_that_of_a_mean_over_answers(settings):
    made = task(merge(settings, {"data": {"held_out": 5}, "validation_answers": 5}))
    losses = []
    for index in range(5):
        one = task(merge(settings, {"data": {"held_out": 5}, "validation_answers": 1}))
        one.data.held_out = made.data.held_out[index : index + 1]
        row = one._held_out_loss()
        assert math.isnan(row["valid_error"])
        losses.append(row["valid_loss"])
    sizes = torch.tensor([float(len(sample.answer)) for sample in made.data.held_out])
    whole = made._held_out_loss()
    assert whole["valid_loss"] == pytest.approx(float((torch.tensor(losses) * sizes).sum() / sizes.sum()), rel=1e-5)
    scatter = (sizes / sizes.mean() * (torch.tensor(losses) - whole["valid_loss"])).square().sum() / 4
    assert whole["valid_error"] == pytest.approx(float((scatter / 5).sqrt()), rel=1e-4)


def test_a_model_that_has_the_rows_is_left_alone():
    model = Transformer(scaled(1, 2, 16, length=8, vocab_size=20, outputs=20), None)
    assert grown(model, 20, torch.Generator()) is model
    assert grown(model, 21, torch.Generator()).head.weight.shape == (21, 16)


EXERCISES = {
    "data": {"source": "arithmetic:1", "length": 64, "held_out": 40},
    "items": 12,
    "item_passes": 2,
    "generation_tokens": 14,
}


def test_exercises_are_scored_both_ways_at_the_end(settings, tmp_path):
    rows = execute(tmp_path / "run", merge(settings, EXERCISES))
    assert math.isnan(rows[0]["acc"])
    last = rows[-1]
    lines = (tmp_path / "run" / "items.csv").read_text().splitlines()
    assert lines[0] == "task,item,acc,acc_norm,nll,solved_1,solved_2,solved_4,solved_8"
    assert len(lines) == 13
    assert last["acc"] == pytest.approx(sum(float(line.split(",")[2]) for line in lines[1:]) / 12)
    assert 0 <= last["solved_1"] <= 1


class Oracle(FinetuneTask):
    """A model that knows every answer: the most probable token at each position is the right one."""

    def know(self, wrong=()):
        answers = {}
        for index, exercise in enumerate(self.data.exercises):
            text = exercise.choices[1 if index in wrong else 0]
            answers[tuple(self._prompt(exercise))] = self.template.content(text)
        special = self.template.special

        def network(tokens, positions, padding_mask=None, targets=None):
            scores = torch.zeros(*tokens.shape, self.model.config.outputs)
            for row, line in enumerate(tokens.tolist()):
                prompt = next(prompt for prompt in answers if tuple(line[: len(prompt)]) == prompt)
                answer = answers[prompt]
                for place in range(len(prompt), len(line)):
                    token = answer[place - len(prompt)] if place < len(prompt) + len(answer) else special.end
                    scores[row, place, token] = 20.0
            found = scores[positions]
            return found if targets is None else F.cross_entropy(found, targets, reduction="none")

        self.network = self.model.forward = network


def test_a_model_that_knows_the_answers_solves_and_chooses_all_and_one_that_errs_does_not(settings, tmp_path):
    with open_run(tmp_path / "run", {}) as folder:
        # With few passes no mask may hide the tokens in which two choices differ.
        made = Oracle(build(FinetuneConfig, merge(settings, EXERCISES, {"item_passes": 64})), 0, folder)
        made.know()
        right = made._score_items()
        made.know(wrong=range(12))
        wrong = made._score_items()
    assert [right[name] for name in ("acc", "acc_norm", *SOLVED_COLUMNS)] == [1.0] * 6
    assert [wrong[name] for name in ("acc", "acc_norm", *SOLVED_COLUMNS)] == [0.0] * 6


def test_all_ways_of_writing_solve_what_a_model_knows_and_the_faster_ones_take_fewer_passes(settings, tmp_path, monkeypatch):
    ways = [name for name, way in DECODERS.items() if "cache" not in way]  # the oracle keeps no keys and values
    monkeypatch.setattr(finetune, "DECODERS", {name: DECODERS[name] for name in ways})
    with open_run(tmp_path / "run", {}) as folder:
        made = Oracle(build(FinetuneConfig, merge(settings, EXERCISES)), 0, folder)
        made.know(wrong=[0, 1, 2])
        found = made.decode()
    assert [found[f"solved_{way}"] for way in ways] == [0.75] * len(ways)
    passes = {way: found[f"passes_{way}"] for way in ways}
    assert 1 < passes["by_4"] < passes["by_2"] < passes["exact"] <= 14
    assert passes["threshold_0.95"] == passes["factor_1"] == 1
    assert found["tokens_per_pass_threshold_0.9"] > found["tokens_per_pass_exact"] > 0
    lines = (tmp_path / "run" / "items.csv").read_text().splitlines()
    assert lines[0].split(",")[:4] == ["task", "item", "solved_exact", "passes_exact"]
    shares = [float(line.split(",")[2]) for line in lines[1:]]
    assert sum(shares) / len(shares) == 0.75


def test_an_answer_does_not_depend_on_its_neighbours(settings, monkeypatch):
    made = task(merge(settings, EXERCISES))
    questions = ["1+2" + "+1" * index for index in range(6)]
    prompts = [made.template.render([{"role": "user", "content": text}], add_generation_prompt=True) for text in questions]
    config = SamplingConfig("low-confidence", 14, 0.0)
    together = made.write(prompts, config)
    assert together == [made.write([prompt], config)[0] for prompt in prompts]
    monkeypatch.setattr(finetune, "BATCH_TOKENS", 100)
    assert together == made.write(prompts, config)


def test_an_answer_ends_at_the_end_of_the_text_too(settings):
    made = task(merge(settings, EXERCISES))

    def network(tokens, positions, padding_mask=None):
        likes = F.one_hot(torch.tensor(made.template.special.end), made.model.config.outputs)
        return 20.0 * likes.expand(int(positions.sum()), -1)

    made.model.forward = network
    [written] = made.write([made.template.render([], add_generation_prompt=True)], SamplingConfig("low-confidence", 14, 0.0))
    assert written == finetune.WrittenAnswer("", 1, 0)


def test_a_prompt_that_is_too_long_loses_its_beginning(settings):
    made = task(merge(settings, EXERCISES))
    [prompt] = made._prompts([Exercise("1" * 99, "", ("#1",))])
    header = made.template.render([], add_generation_prompt=True)[1:]
    assert len(prompt) == 64 - 14
    assert prompt[-len(header) :] == header


def test_choices_are_endings_of_what_is_given(settings, monkeypatch):
    made = task(merge(settings, EXERCISES))
    seen = []
    monkeypatch.setattr(finetune, "answer_nll", lambda score, answers, *_: seen.extend(answers) or torch.zeros(len(answers)))
    made._choose([Exercise("1+1", "Two ones. ", ("#2", "#3"))])
    assert [one.prompt[-10:].tolist() for one in seen] == [[*b"Two ones. "]] * 2
    assert [one.answer[:2].tolist() for one in seen] == [[*b"#2"], [*b"#3"]]


def test_an_epoch_is_all_training_samples_once(settings):
    assert task(settings).evaluate(13)["epoch"] == 13 * 8 / 26


def test_each_seed_has_its_own_weights_samples_and_masks(settings):
    one, two = (FinetuneTask(build(FinetuneConfig, settings), seed, None) for seed in (0, 1))
    assert not torch.equal(one.model.head.weight, two.model.head.weight)
    assert not torch.equal(one.drawn(0).tokens, two.drawn(0).tokens)
    assert not torch.equal(one.drawn(0).rate, two.drawn(0).rate)


def test_held_out_answers_are_judged_by_as_many_passes_as_are_asked_for(settings, monkeypatch):
    seen = []
    monkeypatch.setattr(finetune, "answer_nll", lambda _, answers, *given: seen.append(given) or torch.zeros(len(answers)))
    task(settings)._held_out_loss()
    assert seen == [(LikelihoodConfig(2), 64)]


def test_the_work_of_a_step_is_that_of_its_masked_answers(settings):
    made = task(merge(settings, {"data": {"padding": "none"}, "mask_rate": "0.5"}))
    tokens, answers = (
        sum(len(part) for one in made.data.train for part in parts(one)) / len(made.data.train)
        for parts in (lambda one: (one.prompt, one.answer), lambda one: (one.answer,))
    )
    mean = replace(made.model.config, length=math.ceil(tokens))
    assert made.work.tokens == round(8 * tokens)
    assert made.work.operations == pytest.approx(training_operations(mean, 8, answers / tokens / 2))


@pytest.mark.slow
@pytest.mark.parametrize("divisor", DIVISORS)
def test_two_processes_with_accumulation_on_deepspeed_take_the_steps_of_one(settings, tmp_path, divisor):
    pytest.importorskip("deepspeed")
    settings = merge(settings, {"divisor": divisor, "data": {"padding": "one"}})
    alone = execute(tmp_path / "one", settings)
    engine = {"kind": "deepspeed", "processes": 2, "zero": 2, "micro_batch": 1}
    together = execute(tmp_path / "two", merge(settings, {"engine": engine}))
    for row, other in zip(together, alone, strict=True):
        for name in ("loss", "valid_loss"):
            assert row[name] == pytest.approx(other[name], rel=2e-5, nan_ok=True), (row["step"], name)
    for name in ("data.json", "model.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"divisor": "sequence"}, "divisor: 'sequence' is unknown; allowed: answer, token, batch, masked"),
        ({"weight": "mean"}, "weight: 'mean' is not allowed in fine-tuning"),
        ({"mask_rate": "U[0.5,2]"}, "mask_rate: "),
        ({"start": "x", "data": {"tokenizer": "bytes"}}, "data.tokenizer: 'bytes' is not allowed with start"),
        ({"start": "x", "model": {"layers": 3}}, "model: LladaShape.* is not allowed with start, whose shape is used"),
        ({"start": "x", "vocab_size": 300}, "vocab_size: 300 is not allowed with start"),
        ({"generation_tokens": 8}, "generation_tokens: 8 is not allowed with items = 0"),
        ({"generation_tokens": 2000, "items": 1}, "generation_tokens: 2000 is not allowed; below data.length = 1024"),
        ({"batch": 3, "engine": {"micro_batch": 2}}, "engine.micro_batch: 2 is not allowed; a divisor of 3"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        build(FinetuneConfig, changes)


def test_bad_starts_are_named(settings, tmp_path):
    for start in (str(tmp_path / "nothing"), "$MDLM_NO_SUCH_NAME"):
        with pytest.raises(InputError, match=r"start: .* is no folder; allowed: a run folder, a released folder, or \$NAME"):
            finetune.check(started(settings, start))
    with pytest.raises(InputError, match="is not a run folder"):
        task(started(settings, tmp_path))
    execute(tmp_path / "base", merge(settings, {"train": {"steps": 1}}))
    with pytest.raises(InputError, match=r"data.length: 65 is not allowed; .* reads at most 64 tokens"):
        task(started(settings, tmp_path / "base", {"data": {"length": 65}}))
    with pytest.raises(InputError, match="data.tokenizer: 'bpe:300' is for plain text"):
        task(merge(settings, {"data": {"tokenizer": "bpe:300"}}))
    with pytest.raises(InputError, match=r"items: 5 are wanted, .* has 0 held out"):
        task(merge(settings, {"items": 5}))

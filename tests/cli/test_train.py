"""mdlm train and mdlm sample, on a text so regular that a tiny model learns it."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from mdlm_min.cli.main import main
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.tasks.text_model import TextModel

TINY = ["--tokenizer", "bytes", "--length", "16", "--layers", "1", "--width", "48", "--batch", "16", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "abc.txt"
    path.write_text("abcdefgh\n" * 600)
    return path


def train(corpus, folder, steps=30, extra=()):
    return main(["train", "--text", str(corpus), "--run", str(folder), "--steps", str(steps), *TINY, *extra])


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "abc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train(corpus, folder, 150) == 0
    return folder


def after(text, heading):
    return text[text.index(heading) + len(heading) :]


def test_training_ends_with_its_loss_and_its_texts_and_a_finished_run_only_shows_them_again(corpus, run, capsys):
    before = (run / "finished.json").read_bytes()
    texts = []
    for _ in range(2):
        assert train(corpus, run, 150) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "this run is finished already" in texts[0]
    assert (run / "finished.json").read_bytes() == before
    nats, bits = map(float, re.search(r"test loss: (\S+) \+- .* nats .*, (\S+) bits per byte", texts[0]).groups())
    assert bits == pytest.approx(nats / math.log(2), abs=0.006)  # a token is a byte
    assert nats < 1.5  # chance is log 9 = 2.2
    assert "a held-out passage with 6 of 16 tokens hidden, 6 of them right" in texts[0]
    passage = after(texts[0], "guess/original)\n\n").partition("\n\nwritten")[0]
    assert "[" in passage
    assert passage.replace("[", "").replace("]", "") in "abcdefgh\n" * 3
    assert "written from nothing" in texts[0]


def test_what_a_run_does_before_its_first_step_is_said(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path / "own", 2) == 0
    assert capsys.readouterr().out.splitlines()[0] == "own: reading the data"


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been_stopped(corpus, tmp_path):
    assert train(corpus, tmp_path / "whole") == 0
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "stop").touch()
    with pytest.raises(KeyboardInterrupt):  # the command ends with 130: see __main__.py
        train(corpus, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "finished.json").exists()
    assert train(corpus, tmp_path / "stopped") == 0
    assert "resumed at step 0" in (tmp_path / "stopped" / "log.txt").read_text()
    assert (tmp_path / "stopped" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_the_run_folder_is_named_after_the_text(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--text", str(corpus), "--steps", "2", *TINY]) == 0
    assert json.loads((tmp_path / "runs" / "train" / "abc" / "config.json").read_text())["data"]["corpus"] == str(corpus)


def sampled(run, *options, capsys):
    assert main(["sample", str(run), *options]) == 0
    return capsys.readouterr().out


def test_gaps_are_filled_in_and_marked(run, capsys):
    assert sampled(run, "--infill", "abc__fgh\n[MASK]bcd", capsys=capsys) == "abc[de]fgh\n[a]bcd\n"


def test_a_prompt_is_continued(run, capsys):
    text = sampled(run, "--prompt", "gh\nabcdef", "--length", "12", capsys=capsys)
    assert text.startswith("gh\nabcdefgh")
    assert len(text) == 13


def test_texts_differ_by_number_and_seed_and_can_be_had_again(run, capsys):
    options = ["--length", "12", "--temperature", "3", "--remasking", "ancestral", "--steps", "5"]
    three = sampled(run, *options, "--count", "3", capsys=capsys)
    assert three == sampled(run, *options, "--count", "3", capsys=capsys)
    texts = [part.partition("\n")[2] for part in three.split("--- ")[1:]]
    assert len(set(texts)) == 3
    assert sampled(run, *options, capsys=capsys) == texts[0]  # the first does not depend on how many follow
    assert sampled(run, *options, "--seed", "1", capsys=capsys) != texts[0]


def test_many_texts_come_batch_by_batch_and_are_those_of_one_batch(run, monkeypatch, capsys):
    options = ["--length", "12", "--temperature", "3", "--count", "5"]
    whole = sampled(run, *options, capsys=capsys)
    sizes = []
    generate = TextModel.generate

    def counted(self, templates, *rest, **more):
        sizes.append(len(templates))
        return generate(self, templates, *rest, **more)

    monkeypatch.setattr("mdlm_min.cli.sample.BATCH", 2)
    monkeypatch.setattr(TextModel, "generate", counted)
    assert sampled(run, *options, capsys=capsys) == whole
    assert sizes == [2, 2, 1]
    assert whole.count("--- ") == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a" * 16], "prompt: it has 16 tokens; allowed: fewer than the text's length, 16"),
        (["--length", "17"], "length: 17 is not allowed; 1 to 16"),
        (["--length", "0"], "length: 0 is not allowed; at least 1"),
        (["--count", "0"], "count: 0 is not allowed; at least 1"),
        (["--seed", "-1"], "seed: -1 is not allowed; a whole number from 0 to 2^63 - 1"),
        (["--steps", "0"], "steps: 0 is not allowed; at least 1"),
        (["--temperature", "-1"], "temperature: -1.0 is not allowed"),
        (["--remasking", "beam"], "remasking: 'beam' is unknown"),
        (["--infill", ""], "infill: '' has no gap"),
        (["--infill", "no gap _"], "infill: 'no gap _' has no gap"),
        (["--infill", "_" * 17], "infill: the text has 17 tokens; allowed: at most 16"),
        (["--infill", "__", "--length", "5"], "length: 5 is not allowed with --infill"),
        (["--device", "tpu"], "device: 'tpu'"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(run, options, message, capsys):
    assert main(["sample", str(run), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "is not a run folder"),
        ({}, "is not a run folder"),
        ({"config.json": "{"}, "cannot be read"),
        ({"config.json": "[" * 100_000}, "cannot be read"),
        ({"config.json": '{"seed": 0, "n": 20}'}, "holds no masked diffusion model of text"),
        ({"config.json": '{"kind": "unigram", "data": {"corpus": "x"}}'}, "holds no masked diffusion model of text"),
        ({"config.json": '{"data": {"corpus": "x"}}'}, "holds no masked diffusion model of text (no model.json)"),
        ({"config.json": "{}", "model.json": "{}"}, "has no checkpoint yet"),
        ({"config.json": "{}", "model.json": "{}", "finished.json": "{}"}, "was trained without checkpoints; delete it"),
    ],
)
def test_a_folder_without_a_model_is_one_line_and_exit_code_2(tmp_path, files, message, capsys):
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    assert main(["sample", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_a_trained_model_needs_its_text_no_more(tmp_path, monkeypatch, capsys, tokenizer):
    path, run = tmp_path / "own.txt", tmp_path / "run"
    path.write_text("".join(f"some words, {number}\n" for number in range(300)))
    assert train(path, run, 2, ["--tokenizer", tokenizer]) == 0
    outputs, moved = [], tmp_path / "moved"
    for change in (
        lambda: None,
        lambda: path.write_text("other words\n" * 100),
        path.unlink,
        lambda: run.rename(moved),
    ):
        change()
        monkeypatch.setenv("MDLM_CACHE", str(tmp_path / f"cache{len(outputs)}"))  # the tokenizer is not the cache's either
        capsys.readouterr()
        assert main(["sample", str(run if run.exists() else moved), "--prompt", "some"]) == 0
        outputs.append(capsys.readouterr().out)
    assert len(set(outputs)) == 1


SCHEDULE = """
from mdlm_min import MaskRate, RateSchedule

class Half(RateSchedule):
    def __init__(self):
        super().__init__(MaskRate.parse("0.5"), "none", "half")

    def weight(self, rate, mask, context):
        return WEIGHT * super().weight(rate, mask, context)
"""


def test_a_schedule_of_one_s_own_trains_on_one_s_own_text(corpus, tmp_path, capsys):
    file, folder = tmp_path / "half.py", tmp_path / "own"
    file.write_text(SCHEDULE.replace("WEIGHT", "1"))
    extra = ["--schedule", f"{file}:Half"]
    assert train(corpus, folder, 6, extra) == 0
    plain = tmp_path / "plain"  # the same rates and weights in the notation of a mask rate
    assert train(corpus, plain, 6, ["--mask-rate", "0.5", "--weight", "none"]) == 0
    own, same = (RunFolder(path).metrics()[-1] for path in (folder, plain))
    assert own["test_loss"] == pytest.approx(same["test_loss"], rel=1e-5)
    capsys.readouterr()
    assert train(corpus, folder, 6, extra) == 0
    assert "this run is finished already" in capsys.readouterr().out
    file.write_text(SCHEDULE.replace("WEIGHT", "2"))
    assert train(corpus, folder, 6, extra) == 2
    assert f"schedule: {file}:Half is not the one that {folder} was trained with" in capsys.readouterr().err
    file.write_text(SCHEDULE.replace("WEIGHT", "-1"))
    assert train(corpus, tmp_path / "more", 6, extra) == 2
    assert "schedule half: a weight of -1" in capsys.readouterr().err
    assert train(corpus, tmp_path / "more", 6, [*extra, "--weight", "none"]) == 2
    assert "weight: 'none' is not allowed with --schedule" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


def test_another_text_under_a_run_that_is_not_finished_is_refused(tmp_path, capsys):
    path = tmp_path / "own.txt"
    path.write_text("some words\n" * 100)
    assert train(path, tmp_path / "run", 2) == 0
    (tmp_path / "run" / "finished.json").unlink()
    path.write_text("other words\n" * 100)
    capsys.readouterr()
    assert train(path, tmp_path / "run", 2) == 2
    assert "has changed since this run began" in capsys.readouterr().err


def test_a_finished_run_does_not_read_another_text(tmp_path, capsys):
    path = tmp_path / "own.txt"
    path.write_text("some words\n" * 100)
    assert train(path, tmp_path / "run", 2) == 0
    path.write_text("other words\n" * 100)
    capsys.readouterr()
    assert train(path, tmp_path / "run", 2) == 2
    said = capsys.readouterr()
    assert f"text: {path} has changed since this run began" in said.err
    assert "test loss" not in said.out


def test_metrics_that_were_altered_after_the_run_are_not_shown(tmp_path, corpus, capsys):
    assert train(corpus, tmp_path / "run", 2) == 0
    file = tmp_path / "run" / "metrics.csv"
    file.write_text(file.read_text().replace("1", "2"))
    capsys.readouterr()
    assert train(corpus, tmp_path / "run", 2) == 2
    said = capsys.readouterr()
    assert f"{file} was altered after the run" in said.err
    assert "test loss" not in said.out


def test_a_run_whose_weights_would_not_be_kept_does_not_begin(tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.setenv("MDLM_CHECKPOINT_SECONDS", "inf")
    assert train(corpus, tmp_path / "run", 2) == 2
    assert "MDLM_CHECKPOINT_SECONDS: inf is not allowed with this command; a number of seconds" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv("MDLM_CHECKPOINT_SECONDS")
    assert train(corpus, tmp_path / "run", 2) == 0
    monkeypatch.setenv("MDLM_CHECKPOINT_SECONDS", "inf")
    assert train(corpus, tmp_path / "run", 2) == 0  # it is finished, and its weights are there


def test_another_number_of_threads_is_said_when_a_run_goes_on(tmp_path, corpus, capsys):
    assert train(corpus, tmp_path / "run", 2, ["--threads", "1"]) == 0
    (tmp_path / "run" / "finished.json").unlink()
    assert train(corpus, tmp_path / "run", 2, ["--threads", "1"]) == 0
    assert "bit for bit" not in capsys.readouterr().out
    (tmp_path / "run" / "finished.json").unlink()
    said = f"{tmp_path / 'run'}: its starts have 1 and 2 threads: the run is not bit for bit what one number would give"
    for threads in ("2", "2", "1"):  # once mixed, mixed for good
        try:
            assert train(corpus, tmp_path / "run", 2, ["--threads", threads]) == 0
        finally:
            torch.set_num_threads(1)
        assert said in capsys.readouterr().out
        (tmp_path / "run" / "finished.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # nothing is left of the other starts
    assert train(corpus, tmp_path / "run", 2, ["--threads", "1"]) == 0
    assert "bit for bit" not in capsys.readouterr().out


def test_what_differs_from_the_run_in_the_folder_is_named(corpus, run, capsys):
    assert train(corpus, run, 150, ["--learning-rate", "0.02"]) == 2
    changed = "train.learning_rate: 0.01 there, 0.02 asked"
    assert f"{run} holds a run of another configuration ({changed}); delete it, or name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "25"], "width: 25 is not allowed; a multiple of 24"),
        (["--steps", "0"], "steps: 0 is not allowed"),
        (["--threads", "0"], "threads: 0 is not allowed"),
        (["--threads", "2147483648"], "threads: 2147483648 is not allowed; at least 1, at most 4096"),
        (["--mask-rate", "often"], "mask_rate: 'often' is not a mask rate"),
        (["--tokenizer", "letters"], "tokenizer: 'letters' is unknown"),
        (["--text", "nowhere.txt"], "text: 'nowhere.txt' is neither a path nor a known name"),
        (["--length", "4000"], "length: "),
        (["--text", ""], "--text: an empty name is not allowed"),
        (["--seed", "-1"], "seed: -1 is not allowed; a whole number from 0 to 2^63 - 1"),
    ],
)
def test_bad_training_options_are_one_line_and_exit_code_2(corpus, tmp_path, options, message, capsys):
    assert main(["train", "--text", str(corpus), "--run", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_in_a_terminal_what_was_filled_in_is_coloured(run, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "abc\x1b[1;36mde\x1b[0mfgh" in sampled(run, "--infill", "abc__fgh", capsys=capsys)


def test_the_example_runs(corpus, tmp_path, monkeypatch, capsys):
    source = (Path(__file__).parents[2] / "examples" / "first_model.py").read_text()
    for old, new in (
        ("corpus.txt", str(corpus)),
        ("bpe:512", "bytes"),
        ('"steps": 4000', '"steps": 2'),
        ('"eval_every": 1000', '"eval_every": 2'),
        ('"warmup": 200', '"warmup": 1'),
        ('"mask_rate"', '"validation_passes": 240, "test_passes": 240, "mask_rate"'),
    ):
        assert source.count(old) == 1
        source = source.replace(old, new)
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "first_model.py", "exec"), {"__name__": "__main__"})
    assert (tmp_path / "runs" / "first_model" / "finished.json").exists()
    assert "The " in capsys.readouterr().out


def test_bits_per_byte_count_the_text_s_bytes_whatever_its_tokens(tmp_path, capsys):
    line = "the cat sat on the mat\n"
    (tmp_path / "cat.txt").write_text(line * 400)
    options = ["--steps", "1", "--tokenizer", "bpe:270", "--length", "16", "--layers", "1", "--width", "24"]
    assert main(["train", "--text", str(tmp_path / "cat.txt"), "--run", str(tmp_path / "run"), *options]) == 0
    nats, bits = map(float, re.search(r"test loss: (\S+) \+- .* (\S+) bits per byte", capsys.readouterr().out).groups())
    tokens = len(TextModel.load(tmp_path / "run").tokenizer.encode(line * 400))
    assert tokens < 0.7 * len(line * 400)
    assert bits == pytest.approx(nats / math.log(2) * tokens / len(line * 400), rel=0.02)


def test_a_finished_run_without_its_metrics_is_one_line(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path / "run") == 0
    (tmp_path / "run" / "metrics.csv").unlink()
    capsys.readouterr()
    assert train(corpus, tmp_path / "run") == 2
    assert f"{tmp_path / 'run' / 'metrics.csv'} is gone; delete" in capsys.readouterr().err


def test_a_character_cut_at_a_block_s_edge_counts_as_its_own_bytes(tmp_path, capsys):
    (tmp_path / "c.txt").write_text("水火木金土\n" * 800)  # 16 bytes a line: every block of 17 bytes cuts characters
    assert train(tmp_path / "c.txt", tmp_path / "run", 1, ("--length", "17")) == 0
    nats, bits = map(float, re.search(r"test loss: (\S+) \+- .* (\S+) bits per byte", capsys.readouterr().out).groups())
    assert bits == pytest.approx(nats / math.log(2), rel=0.01)  # a token is a byte; but both ends may be cut


def test_losses_that_are_not_finite_end_a_run_that_diverged_before_it_was_evaluated(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path / "run", 4, ["--learning-rate", "1e4"]) == 3
    assert "finite" in capsys.readouterr().err

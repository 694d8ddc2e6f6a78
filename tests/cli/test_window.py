import sys
from pathlib import Path

import numpy as np
import pytest

import mdlm_min.evidence
from mdlm_min.cli import window
from mdlm_min.cli.main import main
from mdlm_min.data.text import TextConfig, load_text
from mdlm_min.diffusion.mask_rate import window_around
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.summaries import RATES, suggested_rate


@pytest.fixture
def corpus(tmp_path):
    words = np.random.default_rng(0).choice(["alpha", "beta", "gamma", "delta"], 6000)
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(" ".join(words[i : i + 12]) for i in range(0, 6000, 12)) + "\n")
    return path


@pytest.mark.parametrize(("rate", "text"), [(0.464, "U[0.41,0.51]"), (0.02, "U[0.00,0.10]"), (0.99, "U[0.90,1.00]")])
def test_windows_stay_inside_the_unit_interval(rate, text):
    assert window_around(rate) == text


def test_the_command_counts_predicts_and_draws(corpus, tmp_path, capsys):
    assert main(["window", "--text", str(corpus), "--tokenizer", "words", "--figure", str(tmp_path / "w.png")]) == 0
    text = capsys.readouterr().out
    # 4 words at random: every 2- to 4-gram is frequent, so the orders weigh about the same.
    assert "corpus.txt: 5,400 training tokens (words)" in text  # the last tenth is held out
    assert "w2 0.2" in text
    assert "predicted window, around the first of these: mask_rate = U[0." in text
    assert "to train on it" not in text  # no model reads words
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")


def test_it_counts_the_model_s_tokens_and_says_how_often_its_predictor_was_right(corpus, tmp_path, capsys, monkeypatch):
    record = {"id": "W5-ngrams", "verdict": "not reproduced", "ours": 0.2, "note": "bytes: 0.31 and 0.45"}
    monkeypatch.setattr("mdlm_min.evidence.verdicts.read_accepted", lambda: {"W5-ngrams": record})
    assert main(["window", "--text", str(corpus), "--figure", str(tmp_path / "w.png")]) == 0
    text = capsys.readouterr().out
    trained = load_text(TextConfig(str(corpus), "bpe:512")).splits["train"]  # by what `mdlm train` would read
    assert f"corpus.txt: {len(trained):,} training tokens (bpe:512)" in text
    window = text.partition("predicted window, around the first of these: mask_rate = ")[2].splitlines()[0]
    assert f"to train on it: mdlm train --text {corpus} --tokenizer bpe:512 --mask-rate '{window}' --weight 1/t\n" in text
    [record] = [line for line in text.splitlines() if "within .1 of the best window in 20% of the seeds" in line]
    assert record.endswith("(W5-ngrams: not reproduced; each seed's in results/report.md)")
    monkeypatch.setattr("mdlm_min.evidence.verdicts.read_accepted", dict)
    assert main(["window", "--text", str(corpus), "--figure", str(tmp_path / "w.png")]) == 0
    assert "this predictor was not tried yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"predicted_window": 1.0}, "  surely better than U[0,1] there: on that text the table supports it"),
        ({"predicted_window": 2.0, "best": 1.0}, "  the table supports best instead: gain on U[0,1] +"),
        ({"predicted_window": 2.0, "signal_rich_window": 1.0}, "  the table supports signal_rich_window instead: gain"),
        ({"predicted_window": 2.0}, "  no entry is surely better than U[0,1] there"),
    ],
)
def test_it_says_what_the_contest_supports(means, said, monkeypatch):
    """Where the prediction is not surely better than U[0,1] and another entry is, that one."""
    from mdlm_min.cli.window import say_contest
    from mdlm_min.evidence import golden
    from tests.experiments.made_contest import made

    monkeypatch.setattr(golden, "accepted", lambda *given: made({"llada_0.001": 2.0} | means, "BPE", budget=4))
    lines = []
    say_contest(TextConfig("c.txt", "bpe:512"), "ngrams", lines.append)
    assert lines[0].startswith("in the contest, text in a BPE of 512, WikiText-2, 4x: a window predicted in this way has rank")
    assert lines[1].startswith(said)
    paper = (
        "    to train on the paper's window: mdlm train --text c.txt --tokenizer bpe:512 --mask-rate 'U[0.45,0.55]' --weight 1/t"
    )
    assert (paper in lines) == ("signal_rich_window" in means)
    say_contest(TextConfig("c.txt", "gpt2"), "ngrams", lines.append)
    assert any(
        line.startswith("in the contest, text in a BPE of 512 (the nearest), WikiText-2, 4x: a window predicted")
        for line in lines
    )
    probed = []
    say_contest(TextConfig("c.txt", "bpe:512"), "probe", probed.append)
    assert probed[0].endswith("no entry predicts its window in this way")  # the entry counts n-grams
    assert "the table supports it" not in "".join(probed)
    say_contest(TextConfig("c.txt", "bytes"), "ngrams", probed.append)
    assert probed[-1].startswith("the contest's table has no board of text in bytes yet")
    count = len(probed)
    say_contest(TextConfig("c.txt", "words"), "ngrams", probed.append)
    assert len(probed) == count  # no board is near to words


def test_only_the_figure_needs_matplotlib(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it raises ModuleNotFoundError
    monkeypatch.delitem(sys.modules, "mdlm_min.evidence.figure", raising=False)
    monkeypatch.delattr(mdlm_min.evidence, "figure", raising=False)
    assert main(["window", "--text", str(corpus), "--figure", str(tmp_path / "w.png")]) == 2
    output = capsys.readouterr()
    assert "predicted window, around the first of these: mask_rate = U[0." in output.out
    assert output.err == "mdlm: matplotlib is not installed, and this command needs it\n"


@pytest.mark.slow
def test_the_probe_trains_measures_and_is_kept(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mdlm_min.tasks.gradient_probe.BATCHES", 2)
    arguments = [
        "window",
        "--text",
        str(corpus),
        "--probe",
        "--steps",
        "3",
        "--figure",
        str(tmp_path / "w.png"),
        "--runs",
        str(tmp_path / "runs"),
    ]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert "the window around the largest gain: mask_rate = U[" in first
    assert (tmp_path / "w.png").exists()
    assert main(arguments) == 0
    second = capsys.readouterr().out
    assert "step " not in second  # not trained again
    assert second.splitlines()[-2:] == first.splitlines()[-2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "nowhere.txt"], "text: 'nowhere.txt' is neither a path nor a known name"),
        (["--text", "CORPUS", "--tokenizer", "letters"], "tokenizer: 'letters' is unknown"),
        (["--text", "CORPUS", "--figure", "w.pdf"], "figure: w.pdf is not allowed; a name that ends in .png"),
        (["--text", "CORPUS", "--probe", "--steps", "1"], "steps: 1 is not allowed; at least 3"),
        (["--text", "CORPUS", "--probe", "--seed", "-1"], "seed: -1 is not allowed; a whole number from 0 to 2^63 - 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(corpus, options, message, capsys):
    assert main(["window", *[str(corpus) if option == "CORPUS" else option for option in options]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_with_ones_own_text_needs_an_experiment_on_text(capsys):
    assert main(["run", "parity", "--text", "corpus.txt"]) == 2
    assert "text: 01_parity has no corpus to replace" in capsys.readouterr().err


def test_a_text_without_frequent_ngrams_predicts_nothing(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("every word of this text occurs once\n")
    assert main(["window", "--text", str(tmp_path / "short.txt"), "--figure", str(tmp_path / "w.png")]) == 2
    said = capsys.readouterr()
    assert "text: no sequence of 2 to 6 tokens occurs 5 times" in said.err
    assert said.err.count("\n") == 1
    assert "predicted window" not in said.out
    assert not (tmp_path / "w.png").exists()


def test_where_the_figure_cannot_be_written_nothing_is_counted(corpus, tmp_path, capsys):
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "file/w.png", "cannot be written"), (tmp_path, "is a folder")):
        assert main(["window", "--text", str(corpus), "--figure", str(path)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert f"figure: {path} {why}" in said.err


def test_the_contest_s_largest_budget_is_what_counts(monkeypatch):
    from mdlm_min.evidence import golden
    from tests.experiments.made_contest import joined, made

    early = made({"llada_0.001": 2.0, "predicted_window": 1.0}, "BPE")
    late = made({"llada_0.001": 2.0, "predicted_window": 3.0}, "BPE", budget=4)
    monkeypatch.setattr(golden, "accepted", lambda *given: joined(early, late))
    said: list[str] = []
    window.say_contest(TextConfig("c.txt", "bpe:512"), "ngrams", said.append)
    assert said[-1].startswith("  no entry is surely better than U[0,1] there")


def test_the_window_is_around_the_optimum_of_the_published_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(window, "say_contest", lambda *given: None)
    (tmp_path / "c.txt").write_text(("a b c d e f g h " * 40 + "a b x y " * 60 + "\n") * 3)
    said: list[str] = []
    best = window.from_ngrams(TextConfig(str(tmp_path / "c.txt"), "bytes"), tmp_path / "w.png", said.append)
    optima = [float(line.split()[2]) for line in said if line.startswith("    t* =")]
    assert len(set(optima)) == 6
    assert best == pytest.approx(optima[0], abs=5e-4)
    assert f"predicted window, around the first of these: mask_rate = {window_around(best)}" in said


def test_each_predictor_has_its_own_record(monkeypatch):
    from mdlm_min.evidence import verdicts

    rows = {
        f"W5-{name}": {"id": name, "verdict": verdict, "ours": ours, "note": ""}
        for name, verdict, ours in (("snr", "reproduced", 0.8), ("gain", "not run", None), ("ngrams", "reproduced", 0.1))
    }
    monkeypatch.setattr(verdicts, "read_accepted", lambda: rows)
    said: list[str] = []
    window.say_record("snr", said.append)
    window.say_record("gain", said.append)
    assert "80% of the seeds" in said[0]
    assert "not tried yet" in said[1]


def test_a_probe_needs_three_steps(tmp_path, capsys):
    (tmp_path / "c.txt").write_text("x")
    arguments = ["window", "--text", str(tmp_path / "c.txt"), "--probe", "--steps", "2", "--figure", str(tmp_path / "w.png")]
    assert main(arguments) == 2
    assert "steps: 2 is not allowed" in capsys.readouterr().err


def test_the_probe_suggests_by_the_gain_and_not_before_the_first_step(tmp_path, monkeypatch):
    first = {"step": 0.0} | {f"gain_{rate}": 9.0 * (rate == 0.05) for rate in RATES}
    later = {"step": 1.0} | {f"gain_{rate}": float(rate == 0.25) for rate in RATES}
    assert suggested_rate([first, later], "gain") == 0.25

    def run(settings, seed, folder, *rest, **make):
        folder.append_metrics(later | {f"snr_{rate}": float(rate == 0.75) for rate in RATES})
        folder.finish({"steps": 1, "seconds": 1.0})

    monkeypatch.setattr("mdlm_min.tasks.language.run", run)
    for name in ("say_record", "say_contest", "_draw_probes"):
        monkeypatch.setattr(window, name, lambda *given: None)
    config = TextConfig("c.txt", "bytes", length=64)
    assert window.from_probe(config, 3, 0, tmp_path, tmp_path / "w.png", lambda line: None) == 0.25
    (tmp_path / "probe" / "metrics.csv").unlink()
    with pytest.raises(InputError, match=r"metrics.csv is gone; delete .*probe to train again"):
        window.from_probe(config, 3, 0, tmp_path, tmp_path / "w.png", lambda line: None)


def test_a_draft_among_the_submissions_does_not_stop_a_prediction(monkeypatch, tmp_path):
    from mdlm_min.cli.window import say_contest
    from mdlm_min.evidence.experiment import Experiment

    leaderboard, load = Experiment("contest").module("leaderboard"), Experiment.module
    leaderboard.SUBMISSIONS = tmp_path
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "submission.json").write_text("{}")
    monkeypatch.setattr(Experiment, "module", lambda self, name: leaderboard if name == "leaderboard" else load(self, name))
    lines = []
    say_contest(TextConfig("c.txt", "bpe:512"), "ngrams", lines.append)
    assert lines[0].startswith(f"the contest's submissions are left out: {tmp_path}/draft/submission.json: ")
    assert "rank" in lines[1]


@pytest.mark.parametrize("option", ["--steps", "--seed", "--runs"])
def test_what_belongs_to_the_probe_is_refused_without_it(option, corpus, tmp_path, capsys):
    assert main(["window", "--text", str(corpus), option, "3", "--figure", str(tmp_path / "w.png")]) == 2
    assert f"mdlm: {option[2:]}: only with --probe" in capsys.readouterr().err


def test_a_probe_s_folder_has_the_names_of_the_text_and_the_tokenizer(corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(window, "from_probe", lambda config, steps, seed, runs, *rest: asked.append((steps, seed, runs)))
    for tokenizer in ("bpe:512", str(tmp_path / "mine")):
        assert (
            main(["window", "--probe", "--text", str(corpus), "--tokenizer", tokenizer, "--figure", str(tmp_path / "w.png")]) == 0
        )
    assert asked == [(window.STEPS, 0, Path("runs/window/corpus", name)) for name in ("bpe:512", "mine")]

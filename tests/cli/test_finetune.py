"""mdlm finetune, from a run of mdlm train."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mdlm_min.cli.main import main
from mdlm_min.data.chat import NAMES
from mdlm_min.data.conversations import default_held_out
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.tasks.text_model import TextModel

TINY = ["--tokenizer", "bytes", "--length", "48", "--layers", "1", "--width", "48", "--batch", "8", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    (folder / "abc.txt").write_text("abcdefgh\n" * 600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(["train", "--text", str(folder / "abc.txt"), "--run", str(folder / "run"), "--steps", "4", *TINY]) == 0
    return folder / "run"


@pytest.fixture
def talk(tmp_path):
    """Every question has the same answer."""
    path = tmp_path / "talk.jsonl"
    records = [
        {"messages": [{"role": "user", "content": f"say {index}"}, {"role": "assistant", "content": "yes"}]}
        for index in range(40)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "{broken\n")
    return path


def finetune(talk, base, run, *extra):
    return main(
        [
            "finetune",
            "--data",
            str(talk),
            "--start",
            str(base),
            "--run",
            str(run),
            "--held-out",
            "8",
            "--malformed",
            "0.1",
            *extra,
        ]
    )


def last_step(run):
    """Of the newest complete checkpoint; -1 for none."""
    folder = RunFolder(run).checkpoints
    return max((int(path.name[5:]) for path in folder.glob("step-?????????")), default=-1)


def weights(run):
    last = RunFolder(run).checkpoints / f"step-{last_step(run):09}"
    return {file.name: file.read_bytes() for file in last.glob("*.safetensors")}


@pytest.mark.slow
def test_killed_twice_the_same_command_ends_at_the_same_bits(base, talk, tmp_path):
    def command(run):
        options = ["--data", talk, "--start", base, "--run", run, "--held-out", "8", "--malformed", ".1", "--steps", "60"]
        line = [sys.executable, "-m", "mdlm_min", "finetune", *map(str, options)]
        environment = {**os.environ, "MDLM_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert command(undisturbed).wait(timeout=300) == 0
    metrics = disturbed / "metrics.csv"
    for step in (5, 25):
        process = command(disturbed)
        while process.poll() is None and last_step(disturbed) < step:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert command(disturbed).wait(timeout=300) == 0
    assert (disturbed / "log.txt").read_text().count("resumed at step") == 2
    assert metrics.read_bytes() == (undisturbed / "metrics.csv").read_bytes()
    assert last_step(disturbed) == 60
    assert weights(disturbed) == weights(undisturbed)


def test_a_run_of_mdlm_train_learns_to_answer_and_a_finished_run_only_shows_it(base, talk, tmp_path, capsys):
    arguments = ["--steps", "60", "--batch", "16", "--learning-rate", "0.01"]
    assert finetune(talk, base, tmp_path / "run", *arguments) == 0
    text = capsys.readouterr().out
    assert "60 steps on 32 samples in" in text
    assert "of 41 records 1 malformed, 0 answers cut, 0 prompts too long" in text
    assert "malformed: talk.jsonl line 41: no JSON" in text
    assert text.count("\nsay ") == text.count("\n> yes\n") == 3
    model = TextModel.load(tmp_path / "run")
    assert model.length == 48
    assert model.model.config.vocab_size == 256 + len(NAMES)
    before = (tmp_path / "run" / "finished.json").read_bytes()
    assert finetune(talk, base, tmp_path / "run", *arguments) == 0
    again = capsys.readouterr().out
    assert "this run is finished already" in again
    assert again.endswith(text[text.index("held-out answers") :])
    assert (tmp_path / "run" / "finished.json").read_bytes() == before
    talk.write_text(talk.read_text().replace("say 1", "say one"))  # its held-out prompts may be some that the run has learned
    assert finetune(talk, base, tmp_path / "run", *arguments) == 2
    captured = capsys.readouterr()
    assert f"data: {talk} has changed since this run began" in captured.err
    assert "held-out" not in captured.out


@pytest.mark.parametrize("option", ["--data", "--start"])
def test_an_empty_name_is_not_the_working_directory(option, base, talk, tmp_path, capsys):
    assert finetune(talk, base, tmp_path / "run", option, "") == 2
    assert f"{option}: an empty name is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("records, held_out", [(2, 1), (35, 3), (800, 64)])
def test_a_tenth_is_held_out_where_nothing_is_said(records, held_out, tmp_path):
    path = tmp_path / "talk.jsonl"
    talks = [[{"role": "user", "content": f"{index}"}, {"role": "assistant", "content": "y"}] for index in range(records)]
    path.write_text("{\n" + "".join(json.dumps({"messages": one}) + "\n" for one in talks))
    assert default_held_out(str(path)) == held_out


def test_as_many_answers_are_measured_as_are_held_out(base, tmp_path, capsys):
    path = tmp_path / "talk.jsonl"
    talks = [
        [{"role": "user", "content": f"{index}"}, {"role": "assistant", "content": "y" * (1 + index % 7)}] for index in range(90)
    ]
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in talks))
    found = {}
    for held_out in (1, 64, 80):
        run = tmp_path / f"run{held_out}"
        assert finetune(path, base, run, "--steps", "1", "--held-out", str(held_out)) == 0
        found[held_out] = capsys.readouterr().out
        assert json.loads((run / "config.json").read_text())["validation_answers"] == held_out
    assert " +- " not in found[1]
    assert " +- " in found[64] and " +- " in found[80]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--steps", "0"], "steps: 0 is not allowed; at least 1"),
        (["--divisor", "sequence"], "divisor: 'sequence' is unknown; allowed: answer, token, batch, masked"),
        (["--padding", "mask"], "padding: 'mask' is unknown"),
        (["--mask-rate", "U[2,3]"], "mask_rate: "),
        (["--length", "4000"], "length: 4000 is not allowed"),
        (["--malformed", "0"], "data: 1 of 41 records are malformed"),
        (["--start", "nowhere"], "start: 'nowhere' is no folder"),
        (["--data", "nowhere"], "data: 'nowhere' is not there"),
        (["--threads", "0"], "threads: 0 is not allowed"),
        (["--threads", "4097"], "threads: 4097 is not allowed; at least 1, at most 4096"),
    ],
)
def test_bad_input_is_one_line(base, talk, tmp_path, capsys, extra, message):
    assert finetune(talk, base, tmp_path / "run", *extra) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metrics.csv", lambda text: None, "metrics.csv is gone"),
        ("metrics.csv", lambda text: "", "metrics.csv was altered after the run"),
        ("metrics.csv", lambda text: "\udcff" + text, "metrics.csv was altered after the run"),
        ("finished.json", lambda text: "{}", "finished.json has no field 'metrics_sha256'"),
        ("finished.json", lambda text: '{"metrics_sha256": null}', "finished.json is damaged: its hashes are none"),
        (
            "finished.json",
            lambda text: '{"metrics_sha256": "", "given_sha256": 5}',
            "finished.json is damaged",
        ),
        ("data.json", lambda text: "{}", "data.json has no field 'samples'"),
        ("model.json", lambda text: text.replace('"mask_token": ', '"mask_token": -'), "model.json was altered after the run"),
        ("checkpoints/step-000000002/state.json", lambda text: text.replace('"step": 2', '"step": 1'), "state.json is altered"),
    ],
)
def test_a_damaged_folder_is_one_line(base, talk, tmp_path, capsys, name, change, message):
    assert finetune(talk, base, tmp_path / "run", "--steps", "2") == 0
    path = tmp_path / "run" / name
    before = path.read_text()
    path.unlink()
    if (after := change(before)) is not None:
        path.write_bytes(after.encode(errors="surrogateescape"))
        assert path.read_bytes() != before.encode()
    capsys.readouterr()
    assert finetune(talk, base, tmp_path / "run", "--steps", "2") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_run_of_ours_is_fine_tuned_at_a_small_model_s_rate(base, talk, tmp_path):
    """A released model's is in test_generate.py, which has one."""
    assert finetune(talk, base, tmp_path / "run", "--steps", "1") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["learning_rate"] == 1e-3


def test_a_loss_that_is_no_number_ends_the_run(base, talk, tmp_path, capsys):
    assert finetune(talk, base, tmp_path / "run", "--steps", "1", "--learning-rate", "1e20") == 3
    assert "loss is nan" in capsys.readouterr().err
    assert not (tmp_path / "run" / "finished.json").exists()


def test_a_run_folder_s_name_is_text(base, talk, tmp_path, capsys):
    for name in ("", f"{tmp_path}/run\udcff"):
        assert finetune(talk, base, name) == 2


def test_prompts_that_are_shown_are_different_ones_and_an_unfinished_start_is_named(base, tmp_path, monkeypatch, capsys):
    def record(number):
        user, assistant = ({"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": "yes"})
        return json.dumps({"messages": [user, assistant]}) + "\n"

    (tmp_path / "talk.jsonl").write_text("".join(record(number // 3) for number in range(60)))
    shutil.copytree(base, tmp_path / "start")
    (tmp_path / "start" / "finished.json").unlink()
    assert finetune(tmp_path / "talk.jsonl", tmp_path / "start", tmp_path / "run", "--steps", "1") == 0
    said = capsys.readouterr()
    shown = [line for line in said.out.splitlines() if line.startswith("say ")]
    assert len(shown) == len(set(shown)) == 3
    assert f"note: {tmp_path / 'start'} is not finished; this is its state at step " in said.err
    monkeypatch.setattr("mdlm_min.tasks.text_model.export", lambda *given: None)
    assert main(["export", str(tmp_path / "start"), "--output", str(tmp_path / "out")]) == 0
    assert f"note: {tmp_path / 'start'} is not finished; this is its state at step " in capsys.readouterr().err

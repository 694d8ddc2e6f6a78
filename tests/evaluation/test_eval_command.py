"""`mdlm eval` and lm-eval's own command line, end to end on a tiny model and a few items."""

import json
import math
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mdlm_min.cli.evaluate import gen_kwargs
from mdlm_min.cli.main import main
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import locked
from mdlm_min.run.run_folder import open_run
from tests.evaluation.conftest import read

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The cat sat on the mat"


def test_the_command_scores_logs_every_item_and_keeps_no_text(released, tiny_data, tmp_path, capsys):
    command = ["eval", str(released), "--tasks", "arc_easy_local,gsm8k_local", "--limit", "3", "--passes", "3", "--shots", "1"]
    command += ["--gen-kwargs", "max_gen_toks=8,steps=2", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    log, items = read(tmp_path / "out")
    assert f"arc_easy_local: acc {log['scores']['arc_easy_local']['acc']:.4f}" in said
    assert "(3 items)" in said and "generation: NFE 2," in said
    assert "shots: arc_easy_local: the prompts are fixed, and --shots has no effect on them\n" in said
    choices = [item for item in items if item["task"] == "arc_easy_local"]
    assert [item["item"] for item in choices] == [0, 1, 2]
    for number, item in enumerate(choices):  # the right answers of the tiny data are A, B, C
        assert item["acc"] == float(item["nll"].index(min(item["nll"])) == number)
    assert log["scores"]["arc_easy_local"]["acc"] == pytest.approx(sum(item["acc"] for item in choices) / 3)
    assert {item["filter"] for item in items if item["task"] == "gsm8k_local"} == {"strict-match", "flexible-extract"}
    assert log["scores"]["gsm8k_local"].keys() >= {"exact_match strict-match", "exact_match flexible-extract"}
    assert log["shots"] == {"arc_easy_local": 0, "gsm8k_local": 1}
    assert log["generation"]["passes"] == 6
    assert not any(TEXT in path.read_text() for path in (tmp_path / "out").iterdir())
    assert main([*command, str(tmp_path / "again"), "--log-samples", "--batch-tokens", "200"]) == 0
    assert read(tmp_path / "again")[1] == [
        pytest.approx(item) if "nll" not in item else item | {"nll": pytest.approx(item["nll"], rel=1e-5)} for item in items
    ]
    assert TEXT in (tmp_path / "again" / "samples_arc_easy_local.jsonl").read_text()


def test_answers_that_cannot_be_read_are_counted_before_any_is_scored(released, tiny_data, tmp_path, capsys):
    path = tiny_data / "arc" / "ARC-Easy-Test.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["choices"]["text"][2] = "x" * 200
    records[2]["choices"]["text"][0] = "x" * 180
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = ["eval", str(released), "--tasks", "arc_easy_local", "--passes", "1", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "mdlm: tasks: arc_easy_local, item 1: answer: it has 201 tokens; allowed: 1 to 160" in error
    assert "(2 of 16 answers are not)" in error


def test_the_fine_tuning_experiment_records_an_evaluation(released, tiny_data, tmp_path):
    """A run of its paper tier, of one item."""
    settings = {"kind": "evaluate", "folder": str(released), "device": "cpu", "dtype": "float32", "limit": 2}
    settings["tasks"] = "arc_challenge_local"
    run = Experiment("8b_sft").module("run")
    with open_run(tmp_path / "run", {"arm": "untuned", "seed": 0, **settings}) as folder:
        run.run(settings, 0, folder, lambda line: None)
    [row] = folder.metrics()
    assert row["arc_challenge"] in (0.0, 0.5, 1.0) and math.isnan(row["mmlu"])
    log, _ = read(tmp_path / "run" / "evaluation")
    assert folder.read_json("data.json")["sha256"] == log["request"]["documents_sha256"]
    assert run.summarise([row])


def test_a_folder_has_one_evaluation_at_a_time(released, tiny_data, tmp_path, capsys):
    with locked(tmp_path / "lock"):
        assert main(["eval", str(released), "--tasks", "arc_easy_local", "--limit", "1", "--output", str(tmp_path)]) == 2
    assert f"{tmp_path} is in use by" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "gen_length"])
def test_the_number_of_tokens_replaces_the_task_s_own_by_any_name(released, tiny_data, tmp_path, name):
    command = ["eval", str(released), "--tasks", "gsm8k_local", "--limit", "1", "--shots", "0", "--output", str(tmp_path)]
    assert main([*command, "--gen-kwargs", f"{name}=4,steps=4"]) == 0
    assert read(tmp_path)[0]["generation"]["tokens"] <= 4
    assert read(tmp_path)[0]["generation"]["passes"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("output_type: nonsense", "t_own"),
        ("metric_list: [{metric: nonsense}]", "t_own"),
        ("doc_to_text: '{{ broken'", "t_own"),
        ("custom_dataset: !function nowhere.f", "t_own"),
        ("num_fewshot: x", "t_own"),
    ],
)
def test_a_task_file_of_one_s_own_that_is_wrong_is_one_line(released, tmp_path, change, said, capsys):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "tiny.py").write_text("def load(**_):\n    return {'test': [{'query': 'a', 'choices': ['b', 'c'], 'gold': 0}]}\n")
    whole = GPQA.replace("gpqa_tiny", "t_own").splitlines()
    field = change.split(":")[0]
    lines = [line for line in whole if not line.startswith(f"{field}:")]
    (tasks / "t_own.yaml").write_text("\n".join([*lines, change]) + "\n")
    command = ["eval", str(released), "--tasks", "t_own", "--include-path", str(tasks), "--passes", "1"]
    command += ["--output", str(tmp_path / "out")]
    assert main(command) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("mdlm: tasks: ") and said in line


GPQA = """task: gpqa_tiny
custom_dataset: !function tiny.load
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "{{query}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def task_folder(tmp_path, name, text, record):
    """A folder of lm-eval's task files with one task, of one record."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / f"{name}.yaml").write_text(text.replace("gpqa_tiny", name))
    (tasks / "tiny.py").write_text(
        f"from datasets import Dataset\n\n\ndef load(**_):\n    return {{'test': Dataset.from_list([{record!r}])}}\n"
    )
    return tasks


def test_gpqa_s_text_is_neither_stored_nor_printed(released, tmp_path, capfd):
    record = {"query": "SECRET question", "choices": ["SECRET a", "b"], "gold": 0}
    tasks = task_folder(tmp_path, "gpqa_tiny", GPQA, record)
    command = ["eval", str(released), "--tasks", "gpqa_tiny", "--include-path", str(tasks), "--passes", "1", "--log-samples"]
    command += ["--cache", str(tmp_path / "out" / "cache"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    said = capfd.readouterr()
    assert "gpqa_tiny: acc" in said.out
    assert "SECRET" not in said.out + said.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["items.jsonl", "results.json"]  # and no cache
    (tasks / "group.yaml").write_text("group: mine\ntask: [gpqa_tiny]\n")
    command = [{"gpqa_tiny": "mine", str(tmp_path / "out"): str(tmp_path / "group")}.get(part, part) for part in command]
    assert main(command) == 0
    files = [path for path in (tmp_path / "group").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["items.jsonl", "results.json"]
    assert not list(tmp_path.rglob("*cache-*"))
    assert not any(b"SECRET" in path.read_bytes() for path in files)


@pytest.mark.parametrize("names", ["mine,t_own", "t_own,mine"])
def test_a_task_that_is_also_in_a_group_counts_once(released, tmp_path, names):
    tasks = task_folder(tmp_path, "t_own", GPQA, {"query": "a", "choices": ["b", "c"], "gold": 0})
    (tasks / "group.yaml").write_text("group: mine\ntask: [t_own]\n")
    command = ["eval", str(released), "--tasks", names, "--include-path", str(tasks), "--passes", "1", "--log-samples"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "out" / "samples_t_own.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("names", ["mine,gsm8k_local", "gsm8k_local,mine"])
def test_a_task_alone_and_in_a_group_with_other_shots_is_refused(released, tiny_data, tmp_path, names, capsys):
    """By its own name it has the paper's four shots, in a group of one's own those of its file."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "group.yaml").write_text("group: mine\ntask: [gsm8k_local]\n")
    command = ["eval", str(released), "--tasks", names, "--include-path", str(tmp_path / "tasks"), "--limit", "1"]
    command += ["--gen-kwargs", "max_gen_toks=4,steps=4"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "tasks: gsm8k_local is asked for alone and in a group, with " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_length_replaces_a_task_s_own_under_another_name(released, tmp_path):
    own = ["output_type: generate_until", "generation_kwargs: {max_new_tokens: 6, until: []}", "doc_to_target: '{{query}}'"]
    own += ["metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"]
    replaced = ("output_type", "doc_to_choice", "doc_to_target", "metric")
    kept = [line for line in GPQA.splitlines() if not line.startswith(replaced)]
    tasks = task_folder(tmp_path, "t_own", "\n".join([*kept, *own]) + "\n", {"query": "a"})
    command = ["eval", str(released), "--tasks", "t_own", "--include-path", str(tasks), "--log-samples"]
    assert main([*command, "--gen-kwargs", "max_gen_toks=3,steps=3", "--output", str(tmp_path / "out")]) == 0
    [sample] = map(json.loads, (tmp_path / "out" / "samples_t_own.jsonl").read_text().splitlines())
    assert len(sample["resps"][0][0].encode("utf-8", "surrogateescape")) <= 3


def test_lm_eval_s_own_command_line_gives_the_same(released, tiny_data, tmp_path):
    assert (
        main(["eval", str(released), "--tasks", "hellaswag_local", "--limit", "2", "--passes", "2", "--output", str(tmp_path)])
        == 0
    )
    command = [
        sys.executable,
        "-m",
        "mdlm_min.evaluation",
        "run",
        "--model",
        "mdlm",
        "--model_args",
        f"folder={released},passes=2",
    ]
    command += ["--tasks", "hellaswag_local", "--include_path", str(ROOT / "mdlm_min" / "evaluation" / "offline"), "--limit", "2"]
    command += ["--output_path", str(tmp_path / "theirs.json"), "--log_samples"]
    environment = {**os.environ, "MDLM_DATA": str(tiny_data), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [results] = tmp_path.glob("theirs_*.json")
    theirs, (log, _) = json.loads(results.read_text()), read(tmp_path)
    for name in ("acc", "acc_norm"):
        assert theirs["results"]["hellaswag_local"][f"{name},none"] == log["scores"]["hellaswag_local"][name]


def test_the_entry_point_is_the_model():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    from lm_eval.api.registry import get_model

    from mdlm_min.evaluation.harness import MDLM
    from mdlm_min.evaluation.registration import NAME, PLACE, register

    assert declared == {NAME: PLACE}
    assert EntryPoint(NAME, PLACE, "lm_eval.models").load() is MDLM
    register()
    register()
    assert get_model(NAME) is MDLM
    assert get_model("hf")  # the others are still there


def test_bad_input_is_one_line(released, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def line(*arguments):
        assert main(["eval", *arguments]) == 2
        return capsys.readouterr().err.strip()

    folder = str(released)
    assert line(folder, "--tasks", "hellaswag_locl", "--include-path", ".").startswith(
        "mdlm: tasks: 'hellaswag_locl' is unknown; allowed"
    )
    assert (
        line(folder, "--tasks", "arc_easy_local", "--limit", "-1")
        == "mdlm: limit: -1 is not allowed; at least 1, or 0 for all items"
    )
    assert line(folder, "--tasks", "arc_easy_local", "--passes", "0").startswith("mdlm: passes: 0 is not allowed")
    assert line("nowhere", "--tasks", "arc_easy_local").startswith("mdlm: run: nowhere is not a run folder")
    assert line(folder, "--tasks", ",").startswith("mdlm: tasks: none is given")
    assert line(folder, "--tasks", "gsm8k_local", "--shots", "5") == (  # it has four
        "mdlm: shots: 5 is not allowed with gsm8k_local; at most 4, the examples that it has"
    )
    assert line(folder, "--tasks", "arc_easy_local,hellaswag_local", "--shots", "1") == (
        "mdlm: shots: 1 is not allowed with arc_easy_local, hellaswag_local, whose prompts are fixed; allowed: without --shots"
    )
    generating = [folder, "--tasks", "arc_easy_local,gsm8k_local", "--shots", "1", "--gen-kwargs"]
    assert line(*generating, "max_gen_toks=500").startswith(
        "mdlm: gen_kwargs: max_gen_toks: 500 (the task's own where none is given) is not allowed; 1 to 160"
    )
    assert line(*generating, "max_gen_toks=8,steps=3,block_length=2") == (
        "mdlm: gen_kwargs.steps: 3 is not allowed; at least one for each of the 4 blocks of 2 in 8 tokens"
    )
    assert line(folder, "--tasks", "arc_easy_local", "--gen-kwargs", "steps=3").startswith("mdlm: gen_kwargs: not allowed with")
    monkeypatch.delenv("MDLM_DATA")
    assert line(folder, "--tasks", "arc_easy_local") == (
        "mdlm: items: arc_easy needs arc/ARC-Easy-Test.jsonl (or .gz) in the folder that MDLM_DATA names, which is not set"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gen-kwargs", "nonsense=3"], "gen_kwargs: 'nonsense' is unknown; allowed: until, max_gen_toks"),
        (["--gen-kwargs", "temperature=hot"], "gen_kwargs: temperature=hot is not allowed; a number"),
        (["--gen-kwargs", "max_gen_toks=many"], "gen_kwargs: max_gen_toks=many is not allowed; a number"),
        (["--gen-kwargs", "max_gen_toks=true"], "gen_kwargs: max_gen_toks=True is not allowed; a number"),
        (["--gen-kwargs", "steps=2,steps=4"], "gen_kwargs: 'steps' is given twice; once is allowed"),
        (["--gen-kwargs", "gen_length=4,max_gen_toks=8"], "gen_kwargs: gen_length=4 and max_gen_toks=8 contradict each other"),
        (["--gen-kwargs", "remasking=beam"], "mdlm: remasking: 'beam' is unknown"),
        (["--output", "file/out"], "output: file/out/results.json cannot be written (Not a directory)"),
        (["--gen-kwargs", "until="], "gen_kwargs: until: '' is not allowed; a text at which an answer ends"),
        (["--gen-kwargs", "do_sample=maybe"], "gen_kwargs: do_sample=maybe is not allowed; True or False"),
        (["--cache", "file/cache"], "cache: file/cache cannot be written (Not a directory)"),
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_opened(tmp_path, monkeypatch, options, message, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["eval", "nowhere", "--tasks", "nothing", *options]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_all_tasks_are_checked_before_the_first_is_evaluated(released, tiny_data, tmp_path, monkeypatch, capsys):
    """The last one of a long evaluation must not lose the others' hours."""
    import lm_eval

    monkeypatch.setattr(lm_eval, "simple_evaluate", lambda *_, **__: pytest.fail("a task was evaluated"))
    (tiny_data / "gsm8k" / "test.jsonl").unlink()
    command = ["eval", str(released), "--tasks", "arc_easy_local,gsm8k_local", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "items: gsm8k_test needs gsm8k/test.jsonl" in capsys.readouterr().err


def test_without_the_hub_the_message_says_what_to_do(released, tmp_path, monkeypatch, capsys):
    from mdlm_min.evaluation import run

    class Unreachable:
        def load(self, names):
            raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub\nmore lines")

    monkeypatch.setattr(run, "_task_manager", lambda names, path: Unreachable())
    assert main(["eval", str(released), "--tasks", "arc_easy", "--output", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "its data cannot be had from the hub (ConnectionError: \"Couldn't reach 'allenai/ai2_arc' on the Hub\")" in line
    assert "allowed offline: arc_easy_local with MDLM_DATA, or a hub cache that was filled before" in line


def test_generation_settings_are_read_as_numbers_and_words():
    assert gen_kwargs("steps=8,temperature=0.5,do_sample=true,remasking=low_confidence") == {
        "steps": 8, "temperature": 0.5, "do_sample": True, "remasking": "low_confidence",
    }  # fmt: skip
    assert gen_kwargs("until=true") == {"until": "true"}
    assert gen_kwargs("until=1e3") == {"until": "1e3"}
    with pytest.raises(InputError, match="gen_kwargs: 'steps' is not allowed; name=value"):
        gen_kwargs("steps")

import pytest
import torch

from mdlm_min.cli.main import main
from mdlm_min.evidence import golden
from mdlm_min.evidence.experiment import Experiment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "poker"], "experiment: 'poker' is unknown; allowed: 00_theory"),
        (["run", "parity", "--tier", "big"], "tier: 'big' is unknown"),
        (["run", "parity", "--arms", "md_0.9"], "arms: 'md_0.9' is unknown in 01_parity; allowed: all, output"),
        (["run", "parity", "--tier", "smoke", "--jobs", "0"], "jobs: 0 is not allowed; at least 1"),
        (["run", "parity", "--seeds", "-2"], "seeds: -2 is not allowed"),
        (["publish", "parity", "--tier", "nano"], "tier: 'nano' is unknown"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    runs = ["--runs", str(tmp_path)]
    assert main([*arguments, *runs]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mdlm: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_publishing_unfinished_runs_fails_with_3(tmp_path, capsys):
    assert main(["publish", "parity", "--tier", "smoke", "--runs", str(tmp_path)]) == 3
    assert "this run is not finished" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("run", "publish", "verify", "report", "list", "gpu-queue", "window", "exit codes"))


def test_list_names_every_experiment_and_arm(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "00_theory" in text
    assert "md_0.246_none" in text
    table = golden.accepted("01_parity_map", "cpu")
    hours = sum(record["finished"]["seconds"] for record in table.runs.values()) / 3600
    assert f"  cpu     174 runs; 174 in the golden table took {hours:.1f} hours one by one (cpu)\n" in text


@pytest.mark.parametrize("take", [lambda: torch.empty(1 << 50), lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA"))])
def test_more_memory_than_there_is_is_one_line(take, monkeypatch, capsys):
    monkeypatch.setattr("mdlm_min.cli.train.train", lambda arguments: take())
    assert main(["train", "--text", "x"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mdlm: memory: this takes more than the machine has; allowed: what fits, such as a smaller model or batch"
    ]


def test_another_error_of_torch_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("mdlm_min.cli.train.train", lambda arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["train", "--text", "x"])


def test_gpu_queue_is_in_order_of_worth(capsys):
    assert main(["gpu-queue"]) == 0
    meaning, *lines = capsys.readouterr().out.splitlines()
    assert meaning.startswith("worth is how much a tier is wanted, from 0 (little) to 10 (most)")
    worth = [int(line.split(":")[0].removeprefix("worth ")) for line in lines]
    assert worth == sorted(worth, reverse=True)


@pytest.mark.slow
def test_a_smoke_run_ends_with_a_table_and_a_figure(tmp_path, capsys):
    assert main(["run", "parity", "--tier", "smoke", "--seeds", "1", "--jobs", "2", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "[3/3]" in text
    folder = tmp_path / "01_parity" / "smoke"
    assert (folder / "table.csv").exists()
    assert (folder / "01_parity_smoke.png").read_bytes().startswith(b"\x89PNG")
    assert main(["run", "parity", "--tier", "smoke", "--seeds", "1", "--jobs", "2", "--runs", str(tmp_path)]) == 0
    assert "3 of 3 runs are finished already" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["theory", "parity_map", "uniform_attention", "wikitext_bins"])
def test_every_experiment_s_smoke_tier_runs_and_draws(experiment, tmp_path, capsys):
    assert main(["run", experiment, "--tier", "smoke", "--jobs", "2", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "table: " in text
    assert experiment == "theory" or "figure: " in text  # the theory's figure needs all of T1 to T9


@pytest.mark.parametrize("name", ["parity", "01_parity", "theory", "wikitext_bins"])
def test_an_experiment_without_a_plan_is_named_with_those_that_have_one(name, capsys):
    assert main(["plan", name]) == 2
    error = capsys.readouterr().err
    assert f"{Experiment(name).name} trains no LLaDA and has no plan; allowed: 04_8b_pt, 05_8b_sft" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--text", "x", "--run", ""],
        ["run", "parity", "--runs", " "],
        ["sample", ""],
        ["verify", "--runs", ""],
        ["generate", "", "--prompt", "x"],
    ],
    ids=" ".join,
)
def test_an_empty_name_of_a_folder_is_not_the_working_directory(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "an empty name is not allowed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "train --text x --learning-rate abc",
            "--learning-rate: 'abc' is not allowed; allowed: a number (see `mdlm train --help`)",
        ),
        ("run parity --seeds x", "--seeds: 'x' is not allowed; allowed: a whole number (see `mdlm run --help`)"),
        ("train --text x --txt y", "'--txt' is unknown; allowed: --help, --text, --mask-rate, --weight, "),
        ("train --txt y", "'--txt' is unknown; allowed: --help, --text, --mask-rate, --weight, "),
        ("train --text x --mask-rat 1", "'--mask-rat' is unknown; allowed: --help, --text, --mask-rate, --weight, "),
        ("train --text=x --mask-rate=1 --txt", "'--txt' is unknown; allowed: --help, --text, --mask-rate, --weight, "),
        ("verify this", "'this' is unknown; allowed: --help"),
        ("train --text", "--text: expected one argument (see `mdlm train --help`)"),
        ("train", "the following arguments are required: --text (see `mdlm train --help`)"),
        ("rn", "COMMAND: invalid choice: 'rn' (choose from 'list', 'run', "),
        ("--rot", "'--rot' is unknown; allowed: --help, --root"),
        ("--rot list", "'--rot' is unknown; allowed: --help, --root"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_what_is_allowed(line, said, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mdlm: {said}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["export", "run", "--output", "x" * 300], ["window", "--text", "a", "--figure", "x" * 300]]
)
def test_a_path_that_the_system_cannot_hold_is_one_line(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "a path is too long: xxx" in said
    assert said.count("\n") == 1

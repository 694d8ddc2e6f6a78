"""Each example runs as it stands, at a small size (first_model.py: tests/cli/test_train.py)."""

import math
import re
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples"


def run(name, monkeypatch, tmp_path, *smaller):
    source = (FOLDER / name).read_text()
    for old, new in smaller:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), names)
    return names


def test_every_example_is_run():
    assert {path.name for path in FOLDER.glob("*.py")} == {
        "first_model.py", "own_loop.py", "own_model.py", "hf_trainer.py", "window_in_another_trainer.py",
    }  # fmt: skip


def test_own_loop(monkeypatch, tmp_path, capsys):
    run(
        "own_loop.py",
        monkeypatch,
        tmp_path,
        ("STEPS, ROWS, LENGTH, VOCABULARY, MASK = 0, 300, 32", "STEPS, ROWS, LENGTH, VOCABULARY, MASK = 0, 40, 8"),
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    first, last = (float(line.split()[2]) for line in lines)
    assert last < first


def test_own_model(monkeypatch, tmp_path, capsys):
    names = run("own_model.py", monkeypatch, tmp_path)
    counted = (names["template"][:, :1] + torch.arange(16)) % 10
    assert (names["written"].tokens == counted).float().mean() > 0.9
    found = names["found"]
    assert math.log(10) / 16 - 2 * found.error < found.loss < 0.4  # untrained: 2.3
    assert f"NLL: at most {found.loss:.3f} +- " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["p_pots", "puma"])
def test_own_loop_with_a_schedule_that_learns(name, monkeypatch, tmp_path, capsys):
    """P-POTS learns from the losses, PUMA keeps rows and moves on by the confidence: what the loop tells them arrives."""
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    names = run(
        "own_loop.py",
        monkeypatch,
        tmp_path,
        ("STEPS, ROWS, LENGTH, VOCABULARY, MASK = 0, 300, 32", "STEPS, ROWS, LENGTH, VOCABULARY, MASK = 0, 40, 8"),
        (
            "schedule = HarderOverTime()",
            "import numpy\nfrom baselines.schedules import Corpus, make\n"
            f"schedule = make({name!r}, Corpus(numpy.arange(10), 10))",
        ),
    )
    if name == "p_pots":
        assert sum(names["schedule"].state()["rows"]) > 8  # of 40 steps; what is old fades
    else:  # after eight steps a row's place is another sequence's
        first = torch.randint(10, (8, 1), generator=names["stream"](0, "data", 0))
        assert not torch.equal(names["tokens"], (first + torch.arange(16)) % 10)


def test_hf_trainer(monkeypatch, tmp_path, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    names = run(
        "hf_trainer.py",
        monkeypatch,
        tmp_path,
        ("EPOCHS, LENGTH, VOCABULARY, MASK, PAD = 150", "EPOCHS, LENGTH, VOCABULARY, MASK, PAD = 25"),
    )
    said = re.search(r"loss of the first and the last 50 of 100 steps: (\S+), (\S+)\n", capsys.readouterr().out)
    assert said is not None
    assert float(said[2]) < float(said[1]) < 2.5  # it begins near ln 10
    assert names["trainer"].state.global_step == 100


def test_window_in_another_trainer(monkeypatch, tmp_path, capsys):
    names = run("window_in_another_trainer.py", monkeypatch, tmp_path)
    assert "within: mask rates from 0.45" in capsys.readouterr().out
    assert (names["rate"].min() >= 0.45 - 1e-6, names["rate"].max() <= 0.55 + 1e-6) == (True, True)
    assert (names["trainer"].rates.min() >= 0.45 - 1e-6, names["trainer"].rates.max() <= 0.55 + 1e-6) == (True, True)
    names["trainer"].compute_loss(names["model"], names["tokens"], 10)
    for rates in (names["before"], names["after"], names["trainer"].rates):  # the patch is gone again
        assert rates.min() < 0.05
        assert rates.max() > 0.95
    share = names["masked"].float().mean(dim=1) - names["rate"]
    assert share.mean().abs() < 0.02


def test_a_window_leaves_what_the_script_draws_elsewhere(monkeypatch, tmp_path):
    names = run("window_in_another_trainer.py", monkeypatch, tmp_path)
    script = names["other_trainer"]
    exec("def coin():\n    return torch.rand(1, dtype=torch.float64)", vars(script))
    exec("def draw(count):\n    return torch.rand(count, dtype=torch.float64)", vars(script))
    with names["window_of"](script, "draw", "U[0.45,0.55]"):
        assert min(script.coin().item() for _ in range(100)) < 0.2
        rate = script.draw(100)
    assert (rate.dtype, rate.min() >= 0.44, rate.max() <= 0.56) == (names["torch"].float64, True, True)
    assert script.draw(100).min() < 0.2


def test_a_window_that_replaces_nothing_says_so(monkeypatch, tmp_path):
    names = run("window_in_another_trainer.py", monkeypatch, tmp_path)
    script = names["other_trainer"]
    exec("def column(count):\n    return torch.rand(count, 1)", vars(script))
    exec("def named(count):\n    return torch.rand(size=(count,))", vars(script))
    wanted = pytest.raises(RuntimeError, match=r"column drew no one-dimensional torch\.rand")
    with wanted, names["window_of"](script, "column", "U[0.45,0.55]"):
        script.column(100)
    with names["window_of"](script, "named", "U[0.45,0.55]"):
        assert script.named(100).min() >= 0.44

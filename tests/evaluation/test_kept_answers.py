"""What `mdlm eval` keeps: answers until all is evaluated, or in a cache, and the results of one evaluation in a folder."""

import shutil
from pathlib import Path

import pytest
import torch

from mdlm_min.cli.main import main
from mdlm_min.evaluation import harness
from mdlm_min.evaluation.harness import MDLM
from mdlm_min.model.llada import SpecialTokens
from mdlm_min.model.llada_weights import save_weights
from mdlm_min.run.random_streams import stream
from mdlm_min.run.record_log import RecordLog
from mdlm_min.tasks.finetune import grown
from tests.evaluation.conftest import make_model, read


def test_answers_from_a_cache_are_those_of_the_first_start(released, tiny_data, tmp_path, monkeypatch, capsys):
    command = ["eval", str(released), "--tasks", "gsm8k_local,arc_easy_local", "--limit", "2", "--passes", "2", "--shots", "3"]
    command += ["--gen-kwargs", "max_gen_toks=100,steps=2", "--cache", str(tmp_path / "cache"), "--output"]
    logs = []
    for folder in ("first", "second"):
        assert main([*command, str(tmp_path / folder)]) == 0
        logs.append(read(tmp_path / folder))
        assert "2 items have prompts that are too long for this model, which lost their beginning" in capsys.readouterr().out
        monkeypatch.setattr(MDLM, "_logits", None)  # nothing is computed any more
        monkeypatch.setattr(MDLM, "_write", None)
    assert logs[0] == logs[1]
    [cache] = tmp_path.glob("cache-*")
    text = cache.read_text()
    cache.write_text(text.replace('"text"', '"Text"', 1))
    assert main([*command, str(tmp_path / "third")]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(f"mdlm: cache: {cache} is damaged in line 2 (ValueError: its checksum is another); delete it to start")
    cache.unlink()
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        main([*command, str(tmp_path / "third")])


@pytest.mark.parametrize("place", range(1, 6))
def test_an_evaluation_that_was_killed_goes_on(released, tiny_data, tmp_path, monkeypatch, place):
    """Before the first answers are kept, between tasks, and within a task whose documents have several continuations."""
    monkeypatch.setattr(harness, "SAVED_EVERY", 3)
    command = ["eval", str(released), "--tasks", "arc_easy_local,gsm8k_local", "--limit", "3", "--passes", "2", "--shots", "0"]
    command += ["--gen-kwargs", "max_gen_toks=8,steps=2,temperature=1,do_sample=true", "--log-samples", "--batch-tokens", "160"]
    assert main([*command, "--output", str(tmp_path / "whole")]) == 0
    usual, left = RecordLog.add, place

    def add(self, records):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        usual(self, records)

    with monkeypatch.context() as killed:
        killed.setattr(RecordLog, "add", add)
        with pytest.raises(KeyboardInterrupt):
            main([*command, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "results.json").exists()
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    for path in (tmp_path / "whole").iterdir():
        if path.name not in ("lock", "results.json"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    whole, found = (read(tmp_path / name)[0] for name in ("whole", "out"))
    whole["generation"].pop("seconds"), found["generation"].pop("seconds")
    assert whole == found
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_the_results_of_another_evaluation_are_not_lost(released, tiny_data, tmp_path, capsys):
    command = [
        "eval",
        str(released),
        "--tasks",
        "arc_easy_local",
        "--limit",
        "2",
        "--passes",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for change, message in (
        (["--limit", "3"], "request.limit: 2 there, 3 asked"),
        (["--seed", "1"], "model.seed: 0 there, 1 asked"),
    ):
        capsys.readouterr()
        assert main([*command, *change]) == 2
        error = capsys.readouterr().err
        assert f"holds the results of another evaluation ({message})" in error and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert main([*command, "--batch-tokens", "200"]) == 0  # it changes no result
    path = tiny_data / "arc" / "ARC-Easy-Test.jsonl"
    text = path.read_text()
    path.write_text(text.replace("song", "tune"))
    capsys.readouterr()
    assert main(command) == 2
    assert "another evaluation (request.documents_sha256: " in capsys.readouterr().err
    path.write_text(text)
    results = (tmp_path / "out" / "results.json").read_text()
    (tmp_path / "out" / "results.json").unlink()
    assert main([*command, "--seed", "1"]) == 2
    assert f"{tmp_path / 'out' / 'items.jsonl'} is of an evaluation whose results.json is gone" in capsys.readouterr().err
    (tmp_path / "out" / "results.json").write_text(results)
    (tmp_path / "out" / "results.json").write_text("[]")
    assert main(command) == 2
    assert "results.json is no results.json of ours" in capsys.readouterr().err


def test_answers_of_another_model_are_not_used_wherever_its_weights_differ(released, tiny_data, tmp_path):
    """Also behind the first million bytes of a tensor."""
    first = make_model()
    wide = grown(first, 40_000, stream(0, "rows"))
    assert wide.token_embedding.weight.nbytes > 2 << 20
    command = ["--tasks", "arc_easy_local", "--limit", "1", "--passes", "1", "--cache", str(tmp_path / "cache"), "--output"]
    for name in ("a", "b"):
        save_weights(tmp_path / name, wide, SpecialTokens(256, 257, 257))
        shutil.copy(released / "tokenizer.json", tmp_path / name)
        assert main(["eval", str(tmp_path / name), *command, str(tmp_path / f"of_{name}")]) == 0
        with torch.no_grad():
            wide.head.weight[30_000:] += 1
    assert len(list(tmp_path.glob("cache-*"))) == 2
    assert read(tmp_path / "of_a")[1] != read(tmp_path / "of_b")[1]


def test_models_whose_names_differ_behind_a_dot_have_results_of_their_own(released, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-1.0", "a-1.5"):
        shutil.copytree(released, name)
        assert main(["eval", name, "--tasks", "arc_easy_local", "--limit", "1", "--passes", "1"]) == 0
    assert main(["eval", "a-1.0", "--tasks", "arc_easy_local", "--limit", "2", "--passes", "1"]) == 0  # other results of its own
    found = {str(path.parent.relative_to("runs/eval")) for path in Path("runs/eval").rglob("results.json")}
    assert found == {"a-1.0/arc_easy_local,limit=1", "a-1.5/arc_easy_local,limit=1", "a-1.0/arc_easy_local,limit=2"}

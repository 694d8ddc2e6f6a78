import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdlm_min.diffusion.objective import masked_loss
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.model.llada import SpecialTokens, read_config, read_special_tokens
from mdlm_min.model.llada_weights import load_weights
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import build, merge
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder, open_run
from mdlm_min.tasks import pretrain
from mdlm_min.tasks.multiple_choice import Judged
from mdlm_min.tasks.pretrain import PretrainConfig, PretrainTask
from mdlm_min.tasks.text_model import TextModel, export
from mdlm_min.training.checkpoint import Checkpoint, checkpoints, save_checkpoint


@pytest.fixture
def settings(tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(f"line {index**2} of the text, {index % 7} and {index % 11}." for index in range(2000)))
    return {
        "data": {"source": str(text), "tokenizer": "bytes", "length": 32, "random_lengths": 0.3},
        "model": {"layers": 2, "heads": 2, "width": 16},
        "batch": 8, "validation_passes": 240, "test_passes": 240,
        "train": {"steps": 6, "eval_every": 3, "learning_rate": 1e-2},
    }  # fmt: skip


def task(settings, folder=None):
    return PretrainTask(build(PretrainConfig, settings), 0, folder)


def test_the_loss_is_the_sum_of_its_parts_whatever_their_shares_of_masked_tokens(settings):
    made = task(merge(settings, {"engine": {"micro_batch": 2}}))
    whole = made.loss(0)
    assert made.parts == 4
    torch.testing.assert_close(sum(made.part_loss(0, part) for part in range(4)), whole, rtol=1e-6, atol=0)
    # The field's bug: the mean of the parts' own means is another number.
    lengths = made.drawn(0).padding_mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 1
    local = [
        float(made.part_loss(0, part).detach()) * int(lengths.sum()) / int(lengths[2 * part : 2 * part + 2].sum())
        for part in range(4)
    ]
    assert sum(local) / 4 != pytest.approx(float(whole.detach()), rel=1e-3)


def test_the_weighted_loss_is_llada_s_sum_over_p_by_the_tokens_of_the_batch(settings):
    made = task(settings)
    drawn = made.drawn(0)
    lengths = drawn.padding_mask.sum(dim=1)
    from mdlm_min.diffusion.masking import bernoulli
    from mdlm_min.run.random_streams import stream

    generator = stream(0, "masks", 0)
    rate = made.process.rate.sample(8, generator)
    mask = bernoulli(rate, 32, generator) & (torch.arange(32) < lengths[:, None])
    by_hand = 0.0
    for row in range(8):
        length = int(lengths[row])
        alone = made.nll(drawn.tokens[row : row + 1, :length], mask[row : row + 1, :length])
        by_hand += float(alone.detach().sum()) / float(rate[row])
    assert float(made.loss(0).detach()) == pytest.approx(by_hand / int(lengths.sum()), rel=1e-5)


def test_rows_of_one_length_have_the_loss_of_the_other_experiments():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(4, 10, generator=generator) < 0.5
    losses, rate = torch.rand(int(mask.sum()), generator=generator), torch.rand(4, generator=generator) + 0.1
    for weight in ("1/t", "none", "mean"):
        assert torch.equal(masked_loss(losses, mask, rate, weight), masked_loss(losses, mask, rate, weight, whole=(4, 40)))


def test_items_and_test_loss_come_with_the_last_evaluation(settings, data_folder, tmp_path):
    settings = merge(settings, {"items": 3, "item_passes": 2, "data": {"length": 192}})
    with open_run(tmp_path / "run", {"seed": 0, **settings}) as folder:
        pretrain.run(settings, 0, folder, lambda line: None)
    rows = folder.metrics()
    assert math.isnan(rows[0]["hellaswag_acc"])
    assert math.isnan(rows[1]["test_loss"])
    last = rows[-1]
    lines = (tmp_path / "run" / "items.csv").read_text().splitlines()
    assert lines[0] == "task,item,acc,acc_norm,nll"
    assert len(lines) == 7
    assert last["arc_easy_nll"] == pytest.approx(sum(float(line.split(",")[4]) for line in lines[4:]) / 3, abs=1e-5)
    assert folder.read_json("finished.json")["items_sha256"]


def test_what_was_judged_of_each_item_is_in_the_items_and_its_means_in_the_row(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "load_items", lambda task, count: [])
    monkeypatch.setattr(pretrain, "judge_items", lambda *_: [Judged(True, False, 1.5), Judged(True, True, 2.5)])
    with open_run(tmp_path / "run", {}) as folder:
        row = task(settings, folder)._judge_items(True)
    assert [row[f"arc_easy_{name}"] for name in ("acc", "acc_norm", "nll")] == [1.0, 0.5, 2.0]
    lines = (tmp_path / "run" / "items.csv").read_text().splitlines()
    assert lines[-2:] == ["arc_easy,0,1,0,1.5", "arc_easy,1,1,1,2.5"]


def test_items_are_judged_by_as_many_passes_as_are_asked_for(settings, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pretrain, "load_items", lambda task, count: [])
    monkeypatch.setattr(pretrain, "judge_items", lambda *given: seen.append(given[-1].passes) or [Judged(True, True, 1.0)])
    with open_run(tmp_path / "run", {}) as folder:
        task(merge(settings, {"item_passes": 3}), folder)._judge_items(True)
    assert set(seen) == {3}


def test_each_split_is_judged_by_its_own_blocks_and_passes(settings, monkeypatch):
    seen = []
    monkeypatch.setattr(pretrain, "loss_over_rates", lambda _, blocks, __, *given: seen.append((*given, blocks)) or {})
    made = task(merge(settings, {"test_passes": 480}))
    made.evaluate(6)
    assert [given[:2] for given in seen] == [(240, "valid"), (480, "test")]
    assert torch.equal(seen[0][2], made.data.valid) and torch.equal(seen[1][2], made.data.test)
    assert not torch.equal(made.data.valid, made.data.test)


def test_each_seed_has_its_own_weights_samples_and_masks(settings):
    one, two = (PretrainTask(build(PretrainConfig, settings), seed, None) for seed in (0, 1))
    assert not torch.equal(one.model.head.weight, two.model.head.weight)
    assert not torch.equal(one.drawn(0).tokens, two.drawn(0).tokens)
    assert not torch.equal(one.drawn(0).rate, two.drawn(0).rate)


def test_an_evaluation_says_how_often_the_records_were_read_and_how_many_were_corrupt(settings, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 40}) + "\n" for _ in range(8)) + 2 * "{broken\n")
    data = {"source": str(path), "random_lengths": 0.0, "held_out": 4}
    made = task(merge(settings, {"data": data, "validation_passes": 0}))
    for step in range(3):
        made.drawn(step)
    samples = made.data.samples(0)
    samples.take(3 * 8)
    row = made.evaluate(3)
    assert (row["epoch"], row["corrupt"]) == (samples.state()["epoch"], samples.state()["corrupt"])
    assert row["corrupt"] > row["epoch"] > 1


def test_answers_that_do_not_fit_are_refused_before_the_training(settings, data_folder, tmp_path):
    settings = merge(settings, {"items": 3, "data": {"length": 64}})
    with open_run(tmp_path / "run", {"seed": 0, **settings}) as folder:
        with pytest.raises(InputError, match=r"data\.length: 64 .*hellaswag"):
            pretrain.run(settings, 0, folder, lambda line: None)
        assert not folder.metrics()


def test_a_checkpoint_is_exported_in_llada_s_form(settings, tmp_path):
    with open_run(tmp_path / "run", {"arm": "any", "seed": 0, **settings}) as folder:
        pretrain.run(settings, 0, folder, lambda line: None)
    export(tmp_path / "run", tmp_path / "out", "float32")
    config = read_config(tmp_path / "out")
    assert (config.layers, config.width, config.vocab_size) == (2, 16, 258)
    model = Transformer(config, None)
    load_weights(tmp_path / "out", model)
    saved = Checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, saved[f"model.{name}"])
    assert read_special_tokens(tmp_path / "out") == SpecialTokens(mask=256, end=257, padding=257)
    opened, run = TextModel.load(tmp_path / "out"), TextModel.load(tmp_path / "run")
    assert (opened.mask_token, opened.end_token, opened.length) == (run.mask_token, run.end_token, run.length)
    assert opened.suppressed == run.suppressed
    text = "any text, \u00e9\u4e16\x00 and [MASK]"
    assert opened.template(text) == run.template(text)
    assert opened.tokenizer.decode(range(97, 105)) == "abcdefgh"
    template = torch.tensor([run.continuation("line ")])
    assert torch.equal(*(one.fill(template, SamplingConfig(steps=4, temperature=0)) for one in (opened, run)))


def test_an_export_is_whole_and_replaces_only_an_export(settings, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    with pytest.raises(InputError, match="is not a run folder"):
        export(tmp_path, out, "float32")
    with open_run(run, {"seed": 0, **settings}) as folder:
        pretrain.run(settings, 0, folder, lambda line: None)
    export(run, out, "bfloat16")
    names = {path.name for path in out.iterdir()}
    for old in ("model-00007-of-00009.safetensors", "model.safetensors"):
        (out / old).write_bytes(b"")
    (out / "model-notes.safetensors").write_bytes(b"mine")
    export(run, out, "float32")
    assert {path.name for path in out.iterdir()} == names | {"model-notes.safetensors"}
    assert TextModel.load(out).dtype == torch.float32
    (tmp_path / "file").write_text("")
    for output, message in ((tmp_path / "file", "output: .*file is a file"), (run, "output: .*run is a run folder")):
        with pytest.raises(InputError, match=message):
            export(run, output, "float32")
    with pytest.raises(InputError, match="dtype: 'half' is unknown"):
        export(run, out, "half")


def test_changed_data_are_refused(settings, tmp_path):
    with open_run(tmp_path / "run", {"seed": 0, **settings}) as folder:
        pretrain.prepare(settings, 0, folder)
        Path(settings["data"]["source"]).write_text("something else\n" * 500)
        with pytest.raises(InputError, match="data.source: .* has changed since this run began"):
            pretrain.prepare(settings, 0, folder)


def test_event_files_hold_what_the_table_holds(settings, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MDLM_TENSORBOARD", "1")
    with open_run(tmp_path / "run", {"seed": 0, **settings}) as folder:
        pretrain.run(settings, 0, folder, lambda line: None)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("valid_loss")}
    assert found == {int(row["step"]): pytest.approx(row["valid_loss"], rel=1e-6) for row in folder.metrics()}


def test_shards_are_cut_verified_and_kept_two_deep(tmp_path):
    tensors = {f"model.{index}": torch.full((100,), float(index)) for index in range(7)}
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, tensors.items(), {"note": step}, shard_bytes=900)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000002", "step-000000003"]
    saved = Checkpoint(checkpoints(tmp_path)[-1])
    assert len(saved.record["shards"]) == 4
    assert saved.record["note"] == 3
    assert all(torch.equal(saved[name], tensor) for name, tensor in tensors.items())
    assert "model.9" not in saved
    save_checkpoint(tmp_path, 3, tensors.items(), {"note": 4})  # never is there a moment without it
    assert Checkpoint(checkpoints(tmp_path)[-1]).record["note"] == 3
    shard = sorted(checkpoints(tmp_path)[-1].glob("shard-*"))[2]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match=f"{shard.name} is truncated or altered"):
        Checkpoint(checkpoints(tmp_path)[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "half"}, "dtype: 'half' is unknown"),
        ({"batch": 0}, "batch: 0 is not allowed"),
        ({"items": -1}, "items: -1 is not allowed"),
        ({"validation_passes": 10}, "validation_passes: 10 is not allowed; 0 for none, or at least 240"),
        ({"engine": {"micro_batch": 3}}, "engine.micro_batch: 3 is not allowed; a divisor of 16"),
        ({"engine": {"kind": "deepspeed"}, "weights": "bfloat16"}, "weights: 'bfloat16' is for engine.kind = torch"),
        ({"weights": "bfloat16"}, "weights: 'bfloat16' is not allowed with dtype = 'float32'; allowed: 'float32'"),
        ({"data": {"length": 5}}, "data.length: 5 is not allowed"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        build(PretrainConfig, changes)


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mdlm_min", *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_experiment_runs_plans_and_exports_from_the_command_line(data_folder, tmp_path):
    result = command("run", "8b_pt", "--tier", "smoke", "--runs", str(tmp_path), "--tensorboard")
    assert result.returncode == 0, result.stderr
    assert "B5" not in result.stdout  # a claim of another tier
    table = (tmp_path / "04_8b_pt" / "smoke" / "table.csv").read_text()
    assert "hellaswag_acc_norm" in table
    assert (tmp_path / "04_8b_pt" / "smoke" / "items.csv.gz").exists()
    folder = RunFolder(tmp_path / "04_8b_pt" / "smoke" / "middle" / "seed0")
    assert list((folder.path / "tensorboard").iterdir())
    result = command("export", str(folder.path), "--output", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["d_model"] == 16
    assert command("plan", "8b_pt", "--tier", "cpu", "--gpus", "1").returncode == 0
    result = command("run", "8b_pt", "--tier", "smoke", "--runs", str(tmp_path), "--processes", "2")
    assert (result.returncode, result.stderr) == (
        2,
        "mdlm: processes: this tier runs on plain torch; allowed: a tier whose engine.kind is deepspeed\n",
    )

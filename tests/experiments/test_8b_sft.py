"""05_8b_sft: its judges on made tables, and its smoke tier from the command line."""

import csv
import os
import subprocess
import sys

import pytest

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder
from mdlm_min.tasks.finetune import FinetuneConfig
from mdlm_min.tasks.pretrain import PretrainConfig
from mdlm_min.tasks.summaries import DECODERS
from tests.experiments.made_run import made_run

EXPERIMENT = Experiment("8b_sft")
CLAIMS = {claim.id: claim for claim in EXPERIMENT.module("claims").CLAIMS}
COLUMNS = ("acc", "acc_norm", "nll", "solved_1", "solved_2", "solved_4", "solved_8")
ITEMS = 40
ARMS = ("middle", "from_0", "from_5")


DECODINGS = {"arithmetic-decoding": range(1, 6), "arithmetic-decoding-fresh": range(6, 11)}  # and their seeds
JUDGED = ("arithmetic", "arithmetic-slow", "arithmetic-fresh", *DECODINGS, "gsm8k")


def table(scores, cell="arithmetic", **metrics):
    """Five seeds of every arm; scores[arm]: shares right by likelihood and by what is written. Seeds differ by one item."""
    runs, curves, items = {}, {}, {}
    for arm, (chosen, solved) in scores.items():
        for seed in range(1, 6):
            name = f"{cell}/{arm}/seed{seed}"
            right = {"acc": round(chosen * ITEMS) + seed % 2, "solved_1": round(solved * ITEMS) + seed % 3}
            runs[name] = made_run(cell, arm, seed)
            curves[name] = [{"step": 9.0, **{key: value / ITEMS for key, value in right.items()}, **metrics.get(arm, {})}]
            lines = [f"task,item,{','.join(COLUMNS)}"]
            for item in range(ITEMS):
                values = [float(item < right.get(column, 0)) for column in COLUMNS]
                lines.append(f"{cell},{item},{','.join(map(str, values))}")
            items[name] = "\n".join(lines) + "\n"
    return Table("05_8b_sft", "cpu", runs, curves, items)


PAPER_LIKE = {"middle": (0.7, 0.3), "from_0": (0.5, 0.5), "from_2": (0.5, 0.5), "from_3": (0.5, 0.6), "from_5": (0.5, 0.7)}


def test_made_tables_that_are_as_the_paper_says_have_gains_above_zero():
    found = {name: CLAIMS[name].judge(table(PAPER_LIKE)) for name in CLAIMS if name.endswith("arithmetic")}
    assert found["B3-arithmetic"].estimate == pytest.approx(0.2)
    assert found["B4-arithmetic"].estimate == pytest.approx(0.2)
    assert found["B4-middle-arithmetic"].estimate == pytest.approx(0.2)
    assert found["B34-arithmetic"].estimate == pytest.approx(0.4)
    assert found["B4-edge-arithmetic"].estimate == pytest.approx(0.423, abs=0.001)  # least squares by hand: .055 / .13
    for evidence in found.values():
        assert evidence.seeds == 5
        assert evidence.interval()[0] > 0
    assert "by likelihood, U[.5,1]" in found["B34-arithmetic"].note


def test_made_tables_that_say_the_reverse_have_gains_below_zero():
    reverse = {arm: (1 - chosen, 1 - solved) for arm, (chosen, solved) in PAPER_LIKE.items()}
    for name in CLAIMS:
        if name.endswith("arithmetic"):
            assert CLAIMS[name].judge(table(reverse)).estimate < -0.1, name


def test_gsm8k_and_the_paper_s_tasks_are_judged_in_their_own_cells():
    both = {"middle": (0.6, 0.0), "from_0": (0.4, 0.0)}
    losses = {"middle": {"valid_loss": 1.0}, "from_0": {"valid_loss": 1.25}}
    found = table(both, "gsm8k", **losses)
    assert CLAIMS["B3-gsm8k"].judge(found).estimate == pytest.approx(0.2)
    assert CLAIMS["B3-nll-gsm8k"].judge(found).estimate == pytest.approx(0.25)
    tasks = {"mmlu": 0.6, "mmlu_stem": 0.6, "arc_challenge": 0.4, "gpqa": 0.4, "gsm8k": 0.7, "math": 0.3}
    better = {name: value + 0.1 for name, value in tasks.items()}
    at_size = table(
        dict.fromkeys(("middle", "from_0", "from_5"), (0, 0)), "evaluated", middle=better, from_0=tasks, from_5=better
    )
    assert CLAIMS["B3"].judge(at_size).estimate == pytest.approx(0.1)
    assert CLAIMS["B4"].judge(at_size).estimate == pytest.approx(0.1)


def test_the_selection_seed_is_judged_nowhere_and_every_arm_has_the_same_search():
    specs = EXPERIMENT.runs("cpu")
    judged = {spec.seed for spec in specs if spec.cell in JUDGED}
    searched = [spec for spec in specs if spec.cell not in JUDGED and spec.arm != "base"]
    assert judged == set(range(1, 11))
    for cell in ("arithmetic-fresh", "arithmetic-decoding-fresh"):
        assert {spec.seed for spec in specs if spec.cell == cell} == {6, 7, 8, 9, 10}
    assert {spec.seed for spec in searched} == {0}
    rates = {}
    for spec in searched:
        rates.setdefault((spec.cell.split("-")[0], spec.arm), set()).add(spec.settings["train"]["learning_rate"])
    assert len(rates) == 10
    for task in ("arithmetic", "gsm8k"):
        searches = [found for (cell, _), found in rates.items() if cell == task]
        assert all(found == searches[0] and len(found) == 3 for found in searches)


def test_arms_differ_in_their_mask_rates_alone():
    for tier, cell in (*(("cpu", cell) for cell in JUDGED), ("paper", "tuned")):
        specs = [spec for spec in EXPERIMENT.runs(tier, seeds=1) if spec.cell == cell and spec.arm != "untuned"]
        settings = [{name: value for name, value in spec.settings.items() if name != "mask_rate"} for spec in specs]
        assert len(specs) == (3 if cell in ("arithmetic-fresh", *DECODINGS) else 5)
        assert all(one == settings[0] for one in settings)


def decoded(solved, passes, pace, cell, arms=("middle", "from_0", "from_5")):
    """Five seeds of what was measured of each way of writing: solved[arm][way], the others by way."""
    runs, curves, items = {}, {}, {}
    for arm in arms:
        for number, seed in enumerate(DECODINGS[cell], 1):
            name = f"{cell}/{arm}/seed{seed}"
            runs[name] = made_run(cell, arm, seed)
            row = {"step": 0.0}
            for way in DECODERS:
                row |= {f"solved_{way}": (round(solved[arm][way] * ITEMS) + number % 2) / ITEMS}
                row |= {f"passes_{way}": passes[way] + number / 10, f"tokens_per_pass_{way}": pace[way]}
            curves[name] = [row]
            lines = [f"task,item,{','.join(f'solved_{way}' for way in DECODERS)}"]
            for item in range(ITEMS):
                values = [float(item < row[f"solved_{way}"] * ITEMS) for way in DECODERS]
                lines.append(f"arithmetic,{item},{','.join(map(str, values))}")
            items[name] = "\n".join(lines) + "\n"
    return Table("05_8b_sft", "cpu", runs, curves, items)


@pytest.mark.parametrize(("cell", "suffix"), [("arithmetic-decoding", ""), ("arithmetic-decoding-fresh", "-fresh")])
def test_ways_of_writing_are_compared_by_what_they_solve_and_what_they_take(cell, suffix):
    shares = {"exact": 0.5, "threshold_0.95": 0.5, "threshold_0.9": 0.5, "threshold_0.8": 0.5, "cached": 0.25}
    solved = {"from_0": {way: shares.get(way, 0.25) for way in DECODERS}}
    solved["middle"] = solved["from_5"] = dict.fromkeys(DECODERS, 0.5)
    pace = {way: 1.0 + index for index, way in enumerate(DECODERS)}
    found = decoded(solved, {way: 5.0 if way == "cached" else 20.0 for way in DECODERS}, pace, cell)
    assert len(found.frame()) == 15
    assert CLAIMS[f"G1{suffix}"].judge(found).estimate == 0
    assert CLAIMS[f"G2{suffix}"].judge(found).estimate == pytest.approx(-0.25)
    assert 3.7 < CLAIMS[f"G3{suffix}"].judge(found).estimate < 4
    claims, table = EXPERIMENT.module("claims"), found.cell(cell)
    # By hand: all ways that count are as good as the best, so the area is their accuracy times the pace of the last that counts;
    # after U[0,1] threshold_0.6 has lost too much to count. Three of the five seeds solve one item more.
    solved_by_most = 50 + 100 / ITEMS * 3 / 5
    assert claims.parallelism(table, "from_0", claims.THRESHOLDS).mean() == pytest.approx(solved_by_most * pace["threshold_0.8"])
    assert CLAIMS[f"G4{suffix}"].judge(found).estimate == pytest.approx(solved_by_most)


def test_ways_of_writing_need_something_to_write():
    [spec] = [spec for spec in EXPERIMENT.runs("smoke", seeds=1) if spec.settings["kind"] == "decode"]
    check = EXPERIMENT.module("run").check
    check(spec.settings)
    with pytest.raises(InputError, match="generation_tokens: 0 is not allowed"):
        check(spec.settings | {"generation_tokens": 0})


@pytest.mark.parametrize("tier", ["smoke", "cpu", "gpu", "paper"])
def test_every_run_s_settings_are_its_task_s(tier):
    kinds = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "untuned": FinetuneConfig, "decode": FinetuneConfig}
    for spec in EXPERIMENT.runs(tier):
        settings = dict(spec.settings)
        kind, start = settings.pop("kind"), settings.pop("start_run", "")
        if kind in kinds:
            built = build(kinds[kind], settings)
            assert bool(start) != ("start" in settings or "model" in settings)
            assert built.items == 0 or spec.cell in JUDGED or spec.seed == 0
        else:
            assert set(settings["tasks"].split(",")) == set(EXPERIMENT.module("run").TASKS)
        if start:
            cell, _, arm = start.partition("/")
            wanted = (cell, spec.arm if arm == "same" else arm, spec.seed)
            assert wanted in {(other.cell, other.arm, other.seed) for other in EXPERIMENT.runs(tier)}


def test_a_start_that_is_finished_is_used_at_once(tmp_path, monkeypatch):
    start = tmp_path / "arithmetic-base" / "base" / "seed1"
    start.mkdir(parents=True)
    (start / "finished.json").write_text("{}")
    run = EXPERIMENT.module("run")
    monkeypatch.setattr(run.time, "sleep", lambda seconds: pytest.fail("waited for a run that is finished"))
    folder = RunFolder(tmp_path / "tuned" / "middle" / "seed1")
    assert run._finished(folder, "arithmetic-base/base", pytest.fail) == start


@pytest.mark.slow
def test_an_evaluation_is_refused_before_the_tuning_starts(monkeypatch):
    run = EXPERIMENT.module("run")
    settings = {"kind": "evaluate", "start_run": "tuned/same", "device": "cpu", "dtype": "float32", "tasks": "mmlu,gsm8k_local"}
    run.check(settings)
    with pytest.raises(InputError, match="tasks: 'mmul' is unknown; allowed: mmlu"):
        run.check({**settings, "tasks": "mmul"})
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs lm-eval, which is not installed"):
        run.check(settings)


def test_the_smoke_tier_runs_from_the_command_line(tmp_path):
    def command(*arguments):
        line = [sys.executable, "-m", "mdlm_min", "run", "8b_sft", "--tier", "smoke", "--runs", str(tmp_path), *arguments]
        return subprocess.run(line, env=os.environ, capture_output=True, text=True, timeout=500)

    early = command("--seeds", "1", "--arms", "middle", "--jobs", "1")
    assert early.returncode == 3
    assert "arithmetic-base/base is not finished, and this run starts from it" in early.stderr
    result = command("--seeds", "1")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "05_8b_sft" / "smoke"
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["arm"] for row in rows] == ["base", "untuned", "middle", "from_0", "from_2", "from_3", "from_5", "from_5"]
    assert all(row["acc"] != "nan" and row["solved_8"] != "nan" for row in rows[1:-1])
    [ways] = csv.DictReader((folder / "arithmetic-decoding/from_5/seed0/metrics.csv").open())
    assert all(float(ways[f"passes_{way}"]) >= 1 and 0 <= float(ways[f"solved_{way}"]) <= 1 for way in DECODERS)
    assert (folder / "05_8b_sft_smoke.png").exists()

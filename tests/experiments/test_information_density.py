"""06_information_density: its plan, its predictions, and its judges on made tables."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table, accepted
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import open_run
from mdlm_min.tasks.finetune import FinetuneConfig, FinetuneTask
from mdlm_min.tasks.language import LanguageRunConfig
from tests.experiments.made_run import made_run

EXPERIMENT = Experiment("information_density")
RUN, JUDGES = EXPERIMENT.module("run"), EXPERIMENT.module("claims")
CLAIMS = {claim.id: claim for claim in JUDGES.CLAIMS}
SCALED = ("bytes", "BPE", "arithmetic", "gsm8k", "parity")


def table(cell, rows_of):
    """Five seeds of every arm; rows_of(arm, seed): the rows of its metrics."""
    runs, curves = {}, {}
    for arm in JUDGES.ARMS:
        for seed in range(5):
            name = f"{cell}/{arm}/seed{seed}"
            runs[name] = made_run(cell, arm, seed)
            curves[name] = rows_of(arm, seed)
    return Table("06_information_density", "cpu", runs, curves)


def learned(at):
    """A parity run that is evaluated every 50 steps and has generalised from `at`."""
    last = min(at + 450, 6000) if math.isfinite(at) else 6000
    return [
        {
            "step": float(step),
            "train_accuracy": 1.0,
            "validation_accuracy": float(step >= at),
            "signal_share": 0.1,
        }
        for step in range(0, last + 50, 50)
    ]


def test_a_table_of_byte_frequencies_knows_more_of_gsm8k_than_two_arms(data_folder, tmp_path):
    """The page's 3.387 nats a byte, from the training answers of the track's own data; the arms' means stand on its two sides."""
    (spec,) = [one for one in EXPERIMENT.runs("cpu") if (one.cell, one.arm, one.seed) == ("track=gsm8k", "uniform", 3)]
    config = build(FinetuneConfig, RUN._split(spec.settings).task)
    with open_run(tmp_path / "run", {"seed": 3}) as folder:
        task = FinetuneTask(config, 3, folder)
    counts = np.bincount(np.concatenate([one.answer for one in task.data.train]), minlength=task.template.vocab_size) + 1
    held_out = np.concatenate([one.answer for one in task.data.held_out[: config.validation_answers]])
    unigram = float(-np.log(counts / counts.sum())[held_out].mean())
    assert unigram == pytest.approx(3.387, abs=0.001)
    frame = accepted("06_information_density", "cpu").cell("track=gsm8k").frame()
    means = frame.groupby("arm")["test_nll"].mean()
    assert set(means.index[means > unigram]) == {"density_5", "hard"}


def test_all_arms_have_the_same_tracks_and_differ_in_their_density_alone():
    specs = EXPERIMENT.runs("cpu")
    for cell in {spec.cell for spec in specs}:
        settings = [
            {key: value for key, value in spec.settings.items() if key != "density"} for spec in specs if spec.cell == cell
        ]
        assert all(one == settings[0] for one in settings)
        asked = JUDGES.FRESH[cell.removesuffix("-fresh")][1] if cell.endswith("-fresh") else None
        own = set(JUDGES.ARMS) if asked is None else {arm for id, _, *pair, _ in JUDGES.QUESTIONS if id in asked for arm in pair}
        assert {spec.arm for spec in specs if spec.cell == cell} == own
    assert all(spec.seed not in (0, 1000) for spec in specs)


def test_every_run_can_be_checked_and_every_claim_s_cell_is_run():
    specs = EXPERIMENT.runs("cpu")
    for spec in specs:  # a check on text needs the corpus, which may not be here
        if spec.settings["track"] == "text":
            build(
                LanguageRunConfig,
                {key: value for key, value in spec.settings["tracks"]["text"].items() if key not in RUN.OWN["text"]},
            )
        else:
            RUN.check(spec.settings)
    cells = {spec.cell for spec in specs}
    first = {"tokenizer=bytes", "tokenizer=bpe:512", "track=arithmetic", "track=gsm8k", "track=parity"}
    assert cells == first | {"BPE-fresh", "arithmetic-fresh"}
    parity = {spec.seed for spec in specs if spec.cell == "track=parity"}
    earlier = {spec.seed for name in ("parity", "parity_map") for spec in Experiment(name).runs("cpu")}
    assert len(parity) >= 5
    assert not parity & earlier


def test_fresh_seeds_are_asked_of_the_same_setting_and_are_no_others():
    specs = EXPERIMENT.runs("cpu")
    for suffix, (scaled, asked) in JUDGES.FRESH.items():
        fresh = [spec for spec in specs if spec.cell == scaled.cell]
        first = [spec for spec in specs if spec.cell == JUDGES.SCALED[suffix].cell]
        seeds = {spec.seed for spec in fresh}
        assert not seeds & {spec.seed for spec in first}
        assert f", {len(seeds)} fresh seeds" in scaled.where
        settings = {spec.arm: spec.settings for spec in first}
        assert all(spec.settings == settings[spec.arm] for spec in fresh)
        for id in asked:
            claims = [claim for claim in JUDGES.CLAIMS if claim.id in (f"{id}-{suffix}", f"{id}-{suffix}-fresh")]
            assert len({claim.family for claim in claims}) == 1
            assert len(claims) == 2


def test_the_predictions_are_about_the_runs_and_both_accounts_agree():
    spec = next(spec for spec in EXPERIMENT.runs("cpu") if spec.cell == "track=parity")
    data = spec.settings["tracks"]["parity"]["data"]
    assert (data["n"], data["k"]) == (JUDGES.N, JUDGES.K)
    assert spec.settings["density"]["rate"] == "U[{},{}]".format(*JUDGES.WINDOW)
    for _, _, first, second in JUDGES.PREDICTIONS:
        assert JUDGES.SIGNALS[first].probability > JUDGES.SIGNALS[second].probability
        assert JUDGES.SIGNALS[first].loss > JUDGES.SIGNALS[second].loss


def test_the_predictions_numbers_are_those_of_the_page():
    page = (EXPERIMENT.folder / "README.md").read_text()
    for arm, signal in JUDGES.SIGNALS.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| {JUDGES.ARMS[arm]} |"))
        shown = [float(cell) for cell in line.split("|")[2:5]]
        assert shown == [round(signal.probability, 3), round(signal.loss, 4), round(signal.hidden, 1)]


@pytest.mark.parametrize("column", ["test_loss", "test_nll", "written"])
def test_the_better_arm_is_the_one_with_the_lower_loss_or_the_larger_share(column):
    cell, suffix = {
        "test_loss": ("tokenizer=bytes", "bytes"),
        "test_nll": ("track=gsm8k", "gsm8k"),
        "written": ("track=arithmetic", "arithmetic"),
    }[column]
    better = 0.7 if column == "written" else 0.3

    def rows(arm, seed):
        value = (better if arm == "density" else 0.5) + 0.01 * seed
        return [{"step": 1.0, "acc": 0.5, "valid_loss": value}] if column == "test_nll" else [{"step": 1.0, column: value}]

    for number in (1, 2, 3, 4):
        evidence = CLAIMS[f"D{number}-{suffix}"].judge(table(cell, rows))
        assert evidence.estimate == pytest.approx(0.2)
        assert "uniform 0.520" in evidence.note
    assert CLAIMS["D1-arithmetic"].quantity == "share written rightly, w = 2, soft, pairs - uniform"
    assert CLAIMS["D1-bytes"].quantity == "test loss, uniform - w = 2, soft, pairs"


def test_the_published_benchmarks_are_judged_by_how_much_more_is_right():
    accuracies = {"density": 0.6, "uniform": 0.5, "hard": 0.45, "density_single": 0.55, "density_5": 0.7}
    runs = {f"{arm}{seed}": {"config": {"arm": arm, "seed": seed}} for arm in accuracies for seed in (1, 0)}
    rows = [
        {**run["config"], "accuracy": accuracies[run["config"]["arm"]] + 0.01 * run["config"]["seed"]} for run in runs.values()
    ]
    found = SimpleNamespace(runs=runs, frame=lambda: pd.DataFrame(rows))
    for name, gain in (("D1", 0.1), ("D2", 0.15), ("D3", 0.05), ("D4", -0.1)):
        assert CLAIMS[name].judge(found).values == pytest.approx((gain, gain))


def test_parity_is_judged_by_who_generalises_first():
    order = ("uniform_pairs", "uniform", "density", "density_5", "hard", "density_single")
    found = table("track=parity", lambda arm, seed: learned(500 + 500 * order.index(arm) + 50 * seed))
    names = [f"D{number}-parity" for number in range(1, 7)]
    assert [CLAIMS[name].judge(found).estimate for name in names] == [1.0] * 6
    never = table("track=parity", lambda arm, seed: learned(math.inf))
    assert [CLAIMS[name].judge(never).estimate for name in names] == [0.5] * 6
    assert "not within 6000" in CLAIMS["D1-parity"].judge(never).note
    assert "predicted 0.140" in CLAIMS["D1-parity"].judge(found).note
    reverse = table("track=parity", lambda arm, seed: learned(500 + 500 * order[::-1].index(arm)))
    assert CLAIMS["D1-parity"].judge(reverse).estimate == 0.0


def test_every_cell_asks_d1_to_d4():
    for suffix in SCALED:
        assert {f"D{number}-{suffix}" for number in (1, 2, 3, 4)} <= set(CLAIMS)


def test_a_track_that_is_not_there_is_refused():
    spec = EXPERIMENT.runs("smoke")[0]
    with pytest.raises(InputError, match="track: 'code' is unknown; allowed: text, arithmetic, gsm8k, parity"):
        RUN.check(spec.settings | {"track": "code"})


def test_an_arm_has_one_colour_in_every_cell(monkeypatch, tmp_path):
    """Cells have different arms, and one legend."""
    drawn = set()
    band = JUDGES.figure.seed_band

    def seed_band(ax, curves, metric, colour, label):
        drawn.add((label, colour))
        band(ax, curves, metric, colour, label)

    monkeypatch.setattr(JUDGES.figure, "seed_band", seed_band)
    JUDGES.draw({"cpu": accepted("06_information_density", "cpu")}, tmp_path)
    assert {label for label, _ in drawn} == set(JUDGES.ARMS.values())
    assert len(drawn) == len(JUDGES.ARMS)

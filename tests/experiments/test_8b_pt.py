"""04_8b_pt: the claims that depend on a search, and its judges on made tables."""

import numpy as np
import pytest

from mdlm_min.evidence import golden
from mdlm_min.evidence.claim import MissingArmError
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.tasks.plan import GPUS
from tests.experiments.made_run import made_run

EXPERIMENT = Experiment("04_8b_pt")
CLAIMS = EXPERIMENT.module("claims")
JUDGED = {claim.id: claim for claim in CLAIMS.CLAIMS}
ARMS = ("uniform_0_1", "middle")


def rates(cell, arm):
    """Learning rates of the runs of an arm in a cell of the cpu tier."""
    runs = EXPERIMENT.runs("cpu")
    return {spec.config["train"]["learning_rate"] for spec in runs if spec.cell == cell and spec.config["arm"] == arm}


def test_both_arms_have_the_same_search_at_every_size_and_its_seed_is_not_judged():
    for size in CLAIMS.SIZES:
        for rate in CLAIMS.RATES:
            for arm in ARMS:
                assert rates(f"{size}-{rate}", arm) == {float(rate)}
    searched = [spec for spec in EXPERIMENT.runs("cpu") if spec.cell.partition("-")[2] in CLAIMS.RATES]
    judged = [spec for spec in EXPERIMENT.runs("cpu") if "own" in spec.cell or spec.cell in CLAIMS.SIZES]
    assert {spec.config["seed"] for spec in searched} == {0}
    assert {spec.config["seed"] for spec in judged} == {3, 4, 5, 6, 7}


def test_what_the_published_hours_need_is_what_the_cost_arm_has_counted():
    """B5-gpu is judged by rounded copies, which a change of the count must not leave behind."""
    (row,) = [
        rows[-1] for rows in golden.accepted("04_8b_pt", "cpu").curves.values() if "pretraining_utilisation_masked" in rows[-1]
    ]
    assert round(row["pretraining_utilisation_masked"], 2) == CLAIMS.NEEDED
    assert GPUS["h100"].operations == CLAIMS.PEAK


def test_an_arm_s_own_rate_is_the_one_of_least_loss_in_the_search():
    table = golden.accepted("04_8b_pt", "cpu")
    cells = {record["cell"] for record in table.runs.values()}
    if missing := {f"{size}-{rate}" for size in CLAIMS.SIZES for rate in CLAIMS.RATES} - cells:
        pytest.skip(f"the golden table lacks {len(missing)} cells of the search")
    for size in CLAIMS.SIZES:
        for arm in ARMS:
            best = CLAIMS.own_rate(table, size, arm)
            assert rates(CLAIMS.OWN[size][arm], arm) == {float(best)}
            losses = [float(CLAIMS.by_seed(table.cell(f"{size}-{rate}"), arm, "test_loss")[0]) for rate in CLAIMS.RATES]
            assert CLAIMS.RATES[int(np.argmin(losses))] == best
            if arm == "uniform_0_1":
                assert best != CLAIMS.RATES[0]  # else the search ends too early


def table(cells, items=None):
    """The runs of cells[cell][arm]: of each seed the rows of its metrics, and items[arm]: of each seed its lines of items.csv."""
    runs, curves, texts = {}, {}, {}
    for cell, arms in cells.items():
        for arm, seeds in arms.items():
            for seed, rows in enumerate(seeds):
                name = f"{cell}/{arm}/seed{seed}"
                runs[name] = made_run(cell, arm, seed)
                curves[name] = rows
                if items:
                    texts[name] = "\n".join(["task,item,acc,acc_norm,nll", *items[arm][seed]]) + "\n"
    return Table("04_8b_pt", "cpu", runs, curves, texts)


def ended(*losses):
    """Of each seed a run that ends with this test loss."""
    return [[{"step": 9.0, "test_loss": loss}] for loss in losses]


def both(uniform, middle):
    return {"uniform_0_1": ended(*uniform), "middle": ended(*middle)}


@pytest.mark.parametrize(
    ("name", "cell"),
    [("B1", ""), ("B1-S", "S"), ("B1-M", "M"), ("B1-L", "L"), ("B1-S-fresh", "S-fresh"), ("B1-L-fresh", "L-fresh")],
)
def test_the_gain_is_how_far_the_window_ends_below_u_0_1(name, cell):
    elsewhere = {} if cell == "" else {"other": both((1.0, 1.0), (2.0, 2.0))}
    found = table({cell: both((4.1, 4.3), (3.9, 3.8)), **elsewhere})
    assert JUDGED[name].judge(found).values == pytest.approx((0.2, 0.5))


def test_without_the_weight_and_after_more_steps_it_is_the_same_gain_of_other_runs():
    unweighted = {"uniform_unweighted": ended(4.0, 4.2), "middle_unweighted": ended(3.9, 3.9)}
    cells = {size: both((9.0, 9.0), (1.0, 1.0)) | unweighted for size in CLAIMS.SIZES}
    for size in CLAIMS.SIZES:
        assert JUDGED[f"B1-unweighted-{size}"].judge(table(cells)).values == pytest.approx((0.1, 0.3))
    longer = JUDGED["B1-longer"].judge(table({"M": both((4.5, 4.5), (3.9, 3.8)), "M-long": both((4.1, 4.3), (3.9, 3.8))}))
    assert longer.values == pytest.approx((0.2, 0.5))
    assert "after 600 the gap is 0.650" in longer.note


def test_the_gap_of_sizes_is_the_largest_s_less_the_smallest_s():
    cells = {"S": both((4.5, 4.6), (4.4, 4.4)), "M": both((9.0, 9.0), (1.0, 1.0)), "L": both((4.0, 4.1), (3.5, 3.3))}
    assert JUDGED["B1-sizes"].judge(table(cells)).values == pytest.approx((0.4, 0.6))


@pytest.mark.parametrize("size", CLAIMS.SIZES)
def test_each_arm_is_judged_at_the_rate_of_its_own_least_loss(size):
    """The search would have the window at 1e-3 and U[0,1] at 5e-4."""
    best = {"uniform_0_1": "5e-4", "middle": "1e-3"}
    cells = {f"{size}-{rate}": {arm: ended(3.0 if best[arm] == rate else 5.0) for arm in ARMS} for rate in CLAIMS.RATES}
    for arm, losses in (("uniform_0_1", (4.1, 4.3)), ("middle", (3.9, 3.8))):
        cells.setdefault(CLAIMS.OWN[size][arm], {})[arm] = ended(*losses)
    said = JUDGED[f"B1-own-{size}"].judge(table(cells))
    assert said.values == pytest.approx((0.2, 0.5))
    assert "U[0,1] 4.200 at 5e-4, U[.45,.55] 3.850 at 1e-3" in said.note


@pytest.mark.parametrize("suffix", ["", *(f"-{size}" for size in CLAIMS.SIZES)])
def test_a_seed_is_ahead_throughout_if_it_is_at_every_evaluation_after_the_start(suffix):
    gaps = ((-1.0, 0.2, 0.1), (-1.0, 0.2, 0.0), (1.0, -0.1, 0.3), (0.0, 0.4, 0.5))

    def falling(part):
        return [[{"step": float(step), "valid_loss": 4 + part * gap} for step, gap in enumerate(seed)] for seed in gaps]

    said = JUDGED[f"B1b{suffix}"].judge(table({suffix[1:]: {"uniform_0_1": falling(1.0), "middle": falling(0.0)}}))
    assert (said.held, said.failed, said.unknown) == (2, 2, 0)
    assert said.note == "Below at 6 of 8 evaluations of all seeds; smallest gap of each seed 0.100, 0.000, -0.100, 0.400"


@pytest.mark.parametrize(("task", "score"), [("hellaswag", "acc_norm"), ("arc_easy", "acc")])
def test_answers_are_paired_by_seed_and_item(task, score):
    """Two seeds of two items: the window has its own score of one more item right, and half a nat less on every second item."""
    nll = {"uniform_0_1": ((2.0, 3.0), (2.0, 2.5)), "middle": ((2.0, 2.5), (2.0, 2.0))}
    right = {"uniform_0_1": ((1, 0), (0, 0)), "middle": ((1, 1), (0, 0))}

    def lines(arm, seed):
        scores = [f"{one},0" if score == "acc" else f"0,{one}" for one in right[arm][seed]]
        own = [f"{task},{item},{scores[item]},{nll[arm][seed][item]}" for item in (0, 1)]
        return [*own, "another,0,1,1,0", "another,1,1,1,0"]

    items = {arm: [lines(arm, seed) for seed in (0, 1)] for arm in ARMS}
    found = table({"L": both((4.0, 4.0), (4.0, 4.0))}, items)
    assert JUDGED[f"B2-{task}-L"].judge(found).values == ((0.0, 1.0), (0.0, 0.0))
    assert JUDGED[f"B2-{task}-nll-L"].judge(found).values == ((0.0, 0.5), (0.0, 0.5))
    with pytest.raises(MissingArmError):
        JUDGED[f"B2-{task}-L"].judge(table({"L": both((4.0, 4.0), (4.0, 4.0))}))


@pytest.mark.parametrize(("need", "verdict"), [(0.46, "reproduced"), (0.47, "not reproduced")])
def test_hours_that_need_more_of_the_peak_than_is_known_are_not_plausible(need, verdict):
    row = {"step": 0.0, "pretraining_utilisation_full": need, "fine_tuning_utilisation_full": 0.3}
    row |= {"pretraining_utilisation_masked": 0.1, "pretraining_utilisation_6pt": 0.1}
    said = JUDGED["B5"].judge(table({"": {"cost": [[row]]}}))
    assert (said.verdict, said.ours) == (verdict, need)


@pytest.mark.parametrize(("share", "verdict"), [(0.69, "reproduced"), (0.6, "underpowered")])
def test_a_gpu_s_speed_is_a_share_of_its_peak_and_never_shows_that_it_is_too_slow(share, verdict):
    row = {"step": 20.0, "operations_per_second": share * 989e12, "tokens_per_second": 9e3, "peak_memory": 7e10}
    said = JUDGED["B5-gpu"].judge(table({"": {"uniform_0_1": [[{**row, "operations_per_second": 0.0}, row]]}}))
    assert (said.verdict, said.ours) == (verdict, pytest.approx(share))

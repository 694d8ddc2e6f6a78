import math

import numpy as np
import pytest

from mdlm_min.evidence.claim import (
    VERDICTS,
    Claim,
    MissingArmError,
    Verdict,
    arms_of,
    curves_of,
    in_cell,
    mean_curve,
    quarter,
    rows_of,
)
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.golden import Table, golden_by_tier
from mdlm_min.evidence.statistics import Evidence, Mean, Share
from mdlm_min.evidence.verdicts import judge, strength
from mdlm_min.run.errors import InputError


def test_unknown_verdicts_are_refused():
    with pytest.raises(ValueError, match="confirmed"):
        Verdict("confirmed", "")


def test_claim_ids_are_unique_and_none_of_this_suite_s_is_missing():
    ids = [claim.id for folder in experiment_folders() for claim in Experiment(folder.name).module("claims").CLAIMS]
    assert len(set(ids)) == len(ids)
    assert {*(f"T{i}" for i in range(1, 10)), *(f"P{i}" for i in range(1, 6)), *(f"N{i}" for i in range(1, 5))} <= set(ids)


def _claim(**changes) -> Claim:
    what = {
        "id": "X", "statement": "s", "kind": "statistical", "quantity": "q", "published": "p", "tolerance": "t", "tier": "cpu",
        "judge": lambda table: Mean((1.0, 1.1, 0.9, 1.0, 1.2)), "scale": "difference", "smallest": 0.1,
    }  # fmt: skip
    return Claim(**what | changes)


@pytest.mark.parametrize(
    "changes", [{"smallest": float("nan")}, {"smallest": 0.0}, {"smallest": 0.3, "null": 0.5}, {"scale": "x"}]
)
def test_a_claim_about_trained_models_names_what_would_matter(changes):
    with pytest.raises(ValueError, match="of claim X; allowed"):
        _claim(**changes)
    assert _claim(kind="exact", smallest=float("nan")).id == "X"


def test_a_quarter_of_the_published_effect():
    assert quarter(0.264) == pytest.approx(0.066)
    assert quarter(1.37, 1.0) == pytest.approx(1.0925)


class _Experiment:
    """An experiment of claims alone."""

    name = "x"

    def __init__(self, claims) -> None:
        self.CLAIMS = claims

    def module(self, name):
        return self


def test_a_family_is_adjusted_together_and_a_tier_apart():
    weak = (0.1, 0.3, 0.02, 0.2, 0.35)  # p = .017
    claims = [_claim(id=name, judge=lambda table: Mean(weak), family=family, tier=tier)
              for name, family, tier in (("a", "f", "cpu"), ("b", "f", "cpu"), ("c", "", "cpu"), ("d", "f", "gpu"))]  # fmt: skip
    found = dict(zip("abcd", judge(_Experiment(claims), {"cpu": _small_table(), "gpu": _small_table()}), strict=True))
    for name, adjusted, verdict in (("a", 2, "underpowered"), ("c", 1, "reproduced"), ("d", 1, "reproduced")):
        assert found[name][1].verdict == verdict
        assert found[name][1].adjusted == pytest.approx(adjusted * found[name][1].raw)
    assert strength(found["a"][1]) == "5 seeds, p = 0.017, 0.034 in its family"
    assert strength(found["c"][1]) == "5 seeds, p = 0.017"


def test_a_claim_that_was_not_run_counts_in_its_family():
    """Else the verdicts of those that were run would depend on what runs next."""

    def missing(table):
        raise MissingArmError("late")

    weak = (0.1, 0.3, 0.02, 0.2, 0.35)
    claims = [_claim(id="a", judge=lambda table: Mean(weak), family="f"), _claim(id="b", judge=missing, family="f")]
    (_, judged), (_, absent) = judge(_Experiment(claims), {"cpu": _small_table()})
    assert judged.adjusted == pytest.approx(2 * judged.raw)
    assert absent.verdict == "not run"


def test_a_verdict_that_decides_nothing_says_how_many_seeds_would():
    """Simulated: with that many seeds of this scatter the smallest value that would matter is shown in about 80% of cases."""
    values = (0.4, -0.6, 0.5, -0.3, 0.2)
    ((_, open_one),) = judge(_Experiment([_claim(judge=lambda table: Mean(values), smallest=0.3)]), {"cpu": _small_table()})
    assert open_one.verdict == "underpowered"
    assert f"About {open_one.needed} seeds would show" in open_one.note
    random, deviation = np.random.default_rng(0), np.std(values, ddof=1)
    shown = [Mean(tuple(random.normal(0.3, deviation, open_one.needed))).p_at_most(0) <= 0.025 for _ in range(400)]
    assert np.mean(shown) > 0.75
    ((_, decided),) = judge(_Experiment([_claim(judge=lambda table: Mean((1.0, 1.1, 0.9, 1.0, 1.2)))]), {"cpu": _small_table()})
    assert decided.needed == 0
    ((_, few),) = judge(_Experiment([_claim(judge=lambda table: Mean(values[:3]))]), {"cpu": _small_table()})
    assert few.needed == 0
    weak = Mean((0.1, 0.3, 0.02, 0.2, 0.35))  # alone decided: its family takes more than the seeds that are there
    family = [_claim(id=str(n), judge=lambda table: weak, smallest=0.3, family="f") for n in range(9)]
    ((_, enough), *_) = judge(_Experiment(family), {"cpu": _small_table()})
    assert (enough.verdict, enough.needed) == ("underpowered", 0)
    assert "seeds would have shown the smallest value that would matter" in enough.note


def test_a_family_has_one_level():
    claims = [
        _claim(id="a", judge=lambda table: Mean((1.0, 1.1)), family="f"),
        _claim(id="b", judge=lambda table: Share(5, 0), family="f"),
    ]
    with pytest.raises(InputError, match="family 'f' have different levels"):
        judge(_Experiment(claims), {"cpu": _small_table()})


def test_four_seeds_never_decide_whatever_the_judge():
    evidence = Mean((1.0, 1.0, 1.0, 1.0))
    ((_, verdict),) = judge(_Experiment([_claim(judge=lambda table: evidence)]), {"cpu": _small_table()})
    assert verdict.verdict == "underpowered"
    assert "4 seeds" in verdict.note


def test_a_share_of_which_no_seed_is_known_has_bounds_and_says_so():
    ((_, verdict),) = judge(_Experiment([_claim(judge=lambda table: Share(0, 0, 8))]), {"cpu": _small_table()})
    assert (verdict.verdict, verdict.low, verdict.high) == ("underpowered", 0, 1)
    assert math.isnan(verdict.ours)
    assert "8 of 8 seeds ended before it could be seen" in verdict.note


def test_every_claim_about_trained_models_is_judged_by_the_rules():
    """No statistical or ordinal claim gives its own verdict."""
    for folder in experiment_folders():
        for tier, table in golden_by_tier(folder.name).items():
            for claim in Experiment(folder.name).module("claims").CLAIMS:
                if claim.tier == tier and claim.kind != "exact":
                    try:
                        assert isinstance(claim.judge(table), Evidence), claim.id
                    except MissingArmError:
                        continue


@pytest.mark.parametrize("name", [folder.name for folder in experiment_folders()])
def test_every_claim_has_a_verdict_whatever_arms_were_run(name):
    """A table of one arm alone: a verdict or "not run", never a traceback."""
    experiment = Experiment(name)
    for tier, table in golden_by_tier(name).items():
        for arm in {record["config"]["arm"] for record in table.runs.values()}:
            runs = {key: record for key, record in table.runs.items() if record["config"]["arm"] == arm}
            part = Table(name, tier, runs, {key: table.curves[key] for key in runs})
            verdicts = [verdict.verdict for _, verdict in judge(experiment, {tier: part}, only=tier)]
            assert set(verdicts) <= set(VERDICTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [folder.name for folder in experiment_folders()])
def test_every_figure_is_drawn_whatever_arms_or_cells_were_run(name, tmp_path):
    """Of a part of a golden table: what it lacks is left out."""
    draw = Experiment(name).module("claims").draw
    for tier, table in golden_by_tier(name).items():
        for key in ("cell", "arm"):
            values = list(dict.fromkeys(record.get(key) or record["config"].get(key, "") for record in table.runs.values()))
            for value in values[:: -(-len(values) // 6)]:
                part = table.part(lambda record, key=key, value=value: value in (record.get(key), record["config"].get(key)))
                if part.runs:
                    draw({tier: part}, tmp_path)


def _small_table() -> Table:
    runs = {
        f"{cell}/{arm}/seed{seed}": {"cell": cell, "config": {"arm": arm, "seed": seed}}
        for cell in ("x", "y")
        for arm in ("late", "early")
        for seed in (1, 0)
    }
    curves = {
        name: [{"step": float(step), "loss": record["config"]["seed"] + step} for step in (0, 1)] for name, record in runs.items()
    }
    return Table("01_parity", "cpu", runs, curves)


def test_curves_come_in_the_order_of_the_seeds_and_average_over_them():
    part = _small_table().cell("x")
    assert arms_of(part) == ["late", "early"]
    assert [rows[0]["loss"] for rows in curves_of(part, "early")] == [0, 1]
    assert mean_curve(part, "early")["loss"].tolist() == [0.5, 1.5]
    with pytest.raises(MissingArmError, match="never"):
        curves_of(part, "never")
    with pytest.raises(MissingArmError, match="never"):
        rows_of(part, "never")


def test_a_judge_in_a_cell_sees_that_cell_alone():
    seen = in_cell(lambda table: Verdict("reproduced", " ".join(table.runs)), "y")(_small_table())
    assert "y/late/seed0" in seen.note
    assert "x/" not in seen.note

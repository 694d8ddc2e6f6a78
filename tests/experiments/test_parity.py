"""What the judges of 01_parity ask: of made tables, and of the paper's own curves."""

from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
import pytest

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import accepted, published
from mdlm_min.tasks.summaries import summarise_parity

CLAIMS = Experiment("parity").module("claims")
NEVER = float("inf")


def table(rows):
    """A table of one seed: for each arm T_gen, the best and the final validation accuracy."""
    frame = pd.DataFrame(
        [
            {"arm": arm, "seed": 1, "t_gen": t_gen, "best_validation": best, "final_validation": final}
            for arm, (t_gen, best, final) in rows.items()
        ]
    )
    runs = {arm: {"config": {"arm": arm, "seed": 1}} for arm in rows}
    return SimpleNamespace(frame=lambda: frame, runs=runs)


STAYED, FELL, NOT_THERE = (900.0, 1.0, 1.0), (900.0, 1.0, 0.8), (NEVER, 0.55, 0.49)
SANK, PARTLY = (NEVER, 0.66, 0.55), (NEVER, 0.86, 0.83)


@pytest.mark.parametrize(
    ("ends", "middle", "counts"),
    [
        (FELL, STAYED, (1, 0, 0)),
        (FELL, FELL, (0, 1, 0)),
        (STAYED, STAYED, (0, 1, 0)),
        (NOT_THERE, STAYED, (0, 0, 1)),
        (SANK, STAYED, (1, 0, 0)),  # as U[0,.4] in Fig 2, which never generalises
        (FELL, SANK, (0, 1, 0)),
        (PARTLY, STAYED, (0, 0, 1)),
        (FELL, PARTLY, (0, 0, 1)),
    ],
)
def test_boundary_windows_that_fall_back(ends, middle, counts):
    rows = dict.fromkeys(CLAIMS.ENDS, ends) | dict.fromkeys(CLAIMS.MIDDLE, middle)
    said = CLAIMS.judge_p4(table(rows))
    assert (said.held, said.failed, said.unknown) == counts


def test_the_papers_own_curves_have_what_it_says_of_them():
    """Fig 2 has one seed of four windows; U[0,.246] is not among them, and U[0,.2] stands for it."""
    curves = {panel: published(f"fig2_parity_{panel}") for panel in ("train", "val")}
    names = CLAIMS.FIG2 | {"md_0.246": "md_0.2"}
    rows = []
    for arm, name in names.items():
        both = pd.DataFrame({"train_accuracy": curves["train"][name], "validation_accuracy": curves["val"][name]})
        curve = both.assign(step=curves["val"]["step"], signal_share=0.0).dropna().to_dict("records")
        rows.append({"arm": arm, "seed": 1} | summarise_parity(curve)[0])
    frame = pd.DataFrame(rows)
    runs = {row["arm"]: {"config": {"arm": row["arm"], "seed": 1}} for row in rows}
    fig2 = SimpleNamespace(frame=lambda: frame, runs=runs)
    for name in ("P1b", "P2", "P4"):
        said = CLAIMS.QUESTIONS[name].judge(fig2)
        assert (name, said.held, said.failed, said.unknown) == (name, 1, 0, 0)
    assert CLAIMS.QUESTIONS["P2b"].judge(fig2).estimate == 1.0
    assert [part.estimate for part in CLAIMS.QUESTIONS["P3"].judge(fig2).parts] == [1.0, 1.0]


def test_a_question_asked_in_several_places_is_adjusted_together():
    """A share of seeds over all places, fresh seeds among them; a race with the other races of its place."""
    families = {claim.id: claim.family for claim in CLAIMS.CLAIMS}
    for name in CLAIMS.TWICE:
        for place in ("", "-N600"):
            assert families[f"{name}{place}"] == families[f"{name}{place}-fresh"] != ""
    for name in (*CLAIMS.TWICE, "P6"):
        assert families[f"{name}-N600-104"] == families[f"{name}-N600"]
    assert (families["P2c-fresh"], families["P2d-fresh"]) == (families["P2"], families["P2b"])
    for name in ("P1", "P1b", "P2", "P4"):
        assert {families[name + suffix] for suffix in ("", "-output", "-16-6", "-N600", "-N300")} == {name}
    assert len({families[f"P2b{suffix}"] for suffix in ("", "-output", "-16-6", "-N600", "-N300")}) == 5
    assert len({families[f"{name}-N600"] for name in ("P2b", "P3", "P6", "P7", "P8", "P9")}) == 1


def test_each_set_of_seeds_at_n_600_is_its_own_and_of_one_setting():
    """A claim that was asked three times counts no seed twice, nor one that chose the cell."""
    specs = Experiment("parity").runs("cpu")
    cells = {name: [spec for spec in specs if spec.cell == name] for name in ("train_samples=600", "N600-fresh", "N600-104")}
    seeds = [{spec.seed for spec in found} for found in cells.values()]
    assert [len(found) for found in seeds] == [8, 24, 104]
    assert len(set.union(*seeds)) == 8 + 24 + 104
    assert not set.union(*seeds) & {0, 1, 2, 3}
    settings = {spec.arm: spec.settings for spec in cells["train_samples=600"]}
    assert all(spec.settings == settings[spec.arm] for found in cells.values() for spec in found)


@dataclass(frozen=True)
class Timed:
    """A made table, whose rows are those of its runs."""

    runs: dict[str, dict[str, dict[str, float | str]]]

    def frame(self):
        return pd.DataFrame([record["config"] | record["row"] for record in self.runs.values()])


def timed(rows):
    """A table of five seeds an arm: when it memorised, when it generalised, and its last step."""
    columns = ("t_mem", "t_gen", "last_step")
    keys = [(arm, seed) for arm in rows for seed in range(5)]
    return Timed(
        {
            f"{arm}{seed}": {"config": {"arm": arm, "seed": seed}, "row": dict(zip(columns, rows[arm], strict=True))}
            for arm, seed in keys
        }
    )


@pytest.mark.parametrize(
    ("judge", "arm", "times", "counts"),
    [
        ("judge_p1", "output", (100.0, 500.0, 9e3), (5, 0, 0)),
        ("judge_p1", "output", (100.0, 499.0, 9e3), (0, 5, 0)),
        ("judge_p1", "output", (100.0, NEVER, 9e3), (0, 0, 5)),
        ("judge_delay", "output", (100.0, NEVER, 9e3), (5, 0, 0)),
        ("judge_delay", "output", (900.0, NEVER, 4e3), (0, 0, 5)),
        ("judge_delay", "output", (100.0, 499.0, 9e3), (0, 5, 0)),
        ("judge_p2", "md_0.2", (100.0, 120.0, 9e3), (5, 0, 0)),
        ("judge_p2", "md_0.2", (100.0, 121.0, 9e3), (0, 5, 0)),
        ("judge_p2", "md_0.2", (100.0, NEVER, 9e3), (0, 5, 0)),
        ("judge_p2", "md_0.2", (NEVER, NEVER, 9e3), (0, 0, 5)),
        ("judge_p2c", "md_0.3", (100.0, 120.0, 9e3), (5, 0, 0)),
        ("judge_p2c", "md_0.3", (100.0, 121.0, 9e3), (0, 5, 0)),
    ],
)
def test_what_holds_fails_or_is_unknown_of_a_delay(judge, arm, times, counts):
    said = getattr(CLAIMS, judge)(timed({arm: times}))
    assert (said.held, said.failed, said.unknown) == counts


@pytest.mark.parametrize(
    ("question", "first", "second"),
    [
        ("P2b", "md_0.2", "output"),
        ("P2d", "md_0.3", "output"),
        ("P6", "secret", "output"),
        ("P7", "md_0.2", "secret"),
        ("P8", "md_0.246_none", "md_0.246"),
        ("P9", "md_t_1_7", "md_0.246"),
    ],
)
def test_which_arm_is_asked_to_be_first(question, first, second):
    rows = {first: (50.0, 100.0, 9e3), second: (50.0, NEVER, 9e3)}
    assert CLAIMS.QUESTIONS[question].judge(timed(rows)).estimate == 1.0


def test_a_middle_window_must_be_before_both_ends():
    times = {"md_0.2": 100.0, "md_0.246": 500.0, "md_0.3": NEVER, "md_0.1": 600.0, "md_0.4": 300.0}
    said = CLAIMS.judge_p3(timed({arm: (1.0, time, 9e3) for arm, time in times.items()}))
    assert [part.estimate for part in said.parts] == [1.0, 0.0]


def test_counts_of_the_nearest_network_are_of_its_finished_runs_alone():
    counts = Experiment("parity").module("claims").counts
    table = accepted("01_parity", "paper")
    found, frame = counts({"paper": table}), table.frame()
    fresh = frame[frame["cell"] == "nearest-fresh"]
    assert found["masked_generalised"] == sum(fresh["t_gen"][fresh["arm"] == "md_0.2"] <= 20000)
    assert found["seeds"] == 16
    assert found["further_least"] <= found["further_most"]
    for part in ({}, {"cpu": accepted("01_parity", "cpu")}, {"paper": table.cell("nearest-fresh")}):
        assert counts(part) == {}

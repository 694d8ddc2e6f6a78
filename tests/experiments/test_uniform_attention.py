"""02_uniform_attention: its judges on made tables."""

import numpy as np
import pytest

from mdlm_min.evidence.claim import MissingArmError
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table, published
from tests.experiments.made_run import made_run

CLAIMS = {claim.id: claim for claim in Experiment("uniform_attention").module("claims").CLAIMS}
STEPS = range(0, 25_001, 100)


def curve(train, validation, last=25_000):
    """A run of which each accuracy is .5, and from each of its steps on the one that stands there."""

    def at(step, levels):
        return ([0.5] + [level for start, level in levels.items() if step >= start])[-1]

    return [
        {
            "step": float(step),
            "train_accuracy": at(step, train),
            "validation_accuracy": at(step, validation),
            "signal_share": 0.1,
        }
        for step in STEPS
        if step <= last
    ]


def table(tier, *groups):
    """Of each group (cell, arm, a curve for each seed) the runs."""
    runs, curves = {}, {}
    for cell, arm, found in groups:
        for seed, rows in enumerate(found):
            name = f"{cell}/{arm}/seed{seed}"
            runs[name] = made_run(cell, arm, seed)
            curves[name] = rows
    return Table("02_uniform_attention", tier, runs, curves)


def judged(*curves):
    """A table of the paper's tier, beside whose judged seeds stands a search that would say the reverse."""
    search = curve({}, {100: 0.95, 200: 0.3})
    return table(
        "paper", ("judged", "sgd_momentum", curves), ("search", "sgd_momentum", [search]), ("search", "sgd_gpt2", [search])
    )


def counts(said):
    return said.held, said.failed, said.unknown


def test_the_final_accuracy_is_that_of_the_judged_seeds_alone():
    said = CLAIMS["P5"].judge(judged(curve({}, {100: 0.99, 20_000: 0.96}), curve({}, {100: 0.98})))
    assert said.values == pytest.approx((0.96, 0.98))
    assert "sgd_momentum 0.960 (0.990), " in said.note
    on_two_cores = table("cpu", ("", "adamw_gpt2", [curve({}, {100: 0.9})]), ("", "nanogpt_gpt2", [curve({}, {})]))
    assert CLAIMS["P5-AdamW"].judge(on_two_cores).values == (0.9,)


@pytest.mark.parametrize(
    ("train", "validation", "last", "expected"),
    [
        ({10_000: 0.9}, {15_000: 0.9}, 25_000, (1, 0, 0)),
        ({10_000: 0.9}, {15_100: 0.9}, 25_000, (0, 1, 0)),
        ({100: 0.89, 10_000: 0.9}, {100: 0.89, 15_100: 0.9}, 25_000, (0, 1, 0)),
        ({10_000: 0.95}, {}, 15_100, (0, 1, 0)),
        ({10_000: 0.95}, {}, 15_000, (0, 0, 1)),
        ({}, {}, 25_000, (0, 0, 1)),
        ({}, {20_000: 0.9}, 25_000, (1, 0, 0)),
    ],
)
def test_a_delay_is_half_as_many_steps_again(train, validation, last, expected):
    assert counts(CLAIMS["P5b"].judge(judged(curve(train, validation, last)))) == expected


@pytest.mark.parametrize(
    ("validation", "last", "expected"),
    [
        ({8900: 0.75}, 25_000, (1, 0, 0)),
        ({8800: 0.75}, 25_000, (0, 1, 0)),
        ({100: 0.74, 19_800: 0.75}, 25_000, (1, 0, 0)),
        ({19_900: 0.75}, 25_000, (0, 1, 0)),
        ({}, 19_800, (0, 0, 1)),
        ({}, 19_900, (0, 1, 0)),
    ],
)
def test_a_plateau_ends_within_a_factor_of_one_and_a_half_of_the_published_one(validation, last, expected):
    assert counts(CLAIMS["P5c"].judge(judged(curve({}, validation, last)))) == expected


def test_a_plateau_of_other_arms_alone_is_not_judged():
    with pytest.raises(MissingArmError, match="sgd_momentum"):
        CLAIMS["P5c"].judge(table("paper", ("search", "sgd_gpt2", [curve({}, {})])))


def test_masked_diffusion_is_asked_to_be_at_three_quarters_first():
    masked = [curve({}, {5000: 0.75}), curve({}, {9000: 0.75})]
    output = [curve({}, {100: 0.74, 7000: 0.75}), curve({}, {100: 0.74}, 8000)]
    said = CLAIMS["P5d"].judge(table("cpu", ("", "adamw_gpt2", masked), ("", "output_gpt2", output)))
    assert said.estimate == 0.625  # of four pairs two wins, one loss, and one of which the order is not known


@pytest.mark.parametrize(
    ("train", "validation", "last", "expected"),
    [
        ({10_000: 0.99}, {12_000: 0.99}, 25_000, (1, 0, 0)),
        ({10_000: 0.99}, {9000: 0.99}, 11_000, (1, 0, 0)),
        ({10_000: 0.99}, {12_100: 0.99}, 25_000, (0, 1, 0)),
        ({100: 0.98, 10_000: 0.99}, {}, 12_100, (0, 1, 0)),
        ({10_000: 0.99}, {100: 0.98}, 12_000, (0, 0, 1)),
        ({}, {}, 25_000, (0, 0, 1)),
    ],
)
def test_uniform_attention_generalises_within_a_fifth_more_steps(train, validation, last, expected):
    groups = [("", "transformer_uniform", [curve(train, validation, last)]), ("", "transformer_learned", [curve({}, {100: 1.0})])]
    assert counts(CLAIMS["P5e"].judge(table("cpu", *groups))) == expected
    with pytest.raises(MissingArmError, match="transformer_learned"):
        CLAIMS["P5e"].judge(table("cpu", groups[0]))


def test_the_paper_s_own_curve_has_what_it_says_of_it():
    fig5 = published("fig5_uniform_attention").rename(columns={"train_acc": "train_accuracy", "test_acc": "validation_accuracy"})
    found = judged(fig5.dropna().to_dict("records"))
    assert CLAIMS["P5"].judge(found).estimate == pytest.approx(0.973, abs=0.001)
    assert counts(CLAIMS["P5b"].judge(found)) == counts(CLAIMS["P5c"].judge(found)) == (1, 0, 0)


def test_adamw_over_all_steps_is_judged_on_its_own_cell():
    early, late = curve({600: 0.95}, {600: 0.95}), curve({600: 0.95}, {10_000: 0.95, 20_000: 0.8})
    made = table(
        "paper", ("judged", "sgd_momentum", [early]), ("search", "adamw_gpt2", [early]),
        ("AdamW", "adamw_gpt2", [late] * 5), ("AdamW", "output_gpt2", [curve({}, {300: 0.9}, 1_000)] * 5),
    )  # fmt: skip
    assert CLAIMS["P5-AdamW-25000"].judge(made).values == pytest.approx((0.8,) * 5)
    assert CLAIMS["P5d-25000"].judge(made).estimate == 0
    with pytest.raises(MissingArmError):
        CLAIMS["P5-AdamW-25000"].judge(judged(early))


FIG5 = published("fig5_uniform_attention")


def near(off, last=25_000):
    """Fig 5's own validation accuracy, and `off` more."""
    rows = curve({}, {}, last)
    there = np.interp([row["step"] for row in rows], FIG5["step"], FIG5["test_acc"])
    return [{**row, "validation_accuracy": float(value) + off} for row, value in zip(rows, there, strict=True)]


def test_the_search_for_fig5_is_of_its_own_cells_and_of_whole_runs():
    made = table(
        "paper",
        ("search", "sgd_momentum", [near(0.02)]), ("judged", "sgd_momentum", [near(0.0)]), ("search", "sgd_gpt2", [near(0.0)]),
        ("fig5", "sgd_momentum_half", [near(-0.01)]), ("fig5", "sgd_momentum_80", [near(0.0, 20_000)]),
    )  # fmt: skip
    found = Experiment("uniform_attention").module("claims").distances(made)
    assert list(found) == ["sgd_momentum_half", "sgd_momentum"]
    assert list(found.values()) == pytest.approx([0.01, 0.02])

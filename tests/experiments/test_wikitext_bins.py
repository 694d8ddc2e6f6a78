"""03_wikitext_bins: its judges on made tables."""

import pytest

from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.golden import Table
from mdlm_min.theory.formulas import WIKITEXT_WEIGHTS
from tests.experiments.made_run import made_run

JUDGES = Experiment("wikitext_bins").module("claims")
CLAIMS = {claim.id: claim for claim in JUDGES.CLAIMS}
WINDOWS = dict(zip(JUDGES.BINS, (4.9, 4.6, 4.3, 4.25, 4.0, 4.2, 4.3, 4.4, 4.7, 5.2), strict=True))
OTHERS = {"uniform_0_1": 4.5, "middle": 3.9, "uniform_unweighted": 4.3, "middle_unweighted": 4.15}
CONTROLS = {"uniform_stratified": 4.4, "uniform_unit_gradient": 4.35, "middle_unit_gradient": 4.05}
LOSSES = WINDOWS | OTHERS | CONTROLS
SECOND = {"bin_0.0_0.1": 5.5, "bin_0.9_1.0": 5.0, "middle": 4.0}  # what the second seed has in their place


def table(cells):
    """The runs of cells[cell][arm, seed], each with its rows."""
    runs, curves = {}, {}
    for cell, found in cells.items():
        for (arm, seed), rows in found.items():
            name = f"{cell}/{arm}/seed{seed}"
            runs[name] = made_run(cell, arm, seed)
            curves[name] = rows
    return Table("03_wikitext_bins", "cpu", runs, curves)


def ended(losses, seed):
    """Runs of one seed that end with these test losses."""
    return {(arm, seed): [{"step": 9.0, "test_loss": loss}] for arm, loss in losses.items()}


@pytest.mark.parametrize("suffix", ["", "-bytes", "-BPE"])
def test_windows_are_compared_by_their_test_losses(suffix):
    """By hand: the middle windows have 4.1 on average; the better end is the first of one seed and the last of the other."""
    cell = JUDGES.CELLS[suffix[1:]] if suffix else ""
    found = table({cell: ended(LOSSES, 1) | ended(LOSSES | SECOND, 2)})
    assert CLAIMS[f"W1{suffix}"].judge(found).values == pytest.approx((0.8, 0.9))
    assert CLAIMS[f"W2{suffix}"].judge(found).values == pytest.approx((0.6, 0.5))
    first, last = CLAIMS[f"W3{suffix}"].judge(found).parts
    assert first.values == pytest.approx((0.4, 1.0))
    assert last.values == pytest.approx((0.7, 0.5))
    assert "6 of the ten windows end below U[0,1]" in CLAIMS[f"W2{suffix}"].judge(found).note


def test_the_best_window_is_asked_to_lie_between_a_fifth_and_four_fifths():
    best = ("bin_0.1_0.2", "bin_0.2_0.3", "bin_0.4_0.5", "bin_0.7_0.8", "bin_0.8_0.9")
    found = table({"": {key: rows for seed, arm in enumerate(best) for key, rows in ended(LOSSES | {arm: 1.0}, seed).items()}})
    said = CLAIMS["W1b"].judge(found)
    assert (said.held, said.failed) == (3, 2)
    assert said.note.endswith("0.15, 0.25, 0.45, 0.75, 0.85")


def test_the_least_gap_from_a_sixth_of_the_run_on_counts():
    """The gaps to the two middle windows by step; before a sixth, at step 100, they are below zero."""
    gaps = {0: (-3.0, -3.0), 99: (-2.0, -2.0), 100: (0.5, 0.4), 199: (0.9, 0.8), 200: (0.7, 0.9), 600: (0.6, 0.9)}

    def falling(seed):
        rows = {(arm, seed): [] for arm in ("uniform_0_1", *JUDGES.MIDDLE_BINS)}
        for step, below in gaps.items():
            for arm, gap in zip(("uniform_0_1", *JUDGES.MIDDLE_BINS), (0.0, *below), strict=True):
                more = 0.3 if arm != "uniform_0_1" and seed == 2 else 0.0
                rows[arm, seed].append({"step": float(step), "valid_loss": 5.0 - gap - more})
        return rows

    assert CLAIMS["W4"].judge(table({"": falling(1) | falling(2)})).values == pytest.approx((0.4, 0.7))


def test_controls_are_what_the_window_gains_once_they_are_in_place():
    found = table({JUDGES.CELLS["bytes"]: ended(LOSSES, 1) | ended(LOSSES | SECOND, 2)})
    assert CLAIMS["W6-bytes"].judge(found).values == pytest.approx((0.5, 0.4))
    assert CLAIMS["W8-bytes"].judge(found).values == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("label", ["bytes", "BPE"])
def test_the_weight_s_share_is_what_goes_of_the_gain_without_it(label):
    """Of gains of .6 and .5, .15 are left without the weight."""
    found = table({JUDGES.CELLS[label]: ended(LOSSES, 1) | ended(LOSSES | SECOND, 2)})
    said = CLAIMS[f"W7-{label}"].judge(found)
    assert said.parts == pytest.approx((0.45, 0.35))
    assert said.wholes == pytest.approx((0.6, 0.5))
    assert said.estimate == pytest.approx(0.8 / 1.1)


def best(*windows):
    """Of seeds 1, 2, ... the runs of the ten windows, of which this one is the best."""
    return {
        key: rows
        for seed, index in enumerate(windows, 1)
        for key, rows in ended(WINDOWS | {JUDGES.BINS[index]: 1.0}, seed).items()
    }


def probe(seed, snr, gain):
    """A probe whose two measures are largest at these rates, in the mean over what it measured after step 0."""
    rows = []
    for step in (0.0, 1.0, 2.0):
        row = {"step": step}
        for name, top in (("snr", snr), ("gain", gain)):
            for rate in JUDGES.CENTRES:
                row[f"{name}_{rate}"] = 9.0 * (rate == 0.95) if step == 0 else step * (rate == top)
        rows.append(row)
    return {("probe", seed): rows}


def test_a_predicted_rate_holds_within_a_tenth_of_the_seed_s_best_window():
    counted = {("ngrams", 0): [{"step": 0.0, "occurrences_linear": 0.46}]}
    made = {
        JUDGES.CELLS["bytes"]: best(4, 5, 3) | counted | probe(1, 0.35, 0.25) | probe(3, 0.35, 0.95),  # seed 2 has no probe
        JUDGES.CELLS["BPE"]: best(4, 5, 5) | counted | probe(1, 0.55, 0.25) | probe(2, 0.45, 0.45) | probe(3, 0.65, 0.65),
        "parities": best(2, 4, 2) | probe(3, 0.35, 0.45) | probe(2, 0.45, 0.25) | probe(9, 0.05, 0.05),  # of orders 4: t* = 1/4
    }
    found = table(made)
    for name, expected in (
        ("ngrams", [(2, 1), (3, 0), (2, 1)]),
        ("snr", [(2, 0), (3, 0), (2, 0)]),
        ("gain", [(0, 2), (2, 1), (0, 2)]),
    ):
        said = CLAIMS[f"W5-{name}"].judge(found)
        assert [(part.held, part.failed) for part in said.parts] == expected
    assert "parities: 0.25 and 0.25, 0.25 and 0.45, 0.25 and 0.25" in CLAIMS["W5-ngrams"].judge(found).note


def counts(nearest, linear):
    """Counts of both corpora and tokenizers: all weights are .3, but for WikiText-103's in GPT-2's tokens, by types, which differ
    from the published by at most `nearest`; `linear` is the optimum on WikiText-2's words."""
    cells = {}
    for corpus in ("wikitext-2", "wikitext-103"):
        for tokenizer in ("words", "gpt2"):
            row = {"step": 0.0, "occurrences_linear": 0.3, "occurrences_order": 0.3, "occurrences_sum_of_squares": 0.3}
            row |= {f"{reading}_w{order}": 0.3 for reading in ("occurrences", "types") for order in JUDGES.ORDERS}
            cells[f"corpus={corpus}_tokenizer={tokenizer}"] = {("ngrams", 0): [row | {"types_linear": 0.3}]}
    [near] = cells["corpus=wikitext-103_tokenizer=gpt2"].values()
    near[0] |= {f"types_w{order}": weight for order, weight in zip(JUDGES.ORDERS, WIKITEXT_WEIGHTS, strict=True)}
    near[0]["types_w3"] -= nearest
    cells["corpus=wikitext-2_tokenizer=words"]["ngrams", 0][0]["occurrences_linear"] = linear
    for cell in JUDGES.CELLS.values():
        cells[cell] = {("ngrams", 0): [{"step": 0.0, "occurrences_linear": 0.3}]}
    return table(cells)


@pytest.mark.parametrize(("nearest", "verdict"), [(0.0049, "reproduced"), (0.0051, "not reproduced")])
def test_published_weights_are_asked_of_the_nearest_reading(nearest, verdict):
    said = CLAIMS["T10"].judge(counts(nearest, 0.46))
    assert said.verdict == verdict
    assert said.ours == pytest.approx(nearest)
    assert "Nearest: wikitext-103, gpt2, types" in said.note


@pytest.mark.parametrize(("linear", "verdict"), [(0.451, "reproduced"), (0.469, "reproduced"), (0.449, "not reproduced")])
def test_the_published_optimum_is_asked_of_the_words_of_wikitext_2(linear, verdict):
    said = CLAIMS["T9b"].judge(counts(0.1, linear))
    assert (said.verdict, said.ours) == (verdict, linear)


def test_a_sweep_over_another_corpus_says_what_its_best_window_gains():
    [line] = JUDGES.conclusions(table({"": ended(LOSSES, 1) | ended(LOSSES | {"uniform_0_1": 4.6}, 2)}))
    assert line.startswith("this corpus: best window 0.4-0.5, test loss 4.000; 0.550 [")
    assert JUDGES.conclusions(table({"": ended({"uniform_0_1": 4.5}, 1)})) == [
        "no cell has all ten windows and U[0,1]: nothing to conclude"
    ]

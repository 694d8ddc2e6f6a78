"""How several seeds are drawn, and how numbers are written."""

import math

import pandas as pd
import pytest

from mdlm_min.evidence import figure
from mdlm_min.evidence.claim import Verdict
from mdlm_min.evidence.verdicts import number, value


def seeds(count):
    return [pd.DataFrame({"step": [0, 10], "loss": [1.0, float(seed)]}) for seed in range(count)]


@pytest.mark.parametrize(("count", "lines", "bands"), [(1, 1, 0), (4, 4, 0), (5, 6, 1)])
def test_fewer_than_five_seeds_have_no_middle_and_no_band(count, lines, bands):
    fig, axes = figure.grid(1, 1)
    figure.seed_band(axes[0, 0], seeds(count), "loss", "black", "arm")
    assert (len(axes[0, 0].lines), len(axes[0, 0].collections)) == (lines, bands)
    assert axes[0, 0].get_legend_handles_labels()[1] == ["arm"]
    figure.pyplot().close(fig)


def test_the_heavy_line_is_the_median():
    fig, axes = figure.grid(1, 1)
    figure.seed_band(axes[0, 0], seeds(5), "loss", "black", "arm")
    assert list(axes[0, 0].lines[0].get_ydata()) == [1.0, 2.0]
    figure.pyplot().close(fig)


@pytest.mark.parametrize(
    ("given", "digits", "text"),
    [(0.54928, 3, "0.549"), (0.18439, 5, "0.18439"), (999.7, 3, "1000"), (13236.4, 3, "13236"), (math.inf, 3, "inf"),
     (math.nan, 3, "-"), (5.7e-14, 3, "5.7e-14")],
)  # fmt: skip
def test_numbers_have_a_few_digits(given, digits, text):
    assert number(given, digits) == text


def test_an_exact_number_has_five_digits_and_an_estimate_three():
    assert value(Verdict("reproduced", "", 0.184391)) == "0.18439"
    assert value(Verdict("reproduced", "", 0.184391, 0.1, 0.3)) == "0.184"

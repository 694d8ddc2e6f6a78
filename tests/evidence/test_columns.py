import math

import pytest

from mdlm_min.evidence import golden
from mdlm_min.evidence.asked import KEYS
from mdlm_min.evidence.columns import column
from mdlm_min.evidence.experiment import experiment_folders


@pytest.mark.parametrize("name", [folder.name for folder in experiment_folders()])
def test_our_own_values_are_allowed(name):
    for table in golden.golden_by_tier(name).values():
        frame = table.frame().select_dtypes("number")
        for column_name in frame.columns.difference([*KEYS, *golden.PROVENANCE]):
            wrong = [value for value in frame[column_name].dropna() if not column(str(column_name)).allows(value)]
            assert not wrong, column_name
        for metrics in table.curves.values():
            for metric, value in metrics[-1].items():
                assert math.isnan(value) or column(metric).allows(value), metric


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("test_nll", -0.1, "a number of at least 0"),
        ("test_nll", math.inf, "a number of at least 0"),
        ("chosen", 1.01, "a number in [0,1]"),
        ("arc_easy_acc_norm", -0.01, "a number in [0,1]"),
        ("signal_share", math.nan, "a number in [0,1]"),
        ("t_90", -1, "a number of at least 0, inf where it never came"),
        ("delay", -math.inf, "a number, inf where it never came"),
        ("test_t0.0", math.inf, "a number"),
        ("gain", math.nan, "a number"),
    ],
)
def test_a_value_that_the_name_rules_out_is_not_allowed(name, value, allowed):
    assert not column(name).allows(value)
    assert str(column(name)) == allowed


def test_what_never_came_is_infinite_and_a_gain_has_no_sign():
    assert column("t_90").allows(math.inf) and column("delay").allows(-3) and column("gain").allows(-3)
    assert column("test_t0.0").allows(-0.001)

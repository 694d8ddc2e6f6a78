"""What P4 asks: windows that fall back from where they had come."""

from types import SimpleNamespace

import pandas as pd
import pytest

from mdlm_min.evidence.experiment import Experiment

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


STAYED, FELL, NOT_THERE, SANK = (900.0, 1.0, 1.0), (900.0, 1.0, 0.8), (NEVER, 0.5, 0.49), (NEVER, 0.86, 0.79)


@pytest.mark.parametrize(
    ("ends", "middle", "counts"),
    [
        (FELL, STAYED, (1, 0, 0)),
        (FELL, FELL, (0, 1, 0)),
        (STAYED, STAYED, (0, 1, 0)),
        (NOT_THERE, STAYED, (0, 0, 1)),
        (FELL, SANK, (0, 0, 1)),  # what never was there cannot fall back
        (SANK, STAYED, (0, 0, 1)),
    ],
)
def test_boundary_windows_that_fall_back(ends, middle, counts):
    rows = dict.fromkeys(CLAIMS.ENDS, ends) | dict.fromkeys(CLAIMS.MIDDLE, middle)
    said = CLAIMS.judge_p4(table(rows))
    assert (said.held, said.failed, said.unknown) == counts


def test_what_is_asked_twice_is_adjusted_together():
    """A second set of seeds is a second look: the two are one family. The paper's own networks are each one of their own."""
    families = {claim.id: claim.family for claim in CLAIMS.CLAIMS}
    for place, names in CLAIMS.TWICE.items():
        for name in names:
            assert families[f"{name}{place}"] == families[f"{name}{place}-fresh"] != ""
    assert families["P1"] == families["P1-output"] == ""
    assert len({families[f"P2b{suffix}"] for suffix in ("", "-output", "-16-6", "-N600", "-N300")}) == 5

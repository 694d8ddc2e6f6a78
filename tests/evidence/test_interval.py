"""A claim's value and interval as the report draws them."""

import math

from mdlm_min.evidence.claim import Claim, Verdict
from mdlm_min.evidence.interval import WIDTH, place


def claim(scale, paper=math.nan):
    return Claim("X", "", "exact", "", "", "", "cpu", lambda table: Verdict("not run", ""), scale=scale, paper=paper)


def test_a_share_without_bounds_is_drawn_between_none_and_all():
    drawn = place(claim("share"), Verdict("reproduced", "", 0.5))
    assert drawn is not None
    assert drawn.point == WIDTH / 2


def test_the_paper_s_value_is_inside_the_drawing():
    drawn = place(claim("difference", 5.0), Verdict("underpowered", "", 0.2, 0.1, 0.3))
    assert drawn is not None
    assert drawn.ends[1] < drawn.paper < WIDTH

"""The short table: which claims stand in which column, and with which numbers; and the sentences above it."""

import pytest

from mdlm_min.evidence import headlines
from mdlm_min.evidence.claim import Claim, Verdict
from mdlm_min.run.errors import InputError

TABLE = """
numbers = 1

[[headline]]
text = "x"
paper_size = ["A"]
scaled_down = ["B", "C"]

[[headline]]
text = "y"
missing = "none"
"""


def judged():
    said = {"A": Verdict("not run", ""), "B": Verdict("reproduced", "", 0.123), "C": Verdict("reproduced", "", 0.4)}
    return [
        (Claim(name, "", "exact", "", "", "", "cpu", lambda table: Verdict("not run", "")), one) for name, one in said.items()
    ]


def test_each_claim_stands_in_its_column_with_its_mark(tmp_path, monkeypatch):
    path = tmp_path / "headlines.toml"
    path.write_text(TABLE)
    monkeypatch.setattr(headlines, "PATH", path)
    first, second = headlines.headlines(judged(), {"C": ""})
    assert [one.claims for one in first.paper_size] == [[("A", "")]]
    assert [one.claims for one in first.scaled_down] == [[("B", ""), ("C", "†")]]
    assert second.missing == "none"


def test_a_sentence_has_the_numbers_of_the_claims_that_it_names(tmp_path, monkeypatch):
    path = tmp_path / "headlines.toml"
    path.write_text('in_short = ["x is {B}, y {C}."]\n' + TABLE)
    monkeypatch.setattr(headlines, "PATH", path)
    assert headlines.in_short(judged(), {"C": ""}, "page.md") == ["x is [0.12](page.md#b), y [0.4](page.md#c) †."]
    path.write_text('in_short = ["x is {A}."]\n' + TABLE)
    assert headlines.in_short(judged(), {}, "page.md") == ["x is [not run](page.md#a)."]
    path.write_text('in_short = ["x is {P99}."]\n' + TABLE)
    with pytest.raises(InputError, match="in_short: claim 'P99' is unknown; allowed: A, B, C"):
        headlines.in_short(judged(), {}, "page.md")

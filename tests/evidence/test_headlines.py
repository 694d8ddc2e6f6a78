"""The short table: which claims stand in which column, and with which numbers."""

from mdlm_min.evidence import headlines
from mdlm_min.evidence.claim import Claim, Verdict

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


def test_each_claim_stands_in_its_column_with_its_mark(tmp_path, monkeypatch):
    path = tmp_path / "headlines.toml"
    path.write_text(TABLE)
    monkeypatch.setattr(headlines, "PATH", path)
    said = {"A": Verdict("not run", ""), "B": Verdict("reproduced", "", 0.123), "C": Verdict("reproduced", "", 0.4)}
    claims = [
        (Claim(name, "", "exact", "", "", "", "cpu", lambda table: Verdict("not run", "")), one) for name, one in said.items()
    ]
    first, second = headlines.headlines(claims, {"C": ""})
    assert [one.claims for one in first.paper_size] == [[("A", "")]]
    assert [one.claims for one in first.scaled_down] == [[("B", ""), ("C", "†")]]
    assert second.missing == "none"

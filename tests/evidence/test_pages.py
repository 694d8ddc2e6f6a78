"""The generated parts of the committed pages say what the verdicts say."""

import math
import re

import pytest

from mdlm_min.evidence import pages
from mdlm_min.evidence.claim import Verdict
from mdlm_min.evidence.experiment import EXPERIMENTS
from mdlm_min.evidence.golden import RESULTS, golden_tables
from mdlm_min.evidence.verdicts import judge_each
from mdlm_min.run.errors import InputError


@pytest.fixture(scope="module")
def judged():
    return [pair for judged in judge_each(golden_tables()).values() for pair in judged]


@pytest.fixture(scope="module")
def counted():
    return pages.counts(golden_tables())


def _with(judged, name, verdict):
    return [(claim, verdict if claim.id == name else old) for claim, old in judged]


def test_findings_stand_under_the_heading_of_their_verdict(judged, counted):
    sentence = "- Text: U[.45,.55] ends below U[0,1] (nats): "
    for verdict, heading in (("reproduced", "What holds"), ("not reproduced", "What does not hold"), ("not run", "undecided")):
        text = pages.findings(_with(judged, "W2-bytes", Verdict(verdict, "", 0.17, 0.07, 0.26, 5)), {}, counted, {})
        (section,) = [part for part in text.split("\n## ") if "[W2-bytes]" in part]
        assert heading in section.splitlines()[0]
        (line,) = [line for line in section.splitlines() if "[W2-bytes]" in line]
        assert line.startswith(sentence)
        assert ("bytes **0.17** [0.07, 0.26] (" in line) == (verdict != "not run")


def test_findings_say_how_many_seeds_where_there_are_not_five(judged, counted):
    text = pages.findings(_with(judged, "W2-bytes", Verdict("reproduced", "", 0.17, 0.07, 0.26, 8)), {}, counted, {})
    assert "bytes **0.17** [0.07, 0.26], 8 seeds (" in text


def test_findings_of_an_unknown_claim_or_count_are_refused(judged, counted):
    with pytest.raises(InputError, match=r"findings\.md: .*W2-bytes"):
        pages.findings([pair for pair in judged if pair[0].id != "W2-bytes"], {}, counted, {})
    with pytest.raises(InputError, match=r"findings\.md: .*secret_first"):
        pages.findings(judged, {}, counted | {"parity_map": {"problems": 36, "generalised": 23}}, {})
    assert "the map of parity problems" not in pages.findings(judged, {}, {}, {})  # a folder of results that has no map


def test_what_is_less_than_would_matter_says_so(judged, counted):
    small = Verdict("reproduced", "", 0.1, 0.05, 0.15, 5, 0.01, 0.01, small=True)
    assert pages.said(small) == "0.1 [0.05, 0.15], less than would matter"
    table = pages.verdict_table(_with(judged, "W2-bytes", small), {})
    assert "#w2-bytes) | **reproduced**, less than would matter | 0.1 [0.05, 0.15] |" in table
    assert "less than would matter" not in pages.said(Verdict("reproduced", "", 0.1, 0.05, 0.15, 5, 0.01, 0.01))


def test_what_fresh_seeds_have_decided_is_no_longer_listed_as_undecided(judged, counted):
    open_, decided = (Verdict(name, "", 0.3, 0.1, 0.5, 5, 0.2, 0.2) for name in ("underpowered", "reproduced"))

    def is_listed(fresh, set_after):
        page = pages.findings(_with(_with(judged, "B1-L", open_), "B1-L-fresh", fresh), set_after, counted, {})
        return "[B1-L](report.md#b1-l" in page.partition("## What is undecided")[2]

    assert not is_listed(decided, {})
    assert is_listed(open_, {})
    assert is_listed(decided, {"B1-L-fresh": "its judge was changed"})


def test_findings_say_how_many_hours_would_decide(judged, counted):
    undecided = _with(judged, "W2-bytes", Verdict("underpowered", "", 0.1, -0.1, 0.3, 5, 0.2, 0.2, 40))
    unknown = pages.findings(undecided, {}, counted, {})
    assert ", 40 seeds for " in unknown
    known = pages.findings(undecided, {}, counted, {"W2-bytes": 12.3})
    assert re.sub(r"(, 40 seeds for [\d.]+), 12 hours", r"\1", known) == unknown != known


def test_findings_mark_what_was_set_after_its_runs(judged, counted):
    """The mark stands beside the claim, and beside no other."""
    link = "[W2-bytes](report.md#w2-bytes)"
    assert f"{link})" in pages.findings(judged, {}, counted, {})
    text = pages.findings(judged, {"W2-bytes": "other judge"}, counted, {})
    assert f"{link} †)" in text
    assert text.count(" †)") == 1


def test_the_map_and_the_search_are_counted_in_their_tables(counted):
    """Against the counts by hand: a problem is one (n, k, N); arms that generalise at the same step are both first."""
    found = counted["parity_map"]
    assert found["problems"] == 36
    assert found["generalised"] == 23
    assert (found["secret_first"], found["output_first"], found["masked_first"]) == (12, 11, 0)
    search = counted["parity_search"]
    assert search["masked_generalised"] <= search["masked"] <= search["networks"]


def test_an_unbounded_interval_is_not_shown():
    assert pages.said(Verdict("underpowered", "", 0.98, -math.inf, math.inf, 1)) == "0.98, 1 seed"


def test_every_claim_stands_on_its_experiment_s_page_with_its_mark(judged, counted):
    pages_now = pages.generated({"01_parity": judged}, {judged[0][0].id: "other judge at 0123456789ab"}, counted, {})
    page = pages_now[EXPERIMENTS / "01_parity" / "README.md"]
    rows = {claim.id: next(line for line in page.splitlines() if line.startswith(f"| [{claim.id}]")) for claim, _ in judged}
    assert [name for name, row in rows.items() if "set after the runs" in row] == [judged[0][0].id]
    assert RESULTS / "FINDINGS.md" in pages_now


def test_a_page_without_its_marks_is_refused(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("no marks\n")
    with pytest.raises(InputError, match="marks"):
        pages.filled(page, pages.VERDICT_MARKS, "x")

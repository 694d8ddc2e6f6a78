"""The report's pages: what they hold, whether their links lead somewhere, and how they look in a browser."""

import dataclasses
import html
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from mdlm_min.evidence import golden, headlines, report, verdicts
from mdlm_min.evidence.claim import VERDICTS, Claim, Verdict, rows_of
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.interval import MARGIN, WIDTH, place
from mdlm_min.evidence.statistics import Share
from mdlm_min.run.errors import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
WITHOUT_TIER = {"D1", "D2", "D3", "D4"}  # asked at a size for which the plan has no tier
AFTER = {"P1-N600-104": "other judge at 0123456789ab"}
MAIN = {*(f"T{i}" for i in range(1, 10)), *(f"P{i}" for i in range(1, 6)), *(f"W{i}" for i in range(1, 6)), "B1", "B2", "B5"}


class Page(HTMLParser):
    """Ids, links, sources of images, scripts, and the text of each heading and each card's parts."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.sources, self.tags, self.classes = [], [], [], [], []
        self.headings = {"h1": [], "h2": [], "h3": []}
        self.cards = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.sources += [values["src"]] if "src" in values else []
        if tag == "article":
            self.cards[values["id"]] = (values["class"].split()[1], [])
        if tag in self.headings:
            self.headings[tag].append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] in self.headings and data.strip():
            self.headings[self.tags[-1]][-1] += data
        if self.cards:
            list(self.cards.values())[-1][1].append(data)


@pytest.fixture(scope="module")
def judged():
    return [pair for judged in verdicts.judge_each(golden.golden_tables()).values() for pair in judged]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    tables = golden.golden_tables()
    return report.write(tmp_path_factory.mktemp("report"), verdicts.judge_each(tables), tables, AFTER)


@pytest.fixture(scope="module")
def page(pages):
    return Page(pages[1].read_text())


def test_the_page_has_a_heading_for_every_experiment_and_every_claim(page, judged):
    assert page.headings["h1"] == ["What reproduces of arXiv:2601.22450"]
    for folder in experiment_folders():
        assert any(heading.startswith(f"{folder.name}: ") for heading in page.headings["h2"])
    assert page.headings["h3"] == [claim.id for claim, _ in judged]


def test_every_link_of_the_page_leads_somewhere_and_every_anchor_is_unique(page, judged):
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert {claim.id.lower() for claim, _ in judged} <= inside
    assert {link for link in page.links if not link.startswith("#")} == {"https://arxiv.org/abs/2601.22450"}


def test_a_card_says_its_verdict_in_words_and_class_with_numbers_tolerance_and_command(page, judged):
    for claim, verdict in judged:
        style, parts = page.cards[claim.id.lower()]
        text = "".join(parts)
        assert style == verdict.verdict.replace(" ", "-")
        assert verdict.verdict in text
        assert claim.statement in text
        assert claim.published in text
        assert claim.tolerance in text
        assert verdict.note in text
        command = re.search(r"mdlm run (\w+) --tier (\w+)", text)
        assert (command is None) == (claim.id in WITHOUT_TIER)
        assert command is None or command[2] == claim.tier in Experiment(command[1]).plan["tiers"]
        assert math.isnan(verdict.ours) or verdicts.value(verdict) in text


def test_the_command_asks_for_all_arms_only_where_the_judge_needs_them():
    """md_1 is in the table, but the tier does not run it by itself."""
    experiment, table = Experiment("parity"), golden.golden_by_tier("01_parity")["cpu"]
    runs = {
        name: record | {"config": record["config"] | {"arm": "md_1"}} if record["config"]["arm"] == "md_0.1" else record
        for name, record in table.runs.items()
    }
    tables = {"cpu": dataclasses.replace(table, runs=runs)}
    known = experiment.module("claims").CLAIMS[-1]
    for arm, more in (("output", False), ("md_1", True)):
        claim = dataclasses.replace(known, tier="cpu", judge=lambda table, arm=arm: Share(len(rows_of(table, arm)), 0))
        assert ("--arms all" in report._command(experiment, claim, tables)) == more


def test_the_page_needs_nothing_from_outside_and_holds_every_figure(pages, page):
    figures = list((pages[0].parent / "figures").glob("*.png"))
    assert figures
    assert page.tags.count("img") == len(figures) == len(page.sources)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_the_markdown_page_holds_every_claim_and_its_links_lead_somewhere(pages, judged):
    text = pages[0].read_text()
    anchors = re.findall(r'<a id="([^"]+)"></a>', text)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)
    assert len(set(anchors)) == len(anchors)
    for claim, _ in judged:
        assert f'<a id="{claim.id.lower()}"></a>{claim.id} | ' in text
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (pages[0].parent / name).exists()
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def _ids(rows):
    return {name for row in rows for answer in (*row.paper_size, *row.scaled_down) for name, _ in answer.claims}


def test_every_main_claim_is_in_the_short_table(judged):
    shown = {name.partition("-")[0] for name in _ids(headlines.headlines(judged, {}))}
    assert shown >= MAIN
    assert 10 <= len(headlines.headlines(judged, {})) <= 15


def test_the_short_table_follows_the_verdicts(judged):
    before = report.readme_table(judged, {})
    changed = [
        (claim, Verdict("reproduced", "", 0.97) if claim.id == "B5" else verdict) for claim, verdict in judged
    ]  # B5 fails in the golden tables
    after = report.readme_table(changed, {})
    assert "**not reproduced** [B5](results/report.md#b5) 0.71" in before
    assert "[B5](results/report.md#b5) 0.97" in after
    count = sum(verdict.verdict == "reproduced" for _, verdict in judged)
    assert f"{count} reproduced," in before
    assert f"{count + 1} reproduced," in after


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('paper_size = ["P99"]', "claim 'P99' is unknown; allowed: T1"),
        ("papersize = []", "'papersize' is unknown; allowed: missing"),
    ],
)
def test_an_unknown_claim_or_key_in_the_headlines_is_named(line, message, judged, tmp_path, monkeypatch):
    path = tmp_path / "headlines.toml"
    path.write_text(f'numbers = 4\n[[headline]]\ntext = "x"\n{line}\n')
    monkeypatch.setattr(headlines, "PATH", path)
    with pytest.raises(InputError, match=re.escape(message)):
        headlines.headlines(judged, {})


def test_what_was_set_after_its_runs_is_marked_in_every_table(pages, page, judged):
    assert AFTER["P1-N600-104"] in "".join(page.cards["p1-n600-104"][1])
    assert "Set after the runs" not in "".join(page.cards["p2-n600"][1])
    rows = {line.split("</a>")[1].split(" ")[0]: line for line in pages[0].read_text().splitlines() if line.startswith("| <a id")}
    assert f", set after the runs: {AFTER['P1-N600-104']} |" in rows["P1-N600-104"]
    assert [name for name, row in rows.items() if "set after the runs" in row] == ["P1-N600-104"]
    table = report.readme_table(judged, AFTER)
    assert re.search(r"\[P1-N600-104\]\(results/report.md#p1-n600-104\)( [\d.]+)? †", table)
    assert table.count("†") == 2  # there, and where it is explained
    assert "†" not in report.readme_table(judged, {})


def test_the_readme_is_written_between_its_marks_alone(tmp_path, monkeypatch):
    tables = golden.golden_tables()
    judged = verdicts.judge_each(tables)
    monkeypatch.setattr(golden, "RESULTS", tmp_path / "results")
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.README_MARKS[0]}written before\n{report.README_MARKS[1]}\nafter\n")
    text = report.other_pages(judged, tables, {})[path]
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "written before" not in text
    path.write_text(text)
    assert report.other_pages(judged, tables, {})[path] == text
    path.write_text("no marks\n")
    with pytest.raises(InputError, match="must each stand there once"):
        report.other_pages(judged, tables, {})


def _claim(scale, paper=math.nan):
    return Claim("X", "", "exact", "", "", "", "cpu", lambda table: Verdict("not run", ""), scale=scale, paper=paper)


def test_an_interval_is_drawn_on_its_scale():
    share = place(_claim("share"), Verdict("reproduced", "", 0.5, 0.25, 0.75))
    assert share.point == WIDTH / 2
    assert share.ends[0] + share.ends[1] == pytest.approx(WIDTH)
    assert [name for _, name in share.references] == ["0", "1"]
    ratio = place(_claim("ratio", 4.0), Verdict("underpowered", "", 1.0, 0.25, 4.0))
    assert ratio.point == WIDTH / 2 == ratio.references[0][0]
    assert ratio.paper == ratio.ends[1]
    difference = place(_claim("difference"), Verdict("reproduced", "", 2.0, 1.0, 3.0))
    assert difference.references[0][0] == pytest.approx(WIDTH * MARGIN / (1 + 2 * MARGIN), abs=0.1)
    assert difference.references[0][0] < difference.ends[0] < difference.point < difference.ends[1]


def test_one_seed_draws_no_interval_and_a_number_alone_draws_nothing():
    seed = place(_claim("difference", 0.3), Verdict("underpowered", "", 0.2, -math.inf, math.inf))
    assert seed.ends is None
    assert seed.paper is not None
    assert place(_claim("ratio", 2.0), Verdict("underpowered", "", 2.0, 0.0, math.inf)).ends is None
    assert place(_claim("value"), Verdict("reproduced", "", 5e-14)) is None
    assert place(_claim("share"), Verdict("not run", "")) is None


def _browse(pages, folder, width, *options):
    """Chromium on the page in a frame of so many pixels (its own window has at least 500). Returns what it printed."""
    # The frame is as high as the cards of the first two experiments need; the script says how wide and how high the page is.
    wrapped = folder / f"{width}.html"
    wrapped.write_text(
        f'<!doctype html><body style="margin:0"><iframe id="page" style="border:0;width:{width}px;height:6000px" '
        f'srcdoc="{html.escape(pages[1].read_text())}"></iframe><script>addEventListener("load", () => {{'
        'const root = document.getElementById("page").contentDocument.documentElement;'
        'document.body.dataset.size = root.scrollWidth + "x" + root.scrollHeight}})</script>'.replace("}}", "}")
    )
    command = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},6000", *options]
    return subprocess.run([*command, wrapped.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser_fits_its_width_and_shows_the_verdicts_colours(width, pages, tmp_path):
    size = re.search(r'data-size="(\d+)x(\d+)"', _browse(pages, tmp_path, width, "--dump-dom"))
    assert int(size[1]) == width, "the page is wider than its window"
    assert int(size[2]) > 6000
    _browse(pages, tmp_path, width, f"--screenshot={tmp_path / 'page.png'}")
    shown = (matplotlib.image.imread(tmp_path / "page.png")[:, :width, :3] * 255).round().astype(int)
    light = pages[1].read_text().partition("@media")[0]
    for verdict in VERDICTS:
        colour = re.search(rf"--{verdict.replace(' ', '-')}: #(\w{{6}})", light)[1]
        pixels = (shown == [int(colour[index : index + 2], 16) for index in (0, 2, 4)]).all(axis=2)
        assert pixels.sum() > 1000, f"{verdict} is not to be seen"
        assert np.ptp(np.nonzero(pixels)[0]) > 1000, f"{verdict} is only in one place"

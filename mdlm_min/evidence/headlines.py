"""The short table of claims: a row for each thing that the paper says, with its verdicts at the paper's size and scaled down.

experiments/headlines.toml says which claims make a row: [[headline]] with its `text`, the claim ids `paper_size` and
`scaled_down`, and `missing`, what a column without claims says. Above the rows stand the sentences of `in_short`; a claim's id in
braces stands there for its number.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from mdlm_min.evidence.claim import VERDICTS, Verdict
from mdlm_min.evidence.experiment import EXPERIMENTS
from mdlm_min.evidence.verdicts import Judged
from mdlm_min.run.errors import InputError

PATH = EXPERIMENTS / "headlines.toml"
DAGGER = "†"
KEYS = {"text", "paper_size", "scaled_down", "missing"}


@dataclass(frozen=True)
class Answer:
    """The claims of a cell that have the same verdict: each one's id and its number as text, which may be empty."""

    verdict: str
    claims: list[tuple[str, str]]


@dataclass(frozen=True)
class Headline:
    """A row. Where a column has no claims, `missing` says why."""

    text: str
    paper_size: list[Answer]
    scaled_down: list[Answer]
    missing: str


def short(verdict: Verdict) -> str:
    """Our number in two digits; empty where there is none."""
    return "" if math.isnan(verdict.ours) else f"{verdict.ours:.2g}"


def headlines(judged: Judged, set_after: Mapping[str, str]) -> list[Headline]:
    """The rows for these verdicts, with a dagger at what was set after its runs. Raises InputError where the file names an
    unknown key or claim."""
    table = tomllib.loads(PATH.read_text())
    verdicts = {claim.id: verdict for claim, verdict in judged}

    def answers(names: list[str]) -> list[Answer]:
        if unknown := [name for name in names if name not in verdicts]:
            raise InputError(f"{PATH}: claim {unknown[0]!r} is unknown; allowed: {', '.join(verdicts)}")
        shown = {name: short(verdicts[name]) if len(names) <= table["numbers"] else "" for name in names}
        shown = {name: " ".join(filter(None, (text, DAGGER * (name in set_after)))) for name, text in shown.items()}
        found = [Answer(kind, [pair for pair in shown.items() if verdicts[pair[0]].verdict == kind]) for kind in VERDICTS]
        return [answer for answer in found if answer.claims]

    rows = []
    for row in table["headline"]:
        if unknown := sorted(row.keys() - KEYS):
            raise InputError(f"{PATH}: {unknown[0]!r} is unknown; allowed: {', '.join(sorted(KEYS))}")
        paper_size, scaled_down = answers(row.get("paper_size", [])), answers(row.get("scaled_down", []))
        rows.append(Headline(row["text"], paper_size, scaled_down, row.get("missing", "")))
    return rows


def in_short(judged: Judged, set_after: Mapping[str, str], page: str) -> list[str]:
    """The sentences above the table, with our numbers (or "not run"), each a link to its claim on `page` and with the table's
    dagger. Raises InputError where a sentence names an unknown claim."""
    numbers = {
        claim.id: f"[{short(verdict) or verdict.verdict}]({page}#{claim.id.lower()})" + f" {DAGGER}" * (claim.id in set_after)
        for claim, verdict in judged
    }
    sentences = tomllib.loads(PATH.read_text()).get("in_short", [])
    try:
        return [sentence.format_map(numbers) for sentence in sentences]
    except KeyError as error:
        raise InputError(f"{PATH}: in_short: claim {error.args[0]!r} is unknown; allowed: {', '.join(numbers)}") from None

"""The short table of claims: a row for each thing that the paper says, its verdicts at the paper's size and scaled down.

experiments/headlines.toml says which claims make a row: [[headline]] with `text`, the claim ids `paper_size` and `scaled_down`, and
`missing`, what a column without claims says.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from mdlm_min.evidence.claim import VERDICTS, Verdict
from mdlm_min.evidence.experiment import EXPERIMENTS
from mdlm_min.evidence.verify import Judged, format_verdict
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError

HEADLINES = EXPERIMENTS / "headlines.toml"


@dataclass(frozen=True)
class Answer:
    """The claims of a cell with one verdict: their ids, each with its number as text (or empty)."""

    verdict: str
    claims: list[tuple[str, str]]


@dataclass(frozen=True)
class Headline:
    """A row: the paper's claim, and the answers at both sizes; `missing` stands where there are none."""

    text: str
    paper_size: list[Answer]
    scaled_down: list[Answer]
    missing: str

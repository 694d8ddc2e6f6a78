"""Exercises: a question, a worked answer that ends in the result, and wrong results to choose from. GSM8K's are read here; those
of arithmetic are made (data/arithmetic.py).

An exercise is scored both ways of section 5.2.2: by the likelihood of its right ending among wrong ones, and by what a model
writes, whose result must be the right one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mdlm_min.data.text import data_folder, in_data_folder
from mdlm_min.data.tokenizer import is_unicode
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import open_bytes
from mdlm_min.run.json_text import parse_json
from mdlm_min.run.random_streams import stream_seed

GSM8K = "gsm8k/train.jsonl"
CHOICES = 4
_NUMBER = re.compile(r"-?[\d,]*\d(?:\.\d+)?")


@dataclass(frozen=True)
class Exercise:
    """`given` + choices[0] is the worked answer. The choices are endings of it; all but the first are wrong."""

    question: str
    given: str
    choices: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.given + self.choices[0]


def result_of(answer: str) -> str:
    """The number behind an answer's last #, without thousands separators; empty where there is none."""
    _, mark, end = answer.rpartition("#")
    found = _NUMBER.search(end) if mark else None
    return found[0].replace(",", "") if found else ""


def gsm8k() -> Iterator[tuple[str, Exercise | str]]:
    """GSM8K's training set, from $MDLM_DATA: where each record stands, and its exercise or what is wrong with it.

    The calculator notes <<...>> are left out. The choices are results, behind the right working. Raises InputError where the file
    is missing or cannot be read to its end.
    """
    folder = data_folder()
    found = [] if folder is None else [path for path in (folder / GSM8K, folder / f"{GSM8K}.gz") if path.exists()]
    if not found:
        raise InputError(f"data.source: gsm8k needs {GSM8K} (or .gz) {in_data_folder(folder)}")
    for where, line in json_lines(found[0]):
        try:
            record = parse_json(line)
            yield where, _gsm8k_exercise(record["question"], record["answer"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield where, f"no exercise ({type(error).__name__}: {error})"


def _gsm8k_exercise(question: str, answer: str) -> Exercise:
    if not all(isinstance(text, str) and is_unicode(text) for text in (question, answer)):
        raise ValueError("question and answer are no text")
    working, mark, end = re.sub(r"<<.*?>>", "", answer).rpartition("#### ")
    right = result_of(f"{mark}{end}")
    if not right:
        raise ValueError("the answer has no #### and number")
    wrong = _near(int(right), stream_seed(0, f"gsm8k {question}"))
    return Exercise(question, working, tuple(f"{mark}{number}" for number in (int(right), *wrong)))


def _near(right: int, seed: int) -> list[int]:
    """Wrong results of the kind that a slip gives: off by one or ten, doubled, halved; which of them depends on the seed."""
    candidates = [right + 1, right - 1, right + 10, right - 10, 2 * right, right // 2, right + 2, right + 5]
    found = list(dict.fromkeys(number for number in candidates if number != right and (number >= 0 or right < 0)))
    start = seed % len(found)
    return (found[start:] + found[:start])[: CHOICES - 1]


def json_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every line of a file, also of a .gz, with its place: "name line 7"; but for empty ones. Raises InputError for a file that
    cannot be read."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path.name} line {number}", line

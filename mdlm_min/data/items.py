"""Multiple-choice items, in the form that lm-eval gives them: HellaSwag, ARC-Easy, ARC-Challenge and MMLU.

Files are looked for in $MDLM_DATA (hellaswag/, arc/, mmlu/), as JSON lines in the data sets' own schema, .gz or not.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_min.data.exercises import json_lines
from mdlm_min.data.text import data_folder, in_data_folder
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.json_text import parse_json


@dataclass(frozen=True)
class Item:
    """A prompt, the answers to choose from (each with the space that parts it from the prompt), and which is right."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


def _hellaswag(record: dict[str, Any]) -> Item:
    prompt = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
    return Item(_clean(prompt), tuple(f" {_clean(ending)}" for ending in record["endings"]), int(record["label"]))


def _clean(text: str) -> str:
    """Without the markers that WikiHow's pages left in HellaSwag."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _arc(record: dict[str, Any]) -> Item:
    choices = tuple(f" {text}" for text in record["choices"]["text"])
    return Item(f"Question: {record['question']}\nAnswer:", choices, record["choices"]["label"].index(record["answerKey"]))


LETTERS = ("A", "B", "C", "D")
SHOTS = 5  # of MMLU: the first five of the subject's development set
STEM = frozenset(  # MMLU-stem, as lm-eval groups the subjects
    re.findall(
        r"\w+",
        "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics "
        "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology "
        "high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics high_school_statistics "
        "machine_learning",
    )
)


def _mmlu_question(record: dict[str, Any]) -> str:
    choices = (f"{letter}. {text}\n" for letter, text in zip(LETTERS, record["choices"], strict=True))
    return f"{record['question'].strip()}\n{''.join(choices)}Answer:"


def _mmlu(record: dict[str, Any]) -> Item:
    subject = record["subject"]
    shots = [f"{_mmlu_question(shot)} {LETTERS[shot['answer']]}" for shot in _mmlu_shots(items_file("mmlu_dev"), subject)]
    title = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
    return Item(
        "\n\n".join((title, *shots, _mmlu_question(record))), tuple(f" {letter}" for letter in LETTERS), int(record["answer"])
    )


@functools.lru_cache(maxsize=64)
def _mmlu_shots(path: Path, subject: str) -> list[dict[str, Any]]:
    return list(itertools.islice((record for record in read_records(path) if record["subject"] == subject), SHOTS))


READERS: dict[str, Callable[[dict[str, Any]], Item]] = {
    "hellaswag": _hellaswag,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "mmlu": _mmlu,
}
FILES = {
    "hellaswag": "hellaswag/val_1000.jsonl",
    "arc_easy": "arc/ARC-Easy-Test.jsonl",
    "arc_challenge": "arc/ARC-Challenge-Test.jsonl",
    "mmlu": "mmlu/test.jsonl",
    "mmlu_dev": "mmlu/dev.jsonl",
    "gsm8k_train": "gsm8k/train.jsonl",
    "gsm8k_test": "gsm8k/test.jsonl",
}


def items_file(task: str) -> Path:
    """Where a task's items lie. Raises InputError where they are missing, or no folder was named."""
    folder, name = data_folder(), FILES[task]
    found = [] if folder is None else [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not found:
        raise InputError(f"items: {task} needs {name} (or .gz) {in_data_folder(folder)}")
    return found[0]


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of JSON lines, .gz or not. Raises InputError for a file that cannot be read and a line that is no record."""
    for where, line in json_lines(path):
        try:
            record = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path.parent}/{where}: cannot be read ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path.parent}/{where}: {shown(record)} is no JSON object")
        yield record


def read_items(task: str, wanted: Callable[[dict[str, Any]], bool] = lambda record: True) -> Iterator[Item]:
    """The items of a task, in the order of its file; of those records that are `wanted`. Raises InputError for records that are
    not items."""
    path = items_file(task)
    for number, record in enumerate(read_records(path), start=1):
        try:
            if wanted(record):
                yield READERS[task](record)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{path}: item {number} cannot be read ({type(error).__name__}: {error})") from error


def load_items(task: str, count: int) -> list[Item]:
    """The first `count` items of a task. Raises InputError for records that are not items, and for fewer than `count`."""
    items = list(itertools.islice(read_items(task), count))
    if len(items) < count:
        raise InputError(f"items: {count} are wanted, {items_file(task)} holds {len(items)}")
    return items

"""Multiple-choice items, in the form that lm-eval gives them: HellaSwag and ARC-Easy.

Files are looked for in $MDLM_DATA (hellaswag/, arc/), as JSON lines in the data sets' own schema, .gz or not.
"""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_min.run.errors import InputError


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


TASKS: dict[str, tuple[str, Callable[[dict[str, Any]], Item]]] = {
    "hellaswag": ("hellaswag/val_1000.jsonl", _hellaswag),
    "arc_easy": ("arc/ARC-Easy-Test.jsonl", _arc),
}


def items_file(task: str) -> Path:
    """Where a task's items lie. Raises InputError where they are missing, or no folder was named."""
    from mdlm_min.data.text import data_folder  # loads torch

    folder, name = data_folder(), TASKS[task][0]
    found = [] if folder is None else [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not found:
        raise InputError(f"items: {task} needs {name} (or .gz) in the folder that MDLM_DATA names; or set items = 0")
    return found[0]


def load_items(task: str, count: int) -> list[Item]:
    """The first `count` items of a task. Raises InputError for records that are not items, and for fewer than `count`."""
    path = items_file(task)
    items: list[Item] = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                if len(items) == count:
                    break
                items.append(TASKS[task][1](json.loads(line)))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: item {len(items) + 1} cannot be read ({type(error).__name__}: {error})") from error
    if len(items) < count:
        raise InputError(f"items: {count} are wanted, {path} holds {len(items)}")
    return items

"""Data sets of the offline tasks, from the JSON lines below $MDLM_DATA: lm-eval calls these functions (`custom_dataset`)."""

from collections.abc import Iterable
from typing import Any

from mdlm_min.data.items import STEM, Item, items_file, read_items, read_records


def hellaswag(**_: Any) -> Any:
    """HellaSwag's validation split."""
    return _choices(read_items("hellaswag"))


def arc_easy(**_: Any) -> Any:
    """ARC-Easy's test split."""
    return _choices(read_items("arc_easy"))


def arc_challenge(**_: Any) -> Any:
    """ARC-Challenge's test split."""
    return _choices(read_items("arc_challenge"))


def mmlu(**_: Any) -> Any:
    """MMLU's test split, all 57 subjects; the prompts hold the subject's five examples."""
    return _choices(read_items("mmlu"))


def mmlu_stem(**_: Any) -> Any:
    """The STEM subjects of MMLU."""
    return _choices(read_items("mmlu", lambda record: record["subject"] in STEM))


def gsm8k(**_: Any) -> Any:
    """GSM8K's test split, and its training split for examples."""
    return {split: _dataset(read_records(items_file(f"gsm8k_{split}"))) for split in ("train", "test")}


def _choices(items: Iterable[Item]) -> Any:
    return {
        "test": _dataset(
            {"query": item.prompt, "choices": [text.removeprefix(" ") for text in item.choices], "gold": item.answer}
            for item in items
        )
    }


def _dataset(records: Iterable[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(list(records))

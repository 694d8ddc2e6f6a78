import gzip
import itertools
import json
import math

import numpy as np
import pytest
import torch

from mdlm_min.data.items import Item, items_file, load_items
from mdlm_min.data.tokenizer import Bytes
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.multiple_choice import _passes, judge_items

# What a masked token costs in the model below: a function of its id and of how many are masked.
COST = torch.linspace(0.1, 3.0, 256, dtype=torch.float64)


def score(tokens, mask):
    levels = mask.sum(dim=1, keepdim=True).expand_as(mask)
    return (COST[tokens] * (1 + levels / 10))[mask]


def exact_nll(text):
    """LLaDA's Eq. 6 by enumeration: the mean over l of L/l times the mean over sets of l masked tokens."""
    costs = COST[list(text.encode())]
    size = len(costs)
    total = 0.0
    for level in range(1, size + 1):
        sets = list(itertools.combinations(range(size), level))
        total += size / level * sum(float(costs[list(chosen)].sum()) * (1 + level / 10) for chosen in sets) / len(sets)
    return total / size


def test_the_nll_of_an_answer_is_llada_s_sum_over_levels_and_masks():
    item = Item("any prompt", (" abc", " z"), 0)
    judged = [judge_items(score, [item], Bytes(), 64, 4, f"name {number}")[0].nll for number in range(300)]
    expected = exact_nll(" abc") / 3
    assert np.mean(judged) == pytest.approx(expected, abs=4 * np.std(judged) / math.sqrt(300))
    assert np.std(judged) > 0


def test_the_likelier_answer_is_chosen_by_sum_and_by_byte():
    # A long answer of cheap tokens: more in sum, less per byte.
    [judged] = judge_items(score, [Item("p", (" !!!!!!!!!!!!", " z"), 0)], Bytes(), 64, 8, "name")
    assert (judged.acc, judged.acc_norm) == (False, True)


def test_masks_are_in_the_answer_only_and_the_same_for_every_model():
    made = _passes(Item("prompt", (" yes or no", " b"), 0), 3, Bytes(), 64, 5, "task")
    again = _passes(Item("prompt", (" yes or no", " b"), 0), 3, Bytes(), 64, 5, "task")
    assert [one.mask.tolist() for one in made] == [one.mask.tolist() for one in again]
    assert all(not one.mask[:6].any() and one.mask.any() for one in made)
    assert [one.choice for one in made].count(1) == 2  # an answer of two tokens has two levels
    levels = sorted(int(one.mask.sum()) for one in made if one.choice == 0)
    assert len(set(levels)) == 5  # spread evenly
    assert {int(one.mask.sum()) for one in made if one.choice == 1} == {1, 2}


def test_a_prompt_that_is_too_long_loses_its_head():
    [made] = _passes(Item("abcdefgh", ("yz",), 0), 0, Bytes(), 6, 1, "task")
    assert bytes(made.tokens.tolist()) == b"efghyz"


def test_batches_do_not_change_what_is_found():
    items = [Item("p" * size, (" a" * (1 + size), " bb"), size % 2) for size in range(7)]
    wide = judge_items(score, items, Bytes(), 64, 3, "name", batch_tokens=4096)
    narrow = judge_items(score, items, Bytes(), 64, 3, "name", batch_tokens=1)
    assert [(one.acc, one.acc_norm, round(one.nll, 9)) for one in wide] == [
        (one.acc, one.acc_norm, round(one.nll, 9)) for one in narrow
    ]


def test_items_read_as_lm_eval_reads_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    (tmp_path / "hellaswag").mkdir()
    record = {
        "activity_label": "Baking",
        "ctx_a": "A [step] man bakes. [title] Now",
        "ctx_b": "he EATS",
        "endings": ["it  all.", "[x] none."],
        "label": "1",
    }
    with gzip.open(tmp_path / "hellaswag" / "val_1000.jsonl.gz", "wt") as file:
        file.write(json.dumps(record) + "\n")
    assert load_items("hellaswag", 1) == [Item("Baking: A man bakes.. Now He eats", (" it all.", "  none."), 1)]
    with pytest.raises(InputError, match="items: 2 are wanted, .* holds 1"):
        load_items("hellaswag", 2)
    with pytest.raises(InputError, match="items: arc_easy needs arc/ARC-Easy-Test.jsonl"):
        items_file("arc_easy")
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "ARC-Easy-Test.jsonl").write_text('{"question": "Why?", "choices": {"text": ["a"], "label": ["A"]}}\n')
    with pytest.raises(InputError, match=r"item 1 cannot be read \(KeyError"):
        load_items("arc_easy", 1)


def test_the_real_items(data_folder):
    for task in ("hellaswag", "arc_easy"):
        items = load_items(task, 1000)
        assert all(0 <= item.answer < len(item.choices) for item in items)
        assert {len(item.choices) for item in items} <= {3, 4, 5}
    assert items[0].prompt.startswith("Question: Which statement best explains")
    assert items[0].prompt.endswith("\nAnswer:")

import gzip
import itertools
import json

import pytest
import torch

from mdlm_min.data.items import Item, items_file, load_items
from mdlm_min.data.tokenizer import Bytes
from mdlm_min.diffusion.answer_likelihood import LikelihoodConfig
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.multiple_choice import judge_items

# What a masked token costs in the model below: a function of its id and of how many are masked.
COST = torch.linspace(0.1, 3.0, 256, dtype=torch.float64)
EXACT = LikelihoodConfig(2**13)


def score(passes):
    levels = passes.mask.sum(dim=1, keepdim=True).expand_as(passes.mask)
    return (COST[passes.tokens] * (1 + levels / 10))[passes.mask]


def exact_nll(text):
    """LLaDA's Eq. 6 by enumeration: the mean over l of L/l times the mean over sets of l masked tokens."""
    costs = COST[list(text.encode())]
    size = len(costs)
    total = 0.0
    for level in range(1, size + 1):
        sets = list(itertools.combinations(range(size), level))
        total += size / level * sum(float(costs[list(chosen)].sum()) * (1 + level / 10) for chosen in sets) / len(sets)
    return total / size


def test_the_nll_of_the_right_answer_is_per_byte_and_short_answers_are_exact():
    [judged] = judge_items(score, [Item("any prompt", (" z", " abc\u00e9"), 1)], Bytes(), 64, EXACT)
    assert judged.nll == pytest.approx(exact_nll(" abc\u00e9") / 5)


def test_blanks_around_an_answer_are_no_bytes_of_it():
    [judged] = judge_items(score, [Item("p", (" ab  ",), 0)], Bytes(), 64, EXACT)
    assert judged.nll == pytest.approx(exact_nll(" ab  ") / 2)


def test_the_likelier_answer_is_chosen_by_sum_and_by_character_as_in_lm_eval():
    # A long answer of cheap tokens: more in sum, less per character.
    [judged] = judge_items(score, [Item("p", (" !!!!!!!!!!!!", " z"), 0)], Bytes(), 64, EXACT)
    assert (judged.acc, judged.acc_norm) == (False, True)
    # An e with an accent is two bytes and one character: per byte this answer would be the likelier one.
    texts = (" \u00e9!!", " z")
    costs = [exact_nll(text) for text in texts]
    assert costs[0] / 4 < costs[1] < costs[0] / 3
    [judged] = judge_items(score, [Item("p", texts, 1)], Bytes(), 64, EXACT)
    assert judged.acc_norm


def test_items_are_judged_in_their_order_whatever_the_batch():
    items = [Item("p" * size, (" a" * (1 + size), " bb", " c d e"), size % 2 * 2) for size in range(7)]
    wide = judge_items(score, items, Bytes(), 64, LikelihoodConfig(3))
    narrow = [judge_items(score, [item], Bytes(), 64, LikelihoodConfig(3))[0] for item in items]
    assert [(one.acc, one.acc_norm, round(one.nll, 9)) for one in wide] == [
        (one.acc, one.acc_norm, round(one.nll, 9)) for one in narrow
    ]
    assert len({round(one.nll, 6) for one in wide}) > 3


def test_a_prompt_that_is_too_long_loses_its_head():
    seen = []

    def looking(passes):
        seen.append(bytes(passes.tokens[0].tolist()))
        return score(passes)

    judge_items(looking, [Item("abcdefgh", ("yz",), 0)], Bytes(), 6, EXACT)
    assert set(seen) == {b"efghyz"}


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

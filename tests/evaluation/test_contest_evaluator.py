"""The contest's evaluator against the enumeration of all masks, and against models whose scores are known."""

import itertools
import math

import pytest
import torch

from mdlm_min.data.exercises import result_of
from mdlm_min.evaluation import contest_evaluator as evaluator

VOCABULARY, MASK, LENGTH = 3, 3, 10


def table_model(seed=0):
    """A made-up model: its scores depend on the tokens that are shown, on where the hidden ones are, and on the place."""
    draws = torch.Generator().manual_seed(seed)
    weights = 0.4 * torch.randn(VOCABULARY + 1, LENGTH + 4, LENGTH + 4, VOCABULARY, generator=draws).double()

    def predict(tokens, mask, real):
        assert bool((tokens[mask] == MASK).all())
        width = tokens.shape[1]
        scores = torch.zeros(*tokens.shape, VOCABULARY, dtype=torch.float64)
        for other in range(width):
            scores += weights[tokens[:, other], other][:, :width] * real[:, other, None, None]
        return scores[mask]

    return predict


def enumerated(predict, tokens, start):
    """The bound of one sequence whose tokens from `start` on are asked for: the mean over sizes and over all masks of a size."""
    asked = range(start, len(tokens))
    by_size = []
    for size in range(1, len(asked) + 1):
        values = []
        for chosen in itertools.combinations(asked, size):
            mask = torch.zeros(1, len(tokens), dtype=torch.bool)
            mask[0, list(chosen)] = True
            scores = predict(tokens[None].masked_fill(mask, MASK), mask, torch.ones_like(mask))
            values.append(float(-scores.log_softmax(dim=1).gather(1, tokens[list(chosen)][:, None]).mean()))
        by_size.append(sum(values) / len(values))
    return by_size


def test_text_nll_is_the_enumerated_bound():
    predict = table_model()
    blocks = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    found = evaluator.text_nll(predict, MASK, blocks, 3000)
    exact = torch.tensor([enumerated(predict, block, 0) for block in blocks]).mean(dim=0)
    assert found["nll"] == pytest.approx(float(exact.mean()), abs=0.02)
    for place in range(LENGTH):  # ten sizes of ten tokens: each is a tenth of t
        assert found[f"t{place / 10:.1f}"] == pytest.approx(float(exact[place]), abs=0.06)


def test_every_size_and_every_block_counts_alike():
    seen = []

    def predict(tokens, mask, real):
        seen.append(mask)
        return torch.zeros(int(mask.sum()), VOCABULARY)

    blocks = torch.zeros(5, 20, dtype=torch.int64)
    found = evaluator.text_nll(predict, MASK, blocks, 5)
    sizes = torch.cat(seen).sum(dim=1)
    assert torch.bincount(sizes)[1:].tolist() == [5] * 20
    assert found["nll"] == pytest.approx(math.log(VOCABULARY))
    with pytest.raises(ValueError, match="at least 10"):
        evaluator.text_nll(predict, MASK, blocks[:, :9], 5)


def test_a_tenth_has_the_sizes_whose_share_lies_above_its_lower_end_and_at_most_at_its_upper_one():
    """Of 13 tokens one alone is .08, two are .15; four and five are .31 and .38."""

    def predict(tokens, mask, real):
        sizes = mask.sum(dim=1, keepdim=True).expand(mask.shape)[mask]
        return torch.stack((torch.zeros(len(sizes)), sizes.float()), dim=1)

    found = evaluator.text_nll(predict, MASK, torch.zeros(13, 13, dtype=torch.int64), 1)
    cost = [math.log1p(math.exp(size)) for size in range(6)]
    assert found["t0.0"] == pytest.approx(cost[1])
    assert found["t0.1"] == pytest.approx(cost[2])
    assert found["t0.3"] == pytest.approx((cost[4] + cost[5]) / 2)


def test_answer_nll_is_the_enumerated_bound():
    predict = table_model(2)
    draws = torch.Generator().manual_seed(3)
    prompts = [torch.randint(VOCABULARY, (size,), generator=draws) for size in (3, 2)]
    answers = [torch.randint(VOCABULARY, (size,), generator=draws) for size in (4, 6)]
    many = 1500
    found = evaluator.answer_nll(predict, MASK, prompts * many, answers * many).view(many, 2).mean(dim=0)
    for place in range(2):
        whole = torch.cat((prompts[place], answers[place]))
        exact = sum(enumerated(predict, whole, len(prompts[place])))
        assert float(found[place]) == pytest.approx(exact, rel=0.02)


def test_an_answer_s_nll_does_not_see_its_neighbours():
    predict = table_model(4)
    prompt, answer = torch.tensor([0, 1]), torch.tensor([2, 1, 0])
    others = ([torch.tensor([0, 1, 2]), torch.tensor([1])], [torch.zeros(9, dtype=torch.int64), torch.tensor([1, 1])])
    alone = evaluator.answer_nll(predict, MASK, [prompt], [answer])
    together = evaluator.answer_nll(predict, MASK, [prompt, *others[0]], [answer, *others[1]])
    assert together[0] == alone[0]


def knowing(answer, start):
    """A model that knows one answer by heart, the later tokens more surely."""

    def predict(tokens, mask, real):
        places = torch.arange(tokens.shape[1]).expand(mask.shape)[mask] - start
        scores = torch.zeros(len(places), VOCABULARY + 1)
        scores[torch.arange(len(places)), answer[places.clamp(0, len(answer) - 1)]] = 3.0 + places
        scores[:, MASK] = 50.0  # it would rather write the mask, which is not allowed
        return scores

    return predict


def test_what_is_known_is_chosen_and_written():
    answer = torch.tensor([2, 0, 1, 1])
    predict = knowing(answer, 2)
    prompt = torch.tensor([0, 0])
    wrong = [torch.tensor([2, 0, 1, 0]), torch.tensor([0, 0, 1, 1])]  # of equal length: compared on the same masks
    assert evaluator.share_chosen(predict, MASK, [prompt] * 20, [[answer, *wrong]] * 20) == 1.0
    assert evaluator.share_chosen(predict, MASK, [prompt] * 20, [[wrong[0], answer, wrong[1]]] * 20) == 0.0
    assert evaluator.written(predict, MASK, [prompt] * 300, 4) == [answer.tolist()] * 300  # more than one batch


def test_the_surest_token_is_written_first():
    answer, orders = torch.tensor([2, 0, 1, 1]), []
    inner = knowing(answer, 0)

    def predict(tokens, mask, real):
        orders.append(mask[0].nonzero().flatten().tolist())
        return inner(tokens, mask, real)

    evaluator.written(predict, MASK, [torch.tensor([], dtype=torch.int64)], 4)
    assert orders == [[0, 1, 2, 3], [0, 1, 2], [0, 1], [0]]


def test_prompts_of_unequal_lengths_are_written_as_alone():
    predict = table_model(5)
    prompts = [torch.tensor([0]), torch.tensor([1, 2, 0, 1])]
    together = evaluator.written(predict, MASK, prompts, 5)
    assert together == [evaluator.written(predict, MASK, [prompt], 5)[0] for prompt in prompts]


def test_bits_per_byte():
    assert evaluator.bits_per_byte(math.log(2), tokens=8, size=16) == pytest.approx(0.5)


def test_a_model_that_knows_nothing_chooses_by_chance():
    """All choices are equal to it; the right one, which is given first, is shuffled among the others."""
    prompt = torch.tensor([0, 0])
    choices = [torch.tensor([place, 0, 1]) for place in range(3)]
    share = evaluator.share_chosen(
        lambda tokens, mask, real: torch.zeros(int(mask.sum()), VOCABULARY), MASK, [prompt] * 300, [choices] * 300
    )
    assert share == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1 + 2 = 3 # 3", True),
        ("# 3", True),
        ("# 1 # 3", True),
        ("3", False),
        ("# 13", False),
        ("# -3", False),
        ("", False),
        ("# x", False),
    ],
)
def test_a_written_answer_is_right_by_the_number_behind_its_last_mark(answer, right):
    assert evaluator.share_right([answer, "# 1,234"], ["so # 3", "# 1234"]) == (1.0 if right else 0.5)


def test_two_texts_without_a_result_do_not_agree():
    assert evaluator.share_right(["no mark"], ["no mark"]) == 0.0


def test_answers_are_read_as_the_data_write_them():
    """The locked file has its own rule; it is that of the exercises."""
    for text in ("7 - 9 = -2 # -2", "# 1,234.5 apples", "no mark 5", "# none", "a # b # 4"):
        assert evaluator._result(text) == result_of(text)

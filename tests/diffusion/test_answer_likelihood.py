"""Against enumeration of every mask, written out plainly, on a tiny Transformer and on a made-up score."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, answer_nll, guided_nll, masks_of
from mdlm_min.model.llada import scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

MASK, LENGTH = 12, 64


@pytest.fixture(scope="module")
def model():
    made = Transformer(scaled(2, 2, 16, vocab_size=13, outputs=13, length=LENGTH), stream(3, "weights"))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.5)  # so that contexts matter
    return made.eval()


@pytest.fixture
def score(model):
    return guided_nll(torch.no_grad()(model), MASK, 0.0)


def answer(size, prompt=5, seed=0):
    tokens = torch.randint(MASK, (prompt + size,), generator=stream(seed, "tokens", size))
    return Answer(tokens[:prompt], tokens[prompt:])


def plain_nll(model, one, guidance=0.0):
    """Eq. 6 mask by mask: the mean over l of L/l times the mean over all sets of l tokens of their summed NLL."""
    size, first = len(one.answer), len(one.prompt)
    tokens = torch.cat((one.prompt, one.answer))
    total = 0.0
    for level in range(1, size + 1):
        sums = []
        for chosen in itertools.combinations(range(size), level):
            places = [first + place for place in chosen]
            hidden = tokens.clone()
            hidden[places] = MASK
            with torch.no_grad():
                logits = model(hidden[None])[0, places]
                hidden[:first] = MASK
                logits = (1 + guidance) * logits - guidance * model(hidden[None])[0, places]
            sums.append(float(F.cross_entropy(logits, tokens[places], reduction="sum")))
        total += size / level * sum(sums) / len(sums)
    return total / size


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_answers_of_up_to_eight_tokens_are_exact(model, guidance):
    answers = [*(answer(size) for size in range(1, 9)), answer(5, prompt=30)]  # the last has 35 tokens, padded to 36
    score = guided_nll(torch.no_grad()(model), MASK, guidance)
    found = answer_nll(score, answers, LikelihoodConfig(255), LENGTH)
    assert found.tolist() == pytest.approx([plain_nll(model, one, guidance) for one in answers], rel=1e-5)


def test_choices_that_are_one_input_are_read_once(model):
    read = []

    @torch.no_grad()
    def logits(hidden, mask, real):
        read.append(len(hidden))
        return model(hidden, mask, real)

    one, longer = answer(1), answer(2)
    letters = [Answer(one.prompt, torch.tensor([letter])) for letter in (3, 1, 4, 9)]
    same = [longer, Answer(longer.prompt, torch.tensor([longer.answer[0], (longer.answer[1] + 1) % MASK]))]
    found = answer_nll(guided_nll(logits, MASK, 0.5), [*letters, *same], LikelihoodConfig(3), LENGTH)
    assert found.tolist() == pytest.approx([plain_nll(model, each, 0.5) for each in (*letters, *same)], rel=1e-5)
    # The letters are one input. The longer answers differ in their second token: one input where it is masked, two where not.
    assert sum(read) == 2 * (1 + 4)  # with guidance, twice


def test_guidance_without_a_prompt_is_the_model_itself(model):
    alone = answer(4, prompt=0)
    values = [answer_nll(guided_nll(torch.no_grad()(model), MASK, g), [alone], LikelihoodConfig(15), LENGTH) for g in (0.0, 2.0)]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("estimator", ["balanced", "llada"])
@pytest.mark.parametrize("passes", [1, 3, 8, 128])
def test_the_number_of_passes_is_the_number_asked_or_every_mask_once(size, estimator, passes):
    masks, weights = masks_of(answer(size), LikelihoodConfig(passes, estimator))
    exact = estimator == "balanced" and 2**size - 1 <= passes
    assert len(masks) == len(weights) == (2**size - 1 if exact else passes)
    assert masks.any(dim=1).all()
    if exact:
        assert len(masks.unique(dim=0)) == len(masks)
        assert (weights[:, None] * masks).sum(dim=0).tolist() == pytest.approx([1.0] * size)
    else:
        assert weights.tolist() == pytest.approx([size / int(mask.sum()) / passes for mask in masks])
        counts = masks.sum(dim=1).bincount(minlength=size + 1)[1:]  # levels are spread evenly
        assert passes // size <= int(counts.min()) <= int(counts.max()) <= -(-passes // size)


def made_up(passes):
    """Tokens of different cost, dearer the more is masked, and dearer beside a masked one."""
    levels = passes.mask.sum(dim=1, keepdim=True).expand_as(passes.mask)
    cost = 0.2 + passes.tokens**1.5 * 0.2
    return (cost * (1 + levels / 10) + 0.5 * passes.mask.roll(1, dims=1))[passes.mask]


def repeated(one, passes, estimator, repeats=400):
    return torch.stack(
        [answer_nll(made_up, [one], LikelihoodConfig(passes, estimator, seed), LENGTH)[0] for seed in range(repeats)]
    )


@pytest.mark.parametrize("passes", [1, 4, 13, 40])
def test_both_estimators_have_the_exact_mean_and_ours_the_smaller_variance(passes):
    one = answer(11)
    exact = float(answer_nll(made_up, [one], LikelihoodConfig(2**11 - 1), LENGTH)[0])
    ours, theirs = repeated(one, passes, "balanced"), repeated(one, passes, "llada")
    for values in (ours, theirs):
        assert float(values.mean()) == pytest.approx(exact, abs=4 * float(values.std()) / math.sqrt(len(values)))
    assert passes == 1 or float(ours.var()) < 0.7 * float(theirs.var())


def test_a_value_depends_on_neither_batch_nor_order_nor_neighbours(score):
    answers = [answer(size, prompt, seed) for size, prompt, seed in itertools.product((3, 6, 7), (0, 2, 11), (0, 1))]
    config = LikelihoodConfig(5)
    alone = [float(answer_nll(score, [one], config, LENGTH)) for one in answers]
    assert len(set(alone)) == len(alone)
    for batch_tokens in (1, 60, 10**6):
        assert answer_nll(score, answers, config, LENGTH, batch_tokens).tolist() == pytest.approx(alone, rel=1e-5)
        assert answer_nll(score, answers[::-1], config, LENGTH, batch_tokens).tolist()[::-1] == pytest.approx(alone, rel=1e-5)


def test_no_batch_is_longer_than_the_model_or_larger_than_allowed():
    seen = []

    def score(passes):
        seen.append(tuple(passes.tokens.shape))
        return made_up(passes)

    answers = [Answer.within(101, *vars(answer(6, prompt)).values()) for prompt in range(60, 97)]
    answer_nll(score, answers, LikelihoodConfig(7), 101, batch_tokens=1000)
    assert max(size for _, size in seen) == 101  # 102 tokens would be padded to 104
    assert all(rows * size <= 1000 for rows, size in seen)
    assert len({size for _, size in seen}) < 12  # sequences of similar length share batches
    assert sum(rows for rows, _ in seen) == 7 * len(answers)


def test_masks_are_of_the_seed_and_the_texts():
    config, one = LikelihoodConfig(6), answer(20)
    assert torch.equal(masks_of(one, config)[0], masks_of(answer(20), config)[0])
    parts = Answer(one.prompt.flip(0), one.answer), Answer(one.prompt, one.answer.flip(0))
    for other in (answer(20, seed=1), answer(20, prompt=6), *parts):
        assert not torch.equal(masks_of(one, config)[0], masks_of(other, config)[0])
    assert not torch.equal(masks_of(one, config)[0], masks_of(one, LikelihoodConfig(6, seed=1))[0])


def test_what_does_not_fit_is_cut_or_refused():
    cut = Answer.within(6, torch.arange(8), torch.tensor([8, 9]))
    assert (cut.prompt.tolist(), cut.answer.tolist()) == ([4, 5, 6, 7], [8, 9])
    with pytest.raises(InputError, match="answer: it has 0 tokens; allowed: 1 to 6"):
        Answer.within(6, torch.arange(8), torch.tensor([], dtype=torch.int64))
    with pytest.raises(InputError, match="answer: it has 7 tokens"):
        Answer.within(6, torch.arange(8), torch.arange(7))
    with pytest.raises(InputError, match="passes: 0 is not allowed"):
        LikelihoodConfig(0)
    with pytest.raises(InputError, match="estimator: 'exact' is unknown; allowed: balanced, llada"):
        LikelihoodConfig(1, "exact")

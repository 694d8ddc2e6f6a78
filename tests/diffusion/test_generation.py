"""Batches of unequal templates against the plain loop of plain_generation.py, item by item, token for token."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_min.diffusion.remasking import CONFIDENCES, TokenRules
from mdlm_min.diffusion.sampling import REMASKING, SamplingConfig, generate
from mdlm_min.model.cache import KeyValueCache
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError
from tests.diffusion.plain_generation import frozen_scores, model_scores, plain_generation

VOCABULARY, MASK, LONGEST = 11, 10, 20
# Four prompts, of 2 to 8 tokens, with answers of 12; and texts with gaps. 9 is the stop token.
PROMPTS = [[1, 2, *[MASK] * 12], [3, 4, 5, 6, 7, 8, 1, 2, *[MASK] * 12], [5, *[MASK] * 12], [7, 7, 1, 0, *[MASK] * 12]]
GAPS = [
    [1, MASK, 2, MASK, MASK, 3],
    [MASK] * 6 + [4, 5, MASK, MASK, 6] + [MASK] * 4 + [1],
    [2, 3, MASK],
    [MASK, 0, MASK, 0, MASK, 0, MASK],
]


def transformer(layers=2):
    """In float64, so that a batch rounds as its items alone do. Its weights are large enough for answers of many tokens and for
    all degrees of confidence."""
    config = ModelConfig(
        VOCABULARY, LONGEST, VOCABULARY, layers=layers, heads=2, width=16, init="width", position_encoding="rotary"
    )
    model = Transformer(config, torch.Generator().manual_seed(7)).double()
    with torch.no_grad():
        model.head.weight *= 2.5
        for block in model.blocks:
            block.qkv.weight *= 4
            block.attention_out.weight *= 2
    return model


def batch(templates):
    """Padded on the right with the mask token, which must not be taken for a gap, and the lengths."""
    lengths = [len(template) for template in templates]
    rows = [template + [MASK] * (max(lengths) - len(template)) for template in templates]
    return torch.tensor(rows), lengths


def generated(model, templates, config, seed=3, **rules):
    tokens, lengths = batch(templates)
    rules = TokenRules(MASK, **{name: frozenset(ids) for name, ids in rules.items()})
    found = generate(model, tokens, rules, config, seed, lengths=lengths)
    assert torch.equal(found.tokens[tokens != MASK], tokens[tokens != MASK])
    return [row[:length] for row, length in zip(found.tokens.tolist(), lengths, strict=True)], found


def plain(scores, templates, config, seed=3, **rules):
    return [plain_generation(scores, template, MASK, config, seed, item, **rules) for item, template in enumerate(templates)]


OPTIONS = {
    "one block": (PROMPTS, {}, {}),
    "one step for all": (PROMPTS, {"steps": 1}, {}),
    "more steps than tokens": (PROMPTS, {"steps": 30}, {}),
    "blocks of 4": (PROMPTS, {"block_length": 4, "steps": 12}, {}),
    "blocks of 5, a rest of 2": (PROMPTS, {"block_length": 5, "steps": 7}, {}),
    "guidance": (PROMPTS, {"cfg_scale": 1.5}, {}),
    "suppression": (PROMPTS, {}, {"suppress": (2, 9, 4)}),
    "first token": (PROMPTS, {}, {"begin_suppress": (0, 1, 2, 3, 4, 5)}),
    "stop": (PROMPTS, {"steps": 12}, {"stop": (9, 4)}),
    "stop in blocks": (PROMPTS, {"block_length": 3, "steps": 12}, {"stop": (9, 4)}),
    "infilling": (GAPS, {}, {}),
    "infilling in blocks": (GAPS, {"block_length": 2, "steps": 9}, {}),
    "all": (
        PROMPTS + GAPS, {"block_length": 3, "steps": 8, "cfg_scale": 0.7},
        {"suppress": (1,), "begin_suppress": (3,), "stop": (9,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("remasking", REMASKING)
def test_exact_generation_is_the_plain_loop(remasking, temperature, option):
    templates, changes, rules = OPTIONS[option]
    config = SamplingConfig(**{"remasking": remasking, "steps": 5, "temperature": temperature, **changes})
    assert config.exact
    model = transformer()
    found, _ = generated(model, templates, config, **rules)
    assert found == plain(model_scores(model), templates, config, **rules)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("remasking", CONFIDENCES)
def test_deferred_tokens_come_last_at_any_temperature(remasking, temperature):
    model, config = transformer(), SamplingConfig(remasking, 6, temperature)
    found, _ = generated(model, PROMPTS, config, defer=(9, 4))
    assert found == plain(model_scores(model), PROMPTS, config, defer=(9, 4))
    assert found != generated(model, PROMPTS, config)[0]


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
@pytest.mark.parametrize("remasking", CONFIDENCES)
def test_deferring_acts_at_temperatures_above_0_too(remasking, temperature):
    """LLaDA #137. Position 0 is token 2 almost surely and position 1 token 1 less so; with token 2 deferred, 1 comes first."""
    probabilities, seen = torch.tensor([[0.005, 0.005, 0.99], [0.1, 0.6, 0.3]]), []

    def score(tokens, asked):
        seen.append(tokens[0].tolist())
        return probabilities.log()[asked[0]]

    config = SamplingConfig(remasking, 2, temperature)
    for defer, after_one_step in ((frozenset(), [2, 3]), (frozenset({2}), [3, 1])):
        seen.clear()
        assert generate(score, torch.tensor([[3, 3]]), TokenRules(3, defer=defer), config).tokens.tolist() == [[2, 1]]
        assert seen == [[3, 3], after_one_step]


@pytest.mark.parametrize("changes", [{"threshold": 0.35}, {"threshold": 1e-9}, {"factor": 2.5}, {"factor": 3.0}])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("block_length", [0, 5])
def test_parallel_decoding_fixes_what_is_sure_and_at_least_the_schedule_s(changes, temperature, block_length):
    model = transformer()
    config = SamplingConfig(steps=12, temperature=temperature, block_length=block_length, **changes)
    found, record = generated(model, PROMPTS, config)
    assert not config.exact
    assert found == plain(model_scores(model), PROMPTS, config)
    assert sum(record.passes) < (40 if block_length else 48)  # as many as the schedule's
    if changes.get("threshold") == 1e-9:  # everything is sure: a pass for each block
        assert record.passes == [3 if block_length else 1] * 4


@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize(
    "changes", [{}, {"cfg_scale": 0.5}, {"threshold": 0.35}, {"remasking": "ancestral"}, {"temperature": 0.8}]
)
@pytest.mark.parametrize("templates", [PROMPTS, GAPS], ids=["prompts", "gaps"])
def test_a_cache_keeps_the_keys_and_values_of_each_block_s_first_pass(kind, changes, templates):
    model = transformer()
    config = SamplingConfig(**{"steps": 12, "temperature": 0.0, "block_length": 4, "cache": kind, **changes})
    found, _ = generated(model, templates, config)
    expected = []
    for item, template in enumerate(templates):
        scores = (guided_frozen_scores if config.cfg_scale else frozen_scores)(model, kind)
        expected.append(plain_generation(scores, template, MASK, config, 3, item))
        scores.close()
    assert found == expected
    assert not config.exact


def guided_frozen_scores(model, kind):
    """Conditional and unconditional passes take turns, and each has its own cache: two copies of the model."""
    parts = [frozen_scores(model, kind), frozen_scores(transformer(), kind)]
    turn = [0]

    def scores(*arguments):
        turn[0] += 1
        return parts[(turn[0] - 1) % 2](*arguments)

    scores.close = lambda: [part.close() for part in parts]
    return scores


@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize("condition", ["refreshed in every pass", "one layer", "one pass per block"])
def test_caches_are_exact_where_nothing_that_is_kept_would_change(kind, condition):
    model = transformer(1 if condition == "one layer" else 2)
    config = SamplingConfig(steps=3 if condition == "one pass per block" else 12, temperature=0.8, block_length=4)
    cached = dataclasses.replace(config, cache=kind, refresh=1 if condition == "refreshed in every pass" else 0)
    found, record = generated(model, PROMPTS, cached)
    exact, exact_record = generated(model, PROMPTS, config)
    assert found == exact
    assert cached.exact == (condition == "refreshed in every pass")  # whatever the model and the steps
    assert record.passes == exact_record.passes


def test_caches_differ_from_exact_generation_elsewhere():
    config = SamplingConfig(steps=12, temperature=0.0, block_length=6)
    exact, _ = generated(transformer(), PROMPTS, config)
    for kind in ("prefix", "dual"):
        assert generated(transformer(), PROMPTS, dataclasses.replace(config, cache=kind))[0] != exact


def reads(model, templates, config, **rules):
    """Positions that the embedding and the head see in each call of the model."""
    seen = []
    handles = [
        model.token_embedding.register_forward_hook(lambda module, inputs, output: seen.append([inputs[0].numel()])),
        model.head.register_forward_hook(lambda module, inputs, output: seen[-1].append(len(inputs[0]))),
    ]
    _, record = generated(model, templates, config, **rules)
    for handle in handles:
        handle.remove()
    return seen, record


def test_only_what_may_be_fixed_now_is_scored_and_only_what_is_not_cached_is_read():
    config = SamplingConfig(steps=8, temperature=0.0, block_length=4)
    assert reads(transformer(), [[1, 2, 3, 4, *[MASK] * 8]], config)[0] == [[12, n] for n in (4, 3, 2, 1) * 2]
    dual, prefix = (dataclasses.replace(config, cache=kind) for kind in ("dual", "prefix"))
    assert reads(transformer(), [[1, 2, 3, 4, *[MASK] * 8]], dual)[0] == [[12, 4], [4, 3], [4, 2], [4, 1]] * 2
    first, second = [[12, 4], [8, 3], [8, 2], [8, 1]], [[12, 4], [4, 3], [4, 2], [4, 1]]
    assert reads(transformer(), [[1, 2, 3, 4, *[MASK] * 8]], prefix)[0] == first + second
    renewed = dataclasses.replace(dual, refresh=2)
    assert reads(transformer(), [[1, 2, 3, 4, *[MASK] * 8]], renewed)[0] == [[12, 4], [4, 3], [12, 2], [4, 1]] * 2


def test_what_is_kept_is_copied_when_rows_leave_the_batch_not_in_every_pass(monkeypatch):
    copied = []
    rows = KeyValueCache.rows
    monkeypatch.setattr(KeyValueCache, "rows", lambda cache, index: copied.append(index.tolist()) or rows(cache, index))
    templates = [[1, *[MASK] * 7], [1, 2, *[MASK] * 6], [3, MASK, 1, 1, 1, 1, 1, 1]]
    generated(transformer(), templates, SamplingConfig(steps=8, temperature=0.0, cache="dual"))
    assert copied == [[0, 1], [0]]


def test_rows_that_are_done_leave_the_batch():
    templates = [[1, 2, MASK, MASK, MASK, MASK], [3, MASK, 1, 1, 1, 1]]
    seen, record = reads(transformer(), templates, SamplingConfig(steps=4, temperature=0.0))
    assert seen == [[12, 5], [6, 3], [6, 2], [6, 1]]
    assert record.passes == [4, 1]
    assert record.answers == [4, 1]
    assert record.tokens_per_pass == 1


def test_an_answer_ends_at_its_stop_token_and_costs_nothing_more():
    config = SamplingConfig(steps=12, temperature=0.0, block_length=3)
    whole, _ = generated(transformer(), PROMPTS, config)
    stop = {token for row in whole for token in row[-9:-3]} - {row[-12] for row in whole}
    found, record = generated(transformer(), PROMPTS, config, stop=stop)
    for row, full, passes, answer in zip(found, whole, record.passes, record.answers, strict=True):
        text, fixed = full[-12:], row[-12:]
        ends = [place for place, token in enumerate(text) if token in stop]
        assert answer == (ends[0] if ends else 12)
        assert fixed[:answer] == text[:answer]
        assert set(fixed[answer:]) <= stop
        assert passes <= min(12, -(-(answer + 1) // 3) * 3)  # within the block of the stop token
    assert sum(record.passes) < 48


def test_guidance_takes_two_passes_for_a_step():
    _, record = generated(transformer(), PROMPTS, SamplingConfig(steps=6, cfg_scale=1.0))
    assert record.passes == [12] * 4
    assert record.tokens_per_pass == 1.0
    assert record.tokens_per_second == pytest.approx(48 / record.seconds)


configs = st.builds(
    dict,
    remasking=st.sampled_from(REMASKING),
    steps=st.integers(6, 40),
    temperature=st.sampled_from([0.0, 0.3, 2.0]),
    block_length=st.sampled_from([0, 3, 4, 12, 50]),
    cfg_scale=st.sampled_from([0.0, 0.0, 2.0]),
)


@settings(max_examples=25, deadline=None)
@given(
    values=configs, seed=st.integers(0, 9), order=st.permutations(range(8)), rows=st.integers(1, 8),
    suppress=st.sets(st.integers(0, 8), max_size=4), stop=st.sets(st.integers(0, 9), max_size=2),
)  # fmt: skip
def test_any_setting_is_the_plain_loop_in_any_batch(values, seed, order, rows, suppress, stop):
    model, config, templates = transformer(), SamplingConfig(**values), PROMPTS + GAPS
    chosen = order[:rows]
    tokens, lengths = batch([templates[item] for item in chosen])
    rules = TokenRules(MASK, suppress=frozenset(suppress), stop=frozenset(stop))
    found = generate(model, tokens, rules, config, seed, items=chosen, lengths=lengths).tokens.tolist()
    for row, item, length in zip(found, chosen, lengths, strict=True):
        expected = plain_generation(model_scores(model), templates[item], MASK, config, seed, item, suppress=suppress, stop=stop)
        assert row[:length] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.5}, "threshold: 1.5 is not allowed; at least 0 and at most 1"),
        ({"threshold": 0.9, "remasking": "margin"}, "threshold: needs remasking 'low-confidence'"),
        ({"factor": 1.0, "remasking": "random"}, "factor: needs remasking 'low-confidence'"),
        ({"factor": 1.0, "threshold": 0.9}, "factor: is not allowed together with threshold"),
        ({"cache": "full"}, "cache: 'full' is unknown; allowed: none, prefix, dual"),
        ({"refresh": 4}, "refresh: needs a cache"),
        ({"block_length": -1}, "block_length: -1 is not allowed; at least 0"),
        ({"cfg_scale": float("nan")}, "cfg_scale: nan is not allowed"),
        ({"steps": 2, "block_length": 3}, "steps: 2 is not allowed with 4 blocks of 3"),
        ({"suppress": range(10)}, "suppress: all 11 tokens are suppressed"),
        ({"suppress": range(9), "begin_suppress": [9]}, "begin_suppress: with suppress it holds all 11 tokens"),
        ({"remasking": "random", "defer": [9]}, "defer: needs remasking by confidence"),
    ],
)
def test_bad_settings_are_named(values, message):
    ids = {name: values.pop(name) for name in ("suppress", "begin_suppress", "defer") if name in values}
    with pytest.raises(InputError) as error:
        generated(transformer(), PROMPTS, SamplingConfig(**values), **ids)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_of_every_position_are_refused():
    def score(tokens, asked):
        return torch.zeros(*tokens.shape, 11)

    with pytest.raises(InputError, match=r"score: shape \(1, 4, 11\) is not allowed; allowed: \[asked, vocabulary\], as scores"):
        generate(score, torch.tensor([[1, MASK, 2, 3]]), TokenRules(MASK), SamplingConfig())

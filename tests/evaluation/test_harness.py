"""The lm-eval model against its parts: likelihoods, texts, settings."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from mdlm_min.data.chat import ChatTemplate
from mdlm_min.data.tokenizer import Bytes
from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, answer_nll, guided_nll
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.evaluation.gen_kwargs import parse_gen_kwargs, until_first
from mdlm_min.evaluation.harness import rolling_windows
from mdlm_min.run.errors import InputError


def requests(*arguments, documents=None):
    numbers = documents or range(len(arguments))
    return [SimpleNamespace(args=args, task_name="task", doc_id=number) for args, number in zip(arguments, numbers, strict=True)]


PAIRS = [("The cat", " sat"), ("The cat sat on ", "the mat"), ("", "hi"), ("A dog" * 9, " ran away"), ("The cat", " ran")]


def nll(text_model, prompt, answer, guidance=0.0, **options):
    def tokens(text):
        return torch.tensor(list(text.encode()), dtype=torch.int64)

    @torch.no_grad()
    def logits(tokens, mask, real):
        return text_model.model(tokens, mask, None if real.all() else real)

    score = guided_nll(logits, 256, guidance)
    return float(answer_nll(score, [Answer(tokens(prompt), tokens(answer))], LikelihoodConfig(3, **options), 160))


@pytest.mark.parametrize("settings", [{}, {"guidance": 0.7}, {"estimator": "llada", "seed": 2}])
def test_log_likelihoods_are_those_of_the_estimator_in_any_order_and_batch(harness, text_model, settings):
    split = [("The cat", " sat"), ("The cat sat on", " the mat"), ("", "hi"), ("A dog" * 9, " ran away"), ("The cat", " ran")]
    expected = [-nll(text_model, prompt, answer, **settings) for prompt, answer in split]
    same = requests(*PAIRS, documents=[0] * 5)
    for batch_tokens in (1, 8192):
        model = harness(batch_tokens=batch_tokens, **settings)
        found = model.loglikelihood(same)
        assert [value for value, _ in found] == pytest.approx(expected, rel=1e-5)
        assert [value for value, _ in model.loglikelihood(same[::-1])][::-1] == pytest.approx(expected, rel=1e-5)
    assert not any(greedy for _, greedy in found)


def test_an_answer_alone_is_greedy_if_filling_in_gives_it(harness, text_model):
    model = harness()
    prompt = list(b"The cat")
    made = text_model.generate([[*prompt, 256, 256]], SamplingConfig("low-confidence", 2, 0.0), rules=text_model.rules())
    likely = bytes(made.tokens[0, len(prompt) :].tolist()).decode("latin1")
    if not likely.isascii() or not likely.strip():
        pytest.fail("another seed for the weights: the most probable answer must be plain text")
    found = model.loglikelihood(requests(("The cat", likely), ("The cat", "zz")))
    assert [greedy for _, greedy in found] == [True, False]


def test_rolling_scores_every_token_once_and_the_last_window_is_full(harness, text_model):
    for count, length in itertools.product((1, 5, 8, 9, 20), (4, 8)):
        windows = rolling_windows(torch.arange(count), length)
        assert torch.cat([one.answer for one in windows]).tolist() == list(range(count))
        assert all(len(one.prompt) + len(one.answer) <= length for one in windows)
        assert len(windows[-1].prompt) + len(windows[-1].answer) == min(count, length)
        assert all(len(one.prompt) == 0 for one in windows[:-1])
    text = "The cat sat on the mat. " * 8
    [found] = harness().loglikelihood_rolling(requests((text,)))
    assert found == pytest.approx(-nll(text_model, "", text[:160]) - nll(text_model, text[32:160], text[160:]), rel=1e-5)


def test_generation_does_not_depend_on_neighbours_and_ends_where_it_should(harness):
    options = {"until": ["\n\n"], "max_gen_toks": 12, "steps": 4, "temperature": 0.8, "do_sample": True}
    contexts = [f"{'The cat sat. ' * number}Then" for number in range(5)]
    model = harness()
    together = model.generate_until(requests(*((text, options) for text in contexts)))
    alone = [harness(batch_tokens=1).generate_until(requests((text, options)))[0] for text in contexts]
    assert together == alone
    assert len(set(together)) == 5
    assert model.speed.sequences == 5 and model.speed.passes == 20 and model.speed.seconds > 0
    first, second = harness().generate_until(requests(("Then", options), ("Then", options)))
    assert first != second  # repeats of one request at a temperature are samples of their own
    assert first == harness().generate_until(requests(("Then", options)))[0]
    letter = first[5]
    ended = harness()
    assert ended.generate_until(requests(("Then", options | {"until": letter}))) == [first[: first.index(letter)]]
    assert ended.speed.tokens == first.index(letter)  # bytes; what was written behind it is no part of the answer


def test_texts_with_different_settings_are_written_as_alone(harness):
    asked = [(context, {"max_gen_toks": 12, "steps": steps}) for context in ("The cat", "A dog ran") for steps in (2, 4)]
    model = harness()
    together = model.generate_until(requests(*asked))
    assert together == [harness().generate_until(requests(one))[0] for one in asked]
    assert model.speed.passes == 2 * (2 + 4)
    assert together[0] != together[1]


def test_a_context_that_is_too_long_loses_its_beginning(harness):
    text = "".join(str(number) for number in range(100))
    wanted = harness()._wanted(text, {"max_gen_toks": 10}, 0)
    assert bytes(wanted.prompt.tolist()).decode() == text[-150:]


def test_guidance_is_that_of_generation_too(harness):
    options = {"max_gen_toks": 8, "steps": 8}
    plain, guided, own = (
        harness(guidance=guidance).generate_until(requests(("The cat", options | more)))
        for guidance, more in ((0.0, {}), (4.0, {}), (4.0, {"cfg_scale": 0.0}))
    )
    assert plain != guided
    assert plain == own


def test_generation_settings_have_lm_eval_s_names_and_ours():
    until, tokens, config = parse_gen_kwargs({"until": "Q:", "max_new_tokens": 32, "do_sample": False, "temperature": 0.0}, 0.5)
    assert (until, tokens, config) == (("Q:",), 32, SamplingConfig("low-confidence", 32, 0.0, cfg_scale=0.5))
    _, tokens, config = parse_gen_kwargs(
        {"gen_length": 16, "steps": 4, "block_length": 8, "cfg": 1, "remasking": "low_confidence", "threshold": 0.9}
    )
    assert (tokens, config) == (16, SamplingConfig("low-confidence", 4, 0.0, 8, 1.0, threshold=0.9))
    _, tokens, config = parse_gen_kwargs({"temperature": 0.5, "do_sample": True})
    assert (tokens, config.temperature, config.steps) == (256, 0.5, 256)
    for options, message in (
        ({"top_p": 0.9}, "gen_kwargs: 'top_p' is unknown; allowed: until, max_gen_toks, do_sample, block_length"),
        ({"temperature": 0.5}, "gen_kwargs: temperature=0.5 needs do_sample=True"),
        ({"temperature": 0.5, "do_sample": False}, "needs do_sample=True"),
        ({"do_sample": "maybe"}, "do_sample=maybe is not allowed; True or False"),
        ({"max_gen_toks": 0}, "gen_kwargs: max_gen_toks=0 is not allowed; at least 1"),
        ({"steps": 0}, "steps: 0 is not allowed"),
        ({"remasking": "best"}, "remasking: 'best' is unknown"),
    ):
        with pytest.raises(InputError, match=message):
            parse_gen_kwargs(options)
    assert until_first("a b c d", ["c", "b", ""]) == "a "
    assert until_first("a b", ["x"]) == "a b"


def test_a_chat_prompt_has_the_template_s_tokens_and_an_answer_behind_it(harness, text_model):
    model = harness()
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Why?\n\nTell me. "}]
    prompt = model.apply_chat_template(history)
    template = ChatTemplate(Bytes())
    assert model._tokens(prompt).tolist() == template.render(history, True)
    open_turn = model.apply_chat_template([*history, {"role": "assistant", "content": "Because"}], add_generation_prompt=False)
    assert model._tokens(open_turn).tolist() == [*template.render(history, True), *b"Because"]
    assert model._pair(prompt, "Yes")[1].tolist() == list(b"Yes")
    plain = harness()._tokens(prompt)
    assert int(plain.max()) < 256  # without a template applied a text that spells out special tokens stays text
    with pytest.raises(InputError, match=r"messages: a content holds '<\|eot_id\|>'"):
        model.apply_chat_template([{"role": "user", "content": "x<|eot_id|>"}])
    assert model.chat_template(True).startswith("<|startoftext|>")
    assert model.chat_template(False) == ""
    assert model.tokenizer_name == "mdlm-bytes"
    with pytest.raises(InputError, match="apply_chat_template: 'other' is unknown"):
        model.chat_template("other")


def test_a_chat_prompt_from_lm_eval_s_cache_has_the_template_s_tokens_too(harness, text_model):
    prompt = harness().apply_chat_template([{"role": "user", "content": "Why?"}])
    model = harness()
    assert model.tokenizer_name == "mdlm-bytes"  # all that lm-eval asks of it where the prompts are in its cache
    assert model._tokens(prompt).tolist() == ChatTemplate(Bytes()).render([{"role": "user", "content": "Why?"}], True)


def test_a_turn_ends_a_generated_answer(harness, text_model):
    with torch.no_grad():
        text_model.model.head.weight[261] = text_model.model.head.weight[:256].sum(dim=0) * 50  # <|eot_id|>, often
    model = harness()
    context = model.apply_chat_template([{"role": "user", "content": "Why?"}])
    [text] = model.generate_until(requests((context, {"max_gen_toks": 16})))
    [unended] = harness().generate_until(requests((context, {"max_gen_toks": 16})))
    assert len(text) < 16 <= len(unended.encode("utf-8", "surrogateescape"))


def test_what_the_model_cannot_do_is_refused(harness, text_model):
    for settings, message in (
        ({"passes": 0}, "passes: 0 is not allowed"),
        ({"mc_num": 8}, "model_args.mc_num: no such setting; allowed: folder, passes"),
        ({"estimator": "exact"}, "estimator: 'exact' is unknown"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed; auto, or at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            harness(**settings)
    made = type(harness()).create_from_arg_string(
        "folder=tiny,passes=5", {"device": "cuda:0", "batch_size": "4", "max_batch_size": None}
    )
    assert (made.config.passes, made.config.batch_size) == (5, 4)
    assert made.config.device == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="gen_kwargs: max_gen_toks: 400 .* is not allowed; 1 to 160"):
        harness().generate_until(requests(("a", {"max_gen_toks": 400})))
    model = harness()
    cut = [("a" * 300, "b"), ("a", "b"), ("a" * 150, {"max_gen_toks": 11}), ("a" * 150, {"max_gen_toks": 10}), ("a" * 300,)]
    assert [model.is_cut(arguments) for arguments in cut] == [True, False, True, False, False]
    assert math.isfinite(model.loglikelihood(requests(("a" * 300, "b"), ("", "b"), documents=[0, 0]))[0][0])

"""Generation in one run against the plain loop as it is released, which scores every position in every step. Times are beside
what the operation counts of the passes predict.

One model is random, with LLaDA's block and vocabulary; its scores are far enough apart for a threshold to act. The other is
trained on the spot on worked sums, as the models of 05_8b_sft are (its selection seed), so that the fast modes' cost in accuracy
stands beside their speed: with its own vocabulary of bytes, and with as many tokens as LLaDA has, of which the added ones are
ruled out.
"""

from dataclasses import replace

import pytest
import torch

from mdlm_min.data.conversations import ChatConfig, Conversations
from mdlm_min.data.exercises import result_of
from mdlm_min.diffusion.remasking import TokenRules
from mdlm_min.diffusion.sampling import SamplingConfig, generate
from mdlm_min.evidence.experiment import Experiment
from mdlm_min.evidence.sweep import sweep
from mdlm_min.model.flops import forward_operations
from mdlm_min.model.llada import LLADA_8B, MASK_TOKEN, scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.random_streams import stream
from mdlm_min.tasks.finetune import grown
from mdlm_min.tasks.text_model import TextModel

PROMPTS, PROMPT, ANSWER, BLOCK = 4, 64, 32, 8
SHAPE = scaled(4, 4, 128, length=PROMPT + ANSWER)
EXACT = SamplingConfig(steps=ANSWER, temperature=0.0, block_length=BLOCK)
FAST = SamplingConfig(steps=ANSWER, temperature=0.0, block_length=BLOCK, threshold=0.9, cache="dual")


class Counted:
    """A model, and the operations of its calls."""

    def __init__(self, model):
        self.model, self.operations, self.passes = model, 0.0, 0

    def __call__(self, tokens, asked=None, padding_mask=None, cache=None, fresh=None):
        length = tokens.shape[1]
        read = length if fresh is None else int(fresh.sum()) / len(fresh)
        selected = length if asked is None else int(asked.sum()) / len(asked)
        self.operations += len(tokens) * forward_operations(self.model.config, read, length, selected)
        self.passes += 1
        return self.model(tokens) if asked is None else self.model(tokens, asked, padding_mask, cache=cache, fresh=fresh)


@torch.no_grad()
def plain_loop(model, template, prompt, block, mask, added=None):
    """Low-confidence remasking in blocks behind `prompt` tokens, one token per step, at temperature 0, as in LLaDA's released
    generate. Tokens from `added` on are ruled out."""
    x, length = template.clone(), template.shape[1]
    for start in range(prompt, length, block):
        for _ in range(block):
            logits = model(x)
            logits[..., mask] = -torch.inf  # the released loop trusts the model not to choose it
            if added is not None:
                logits[..., added:] = -torch.inf
            best = logits.argmax(dim=-1)
            confidence = logits.softmax(dim=-1).gather(-1, best[..., None])[..., 0]
            confidence[:, start + block :] = -torch.inf
            place = confidence.masked_fill(x != mask, -torch.inf).argmax(dim=1, keepdim=True)
            x.scatter_(1, place, best.gather(1, place))
    return x


def make_model():
    """Weights at random, attention and scores sharp: the tokens of an answer differ, and so do their probabilities."""
    model = Transformer(SHAPE, stream(0, "weights"))
    with torch.no_grad():
        model.head.weight *= 30
        for block in model.blocks:
            block.qkv.weight *= 4
    return model


@pytest.mark.benchmark(group="generation")
def test_generation_against_the_plain_loop_with_llada_s_vocabulary(compare, benchmark):
    assert SHAPE.vocab_size == LLADA_8B.vocab_size == 126464
    model = make_model()
    prompts = torch.randint(MASK_TOKEN - 300, (PROMPTS, PROMPT), generator=stream(0, "prompts"))
    template = torch.cat((prompts, torch.full((PROMPTS, ANSWER), MASK_TOKEN)), dim=1)
    rules = TokenRules(MASK_TOKEN)
    counted = {name: Counted(model) for name in ("exact", "fast", "plain")}
    exact = generate(counted["exact"], template, rules, EXACT)
    fast = generate(counted["fast"], template, rules, FAST)
    assert torch.equal(exact.tokens, plain_loop(counted["plain"], template, PROMPT, BLOCK, MASK_TOKEN))
    times = compare(
        {
            "exact": lambda: generate(model, template, rules, EXACT),
            "fast": lambda: generate(model, template, rules, FAST),
            "plain": lambda: plain_loop(model, template, PROMPT, BLOCK, MASK_TOKEN),
        }
    )
    same = float((fast.tokens == exact.tokens)[:, PROMPT:].float().mean())
    for name, record in (("exact", exact), ("fast", fast)):
        predicted = counted["plain"].operations / counted[name].operations
        print(
            f"\n{name}: {times['plain'] / times[name]:.1f} times the plain loop's speed (operation counts: {predicted:.1f}); "
            f"NFE {sum(record.passes) / PROMPTS:.1f} against {counted['plain'].passes}, {record.tokens_per_pass:.2f} tokens per "
            f"forward, {PROMPTS * ANSWER / times[name]:.0f} tokens/s"
        )
        benchmark.extra_info[f"{name}: speed"] = times["plain"] / times[name]
    print(f"fast: {same:.0%} of its tokens are those of exact generation")
    assert len(set(exact.tokens[0, PROMPT:].tolist())) > ANSWER // 4  # not one token over and over


SUM_TOKENS, SUM_BLOCK = 24, 8  # of an answer, as in 05_8b_sft
SUM_EXACT = SamplingConfig(steps=SUM_TOKENS, temperature=0.0, block_length=SUM_BLOCK)
SUM_WAYS = {
    "exact": SUM_EXACT,
    "threshold": replace(SUM_EXACT, threshold=0.9),
    "threshold and cache": replace(SUM_EXACT, threshold=0.9, cache="dual"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a model that solves some of the sums."""
    specs = Experiment("05_8b_sft").runs("cpu", "base,from_0", 1, only="arithmetic-base,arithmetic-2e-3")
    runs = tmp_path_factory.mktemp("runs")
    sweep(specs, runs, 1)
    return specs[-1].folder(runs)


@pytest.mark.benchmark(group="generation")
@pytest.mark.parametrize(("vocabulary", "count", "batch"), [(0, 400, 100), (LLADA_8B.vocab_size, 8, 8)])
def test_generation_of_worked_sums_against_the_plain_loop(compare, benchmark, trained, vocabulary, count, batch):
    text = TextModel.load(trained)
    own, model = text.model.config.vocab_size, grown(text.model, vocabulary, stream(0, "added")).eval()
    chat = text.chat_template()
    mask, ends = chat.special.mask, frozenset((chat.special.end_turn, chat.special.end))
    exercises = Conversations(ChatConfig(source="arithmetic:3", length=64, held_out=500), chat).exercises[:count]
    prompts = torch.tensor([chat.render([{"role": "user", "content": one.question}], True) for one in exercises])
    templates = torch.cat((prompts, torch.full((count, SUM_TOKENS), mask)), dim=1).split(batch)
    added = range(own, model.config.vocab_size)
    rules = TokenRules(mask, frozenset((*text.suppressed, *added)) - ends, stop=ends)

    def plain(model):
        start = own if added else None
        return torch.cat([plain_loop(model, one, prompts.shape[1], SUM_BLOCK, mask, start) for one in templates])

    def written(way, model):
        return torch.cat([generate(model, one, rules, SUM_WAYS[way]).tokens for one in templates])

    def solved(tokens):
        answers = [chat.answer(row) for row in tokens[:, prompts.shape[1] :].tolist()]
        return sum(result_of(answer) == result_of(one.answer) for answer, one in zip(answers, exercises, strict=True)) / count

    steps = {way: lambda model=model, way=way: written(way, model) for way in SUM_WAYS} | {"plain": lambda: plain(model)}
    counted = {name: Counted(model) for name in steps}
    found = {way: written(way, counted[way]) for way in SUM_WAYS} | {"plain": plain(counted["plain"])}
    times = compare(steps)
    print(f"\n{count} sums, {model.config.outputs} tokens; plain loop: solved {solved(found['plain']):.3f}")
    for way in SUM_WAYS:
        predicted = counted["plain"].operations / counted[way].operations
        print(
            f"{way}: solved {solved(found[way]):.3f}, {times['plain'] / times[way]:.1f} times the plain loop's speed (operation "
            f"counts: {predicted:.1f})"
        )
        benchmark.extra_info[f"{way}: speed"] = times["plain"] / times[way]
    assert solved(found["exact"]) == solved(found["plain"]) > 0

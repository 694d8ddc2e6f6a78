"""Generation with LLaDA's vocabulary of 126,464, in one run against the plain loop as it is released: scores at every position in
every step. Times are beside what the operation counts of the passes predict. The model is random, its scores far enough apart
for a threshold to act; what the fast modes cost in accuracy is for a trained model to say (05_8b_sft).
"""

import pytest
import torch

from mdlm_min.diffusion.remasking import TokenRules
from mdlm_min.diffusion.sampling import SamplingConfig, generate
from mdlm_min.model.flops import forward_operations
from mdlm_min.model.llada import LLADA_8B, MASK_TOKEN, scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.random_streams import stream

PROMPTS, PROMPT, ANSWER, BLOCK = 4, 64, 32, 8
SHAPE = scaled(4, 4, 128, length=PROMPT + ANSWER)
EXACT = SamplingConfig(steps=ANSWER, temperature=0.0, block_length=BLOCK)
FAST = SamplingConfig(steps=ANSWER, temperature=0.0, block_length=BLOCK, threshold=0.9, cache="dual")


class Counted:
    """The model, and the operations of its calls."""

    def __init__(self, model):
        self.model, self.operations, self.passes = model, 0.0, 0

    def __call__(self, tokens, asked=None, cache=None, fresh=None):
        length = tokens.shape[1]
        read = length if fresh is None else int(fresh.sum()) / len(fresh)
        selected = length if asked is None else int(asked.sum()) / len(asked)
        self.operations += len(tokens) * forward_operations(SHAPE, read, length, selected)
        self.passes += 1
        return self.model(tokens) if asked is None else self.model(tokens, asked, cache=cache, fresh=fresh)


@torch.no_grad()
def plain_loop(model, template):
    """Low-confidence remasking in blocks, one token per step, at temperature 0, as in LLaDA's released generate."""
    x = template.clone()
    for start in range(PROMPT, PROMPT + ANSWER, BLOCK):
        for _ in range(BLOCK):
            logits = model(x)
            logits[..., MASK_TOKEN] = -torch.inf  # the released loop trusts the model not to choose it
            best = logits.argmax(dim=-1)
            confidence = logits.softmax(dim=-1).gather(-1, best[..., None])[..., 0]
            confidence[:, start + BLOCK :] = -torch.inf
            place = confidence.masked_fill(x != MASK_TOKEN, -torch.inf).argmax(dim=1, keepdim=True)
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
    assert torch.equal(exact.tokens, plain_loop(counted["plain"], template))
    times = compare(
        {
            "exact": lambda: generate(model, template, rules, EXACT),
            "fast": lambda: generate(model, template, rules, FAST),
            "plain": lambda: plain_loop(model, template),
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

"""Items per second of the likelihood: ours against one item at a time, with the same masks, and against LLaDA's plain loop.

The items are HellaSwag's where MDLM_DATA has it, else made-up ones of like lengths. The model is small and random, with LLaDA's
block: what is measured is how well the passes fill batches, and what is not scored. MDLM_BENCH_ITEMS sets their number
(default: 200).
"""

import os

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.data.items import Item, load_items
from mdlm_min.data.tokenizer import Bytes
from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, guided_nll, masks_of
from mdlm_min.model.llada import scaled
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.random_streams import stream
from mdlm_min.tasks.multiple_choice import judge_items

COUNT = int(os.environ.get("MDLM_BENCH_ITEMS", "200"))
LENGTH, VOCABULARY, MASK = 512, 4096, 256


@pytest.fixture(scope="module")
def every():  # before each test takes MDLM_DATA away
    if os.environ.get("MDLM_DATA"):
        return load_items("hellaswag", COUNT)
    sizes = torch.randint(20, 120, (COUNT, 5), generator=stream(0, "sizes")).tolist()
    return [Item("p" * (2 * prompt), tuple(" " + "a" * size for size in choices), 0) for prompt, *choices in sizes]


def plain_loop(model, every, passes):
    """LLaDA's way: one answer at a time, its passes in one batch, everything scored at every position."""
    with torch.no_grad():
        for index, item in enumerate(every):
            for choice in item.choices:
                prompt, answer = (torch.tensor(list(text.encode()))[-LENGTH:] for text in (item.prompt, choice))
                one = Answer.within(LENGTH, prompt, answer)
                masks, weights = masks_of(one, LikelihoodConfig(passes, "llada", index))
                tokens = torch.cat((one.prompt, one.answer)).expand(passes, -1)
                mask = torch.cat((torch.zeros(passes, len(one.prompt), dtype=torch.bool), masks), dim=1)
                logits = model(tokens.masked_fill(mask, MASK))
                losses = F.cross_entropy(logits[mask], tokens[mask], reduction="none")
                float((losses.double() * weights.repeat_interleave(mask.sum(dim=1))).sum())


@pytest.mark.benchmark(group="evaluation")
@pytest.mark.parametrize("passes", [1, 4])
def test_items_per_second_against_one_at_a_time(compare, every, passes):
    shape = scaled(2, 2, 32, vocab_size=VOCABULARY, outputs=VOCABULARY, length=LENGTH)
    model = Transformer(shape, stream(0, "weights")).eval()
    config, judged = LikelihoodConfig(passes), {}

    @torch.no_grad()
    def logits(tokens, mask, real):
        return model(tokens, mask, None if bool(real.all()) else real)

    score = guided_nll(logits, MASK, 0.0)

    def ours():
        judged["ours"] = judge_items(score, every, Bytes(), LENGTH, config)

    def one_item():
        judged["one item"] = [judge_items(score, [item], Bytes(), LENGTH, config)[0] for item in every]

    times = compare({"ours": ours, "one item at a time": one_item, "plain loop": lambda: plain_loop(model, every, passes)})
    assert [one.nll for one in judged["ours"]] == pytest.approx([one.nll for one in judged["one item"]], rel=1e-4)
    rates = ", ".join(f"{name} {len(every) / seconds:.1f}" for name, seconds in times.items())
    print(f"\n{len(every)} items, {passes} passes an answer, items per second: {rates}")

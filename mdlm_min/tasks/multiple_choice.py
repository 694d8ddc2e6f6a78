"""Zero-shot multiple choice by likelihood, item by item, so that two models can be compared on the same items.

The NLL (negative log-likelihood) of an answer of L tokens, given its prompt, is LLaDA's (arXiv:2502.09992, Eq. 6):
l ~ U{1..L} tokens of the answer are masked, and none of the prompt. L/l times the NLL of the masked tokens is averaged over
forward passes. The values of l are spread evenly over the passes. The masks of an item are the same for every model, so
their randomness cancels in a comparison.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_min.data.items import Item
from mdlm_min.data.tokenizer import Tokenizer
from mdlm_min.diffusion.likelihood import Score, nll_in_place
from mdlm_min.run.random_streams import stream


@dataclass(frozen=True)
class Judged:
    """How a model did on one item. `acc`: the answer with the least NLL is the right one. `acc_norm`: the answer with the least
    NLL per byte is the right one. `nll`: NLL of the right answer, nats per byte."""

    acc: bool
    acc_norm: bool
    nll: float


@dataclass(frozen=True)
class _Pass:
    """One forward pass: its tokens, which of them are masked, and the item and choice whose NLL it adds to, with its weight."""

    tokens: Tensor
    mask: Tensor
    item: int
    choice: int
    weight: float


def judge_items(
    score: Score, items: list[Item], tokenizer: Tokenizer, length: int, passes: int, name: str, batch_tokens: int = 8192
) -> list[Judged]:
    """Every item judged, in the order of `items`, by `passes` forward passes per answer (fewer for an answer of fewer tokens).

    A prompt that is too long for `length` tokens loses its beginning. `name`, the task's, seeds the masks. One batch has up to
    `batch_tokens` tokens.
    """
    work = [made for index, item in enumerate(items) for made in _passes(item, index, tokenizer, length, passes, name)]
    work.sort(key=lambda one: len(one.tokens))
    found = torch.zeros(len(items), max(len(item.choices) for item in items), dtype=torch.float64)
    first = 0
    while first < len(work):
        last = first
        size = len(work[first].tokens)  # all sequences of a batch have one length: no padding
        while last < len(work) and len(work[last].tokens) == size and (last - first) * size < batch_tokens:
            last += 1
        group = work[first:last]
        first = last
        tokens, mask = torch.stack([one.tokens for one in group]), torch.stack([one.mask for one in group])
        for one, loss in zip(group, nll_in_place(score, tokens, mask).sum(dim=1), strict=True):
            found[one.item, one.choice] += one.weight * loss
    return [_judge(item, found[index, : len(item.choices)]) for index, item in enumerate(items)]


def _passes(item: Item, index: int, tokenizer: Tokenizer, length: int, passes: int, name: str) -> list[_Pass]:
    prompt = tokenizer.encode(item.prompt).astype("int64")
    made = []
    for choice, text in enumerate(item.choices):
        answer = torch.from_numpy(tokenizer.encode(text).astype("int64"))[: length - 1]
        size = len(answer)
        kept = torch.from_numpy(prompt)[max(0, len(prompt) + size - length) :]
        generator = stream(0, f"items {name} {choice}", index)
        start = torch.randint(size, (), generator=generator)
        count = min(passes, size)  # an answer of few tokens has few values of l
        levels = (start + torch.linspace(0, size * (1 - 1 / count), count).round().long()) % size + 1
        for level in levels.tolist():
            mask = torch.zeros(len(kept) + size, dtype=torch.bool)
            mask[len(kept) + torch.randperm(size, generator=generator)[:level]] = True
            made.append(_Pass(torch.cat((kept, answer)), mask, index, choice, size / level / count))
    return made


def _judge(item: Item, losses: Tensor) -> Judged:
    sizes = torch.tensor([len(text.strip().encode()) for text in item.choices], dtype=torch.float64)
    per_byte = losses / sizes
    return Judged(int(losses.argmin()) == item.answer, int(per_byte.argmin()) == item.answer, float(per_byte[item.answer]))

"""Zero-shot multiple choice by likelihood, item by item, so that two models can be compared on the same items.

The NLL of an answer of L tokens given its prompt is LLaDA's (arXiv:2502.09992, Eq. 6): l ~ U{1..L} answer tokens are masked, never
the prompt's, and L/l times their NLL is averaged over passes, whose l are spread evenly. The masks of an item are the same
for every model, so their luck cancels in a comparison.
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
    """One item: whether the answer of the least NLL is right (`acc`), that of the least NLL per byte (`acc_norm`), and the right
    answer's NLL in nats per byte."""

    acc: bool
    acc_norm: bool
    nll: float


@dataclass(frozen=True)
class _Pass:
    """One forward pass: tokens, which are masked, and where its weighted NLL is added."""

    tokens: Tensor
    mask: Tensor
    item: int
    choice: int
    weight: float


def judge_items(
    score: Score, items: list[Item], tokenizer: Tokenizer, length: int, passes: int, name: str, batch_tokens: int = 8192
) -> list[Judged]:
    """Every item judged. A prompt too long for `length` loses its head; `name` (the task's) seeds the masks."""
    work = [made for index, item in enumerate(items) for made in _passes(item, index, tokenizer, length, passes, name)]
    work.sort(key=lambda one: len(one.tokens))
    found = torch.zeros(len(items), max(len(item.choices) for item in items), dtype=torch.float64)
    first = 0
    while first < len(work):
        last = first
        size = len(work[first].tokens)  # a batch is of one length: no padding
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
        count = min(passes, size)  # an answer of few tokens has few levels
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

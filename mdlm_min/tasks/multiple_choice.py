"""Zero-shot multiple choice by likelihood, item by item, so that two models can be compared on the same items.

The NLL of each answer given its prompt is that of diffusion/answer_likelihood.py. Its masks depend on the texts alone: they are
the same for every model, so their randomness cancels in a comparison.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_min.data.items import Item
from mdlm_min.data.tokenizer import Tokenizer
from mdlm_min.diffusion.answer_likelihood import Answer, LikelihoodConfig, PassesNLL, answer_nll


@dataclass(frozen=True)
class Judged:
    """How a model did on one item. `acc`: the answer with the least NLL is the right one. `acc_norm`: the answer with the least
    NLL per character is the right one, as lm-eval has it. `nll`: NLL of the right answer, nats per byte."""

    acc: bool
    acc_norm: bool
    nll: float


def judge_items(
    nll_of: PassesNLL, items: list[Item], tokenizer: Tokenizer, length: int, config: LikelihoodConfig
) -> list[Judged]:
    """Every item judged, in the order of `items`. A prompt that is too long for `length` tokens loses its beginning.

    Raises InputError for an answer of no tokens, or of more than `length`.
    """

    def tokens(text: str) -> Tensor:
        return torch.from_numpy(tokenizer.encode(text).astype("int64"))

    answers = [Answer.within(length, tokens(item.prompt), tokens(choice)) for item in items for choice in item.choices]
    found = answer_nll(nll_of, answers, config, length).split([len(item.choices) for item in items])
    return [judge(item, losses) for item, losses in zip(items, found, strict=True)]


def judge(item: Item, losses: Tensor) -> Judged:
    """One item, by the NLL of each of its choices in nats, float64 [choices]."""
    texts = [choice.removeprefix(" ") for choice in item.choices]  # the space belongs to the prompt's end
    per_character = losses / torch.tensor([len(text) for text in texts], dtype=torch.float64)
    nll = float(losses[item.answer]) / len(texts[item.answer].strip().encode())
    return Judged(int(losses.argmin()) == item.answer, int(per_character.argmin()) == item.answer, nll)

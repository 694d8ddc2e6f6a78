"""Which tokens of a worked answer are dense, by a rule (ours: the marks of arXiv:2603.15803 were made by a language model).

In mathematics the paper marks core operations, intermediate and final results. The rules:

  arithmetic   the operators + and -, and the digit behind each = and #: of 7-5=2,2+3=5#5 these are - 2 + 5 5
  gsm8k        every number, and every operator: + * = wherever they stand, and - / x between two numbers, as elsewhere they are
               a hyphen, "per" or a letter (a date such as 2024-05-01 is marked whole)

A token is marked where the text that it stands for overlaps a marked part, so the rules serve every tokenizer.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from mdlm_min.data.chat import ChatTemplate
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError

# What is marked is each match's group.
RULES = {
    "arithmetic": re.compile(r"([+-]|(?<=[=#])\d)"),
    "gsm8k": re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+|[+*=])|(?<=[\d)%]) *([-/x])(?= *[\d($.])"),
}


def find_marks(rule: str, template: ChatTemplate) -> Callable[[Tensor], Tensor]:
    """The marks of tokens by a rule: int64 [rows, length] -> bool, the same shape. The template's own tokens stand for no text
    and are never marked. Raises InputError for an unknown rule."""
    if rule not in RULES:
        raise InputError(f"marks: {shown(rule)} is unknown; allowed: {', '.join(RULES)}")
    pattern = RULES[rule]
    texts: dict[int, str] = dict.fromkeys(template.special.ids, "")

    def row(tokens: list[int]) -> list[bool]:
        for token in set(tokens) - texts.keys():
            texts[token] = template.tokenizer.decode([token])
        owners = [place for place, token in enumerate(tokens) for _ in texts[token]]
        marked = [False] * len(tokens)
        for found in pattern.finditer("".join(texts[token] for token in tokens)):
            for owner in owners[slice(*found.span(found.lastindex or 0))]:
                marked[owner] = True
        return marked

    def marks(tokens: Tensor) -> Tensor:
        return torch.tensor([row(tokens_of_row) for tokens_of_row in tokens.tolist()], device=tokens.device)

    return marks

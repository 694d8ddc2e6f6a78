"""The contest's evaluator. It alone says how good a model is, and it is locked: its hash stands in every row of the table.

It is one file that takes nothing of the library but the seeds of its draws, so that it can be read and checked whole. It is given
a model as a function `predict`, never a schedule, and its masks are the same for every entry, so that a comparison is not of
their luck.

NLL. Of the L tokens that are asked for, a number l is masked at random, with l = 1, ..., L alike often. The mean of -log p over
the masked tokens is one value; the mean of all values is the bound on the loss per token of arXiv:2502.09992, Eq. 6, which is the
integral over t in [0,1] of E[sum of -log p over masked tokens] / (t L).
"""

import math
import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.run.random_streams import stream

# predict(tokens, mask, real) -> scores of the masked tokens, [masked, vocabulary], row-major. tokens: int64 [rows, width], the
# masked ones hidden; mask, real (a token, no padding): bool, the same shape.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
LEVELS = 10
ROWS = 256  # of one forward pass


def text_nll(predict: Predict, mask_token: int, blocks: Tensor, rounds: int) -> dict[str, float]:
    """NLL in nats per token of consecutive blocks, int64 [blocks, length]: `rounds` masks of each size. "nll" is over all mask
    rates, "t0.0" to "t0.9" in each tenth of them. Raises ValueError for blocks shorter than ten tokens."""
    count, length = blocks.shape
    if length < LEVELS:
        raise ValueError(f"blocks of {length} tokens; at least {LEVELS}")
    sizes = torch.arange(1, length + 1).repeat_interleave(rounds)
    order = torch.randperm(count, generator=stream(0, "contest blocks"))
    tokens = blocks[order[torch.arange(len(sizes)) % count]]
    keys = torch.rand(tokens.shape, generator=stream(0, "contest masks"))
    masks = keys.argsort(dim=1).argsort(dim=1) < sizes[:, None]
    values = _masked_nll(predict, mask_token, tokens, masks)
    level = ((sizes * LEVELS - 1) // length).clamp(max=LEVELS - 1)
    return {"nll": float(values.mean()), **{f"t{low / LEVELS:.1f}": float(values[level == low].mean()) for low in range(LEVELS)}}


def bits_per_byte(nll: float, tokens: int, size: int) -> float:
    """Nats per token as bits per byte of the raw text, of which these tokens are `size` bytes."""
    return nll * tokens / size / math.log(2)


def answer_nll(
    predict: Predict, mask_token: int, prompts: Sequence[Tensor], answers: Sequence[Tensor], groups: Sequence[int] = ()
) -> Tensor:
    """Bound on -log p of every answer given its prompt, in nats: float64 [answers]. One mask of every size; prompts are never
    masked. Tokens are int64 vectors. Answers of one length and one of the `groups` (default: each its own) have the same masks,
    so that they can be compared; an answer's masks depend on nothing else."""
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    rows, masks, owners = [], [], []
    for owner, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        size = len(answer)
        keys = torch.rand(size, size, generator=stream(0, "contest answers", groups[owner] if groups else owner))
        chosen = keys.argsort(dim=1).argsort(dim=1) < torch.arange(1, size + 1)[:, None]
        rest = width - len(prompt) - size
        rows.append(F.pad(torch.cat((prompt, answer)), (0, rest), value=-1).expand(size, width))
        masks.append(F.pad(chosen, (len(prompt), rest)))
        owners += [owner] * size
    values = _masked_nll(predict, mask_token, torch.cat(rows), torch.cat(masks))
    return torch.zeros(len(answers), dtype=torch.float64).index_add(0, torch.tensor(owners), values)


def share_chosen(predict: Predict, mask_token: int, prompts: Sequence[Tensor], choices: Sequence[Sequence[Tensor]]) -> float:
    """Discriminative: the share of prompts of which the likeliest choice as a whole is the right one, which is given first.

    The choices are compared in an order of their own: of equal ones the first is taken, and a model that knows nothing must not
    be right."""
    orders = [torch.randperm(len(group), generator=stream(0, "choices", place)) for place, group in enumerate(choices)]
    shuffled = [[group[index] for index in order] for group, order in zip(choices, orders, strict=True)]
    flat = [choice for group in shuffled for choice in group]
    groups = [place for place, group in enumerate(shuffled) for _ in group]
    found = answer_nll(predict, mask_token, [prompts[place] for place in groups], flat, groups)
    likeliest = [int(group.argmin()) for group in found.split([len(group) for group in shuffled])]
    return sum(int(order[index]) == 0 for order, index in zip(orders, likeliest, strict=True)) / len(orders)


def share_right(answers: Sequence[str], keys: Sequence[str]) -> float:
    """Generative: the share of written answers whose result is that of the key. The result is the number behind the last "#",
    without thousands separators; an answer without one is wrong."""
    results = [(_result(answer), _result(key)) for answer, key in zip(answers, keys, strict=True)]
    return sum(bool(found) and found == wanted for found, wanted in results) / len(results)


def _result(answer: str) -> str:
    _, mark, end = answer.rpartition("#")
    found = re.search(r"-?[\d,]*\d(?:\.\d+)?", end) if mark else None
    return found[0].replace(",", "") if found else ""


def written(predict: Predict, mask_token: int, prompts: Sequence[Tensor], size: int) -> list[list[int]]:
    """Generative: `size` tokens behind each prompt. All begin hidden; in each pass the one whose likeliest token has the highest
    probability is fixed (arXiv:2502.09992, low-confidence remasking, one token a pass, temperature 0)."""
    found = []
    for prompt in prompts:
        tokens = F.pad(prompt, (0, size), value=mask_token)
        found.append(tokens)
    answers: list[list[int]] = []
    for first in range(0, len(found), ROWS):
        part = found[first : first + ROWS]
        width = max(map(len, part))
        real = torch.stack([torch.arange(width) < len(tokens) for tokens in part])
        rows = torch.stack([F.pad(tokens, (0, width - len(tokens)), value=0) for tokens in part])
        hidden = real & (rows == mask_token)
        for _ in range(size):
            scores = predict(rows, hidden, real).double()
            if mask_token < scores.shape[1]:
                scores[:, mask_token] = -math.inf
            best, token = scores.softmax(dim=1).max(dim=1)
            confidence = torch.full(rows.shape, -1.0, dtype=torch.float64).masked_scatter(hidden, best)
            tokens = torch.zeros_like(rows).masked_scatter(hidden, token)
            place = confidence.argmax(dim=1, keepdim=True)
            rows = rows.scatter(1, place, tokens.gather(1, place))
            hidden = hidden.scatter(1, place, False)
        answers += [row[len(tokens) - size : len(tokens)].tolist() for row, tokens in zip(rows, part, strict=True)]
    return answers


def _masked_nll(predict: Predict, mask_token: int, tokens: Tensor, masks: Tensor) -> Tensor:
    """The mean of -log p over the masked tokens of every row, float64 [rows]. Padding is -1."""
    values = []
    for part, mask in zip(tokens.split(ROWS), masks.split(ROWS), strict=True):
        shown = part.clamp(min=0).masked_fill(mask, mask_token)
        losses = F.cross_entropy(predict(shown, mask, part >= 0).double(), part[mask], reduction="none")
        row = torch.arange(len(part))[:, None].expand(mask.shape)[mask]
        values.append(torch.zeros(len(part), dtype=torch.float64).index_add(0, row, losses) / mask.sum(dim=1))
    return torch.cat(values)

"""One step of generation: a token for every position that may be fixed now, and which of these positions are fixed.

Confidences are the model's own: of its scores, guided if they are and without the tokens that are ruled out, but before
temperature and noise (LLaDA's released `generate`).
  low-confidence  probability of the chosen token (LLaDA, arXiv:2502.09992: the rest, of low confidence, is masked again)
  margin          probability of the most probable token less that of the second (Dream's topk_margin)
  entropy         minus the entropy of the distribution, in nats (Dream)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mdlm_min.run.errors import InputError

CONFIDENCES = ("low-confidence", "margin", "entropy")
LOWEST = torch.finfo(torch.float64).min
CHUNK = 64  # positions whose float64 scores are in memory at once


@dataclass(frozen=True)
class TokenRules:
    """Ids of the tokens with a role in generation.

    mask: what is filled in, and never produced. suppress: never produced, at any temperature. begin_suppress: not as a row's
    first token. defer: a position whose token is one of them is fixed after all others, whatever its confidence (LLaDA's
    `confidence_eos_eot_inf`, which has no effect in the released code at temperatures above 0: LLaDA #137). stop: tokens that end
    an answer.
    """

    mask: int
    suppress: frozenset[int] = frozenset()
    begin_suppress: frozenset[int] = frozenset()
    defer: frozenset[int] = frozenset()
    stop: frozenset[int] = frozenset()


def choose(
    scores: Tensor,
    asked: Tensor,
    first: Tensor,
    rules: TokenRules,
    remasking: str,
    temperature: float,
    noise: Sequence[torch.Generator | None],
) -> tuple[Tensor, Tensor]:
    """A token for every asked position and its confidence, where they stand: int64 and float64 [batch, length].

    `scores` ([asked, vocabulary]) are in row-major order; `first` (bool [batch, length]) is True at each row's first position.
    Noise comes from the rows' generators, one draw per asked position. Adding Gumbel noise times the temperature and taking the
    largest is a draw from softmax(scores / temperature). In float64: at lower precision the noise's tail is cut, which acts
    like a lower temperature (arXiv:2409.02908). Raises InputError where no token is left to choose.
    """
    vocabulary = scores.shape[1]
    ruled_out, at_first, deferred = (ids.to(scores.device) for ids in _ids(rules, vocabulary))
    if len(ruled_out) == vocabulary:
        raise InputError(f"suppress: all {vocabulary} tokens are suppressed; at least one must be left")
    if len(at_first) == vocabulary:
        raise InputError(
            f"begin_suppress: with suppress it holds all {vocabulary} tokens; at least one must be left to begin an answer with"
        )
    rows, begins = asked.nonzero()[:, 0].tolist(), first[asked]
    tokens, confidences = [], []
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        logits = scores[part].to(torch.float64, copy=True)
        logits.index_fill_(1, ruled_out, -torch.inf)
        if rules.begin_suppress:
            starts = begins[part].nonzero()[:, 0]
            logits[starts] = logits[starts].index_fill(1, at_first, -torch.inf)
        noisy = logits
        if temperature:
            noisy = logits - temperature * _exponential(rows[part], noise, vocabulary).log().to(logits.device)
        best = noisy.argmax(dim=1)
        tokens.append(best)
        if remasking in CONFIDENCES:
            logits.index_fill_(1, deferred, -torch.inf)
            confidences.append(_confidence(logits, best, remasking).masked_fill(torch.isin(best, deferred), LOWEST))
    chosen, confidence = torch.zeros_like(asked, dtype=torch.int64), torch.zeros_like(asked, dtype=torch.float64)
    chosen[asked] = torch.cat(tokens)
    if confidences:
        confidence[asked] = torch.cat(confidences)
    return chosen, confidence


@lru_cache(maxsize=4)  # asked for at every step, and a large vocabulary may have many that stand in no text
def _ids(rules: TokenRules, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of the vocabulary that are never produced, not produced first, and deferred: int64."""
    never = rules.suppress | {rules.mask}
    ruled_out, at_first, deferred = (
        torch.tensor(sorted(token for token in group if 0 <= token < vocabulary), dtype=torch.int64)
        for group in (never, never | rules.begin_suppress, rules.defer)
    )
    return ruled_out, at_first, deferred


def _exponential(rows: list[int], noise: Sequence[torch.Generator | None], vocabulary: int) -> Tensor:
    """Exponential noise, whose -log is Gumbel noise: float64 [positions, vocabulary]."""
    drawn = torch.empty(len(rows), vocabulary, dtype=torch.float64)
    for line, row in zip(drawn, rows, strict=True):
        line.exponential_(generator=noise[row])
    return drawn


def _confidence(logits: Tensor, best: Tensor, remasking: str) -> Tensor:
    p = logits.softmax(dim=1)
    if remasking == "entropy":
        return -torch.special.entr(p).sum(dim=1)
    if remasking == "margin":
        top = p.topk(min(2, p.shape[1]), dim=1).values
        return top[:, 0] - top[:, 1:].sum(dim=1)
    return p.gather(1, best[:, None])[:, 0]


def top(priority: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` ([batch]) positions of highest priority in each row of `among`; of equals, the first. bool [batch, length]."""
    order = priority.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return among & (order.argsort(dim=1) < count[:, None])


def confident(confidence: Tensor, asked: Tensor, threshold: float, factor: float) -> Tensor:
    """How many positions of each row are sure enough to be fixed together (Fast-dLLM, arXiv:2505.22618): int64 [batch].

    By `threshold`: those whose confidence reaches it. By `factor`: the largest n so that the k-th most confident reaches
    1 - factor / (k + 1), for every k up to n. 0 turns either off.
    """
    ordered = confidence.masked_fill(~asked, LOWEST).sort(dim=1, descending=True).values
    sure = torch.zeros_like(asked)
    if threshold:
        sure = ordered >= threshold
    if factor:
        rank = torch.arange(1, asked.shape[1] + 1, device=asked.device, dtype=torch.float64)
        sure = ordered >= 1 - factor / (rank + 1)
    sure = sure & (ordered > LOWEST)
    return sure.cumprod(dim=1).sum(dim=1)

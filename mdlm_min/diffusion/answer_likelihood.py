"""Likelihood of an answer given its prompt, under a masked diffusion model.

The prompt is never masked. For an answer of L tokens the bound on its NLL (negative log-likelihood, in nats) is

    sum_{l=1}^{L} (1/l) E[NLL of the masked tokens | exactly l of L are masked] = sum over masks M of NLL(M) / (l binom(L, l))

with l = |M| (LLaDA, arXiv:2502.09992, Eq. 6: l is uniform, and L/l weighs the sum over the masked tokens). One forward pass gives
NLL(M) for one mask. Two estimators draw the masks, as many as the number of passes asked:

  llada      levels l spread evenly over 1..L from a random start, each mask drawn alone. Levels repeat where there are more
             passes than tokens: 128 passes are 128 passes;
  balanced   where all 2^L - 1 masks cost no more than the passes asked, each of them once: the exact sum, with nothing left to
             chance. For longer answers levels as above, in rising order, and masks that walk through random orders of the tokens:
             each takes the next l, from the start again where an order ends, and the mask after that begins a new order. So
             every token is masked about equally often at every level. Every mask is still a uniform set of its size, so the
             mean is the same.

The masks of an answer are a function of the seed and of its own tokens. So its value does not depend on its batch, its neighbours
or their order (up to rounding), and two models are compared under the same masks.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_min.model.selection import grid_size
from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream


@dataclass(frozen=True)
class LikelihoodConfig:
    """`passes`: forward passes of an answer, exactly that many for "llada", at most that many for "balanced"."""

    passes: Annotated[int, Range(1, 1e6)] = 128
    estimator: Annotated[str, OneOf(("balanced", "llada"))] = "balanced"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Answer:
    """Tokens of a prompt and of the answer that is scored, int64 [prompt], [answer]."""

    prompt: Tensor
    answer: Tensor

    @staticmethod
    def within(length: int, prompt: Tensor, answer: Tensor) -> "Answer":
        """The pair cut to `length` tokens: the prompt loses its beginning. Raises InputError for an answer that is empty or does
        not fit."""
        if not 1 <= len(answer) <= length:
            raise InputError(f"answer: it has {len(answer)} tokens; allowed: 1 to {length}, which this model can read")
        return Answer(prompt[max(0, len(prompt) + len(answer) - length) :].long(), answer.long())


@dataclass(frozen=True)
class Passes:
    """A batch of forward passes: tokens (int64), and as bool which are masked, which are real (not padding) and which are the
    prompt's. All [passes, length]."""

    tokens: Tensor
    mask: Tensor
    real: Tensor
    prompt: Tensor


PassesNLL = Callable[[Passes], Tensor]  # NLL of the masked tokens, [masked], in row-major order of `mask`
Logits = Callable[[Tensor, Tensor, Tensor], Tensor]  # masked tokens, positions, real tokens -> logits [positions, vocabulary]


def guided_nll(logits: Logits, mask_token: int, guidance: float) -> PassesNLL:
    """The NLL by a model's logits, with classifier-free guidance: (1 + g) logits - g logits without the prompt, all of which is
    masked for the second. LLaDA's form; g = 0 is the model itself, in one pass."""

    def nll_of(passes: Passes) -> Tensor:
        hidden = passes.tokens.masked_fill(passes.mask, mask_token)
        rows, of_row = _distinct(torch.cat((hidden, passes.mask, passes.real, passes.prompt), dim=1))
        hidden, mask, real = hidden[rows], passes.mask[rows], passes.real[rows]
        found = logits(hidden, mask, real).float()
        if guidance:
            blind = logits(hidden.masked_fill(passes.prompt[rows], mask_token), mask, real).float()
            found = blind + (1 + guidance) * (found - blind)
        parts = torch.arange(len(found)).split(mask.sum(dim=1).tolist())
        found = found[torch.cat([parts[row] for row in of_row]).to(found.device)]
        return F.cross_entropy(found, passes.tokens[passes.mask].to(found.device), reduction="none")

    return nll_of


def _distinct(inputs: Tensor) -> tuple[list[int], list[int]]:
    """The first row of each distinct one (int64 [passes, width]), and for every row which of these it is. The four letters that
    answer a question are one input, all that differs being masked; where a batch ends between them they are two."""
    found: dict[bytes, int] = {}
    of_row = [found.setdefault(row.tobytes(), len(found)) for row in inputs.numpy()]
    return [of_row.index(number) for number in range(len(found))], of_row


def answer_nll(
    nll_of: PassesNLL, answers: Sequence[Answer], config: LikelihoodConfig, length: int, batch_tokens: int = 8192
) -> Tensor:
    """NLL of every answer in nats, float64 [answers]. A batch has up to `batch_tokens` tokens, padding included.

    Passes of similar length share a batch. They are padded at the end to one of few lengths, at most `length`, the most that the
    model can read.
    """
    found = torch.zeros(len(answers), dtype=torch.float64)
    sizes = [min(grid_size(len(one.prompt) + len(one.answer)), length) for one in answers]
    for size, group in itertools.groupby(sorted(range(len(answers)), key=sizes.__getitem__), key=sizes.__getitem__):
        rows = _rows(answers, group, config)
        while chunk := list(itertools.islice(rows, max(1, batch_tokens // size))):
            passes = _padded([(answers[index], mask) for index, mask, _ in chunk], size)
            values = torch.zeros(passes.mask.shape, dtype=torch.float64)
            values[passes.mask] = nll_of(passes).double().cpu()
            weights = torch.tensor([weight for _, _, weight in chunk], dtype=torch.float64)
            found.index_add_(0, torch.tensor([index for index, _, _ in chunk]), weights * values.sum(dim=1))
    return found


def _rows(answers: Sequence[Answer], chosen: Iterator[int], config: LikelihoodConfig) -> Iterator[tuple[int, Tensor, float]]:
    """Every pass of these answers: the answer's number, the mask on it and its weight."""
    for index in chosen:
        masks, weights = masks_of(answers[index], config)
        for mask, weight in zip(masks, weights.tolist(), strict=True):
            yield index, mask, weight


def _padded(rows: list[tuple[Answer, Tensor]], size: int) -> Passes:
    tokens = torch.zeros(len(rows), size, dtype=torch.int64)
    mask, real, prompt = (torch.zeros(len(rows), size, dtype=torch.bool) for _ in range(3))
    for row, (one, chosen) in enumerate(rows):
        first, last = len(one.prompt), len(one.prompt) + len(one.answer)
        tokens[row, :first], tokens[row, first:last] = one.prompt, one.answer
        mask[row, first:last], real[row, :last], prompt[row, :first] = chosen, True, True
    return Passes(tokens, mask, real, prompt)


def masks_of(answer: Answer, config: LikelihoodConfig) -> tuple[Tensor, Tensor]:
    """The masks of an answer's passes, bool [passes, answer], and their weights in the sum, float64 [passes]."""
    size = len(answer.answer)
    if config.estimator == "balanced" and size < 64 and 2**size - 1 <= config.passes:
        return _every_mask(size)
    digest = hashlib.blake2b(digest_size=16)
    for part in (answer.prompt, answer.answer):
        digest.update(len(part).to_bytes(8, "little") + part.numpy().tobytes())
    generator = stream(config.seed, f"answer {digest.hexdigest()}")
    start = torch.randint(size, (), generator=generator)
    levels = (start + torch.arange(config.passes) * size // config.passes) % size + 1
    if config.estimator == "balanced":
        levels = levels.sort().values
        first = levels.cumsum(dim=0) - levels
        order = first // size
        rank = torch.rand(int(order[-1]) + 1, size, generator=generator).argsort(dim=1)[order]
    else:
        first = torch.zeros_like(levels)
        rank = torch.rand(config.passes, size, generator=generator).argsort(dim=1)
    return (rank - first[:, None]) % size < levels[:, None], size / levels.double() / config.passes


def _every_mask(size: int) -> tuple[Tensor, Tensor]:
    numbers = torch.arange(1, 2**size)
    masks = (numbers[:, None] >> torch.arange(size)) & 1 == 1
    levels = masks.sum(dim=1).tolist()
    return masks, torch.tensor([1 / (level * math.comb(size, level)) for level in levels], dtype=torch.float64)

"""Generation: masked tokens are filled in over a number of steps, from a model's scores alone.

A template (int64 [batch, length]) holds the mask token wherever a token is wanted; all other tokens stay as they are. Text
from nothing, a prompt's continuation and infilling are templates of different shapes. The methods differ in which positions a
step reveals:
  ancestral       each masked position with probability (t - s) / t, on the time grid t = 1, 1 - 1/N, ..., down to s = 0: the
  reverse
                  process of MDLM (arXiv:2406.07524, Eq. 7). Positions revealed in one step are drawn independently, so the
                  distribution is the model's own only for many steps;
  random          as many in each step, chosen at random (LLaDA's "random" remasking). With a step for every masked position
                  the tokens are drawn one by one in a random order: the model's own distribution, with no grid error;
  low-confidence  as many in each step, those whose chosen token has the highest probability (LLaDA, arXiv:2502.09992: the
                  rest, of low confidence, is masked again).

All noise comes from streams keyed by seed, item and step, and is drawn on the CPU. So an item's noise does not depend on its
neighbours in the batch, on its place there or on the device.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

METHODS = ("ancestral", "random", "low-confidence")
Scorer = Callable[
    [Tensor, Tensor], Tensor
]  # tokens [batch, length], positions (bool, same shape) -> logits [positions, vocabulary]


@dataclass(frozen=True)
class SamplingConfig:
    """How a template is filled. At `temperature` 0 the most probable token is chosen; 1 draws from the model's distribution."""

    method: str = "low-confidence"
    steps: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method: {self.method!r} is unknown; allowed: {', '.join(METHODS)}")
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} is not allowed; at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature: {self.temperature} is not allowed; at least 0 (0 for the most probable token)")


@torch.no_grad()
def unmask(
    score: Scorer,
    template: Tensor,
    mask_token: int,
    config: SamplingConfig,
    seed: int,
    suppress: Collection[int] = (),
    items: Sequence[int] | None = None,
) -> Tensor:
    """`template` with every mask token filled in: int64 [batch, length].

    `score` is called once for each step that reveals anything, and only for the positions that it needs. The mask token and
    the tokens in `suppress` are never produced, at any temperature. `items` number the rows (default: 0, 1, ...): a row's
    noise is a function of `seed`, its number and the step.
    """
    tokens = template.clone()
    items = range(len(template)) if items is None else items
    wanted = (template == mask_token).sum(dim=1)
    for step in range(config.steps):
        masked = tokens == mask_token
        noise = [stream(seed, f"unmask {item}", step) for item in items]
        count = wanted // config.steps + (step < wanted % config.steps)  # LLaDA's allocation: the first steps take the remainder
        if config.method == "low-confidence":
            asked = masked & (count > 0)[:, None]
        else:
            u = torch.stack([torch.rand(template.shape[1], generator=row, dtype=torch.float64) for row in noise])
            u = u.to(tokens.device)
            # (t - s) / t with t = 1 - step / N and s = t - 1 / N.
            asked = masked & (u < 1 / (config.steps - step)) if config.method == "ancestral" else _top(u, masked, count)
        if not asked.any():
            continue
        chosen, confidence = _choose(score(tokens, asked), asked, mask_token, config.temperature, noise, suppress)
        if config.method == "low-confidence":
            asked = asked & _top(confidence, asked, count)
        tokens = torch.where(asked, chosen, tokens)
    return tokens


def _top(priority: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """The `count` ([batch]) masked positions of highest priority in each row; of equals, the first. bool [batch, length]."""
    order = priority.masked_fill(~masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) < count[:, None]


def _choose(
    logits: Tensor, asked: Tensor, mask_token: int, temperature: float, noise: list[torch.Generator], suppress: Collection[int]
) -> tuple[Tensor, Tensor]:
    """A token for every asked position and its probability under the model, where they stand: int64 and float64 [batch, length].

    Adding Gumbel noise times the temperature and taking the largest is a draw from softmax(logits / temperature). In float64: at
    lower precision the noise's tail is cut, which acts like a lower temperature (arXiv:2409.02908).
    """
    logits = logits.to(torch.float64, copy=True)
    forbidden = sorted(token for token in {mask_token, *suppress} if token < logits.shape[1])
    logits[:, forbidden] = -torch.inf
    noisy = logits
    if temperature:
        shapes = [(count, logits.shape[1]) for count in asked.sum(dim=1).tolist()]
        drawn = [
            torch.empty(shape, dtype=torch.float64).exponential_(generator=row) for shape, row in zip(shapes, noise, strict=True)
        ]
        noisy = logits - temperature * torch.cat(drawn).log().to(logits.device)
    best = noisy.argmax(dim=1)
    chosen, confidence = torch.zeros_like(asked, dtype=torch.int64), torch.zeros_like(asked, dtype=torch.float64)
    chosen[asked] = best
    confidence[asked] = logits.softmax(dim=1).gather(1, best[:, None])[:, 0]
    return chosen, confidence

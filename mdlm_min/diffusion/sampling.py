"""Generation: masked tokens are filled in over a number of steps, from a model's scores alone.

A template (int64 [batch, length]) holds the mask token wherever a token is wanted; all other tokens stay as they are. Text
from nothing, a prompt's continuation and infilling are templates of different shapes. Templates of different lengths share a
batch: they are padded on the right, and nothing attends to the padding. `remasking` says which positions a step fixes:
  ancestral       each masked position with probability (t - s) / t, on the time grid t = 1, 1 - 1/N, ..., down to s = 0: the
                  reverse process of MDLM (arXiv:2406.07524, Eq. 7). Positions fixed in one step are drawn independently, so the
                  distribution is the model's own only for many steps;
  random          as many in each step, chosen at random. With a step for every masked position the tokens are drawn one by one
                  in a random order: the model's own distribution, with no grid error;
  low-confidence, margin, entropy
                  as many in each step, those of the highest confidence (remasking.py).

Exact are all settings but three: the tokens are those of the plain algorithm, which scores everything in every step. What is
saved is exact: the last block and the head are computed only at positions that may be fixed now, and a row takes part in a pass
only while it has such positions. `threshold` and `factor` (fix more positions where the model is sure), and `cache` (keep keys
and values) are approximate: faster, with other tokens.

All noise comes from streams keyed by seed, item and step, and is drawn on the CPU. So an item's noise does not depend on its
neighbours in the batch, on its place there or on the device. What is left of them is rounding, which matters where two positions
are equally confident but for it: in a sequence of masks alone, read with rotary positions, all are.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from mdlm_min.diffusion.generation_record import Generation
from mdlm_min.diffusion.reading import CACHES, Reader, Scorer
from mdlm_min.diffusion.remasking import CONFIDENCES, TokenRules, choose, confident, top
from mdlm_min.diffusion.unmasking_steps import UnmaskingSteps
from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError
from mdlm_min.run.random_streams import stream

REMASKING = ("ancestral", "random", *CONFIDENCES)


@dataclass(frozen=True)
class SamplingConfig:
    """How a template is filled. At `temperature` 0 the most probable token is chosen; 1 draws from the model's distribution."""

    remasking: Annotated[str, OneOf(REMASKING)] = "low-confidence"
    steps: Annotated[int, Range(1)] = 64
    temperature: Annotated[float, Range(0, 1e6)] = 1.0
    block_length: Annotated[int, Range(0)] = 0  # blocks are filled from left to right; 0: one block
    cfg_scale: Annotated[float, Range(0, 1e6)] = 0.0  # classifier-free guidance; 0: none
    # Approximate: see the top of the file. 0 turns them off.
    threshold: Annotated[float, Range(0, 1)] = 0.0  # fix every position whose confidence reaches it
    factor: Annotated[float, Range(0, 1e6)] = 0.0  # fix as many as confidence allows, the more, the surer (remasking.confident)
    cache: Annotated[str, OneOf(CACHES)] = "none"
    refresh: Annotated[int, Range(0)] = 0  # a cache is renewed in every so many passes; 0: at each block's start only

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("threshold", "factor"):
            if getattr(self, name) and self.remasking != "low-confidence":
                raise InputError(f"{name}: needs remasking 'low-confidence', whose confidence is a probability")
        if self.threshold and self.factor:
            raise InputError("factor: is not allowed together with threshold; choose one")
        if self.refresh and self.cache == "none":
            raise InputError("refresh: needs a cache, prefix or dual")

    @property
    def exact(self) -> bool:
        """Whether the tokens are those of the plain algorithm."""
        return not (self.threshold or self.factor) and (self.cache == "none" or self.refresh == 1)


@torch.no_grad()
def generate(
    score: Scorer,
    template: Tensor,
    rules: TokenRules,
    config: SamplingConfig,
    seed: int = 0,
    items: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Generation:
    """`template`, int64 [batch, length], with every wanted token filled in, and what it took.

    `score` is called with tokens and the positions asked for (int64 and bool, [batch, length]) and gives their logits, [asked,
    vocabulary], row-major; where rows differ in length with `padding_mask` by name too (True at real tokens), and with a cache as
    Transformer.forward. It is called for each step that fixes anything, for the rows and positions that are needed alone.
    `items` number the rows (default: 0, 1, ...): a row's noise is a function of `seed`, its number and the step. `lengths`: each
    row's own length, behind which it is padding (default: no padding). With a stop token in `rules`, a row is done as soon as
    one is fixed and nothing before it is masked; what is wanted after it becomes the stop token too. `watch` sees the tokens
    after each step.

    Raises InputError for an empty template, for scores of another shape, for fewer steps than a row has blocks, for rules that
    leave no token to choose, and for `defer` where no confidence is used.
    """
    if rules.defer and config.remasking not in CONFIDENCES:
        raise InputError(f"defer: needs remasking by confidence ({', '.join(CONFIDENCES)}), not {config.remasking!r}")
    if template.ndim != 2 or not template.numel():
        raise InputError(f"template: the shape {list(template.shape)} is not allowed; [batch, length], each at least 1")
    started = time.perf_counter()
    batch, length = template.shape
    tokens, items = template.clone(), range(batch) if items is None else items
    lengths = [length] * batch if lengths is None else lengths
    column = torch.arange(length, device=template.device)
    real = column < torch.tensor(lengths, device=template.device)[:, None]
    wanted = (template == rules.mask) & real
    steps = UnmaskingSteps(wanted, config.block_length, config.steps)
    reader = Reader(
        score, rules.mask, wanted, None if min(lengths, default=length) == length else real, config.cfg_scale, config.cache,
        config.refresh,
    )  # fmt: skip
    first = wanted & (wanted.cumsum(dim=1) == 1)
    masked = wanted.clone()
    while masked.any():
        steps.advance(masked)
        alive, numbers = steps.places.any(dim=1).tolist(), steps.number.tolist()
        noise = [
            stream(seed, f"unmask {item}", number) if live else None
            for item, number, live in zip(items, numbers, alive, strict=True)
        ]
        asked = _asked(steps, config.remasking, noise, lengths)
        if not asked.any():
            continue
        scores = reader(tokens, asked, steps.block, steps.block_of)
        chosen, confidence = choose(scores, asked, first, rules, config.remasking, config.temperature, noise)
        if config.remasking in CONFIDENCES:
            sure = confident(confidence, asked, config.threshold, config.factor)
            asked = top(confidence, asked, steps.count.maximum(sure))
        tokens, masked = torch.where(asked, chosen, tokens), masked & ~asked
        if rules.stop:
            end = _end(tokens, masked, wanted, rules.stop)
            after = wanted & (column > end)
            tokens = torch.where(after, tokens.gather(1, end.clamp(max=length - 1)), tokens)
            masked = masked & ~after
        if watch is not None:
            watch(tokens)
    answer = wanted & (column < _end(tokens, masked, wanted, rules.stop))
    counts, passes = answer.sum(dim=1).tolist(), reader.passes.tolist()  # waits for the device
    return Generation(tokens, passes, counts, time.perf_counter() - started)


def unmask(
    score: Scorer,
    template: Tensor,
    mask_token: int,
    config: SamplingConfig,
    seed: int,
    suppress: Collection[int] = (),
    items: Sequence[int] | None = None,
) -> Tensor:
    """`template` with every mask token filled in: int64 [batch, length]. `generate` for those who need the tokens alone."""
    return generate(score, template, TokenRules(mask_token, frozenset(suppress)), config, seed, items).tokens


def _asked(steps: UnmaskingSteps, remasking: str, noise: list[torch.Generator | None], lengths: Sequence[int]) -> Tensor:
    """Positions whose scores this step needs, bool [batch, length]: those it fixes, where scores do not decide which."""
    places = steps.places
    if remasking in CONFIDENCES:
        return places & (steps.count > 0)[:, None]
    u = torch.zeros(places.shape, dtype=torch.float64)
    for row, (generator, length) in enumerate(zip(noise, lengths, strict=True)):
        if generator is not None:
            u[row, :length] = torch.rand(length, generator=generator, dtype=torch.float64)
    u = u.to(places.device)
    if remasking == "random":
        return top(u, places, steps.count)
    return places & (u < 1 / steps.left[:, None])  # (t - s) / t with s one step below t


def _end(tokens: Tensor, masked: Tensor, wanted: Tensor, stop: Collection[int]) -> Tensor:
    """Where each row's first stop token stands before which nothing is masked, or the length where there is none:
    int64 [batch, 1]."""
    stops = torch.isin(tokens, torch.tensor(sorted(stop), dtype=tokens.dtype, device=tokens.device))
    settled = stops & wanted & ~masked & (masked.cumsum(dim=1) == 0)
    return torch.where(settled.any(dim=1), settled.int().argmax(dim=1), tokens.shape[1])[:, None]

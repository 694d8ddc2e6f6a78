"""PUMA, progressive unmasking (arXiv:2602.10314): masks along the sampler's own path.

As in the released code's standard mode, with a constant K (8 is ours): every row of the batch holds one sequence for K steps. Its
first mask shows a random share of the tokens, drawn from [0, 1/K]. At each later step j the share grows to a draw from
[j/K, (j+1)/K], and the tokens shown next are those of which the model was most confident, as a sampler would choose, but with
their true values. After K steps a new sequence takes the row. The loss is the mean over a row's masked tokens. The rows start at
different j. The paper reports 2.5 times faster pre-training at 125M.

A reweighting: the masks are no longer independent of the model. A checkpoint holds the sequences and their masks, rows x
length numbers. `sample` advances the rows, so it is called once a step, after `admit`; a row's rate is its share of masked
tokens.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, in_place
from mdlm_min.diffusion.masking import first
from mdlm_min.run.errors import InputError


class Puma(MaskSchedule):
    """A pool of sequences that are unmasked in `phases` steps each."""

    name = "puma"
    needs = ("tokens", "confidence")

    def __init__(self, phases: int = 8) -> None:
        if phases < 1:
            raise InputError(f"phases: {phases} is not allowed; at least 1")
        self.phases = phases
        self.pool: dict[str, Tensor] = {}

    def admit(self, context: Context) -> Context:
        """The pool's sequences; those of the batch take the rows that have gone through all phases."""
        tokens = context.need("tokens", self.name)
        allowed = torch.ones_like(tokens, dtype=torch.bool) if context.allowed is None else context.allowed
        padding = torch.ones_like(tokens, dtype=torch.bool) if context.padding_mask is None else context.padding_mask
        arriving = {"tokens": tokens, "allowed": allowed, "padding": padding}
        if not self.pool:
            rows = torch.arange(context.rows, device=tokens.device)
            self.pool = {
                **arriving,
                "shown": torch.zeros_like(allowed),
                "confidence": torch.zeros(tokens.shape, device=tokens.device),
                "phase": rows % self.phases,
                "new": torch.ones_like(rows, dtype=torch.bool),
            }
        else:
            self.pool = {name: value.to(tokens.device) for name, value in self.pool.items()}
            new = self.pool["phase"] == self.phases
            for name, value in arriving.items():
                self.pool[name] = torch.where(new[:, None], value, self.pool[name])
            self.pool["shown"] = self.pool["shown"] & ~new[:, None]
            self.pool["phase"] = self.pool["phase"] % self.phases
            self.pool["new"] = new | self.pool["new"]  # still new after a step that was not taken
        pool = self.pool
        return replace(context, tokens=pool["tokens"], allowed=pool["allowed"], padding_mask=pool["padding"], marks=None)

    def sample(self, context: Context, generator: torch.Generator) -> Tensor:
        if not self.pool:
            raise InputError(f"schedule {self.name}: admit comes before sample, because it keeps sequences over several steps")
        pool, device = self.pool, generator.device
        u = torch.rand(context.rows, generator=generator, device=device)
        noise = torch.rand(context.rows, context.length, generator=generator, device=device)
        allowed, shown = pool["allowed"], pool["shown"]
        sizes = allowed.sum(dim=1)
        wanted = ((pool["phase"] + u) / self.phases * sizes).round().long().minimum((sizes - 1).clamp(min=0))
        priority = torch.where(pool["new"][:, None], noise, pool["confidence"])
        more = (wanted - shown.sum(dim=1)).clamp(min=0)
        shown = shown | (first(more, priority.masked_fill(~allowed | shown, -1)) & allowed)
        pool["shown"] = shown
        return (allowed & ~shown).sum(dim=1) / sizes.clamp(min=1)

    def mask(self, rate: Tensor, context: Context, generator: torch.Generator) -> Tensor:
        return self.pool["allowed"] & ~self.pool["shown"]

    def weight(self, rate: Tensor, mask: Tensor, context: Context) -> Tensor:
        return context.sizes() / mask.sum(dim=1).clamp(min=1)

    def observe(self, rate: Tensor, mask: Tensor, context: Context) -> None:
        self.pool["confidence"] = in_place(context.need("confidence", self.name).float(), mask)
        self.pool["phase"] = self.pool["phase"] + 1
        self.pool["new"] = torch.zeros_like(self.pool["new"])

    def state(self) -> dict[str, Any]:
        return {name: value.tolist() for name, value in self.pool.items()}

    def restore(self, state: dict[str, Any]) -> None:
        if state and state.keys() != {"tokens", "allowed", "padding", "shown", "confidence", "phase", "new"}:
            raise ValueError(f"state: no state of schedule {self.name} (it has {', '.join(state)})")
        self.pool = {name: torch.tensor(value) for name, value in state.items()}

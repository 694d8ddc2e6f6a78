"""The reduced model of section 4.1: with uniform attention a block sees only the sum of the input embeddings."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from mdlm_min.run.config import OneOf, Range, check_fields

INITS = ("width", "pytorch", "gpt2")
PIECE = 160  # sequences at a time on the CPU: what they give at 2,560 hidden units stays in its cache


@dataclass(frozen=True)
class MLPConfig:
    """f(z) = v . relu(W z) on the summed one-hot embeddings; D = `hidden`, d = vocab_size * length."""

    vocab_size: Annotated[int, Range(1, 1e7)]
    length: Annotated[int, Range(1, 1e7)]
    hidden: Annotated[int, Range(1, 1e7)] = 2560
    init: Annotated[str, OneOf(INITS)] = (
        "width"  # variance 1/fan-in; "pytorch": nn.Linear's uniform, a third of that; "gpt2": deviation 0.02
    )

    def __post_init__(self) -> None:
        check_fields(self, "model.")


class UniformAttentionMLP(nn.Module):
    """One number for the whole sequence: with uniform attention the output is the same at every position."""

    def __init__(self, config: MLPConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        inputs = config.vocab_size * config.length
        self.W = nn.Parameter(torch.empty(inputs, config.hidden))
        self.v = nn.Parameter(torch.empty(config.hidden))
        for parameter, fan_in in ((self.W, inputs), (self.v, config.hidden)):
            if config.init == "pytorch":
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
            else:
                nn.init.normal_(parameter, std=0.02 if config.init == "gpt2" else fan_in**-0.5, generator=generator)

    def forward(self, tokens: Tensor, selection: Tensor | None = None) -> Tensor:
        """Output at the `selection` (bool, [batch, length]): [selected, 1], in row-major order; without one everywhere,
        [batch, length, 1]."""
        if selection is None:
            return self._output(tokens)[:, None, None].expand(-1, tokens.shape[1], -1)
        asked = selection.any(1)  # of a sequence without a masked token nothing is asked: of U[0,.2]'s two in nine
        return self._output(tokens[asked]).repeat_interleave(selection.sum(1)[asked])[:, None]

    def _output(self, tokens: Tensor) -> Tensor:
        """Of each sequence, [batch]. A position's one-hots sum to 1, so W z is that of token 0 everywhere and what the other
        tokens add: a third fewer columns."""
        batch, length = tokens.shape
        z = torch.zeros(batch, self.config.vocab_size * length, dtype=self.W.dtype, device=tokens.device)
        z.scatter_(1, tokens * length + torch.arange(length, device=tokens.device), 1.0)
        weights = self.W.unflatten(0, (self.config.vocab_size, length))
        base, added = weights[0].sum(0), (weights[1:] - weights[0]).flatten(0, 1)
        pieces = z[:, length:].split(PIECE if z.device.type == "cpu" else max(batch, 1))
        return torch.cat([torch.relu(torch.addmm(base, piece, added)) @ self.v for piece in pieces])

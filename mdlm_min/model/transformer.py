"""The Transformer: embeddings, blocks (block.py), a norm and a head, bidirectional or causal.

Masked diffusion reads the network only at masked positions, so the last block and the head are computed only there.
The results and gradients are those of the full computation. A second saving, on a CPU, is exact too: the first block sees only
vocab_size x length distinct inputs, so where that is fewer than the tokens of a batch (parity: 63 against 42,000) its
projections are computed once for each distinct input.

Rotary positions allow sequences shorter than the configured length, and sequences of several lengths in one batch: what
lies beyond a sequence's end is padding, which nothing attends to.
"""

import functools
import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdlm_min.model.block import Block, make_norm, rotary_angles
from mdlm_min.model.cache import KeyValueCache, Reading
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.scoring import Head
from mdlm_min.model.selection import Selection

FEW_TOKENS = 16  # of a vocabulary


def empty_transformer(config: ModelConfig, dtype: torch.dtype) -> "Transformer":
    """A Transformer with weights of this dtype, to be loaded or measured: never in memory at another precision."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return Transformer(config, None)
    finally:
        torch.set_default_dtype(default)


class Transformer(nn.Module):
    """Token and position embeddings, blocks, final norm, head without bias."""

    def __init__(self, config: ModelConfig, generator: torch.Generator | None) -> None:
        """`generator` gives the initial weights; it lives on the CPU, so that they are the same on every device. Without one they
        are as torch makes them, for a model that is to be loaded, or only measured."""
        super().__init__()
        self.config = config
        self.recompute = False  # activation checkpointing, block by block
        # No buffers: a model in bfloat16 rotates in float32 all the same.
        self._rotary_tables: dict[torch.device, tuple[Tensor, Tensor]] = {}
        with torch.device("meta") if generator else nullcontext():  # torch's own values would be thrown away
            self._make_layers()
        if generator:
            self.to_empty(device="cpu")
        if config.tied:
            self.head.weight = self.token_embedding.weight
        if generator:
            self._initialise(generator)

    def _make_layers(self) -> None:
        config = self.config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.position_encoding == "learned":
            self.position_embedding = nn.Embedding(config.length, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = make_norm(config)
        self.head = Head(config.width, config.outputs)

    def _initialise(self, generator: torch.Generator) -> None:
        config = self.config
        deviation = 0.02 if config.init == "gpt2" else 1 / math.sqrt(config.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 1.0
                if name.endswith(("attention_out.weight", "mlp_out.weight")):
                    # Projections back into the residual stream: GPT-2 scales all by their number, LLaDA by the block's own depth.
                    depth = config.layers if config.init != "llada" else int(name.split(".")[1]) + 1
                    scale = 1 / math.sqrt(2 * depth)
                std = deviation * scale
                if config.init == "llada":
                    nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std, generator=generator)
                else:
                    nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def forward(
        self,
        tokens: Tensor,
        selection: Tensor | Selection | None = None,
        padding_mask: Tensor | None = None,
        targets: Tensor | None = None,
        cache: KeyValueCache | None = None,
        fresh: Tensor | None = None,
    ) -> Tensor:
        """Scores [batch, length, outputs] of `tokens` (int64, [batch, length]); given a `selection` (bool, [batch, length]),
        only theirs, [selected, outputs], in row-major order. `padding_mask` (bool, [batch, length]) is True at real
        tokens, False at padding, whose own scores mean nothing; None for no padding.

        Given `targets` too, the right classes at the selection (int64 [selected]), their -log p in nats, float32 [selected]; of
        many classes the scores are then never held whole (scoring.py).

        `cache` keeps the keys and values of this pass. Given `fresh` (bool, [batch, length], the selection a part of it) as well,
        only those positions are read, and the keys and values of all others are the cache's. Without gradients or targets.

        Raises ValueError where the length is not the configured one (with rotary positions: longer than it), for padding without
        rotary positions or in a causal model, for targets without a selection, and for a cache with targets or in a model that is
        causal or attends uniformly.
        """
        batch, length = tokens.shape
        learned = self.config.position_encoding == "learned"
        if length > self.config.length or (learned and length != self.config.length):
            raise ValueError(f"tokens: length {length}, but the model was built for {self.config.length}")
        if padding_mask is not None and (learned or self.config.causal):
            raise ValueError("padding_mask: padding needs rotary positions and a bidirectional model")
        if targets is not None and selection is None:
            raise ValueError("targets: they need a selection")
        if cache is not None:
            if targets is not None:
                raise ValueError("targets: not with a cache")
            return self._forward_cached(tokens, selection, padding_mask, cache, fresh)
        distinct = self.config.vocab_size * length
        index = None
        # Above that, gathering costs about what it saves. On a GPU its gradient, a sort, costs more.
        if learned and tokens.device.type == "cpu" and distinct <= batch * length // 4:
            x = (self.token_embedding.weight[:, None] + self.position_embedding.weight).flatten(0, 1)
            index = tokens * length + torch.arange(length, device=tokens.device)
        else:
            x = self._embedded(tokens)
            x = x + self.position_embedding.weight if learned else x
        selection = Selection.of(selection) if isinstance(selection, Tensor) else selection
        for block in self.blocks[:-1]:
            x, index = self._through(block, x, index, None, padding_mask), None
        x = self.norm(self._through(self.blocks[-1], x, index, selection, padding_mask))
        if targets is not None:
            targets = F.pad(targets, (0, len(x) - len(targets)))  # as the selection is padded
        scores: Tensor = self.head(x, targets)
        return scores if selection is None else scores[: selection.count]

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Token embeddings. Of few different tokens on a GPU by a product with zeros and ones, whose gradient needs no sort."""
        weight = self.token_embedding.weight
        if tokens.device.type == "cpu" or len(weight) > FEW_TOKENS:
            return self.token_embedding(tokens)
        chosen = (tokens[..., None] == torch.arange(len(weight), device=tokens.device)).to(weight.dtype)
        with torch.autocast("cuda", enabled=False):  # a lookup keeps the type of the weights
            return chosen @ weight

    @torch.no_grad()
    def _forward_cached(
        self,
        tokens: Tensor,
        selection: Tensor | Selection | None,
        padding_mask: Tensor | None,
        cache: KeyValueCache,
        fresh: Tensor | None,
    ) -> Tensor:
        """See forward."""
        if self.config.causal or self.config.attention == "uniform" or not isinstance(selection, Tensor):
            raise ValueError("cache: needs a bidirectional model with learned attention, and a selection by position")
        reading = None if fresh is None else Reading(fresh)
        position = None if reading is None else reading.position
        x = self.token_embedding(tokens if position is None else tokens.gather(1, position))
        if self.config.position_encoding == "learned":
            x = x + (self.position_embedding.weight if position is None else self.position_embedding(position))
        chosen = Selection.of(selection) if reading is None else reading.within(selection)
        places, last, rotary = None if reading is None else reading.places, len(self.blocks) - 1, self._rotary(x.device)
        for layer, block in enumerate(self.blocks):
            keep = functools.partial(cache.update, layer, places=places)
            x = block(x, None, chosen if layer == last else None, padding_mask, rotary, position, keep)
        scores: Tensor = self.head(self.norm(x))
        return scores[: chosen.count]

    def _rotary(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of every position, float32 [length, head width / 2], the same for all blocks."""
        config = self.config
        if config.position_encoding != "rotary":
            return None
        if device not in self._rotary_tables:
            angles = rotary_angles(config.length, config.width // config.heads, config.rotary_base)
            self._rotary_tables[device] = (angles.cos().to(device), angles.sin().to(device))
        return self._rotary_tables[device]

    def _through(
        self, block: nn.Module, x: Tensor, index: Tensor | None, selection: Selection | None, padding_mask: Tensor | None
    ) -> Tensor:
        """One block; with `recompute`, its activations are computed again in the backward pass instead of being kept."""
        inputs = (x, index, selection, padding_mask, self._rotary(x.device))
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing in a block is random
        return block(*inputs)

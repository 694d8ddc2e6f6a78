"""The Transformer: nanoGPT's pre-norm block (LayerNorm, GELU, learned positions) or LLaDA's (RMSNorm, SwiGLU, rotary positions,
no biases), or anything between, bidirectional or causal.

Masked diffusion reads the network only at masked positions, so the last block and the head are computed only there:
keys and values need every position, queries and everything after the attention only the selected ones. The results and
gradients are those of the full computation. A second saving, on a CPU, is exact too: the first block sees only
vocab_size x length distinct inputs, so where that is fewer than the tokens of a batch (parity: 63 against 42,000) its
projections are computed once for each distinct input.

Rotary positions allow sequences shorter than the configured length, and sequences of several lengths in one batch: what
lies beyond a sequence's end is padding, which nothing attends to.
"""

import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdlm_min.model.cache import KeyValueCache, Reading
from mdlm_min.model.scoring import Head
from mdlm_min.model.selection import Selection
from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError

KeepKeysValues = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
FEW_TOKENS = 16  # of a vocabulary
LARGEST_GAP = 60.0  # of attention scores in nats: exp(-60) = 1e-26, and its inverse in a gradient, are far inside float32's range


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Transformer. `vocab_size` counts the mask token; `outputs` are the classes scored at a position."""

    vocab_size: Annotated[int, Range(1, 1e7)]
    length: Annotated[int, Range(1, 1e7)]
    outputs: Annotated[int, Range(1, 1e7)]
    layers: Annotated[int, Range(1, 1000)] = 1
    heads: Annotated[int, Range(1, 1e5)] = 4
    width: Annotated[int, Range(1, 1e6)] = 128
    causal: bool = False
    attention: Annotated[str, OneOf(("learned", "uniform"))] = (
        "learned"  # "uniform" fixes every attention weight to 1/length (section 4.1)
    )
    init: Annotated[str, OneOf(("gpt2", "width", "llada"))] = (
        "gpt2"  # deviation of the weights: 0.02; "width": 1/sqrt(width); "llada": that, cut at three deviations
    )
    position_encoding: Annotated[str, OneOf(("learned", "rotary"))] = (
        "learned"  # added to the embeddings; or "rotary": queries and keys rotated by their position (RoPE)
    )
    tied: bool = False  # head weights = token embedding
    norm: Annotated[str, OneOf(("layernorm", "rmsnorm"))] = "layernorm"  # or "rmsnorm"
    mlp: Annotated[str, OneOf(("gelu", "swiglu"))] = "gelu"  # or "swiglu": silu(gate) * in
    mlp_width: Annotated[int, Range(0, 1e7)] = 0  # 0 for four times the width
    bias: bool = True  # in every projection of a block
    rotary_base: Annotated[float, Range(0, 1e30, open_least=True)] = 10000.0
    kv_heads: Annotated[int, Range(0, 1e5)] = 0  # heads of keys and values, each shared by as many queries; 0 for `heads`
    norm_epsilon: Annotated[float, Range(0, 1, open_least=True)] = 1e-5

    @property
    def projection_widths(self) -> tuple[int, int, int]:
        """Of queries, keys and values."""
        shared = self.width // self.heads * (self.kv_heads or self.heads)
        return self.width, shared, shared

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if self.kv_heads and (self.heads % self.kv_heads or self.attention == "uniform"):
            raise InputError(
                f"model.kv_heads: {self.kv_heads} is not allowed; a divisor of model.heads = {self.heads}, with learned attention"
            )
        if self.width % self.heads:
            raise InputError(f"model.width: {self.width} is not divisible by model.heads = {self.heads}")
        if self.position_encoding == "rotary" and (self.attention == "uniform" or self.width // self.heads % 2):
            raise InputError(
                f"model.position_encoding: 'rotary' needs learned attention and an even width per head, not {self.width} / "
                f"{self.heads}"
            )
        if self.tied and self.outputs != self.vocab_size:
            raise InputError(f"model.tied: needs outputs = vocab_size = {self.vocab_size}, but outputs = {self.outputs}")
        if self.causal and self.attention == "uniform":
            raise InputError("model.attention: 'uniform' is defined for the bidirectional model only; set causal = false")


class Projections(nn.Linear):
    """Queries, keys and values from one matrix, its rows in that order."""

    def __init__(self, widths: tuple[int, int, int], bias: bool) -> None:
        super().__init__(widths[0], sum(widths), bias)
        self.widths = widths

    def forward(self, x: Tensor, selection: Selection | None = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """q, k, v of `x` ([..., width]), each [..., its width]; q only at the selection, [padded, width]."""
        if selection is None:
            q, k, v = F.linear(x, self.weight, self.bias).split(self.widths, dim=-1)
            return q, k, v
        sizes = (self.widths[0], self.widths[1] + self.widths[2])
        q_weight, kv_weight = self.weight.split(sizes)
        q_bias, kv_bias = self.bias.split(sizes) if self.bias is not None else (None, None)
        k, v = F.linear(x, kv_weight, kv_bias).chunk(2, dim=-1)
        return F.linear(selection.pick(x), q_weight, q_bias), k, v


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        hidden = config.mlp_width or 4 * width
        self.norm_1 = make_norm(config)
        self.qkv = Projections(config.projection_widths, config.bias)
        self.attention_out = nn.Linear(width, width, bias=config.bias)
        self.norm_2 = make_norm(config)
        self.mlp_in = nn.Linear(width, hidden, bias=config.bias)
        if config.mlp == "swiglu":
            self.mlp_gate = nn.Linear(width, hidden, bias=config.bias)
        self.mlp_out = nn.Linear(hidden, width, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        selection: Selection | None = None,
        padding_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        position: Tensor | None = None,
        keep: KeepKeysValues | None = None,
    ) -> Tensor:
        """Output [batch, length, width], or [padded, width] given a selection.

        `x` is [batch, length, width]; or, given `index` ([batch, length]), the table of distinct inputs
        [distinct, width] that `index` points into. `padding_mask` (bool, [batch, length]) is True at real
        tokens, False at padding; None for no padding.
        `rotary`: cosines and sines of `rotary_angles`, None for learned positions. `position`: where each token of `x` stands,
        int64 [batch, length]; None for 0, 1, ... `keep` receives the keys and values of `x` and gives those to attend to.
        """
        if index is not None:
            y = None
            if selection is not None and self.config.attention == "learned" and not self.config.causal:
                y = self._attend_distinct(x, index, selection)
            if y is None:
                q, k, v = (F.embedding(index, part) for part in self.qkv(self.norm_1(x)))
                y = self._attend(q if selection is None else selection.pick(q), k, v, selection, padding_mask)
            x = F.embedding(index if selection is None else selection.pick(index), x)
        else:
            q, k, v = self.qkv(self.norm_1(x), selection)
            asking = position
            if selection is not None:
                asking = selection.column if position is None else selection.pick(position)
            q, k = self._rotate(q, rotary, asking), self._rotate(k, rotary, position)
            k, v = (k, v) if keep is None else keep(k, v)
            y = self._attend(q, k, v, selection, padding_mask)
            x = x if selection is None else selection.pick(x)
        x = x + self.attention_out(y)
        h = self.norm_2(x)
        inner = F.silu(self.mlp_gate(h)) * self.mlp_in(h) if self.config.mlp == "swiglu" else F.gelu(self.mlp_in(h))
        return x + self.mlp_out(inner)

    def _heads(self, x: Tensor) -> Tensor:
        """[..., rows, width] to [..., heads, rows, head width]; heads of keys and values are repeated for the queries that share
        them."""
        x = x.unflatten(-1, (-1, self.config.width // self.config.heads)).transpose(-3, -2)
        shared = self.config.heads // x.shape[-3]
        return x if shared == 1 else x.repeat_interleave(shared, dim=-3)

    def _rotate(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, position: Tensor | None = None) -> Tensor:
        """Queries or keys [..., width] rotated by their position: the last but one axis, or `position` ([...])."""
        if rotary is None:
            return x
        cos, sin = (table[: x.shape[-2]] if position is None else table[position] for table in rotary)
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # the same for every head
        # In float32 at least, whatever the queries and keys are in, as LLaDA does it.
        heads = x.to(torch.promote_types(x.dtype, cos.dtype)).unflatten(-1, (-1, 2 * cos.shape[-1]))
        first, second = heads.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2).to(x.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, selection: Selection | None, padding_mask: Tensor | None) -> Tensor:
        """Attention of all queries [batch, length, width], or of the selected ones [padded, width], in the same shape."""
        if self.config.attention == "uniform":
            mean = v.mean(dim=1, keepdim=True).expand_as(v)
            return mean if selection is None else selection.pick(mean)
        visible = None if padding_mask is None else padding_mask[:, None, None]  # [batch, heads, queries, keys]
        if selection is None:
            causal = self.config.causal
            y = F.scaled_dot_product_attention(
                self._heads(q), self._heads(k), self._heads(v), attn_mask=visible, is_causal=causal
            )
            return y.transpose(-3, -2).flatten(-2)
        packed = selection.pack(q, len(k))  # sequences have different numbers of selected positions
        if self.config.causal:
            at = selection.pack(selection.column, len(k))
            visible = (torch.arange(k.shape[1], device=q.device) <= at[:, :, None])[:, None]
        y = F.scaled_dot_product_attention(self._heads(packed), self._heads(k), self._heads(v), attn_mask=visible)
        return selection.unpack(y.transpose(-3, -2).flatten(-2))

    def _attend_distinct(self, table: Tensor, index: Tensor, selection: Selection) -> Tensor | None:
        """Attention of the selected positions, [padded, width], by matrix products that sequences share; None where exponentials
        could overflow or underflow.

        A query that many sequences have in common (parity: the mask token at one position) gives the same exponentials
        exp(score - highest score) in all of them. A sequence's sums over the inputs it holds, weighted by value and
        plain, are then one product of its row of zeros and ones with them. Every sequence holds the query's own input, so
        where that score is near the highest, no sum is too small and what underflows would not have counted.
        """
        chosen, query = selection.pick(index).unique(return_inverse=True)  # [queries], [padded]
        q, k, v = (self._heads(part) for part in self.qkv(self.norm_1(table)))  # [heads, distinct, dim]
        scores = q[:, chosen] @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [heads, queries, distinct]
        highest = scores.detach().amax(dim=-1)
        own = scores.detach()[:, torch.arange(len(chosen), device=chosen.device), chosen]
        if not bool((highest - own <= LARGEST_GAP).all()):
            return None
        shared = (scores - highest[..., None]).exp()[..., None]
        factors = torch.cat((shared * v[:, None], shared), dim=-1)  # [heads, queries, distinct, dim + 1]
        seen = table.new_zeros(len(index), len(table)).scatter_(1, index, 1.0)
        groups = Selection.grouped(query, len(chosen))
        sums = groups.pack(seen[selection.row], len(chosen)) @ factors.permute(1, 2, 0, 3).flatten(2)
        sums = groups.unpack(sums).unflatten(-1, (self.config.heads, -1))  # [padded, heads, dim + 1]
        return (sums[..., :-1] / sums[..., -1:]).flatten(-2)


def make_norm(config: ModelConfig) -> nn.Module:
    """The block's normalisation: LayerNorm as nanoGPT has it, or RMSNorm as LLaDA has it."""
    kind = nn.LayerNorm if config.norm == "layernorm" else RMSNorm
    return kind(config.width, eps=config.norm_epsilon)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a gain; in float32 at least, and rounded to the dtype of `x` before the gain (LLaDA)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x, x.shape[-1:], eps=self.eps)


def rotary_angles(length: int, head_width: int, base: float) -> Tensor:
    """Angle of every position and pair of coordinates, float32 [length, head_width / 2] (RoFormer, arXiv:2104.09864).

    The frequencies are rounded as in LLaDA's released model: base ** (-i/d) differs in the last bit.
    """
    frequency = 1.0 / base ** (torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    return torch.arange(length, dtype=torch.float32)[:, None] * frequency


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
        return (tokens[..., None] == torch.arange(len(weight), device=tokens.device)).to(weight.dtype) @ weight

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

"""One block of a Transformer, attention and then an MLP, each behind a norm: nanoGPT's (LayerNorm, GELU, learned positions) or
LLaDA's (RMSNorm, SwiGLU, rotary positions, no biases), or anything between, bidirectional or causal.

Queries and everything after the attention are computed only at selected positions, where some are given; keys and values need
every position. Where a batch holds few distinct inputs, projections are computed once for each. Results and gradients are those
of the full computation.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdlm_min.model.config import ModelConfig
from mdlm_min.model.selection import Selection

KeepKeysValues = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
LARGEST_GAP = 60.0  # of attention scores in nats: exp(-60) = 1e-26, and its inverse in a gradient, are far inside float32's range


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

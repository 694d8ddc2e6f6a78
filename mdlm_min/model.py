"""The Transformer: nanoGPT's pre-norm block (LayerNorm, GELU; learned or rotary positions), bidirectional or causal.

Masked diffusion reads the network only at masked positions, so the last block and the head are computed only there:
keys and values need every position, queries and everything after the attention only those asked for. The results and
gradients are those of the full computation. A second saving is exact too: the first block sees only
vocab_size x length distinct inputs, so where that is fewer than the tokens of a batch (parity: 63 against 42,000) its
projections are computed once for each distinct input.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdlm_min.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Transformer. `vocab_size` counts the mask token; `outputs` are the classes scored at a position."""

    vocab_size: int
    length: int
    outputs: int
    layers: int = 1
    heads: int = 4
    width: int = 128
    causal: bool = False
    attention: str = "learned"  # "uniform" fixes every attention weight to 1/length (section 4.1)
    init: str = "gpt2"  # standard deviation of the weights: 0.02, or "width" for 1/sqrt(width)
    position_encoding: str = "learned"  # added to the embeddings; or "rotary": queries and keys turned by their position (RoPE)
    tied: bool = False  # head weights = token embedding

    def __post_init__(self) -> None:
        for name in ("vocab_size", "length", "outputs", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name}: {getattr(self, name)} is not allowed; at least 1")
        if self.width % self.heads:
            raise InputError(f"model.width: {self.width} is not divisible by model.heads = {self.heads}")
        if self.attention not in ("learned", "uniform"):
            raise InputError(f"model.attention: {self.attention!r} is unknown; allowed: learned, uniform")
        if self.init not in ("gpt2", "width"):
            raise InputError(f"model.init: {self.init!r} is unknown; allowed: gpt2, width")
        if self.position_encoding not in ("learned", "rotary"):
            raise InputError(f"model.position_encoding: {self.position_encoding!r} is unknown; allowed: learned, rotary")
        if self.position_encoding == "rotary" and (self.attention == "uniform" or self.width // self.heads % 2):
            raise InputError(
                f"model.position_encoding: 'rotary' needs learned attention and an even width per head, not {self.width} / {self.heads}"
            )
        if self.tied and self.outputs != self.vocab_size:
            raise InputError(f"model.tied: needs outputs = vocab_size = {self.vocab_size}, but outputs = {self.outputs}")
        if self.causal and self.attention == "uniform":
            raise InputError("model.attention: 'uniform' is defined for the bidirectional model only; set causal = false")


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); biases on, as in nanoGPT's default."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        if config.position_encoding == "rotary":
            angles = rotary_angles(config.length, width // config.heads)
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, index: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Output [batch, length, width], or [asked, width] where `positions` (bool, [batch, length]) asks for some.

        `x` is [batch, length, width]; or, given `index` ([batch, length]), the table of distinct inputs
        [distinct, width] that `index` points into.
        """
        if index is not None and positions is not None and self.config.attention == "learned" and not self.config.causal:
            asked = index[positions]
            y = self._attend_distinct(x, asked, index, positions)
            x = x[asked]
        elif index is not None:
            q, k, v = (part[index] for part in self.qkv(self.norm_1(x)).chunk(3, dim=-1))
            x = x[index]
            y = self._attend(q if positions is None else q[positions], k, v, positions)
            x = x if positions is None else x[positions]
        elif positions is not None:
            h = self.norm_1(x)
            weight, bias, width = self.qkv.weight, self.qkv.bias, self.config.width
            k, v = F.linear(h, weight[width:], bias[width:]).chunk(2, dim=-1)
            q = self._turn(F.linear(h[positions], weight[:width], bias[:width]), positions.nonzero(as_tuple=True)[1])
            y = self._attend(q, self._turn(k), v, positions)
            x = x[positions]
        else:
            q, k, v = self.qkv(self.norm_1(x)).chunk(3, dim=-1)
            y = self._attend(self._turn(q), self._turn(k), v, None)
        x = x + self.attention_out(y)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x))))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.heads, -1)).transpose(-3, -2)  # [..., heads, rows, head width]

    def _turn(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """Queries or keys [..., width] turned by their position: the last but one axis, or `position` ([...])."""
        if self.config.position_encoding != "rotary":
            return x
        cos, sin = (table if position is None else table[position] for table in (self.cos, self.sin))
        cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)  # the same for every head
        first, second = x.unflatten(-1, (self.config.heads, -1)).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor | None) -> Tensor:
        """Attention of all queries [batch, length, width], or of those asked for [asked, width], in the same shape."""
        if self.config.attention == "uniform":
            mean = v.mean(dim=1, keepdim=True).expand_as(v)
            return mean if positions is None else mean[positions]
        if positions is None:
            y = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v), is_causal=self.config.causal)
            return y.transpose(-3, -2).flatten(-2)
        # Sequences ask for different numbers of positions: pack each one's queries to the left of a padded tensor.
        row, column = positions.nonzero(as_tuple=True)
        slot = (positions.cumsum(dim=1) - 1)[positions]
        most = int(positions.sum(dim=1).max()) if len(row) else 0
        packed = q.new_zeros(len(positions), most, q.shape[-1]).index_put((row, slot), q)
        visible = None
        if self.config.causal:
            at = column.new_zeros(len(positions), most).index_put((row, slot), column)
            visible = (torch.arange(positions.shape[1], device=q.device) <= at[:, :, None])[:, None]
        y = F.scaled_dot_product_attention(self._heads(packed), self._heads(k), self._heads(v), attn_mask=visible)
        return y.transpose(-3, -2).flatten(-2)[row, slot]

    def _attend_distinct(self, table: Tensor, asked: Tensor, index: Tensor, positions: Tensor) -> Tensor:
        """Attention of the `asked` inputs over the whole table, closed to the inputs that their sequence lacks."""
        q, k, v = (self._heads(part) for part in self.qkv(self.norm_1(table)).chunk(3, dim=-1))  # [heads, distinct, dim]
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).transpose(0, 1)  # [distinct, heads, distinct]
        present = torch.zeros(len(index), len(table), dtype=torch.bool, device=index.device).scatter_(1, index, True)
        absent = ~present[positions.nonzero(as_tuple=True)[0]]
        weights = F.embedding(asked, scores.flatten(1)).unflatten(1, scores.shape[1:]).masked_fill(absent[:, None], -math.inf)
        return torch.einsum("phd,hdw->phw", weights.softmax(dim=-1), v).flatten(-2)


def rotary_angles(length: int, head_width: int, theta: float = 10000.0) -> Tensor:
    """Angle of every position and pair of coordinates, float32 [length, head_width / 2] (RoFormer, arXiv:2104.09864)."""
    frequency = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    return torch.arange(length, dtype=torch.float32)[:, None] * frequency


class Transformer(nn.Module):
    """Token and position embeddings, blocks, final norm, head without bias."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        """`generator` gives the initial weights; it lives on the CPU, so that they are the same on every device."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.position_encoding == "learned":
            self.position_embedding = nn.Embedding(config.length, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.outputs, bias=False)
        if config.tied:
            self.head.weight = self.token_embedding.weight
        deviation = 0.02 if config.init == "gpt2" else 1 / math.sqrt(config.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # GPT-2 scales the projections back into the residual stream by the number of them.
                residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                scale = 1 / math.sqrt(2 * config.layers) if residual else 1.0
                nn.init.normal_(parameter, std=deviation * scale, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Scores [batch, length, outputs] of `tokens` (int64, [batch, length]); given `positions` (bool, [batch, length]),
        only theirs, [asked, outputs], in row-major order. Raises ValueError where the length is not the configured one."""
        batch, length = tokens.shape
        if length != self.config.length:
            raise ValueError(f"tokens: length {length}, but the model was built for {self.config.length}")
        distinct = self.config.vocab_size * length
        learned = self.config.position_encoding == "learned"
        index = None
        if learned and distinct <= batch * length // 4:  # below that, gathering costs about what it saves
            x = (self.token_embedding.weight[:, None] + self.position_embedding.weight).flatten(0, 1)
            index = tokens * length + torch.arange(length, device=tokens.device)
        else:
            x = self.token_embedding(tokens)
            x = x + self.position_embedding.weight if learned else x
        for block in self.blocks[:-1]:
            x, index = block(x, index), None
        return self.head(self.norm(self.blocks[-1](x, index, positions)))

"""The shape of a Transformer: nanoGPT's, LLaDA's, or anything between."""

from dataclasses import dataclass
from typing import Annotated

from mdlm_min.run.config import OneOf, Range, check_fields
from mdlm_min.run.errors import InputError


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

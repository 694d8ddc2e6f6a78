"""LLaDA-8B (arXiv:2502.09992) as a configuration of the Transformer, and config.json of a released folder, in and out.

What config.json leaves out has the default of LLaDA's own configuration class, which is mostly that of GPT-2's block. A field
that changes what the model computes is honoured or refused by its name. Dropout is read by no one here: it acts in training
alone, and ours has none.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mdlm_min.model.config import ModelConfig
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.json_text import parse_json

LLADA_8B = ModelConfig(
    vocab_size=126464,
    length=4096,
    outputs=126464,
    layers=32,
    heads=32,
    width=4096,
    position_encoding="rotary",
    rotary_base=500000.0,
    norm="rmsnorm",
    mlp="swiglu",
    mlp_width=12288,
    bias=False,
    init="llada",
)
MASK_TOKEN, END_TOKEN, START_TOKEN = 126336, 126081, 126080  # <|mdm_mask|>, <|endoftext|> (also the padding), <|startoftext|>

# What our Transformer computes: each field's value, and what LLaDA's class takes where the field is absent.
HONOURED: dict[str, tuple[Any, Any]] = {
    "model_type": ("llada", None),
    "block_type": ("llama", "sequential"),
    "block_group_size": (1, 1),
    "layer_norm_type": ("rms", "default"),
    "layer_norm_with_affine": (True, True),
    "bias_for_layer_norm": (False, None),  # absent or null: as include_bias, which must be false
    "attention_layer_norm": (False, False),
    "activation_type": ("silu", "swiglu"),
    "include_bias": (False, False),
    "include_qkv_bias": (False, False),
    "weight_tying": (False, True),
    "input_emb_norm": (False, False),
    "scale_logits": (False, False),
    "rope": (True, False),
    "rope_full_precision": (True, True),
    "rope_scaling": (None, None),
    "alibi": (False, False),
    "clip_qkv": (None, None),
    "quantization_config": (None, None),
}
_NULL_IS_FALSE = ("bias_for_layer_norm", "include_qkv_bias")
_THEIRS = {  # our names of the fields that have a value of their own
    "vocab_size": "embedding_size",
    "outputs": "embedding_size",
    "length": "max_sequence_length",
    "layers": "n_layers",
    "heads": "n_heads",
    "kv_heads": "n_kv_heads",
    "width": "d_model",
    "mlp_width": "mlp_hidden_size",
    "norm_epsilon": "rms_norm_eps",
    "rotary_base": "rope_theta",
}


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the mask, of the end of a text and of padding; None where a model has none."""

    mask: int
    end: int | None
    padding: int | None


LLADA_TOKENS = SpecialTokens(MASK_TOKEN, END_TOKEN, END_TOKEN)


def scaled(layers: int, heads: int, width: int, **changes: Any) -> ModelConfig:
    """LLaDA's block at another size; the MLP keeps its ratio of three to the width."""
    return replace(LLADA_8B, layers=layers, heads=heads, width=width, mlp_width=3 * width, **changes)


def check_model(config: ModelConfig) -> None:
    """Raise InputError for a Transformer that is not LLaDA's block."""
    wanted = ("rotary", "rmsnorm", "swiglu", False, False, False)
    if (config.position_encoding, config.norm, config.mlp, config.bias, config.tied, config.causal) != wanted:
        raise InputError(
            "model: LLaDA's weights need rotary positions, rmsnorm, swiglu, no bias, an untied head and no causal mask; allowed: "
            "runs of 04_8b_pt, what starts from them, and a released LLaDA"
        )


def released_config(config: ModelConfig, tokens: SpecialTokens = LLADA_TOKENS) -> dict[str, Any]:
    """config.json as LLaDA's own loader reads it. Raises InputError for a Transformer that is not LLaDA's block."""
    check_model(config)
    return {name: value for name, (value, _) in HONOURED.items() if value is not None} | {
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        "d_model": config.width,
        "embedding_dropout": 0.0,
        "embedding_size": config.vocab_size,
        "eos_token_id": tokens.end,
        "flash_attention": False,
        "init_fn": "mitchell",
        "mask_token_id": tokens.mask,
        "max_sequence_length": config.length,
        "mlp_hidden_size": config.mlp_width or 4 * config.width,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads or config.heads,
        "n_layers": config.layers,
        "pad_token_id": tokens.padding,
        "residual_dropout": 0.0,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rotary_base,
        "vocab_size": config.vocab_size,
    }


def is_released(folder: Path) -> bool:
    """Whether the folder has a config.json that is a released model's, not a run's."""
    return (folder / "config.json").is_file() and "model_type" in _read(folder)


def read_config(folder: Path) -> ModelConfig:
    """The Transformer that a released folder's config.json describes.

    Raises InputError, naming the field, for what is not LLaDA's block and for values that make no model.
    """
    values, where = _read(folder), folder / "config.json"
    for name, (wanted, absent) in HONOURED.items():
        value = values.get(name, absent)
        value = False if value is None and name in _NULL_IS_FALSE else value
        if type(value) is not type(wanted) or value != wanted:
            raise InputError(f"{where}: {name}: {shown(value)} is not supported; allowed: {json.dumps(wanted)}")
    width, heads = _size(where, values, "d_model", 768), _size(where, values, "n_heads", 12)
    if width % (2 * heads):
        raise InputError(f"{where}: d_model: {width} is not allowed; n_heads = {heads} times an even width")
    inner = _size(where, values, "mlp_hidden_size", None, _size(where, values, "mlp_ratio", 4) * width)
    words = _size(where, values, "vocab_size", 50257)
    rows = _size(where, values, "embedding_size", 50304, words)
    if rows < words:
        raise InputError(f"{where}: embedding_size: {rows} is not allowed; at least vocab_size = {words}")
    kv_heads = _kv_heads(where, values, heads)
    try:
        return replace(
            LLADA_8B,
            vocab_size=rows,
            outputs=rows,
            length=_size(where, values, "max_sequence_length", 1024),
            layers=_size(where, values, "n_layers", 12),
            heads=heads,
            kv_heads=0 if kv_heads == heads else kv_heads,
            width=width,
            mlp_width=inner,
            norm_epsilon=_positive(where, values, "rms_norm_eps", 1e-5),
            rotary_base=_positive(where, values, "rope_theta", 10000.0),
        )
    except InputError as error:
        said = re.sub(r"\bmodel\.(\w+)", lambda found: _THEIRS.get(found[1], found[0]), str(error))
        raise InputError(f"{where}: {said}") from error


def read_special_tokens(folder: Path) -> SpecialTokens:
    """The special tokens of a released folder's config.json. Raises InputError for ids that are missing, or none of the model."""
    values, where = _read(folder), folder / "config.json"
    most = read_config(folder).vocab_size - 1
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        value = values.get(name)
        if not (type(value) is int and 0 <= value <= most) and (value is not None or name == "mask_token_id"):
            raise InputError(f"{where}: {name}: {shown(value)} is not allowed; a token id from 0 to {most}")
    tokens = SpecialTokens(values["mask_token_id"], values.get("eos_token_id"), values.get("pad_token_id"))
    for name in ("eos_token_id", "pad_token_id"):
        if values.get(name) == tokens.mask:
            raise InputError(f"{where}: {name}: {tokens.mask} is mask_token_id too; they must differ")
    return tokens


def _read(folder: Path) -> dict[str, Any]:
    where = folder / "config.json"
    try:
        values = parse_json(where.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: {shown(values)} is no JSON object")
    return values


def _size(where: Path, values: Mapping[str, Any], name: str, absent: int | None, null: int | None = None) -> int:
    """A whole number of at least 1; `absent` stands for a field that is not there, `null` for one that holds null."""
    value = values.get(name, absent)
    value = null if value is None else value
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: {name}: {shown(value)} is not allowed; a whole number, at least 1")
    return value


def _positive(where: Path, values: Mapping[str, Any], name: str, absent: float) -> float:
    value = values.get(name, absent)
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise InputError(f"{where}: {name}: {shown(value)} is not allowed; a number above 0")
    return float(value)


def _kv_heads(where: Path, values: Mapping[str, Any], heads: int) -> int:
    """Heads of keys and values, as LLaDA's class reads two fields that can say it."""
    multi_query = values.get("multi_query_attention")
    if multi_query not in (None, True, False):
        raise InputError(f"{where}: multi_query_attention: {shown(multi_query)} is not allowed; true, false or null")
    implied = 1 if multi_query else heads
    found = _size(where, values, "n_kv_heads", None, implied)
    if multi_query is not None and found != implied:
        raise InputError(f"{where}: n_kv_heads: {found} contradicts multi_query_attention = {json.dumps(multi_query)}")
    if heads % found:
        raise InputError(f"{where}: n_kv_heads: {found} is not allowed; a divisor of n_heads = {heads}")
    return found


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a Transformer, counted on the meta device: no storage."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config, None).parameters())

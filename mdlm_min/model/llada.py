"""LLaDA-8B (arXiv:2502.09992): its configuration of the Transformer, and its released weights, in and out.

A released folder holds config.json, model.safetensors.index.json and the shards that the index names. Its tensors have
separate projections for queries, keys and values; ours are one matrix, rows in that order.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mdlm_min.model.transformer import ModelConfig, Transformer
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole

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
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 1 << 30  # of a shard that is written, or one tensor: a shard is serialised in memory


def scaled(layers: int, heads: int, width: int, **changes: Any) -> ModelConfig:
    """LLaDA's block at another size; the MLP keeps its ratio of three to the width."""
    return replace(LLADA_8B, layers=layers, heads=heads, width=width, mlp_width=3 * width, **changes)


@dataclass(frozen=True)
class _Place:
    """Where a released tensor lies in our model: a parameter, and rows of it."""

    parameter: str
    start: int
    stop: int


def _places(model: Transformer) -> dict[str, _Place]:
    """Every released name, in the order of the model."""
    parameters = dict(model.named_parameters())
    width = model.config.width

    def whole(name: str) -> _Place:
        return _Place(name, 0, len(parameters[name]))

    places = {"model.transformer.wte.weight": whole("token_embedding.weight")}
    for index in range(model.config.layers):
        theirs, ours = f"model.transformer.blocks.{index}", f"blocks.{index}"
        for row, name in enumerate(("q_proj", "k_proj", "v_proj")):
            places[f"{theirs}.{name}.weight"] = _Place(f"{ours}.qkv.weight", row * width, (row + 1) * width)
        for name, mine in (
            ("attn_out", "attention_out"),
            ("ff_proj", "mlp_gate"),
            ("up_proj", "mlp_in"),
            ("ff_out", "mlp_out"),
            ("attn_norm", "norm_1"),
            ("ff_norm", "norm_2"),
        ):
            places[f"{theirs}.{name}.weight"] = whole(f"{ours}.{mine}.weight")
    places["model.transformer.ln_f.weight"] = whole("norm.weight")
    places["model.transformer.ff_out.weight"] = whole("head.weight")
    return places


def _slices(model: Transformer) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[place.parameter].detach()[place.start : place.stop] for name, place in _places(model).items()}


def check_model(config: ModelConfig) -> None:
    """Raise InputError for a Transformer that is not LLaDA's block."""
    wanted = ("rotary", "rmsnorm", "swiglu", False, False, False)
    if (config.position_encoding, config.norm, config.mlp, config.bias, config.tied, config.causal) != wanted:
        raise InputError(
            "model: LLaDA's weights need rotary positions, rmsnorm, swiglu, no bias, an untied head and no causal mask"
        )


def load_weights(folder: Path, model: Transformer) -> None:
    """Fill `model` from a released folder, tensor by tensor: at most one tensor is in memory besides the model.

    Values are converted to the model's dtype. Raises InputError listing tensors that are missing, surplus or misshapen, and
    for files that are missing or damaged; the check comes before the first value is copied.
    """
    check_model(model.config)
    wanted = _slices(model)
    files = _weight_map(folder)
    problems = [f"missing: {name}" for name in wanted if name not in files]
    problems += [f"surplus: {name}" for name in files if name not in wanted]
    for file, names in _by_file(files):
        with _open(folder / file) as shard:
            there = set(shard.keys())
            problems += [f"missing: {name} (the index names {file}, which lacks it)" for name in names if name not in there]
            for name in set(names) & there & wanted.keys():
                shape, expected = list(shard.get_slice(name).get_shape()), list(wanted[name].shape)
                if shape != expected:
                    problems.append(f"misshapen: {name} is {shape}, the model has {expected}")
    if problems:
        raise InputError(f"{folder}: {len(problems)} tensors do not fit the model: " + "; ".join(sorted(problems)))
    for file, names in _by_file(files):
        with _open(folder / file) as shard:
            for name in names:
                wanted[name].copy_(shard.get_tensor(name))


def _weight_map(folder: Path) -> dict[str, str]:
    try:
        index = json.loads((folder / INDEX).read_text())
        found = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder / INDEX}: cannot be read ({type(error).__name__}); a released folder has it beside its shards"
        ) from error
    return found


def _by_file(files: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    for file in sorted(set(files.values())):
        yield file, [name for name, where in files.items() if where == file]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def save_weights(folder: Path, model: Transformer, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model` as a released folder: config.json, index and shards of at most `shard_bytes` (or one tensor).

    At most one shard is in memory besides the model. Raises InputError where the folder cannot be written.
    """
    check_model(model.config)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in _slices(model).items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_whole(folder / file, save({name: tensor.contiguous() for name, tensor in shard.items()}, {"format": "pt"}))
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    write_whole(folder / "config.json", json.dumps(released_config(model.config), indent=2, sort_keys=True) + "\n")
    write_whole(folder / INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")


def released_config(config: ModelConfig) -> dict[str, Any]:
    """config.json as LLaDA's own loader reads it."""
    return {
        "activation_type": "silu",
        "alibi": False,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": config.width,
        "embedding_dropout": 0.0,
        "embedding_size": config.vocab_size,
        "eos_token_id": END_TOKEN,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_fn": "mitchell",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": MASK_TOKEN,
        "max_sequence_length": config.length,
        "mlp_hidden_size": config.mlp_width,
        "model_type": "llada",
        "n_heads": config.heads,
        "n_kv_heads": config.heads,
        "n_layers": config.layers,
        "pad_token_id": END_TOKEN,
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": config.rotary_base,
        "scale_logits": False,
        "vocab_size": config.vocab_size,
        "weight_tying": False,
    }


def read_config(folder: Path) -> ModelConfig:
    """The Transformer that a released folder's config.json describes. Raises InputError for one that is not LLaDA's block."""
    try:
        values = json.loads((folder / "config.json").read_text())
        kind = (
            values["block_type"],
            values["layer_norm_type"],
            values["activation_type"],
            values["include_bias"],
            values["weight_tying"],
            values["rope"],
        )
        if kind != ("llama", "rms", "silu", False, False, True) or values["n_kv_heads"] not in (None, values["n_heads"]):
            raise InputError(f"{folder / 'config.json'}: not LLaDA's block (block, norm, activation, bias, tying, rope: {kind})")
        return replace(
            LLADA_8B,
            vocab_size=values["embedding_size"],
            outputs=values["embedding_size"],
            length=values["max_sequence_length"],
            layers=values["n_layers"],
            heads=values["n_heads"],
            width=values["d_model"],
            mlp_width=values["mlp_hidden_size"],
            rotary_base=float(values["rope_theta"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'}: cannot be read ({type(error).__name__}: {error})") from error


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a Transformer, counted on the meta device: no storage."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config, None).parameters())

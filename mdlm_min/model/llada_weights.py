"""LLaDA's released weights, in and out of the Transformer.

A released folder holds config.json and either one model.safetensors or shards with an index that names them. Its tensors have
separate projections for queries, keys and values; ours are one matrix, rows in that order.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mdlm_min.model.llada import LLADA_TOKENS, SpecialTokens, check_model, read_config, released_config
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole
from mdlm_min.run.json_text import parse_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 1 << 30  # of a shard that is written, or one tensor: a shard is serialised in memory
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
STORED_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}  # safetensors' names


@dataclass(frozen=True)
class _Place:
    """Where a released tensor lies in our model: a parameter, and rows of it."""

    parameter: str
    start: int
    stop: int


def _places(model: Transformer) -> dict[str, _Place]:
    """Every released name, in the order of the model."""
    parameters = dict(model.named_parameters())

    def whole(name: str) -> _Place:
        return _Place(name, 0, len(parameters[name]))

    places = {"model.transformer.wte.weight": whole("token_embedding.weight")}
    for index in range(model.config.layers):
        theirs, ours = f"model.transformer.blocks.{index}", f"blocks.{index}"
        start = 0
        for name, rows in zip(("q_proj", "k_proj", "v_proj"), model.config.projection_widths, strict=True):
            places[f"{theirs}.{name}.weight"] = _Place(f"{ours}.qkv.weight", start, start + rows)
            start += rows
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


def load_weights(folder: Path, model: Transformer) -> None:
    """Fill `model` from a released folder, tensor by tensor: at most one tensor is in memory besides the model.

    Values are converted to the model's dtype. The model may be built for shorter texts than config.json says. Raises InputError
    where it differs otherwise, naming the field; listing tensors that are missing, surplus, misshapen or of a dtype whose numbers
    are no weights by themselves (quantised ones); and for files that are missing or damaged. All checks come before the first
    value is copied.
    """
    _check_config(folder, model)
    wanted, problems = _slices(model), []
    files = _weight_map(folder)
    if files is None:
        with _open(folder / SINGLE) as shard:
            files = dict.fromkeys(shard.keys(), SINGLE)
    problems += [f"missing: {name}" for name in wanted if name not in files]
    problems += [f"surplus: {name}" for name in files if name not in wanted]
    for file, names in _by_file(files):
        with _open(folder / file) as shard:
            there = set(shard.keys())
            problems += [f"missing: {name} (the index names {file}, which lacks it)" for name in names if name not in there]
            for name in set(names) & there & wanted.keys():
                found, expected = shard.get_slice(name), list(wanted[name].shape)
                if found.get_shape() != expected:
                    problems.append(f"misshapen: {name} is {found.get_shape()}, the model has {expected}")
                if found.get_dtype() not in STORED_DTYPES:
                    problems.append(f"dtype: {name} is {found.get_dtype()}; allowed: {', '.join(STORED_DTYPES)}")
    if problems:
        named = "; ".join(one if one.isprintable() else shown(one) for one in sorted(problems))
        raise InputError(f"{folder}: {len(problems)} tensors do not fit the model: {named}")
    for file, names in _by_file(files):
        with _open(folder / file) as shard:
            for name in names:
                wanted[name].copy_(shard.get_tensor(name))


def stored_dtype(folder: Path) -> torch.dtype:
    """bfloat16 where all tensors of a released folder are stored in it, else float32, which holds every released number.
    Raises InputError where a file cannot be read."""
    files = _weight_map(folder)
    for file in {SINGLE} if files is None else sorted(set(files.values())):
        with _open(folder / file) as shard:
            if any(shard.get_slice(name).get_dtype() != "BF16" for name in shard.keys()):  # noqa: SIM118 - not a dict
                return torch.float32
    return torch.bfloat16


def _check_config(folder: Path, model: Transformer) -> None:
    theirs, mine = released_config(read_config(folder)), released_config(model.config)
    if mine["max_sequence_length"] < theirs["max_sequence_length"]:
        theirs["max_sequence_length"] = mine["max_sequence_length"]  # positions are rotations: the first are the same
    for name in mine:
        if mine[name] != theirs[name]:
            raise InputError(f"{folder / 'config.json'}: {name} is {shown(theirs[name])}, but the model has {shown(mine[name])}")


def _weight_map(folder: Path) -> dict[str, str] | None:
    """The index: tensor to file; None where the folder has one file without an index."""
    path = folder / INDEX
    if not path.exists() and (folder / SINGLE).exists():
        return None
    try:
        found = dict(parse_json(path.read_text())["weight_map"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}); a released folder has it beside its shards, or one {SINGLE}"
        ) from error
    for name, file in found.items():
        if not (isinstance(file, str) and file.isprintable() and Path(file).name == file and file.endswith(".safetensors")):
            allowed = "the name of a .safetensors file in the same folder"
            raise InputError(f"{path}: {shown(name)} is in {shown(file)}; allowed: {allowed}")
    return found


def _by_file(files: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    for file in sorted(set(files.values())):
        yield file, [name for name, where in files.items() if where == file]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def save_weights(
    folder: Path,
    model: Transformer,
    tokens: SpecialTokens = LLADA_TOKENS,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: str = "",
) -> None:
    """Write `model` as a released folder: shards of at most `shard_bytes` (or one tensor), config.json, the text of its
    tokenizer.json if it is given, and last the index, without which a folder is refused.

    At most one shard is in memory besides the model. The shards are first written beside an older export's, as NAME.new: where
    the disk is full that export stays as it was. One that is cut short after that is refused, never old and new together.
    Raises InputError where the folder cannot be written.
    """
    check_model(model.config)
    shards = _shards(model, shard_bytes)
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    _delete_all(folder, "model*.safetensors.new")  # of an export that was killed
    try:
        for file, shard in zip(files, shards, strict=True):
            whole = {name: tensor.contiguous() for name, tensor in shard.items()}
            write_whole(folder / f"{file}.new", save(whole, {"format": "pt"}))
    except InputError:
        _delete_all(folder, "model*.safetensors.new")
        raise
    _delete_all(folder, INDEX)
    _delete_all(folder, "model*.safetensors")
    for file in files:
        _rename(folder / f"{file}.new", folder / file)
    write_whole(folder / "config.json", json.dumps(released_config(model.config, tokens), indent=2, sort_keys=True) + "\n")
    if tokenizer:
        write_whole(folder / "tokenizer.json", tokenizer)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    write_whole(folder / INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")


def foreign_file(folder: Path) -> str:
    """The name of a file in a folder that no export writes, or has begun to write; empty where there is none."""
    own = re.compile(rf"\.?({_WEIGHTS.pattern}|{re.escape(INDEX)}|config\.json|tokenizer\.json)(\.new)?(\.\d+\.tmp)?")
    return next((path.name for path in sorted(folder.iterdir()) if not own.fullmatch(path.name)), "")


def _shards(model: Transformer, most: int) -> list[dict[str, Tensor]]:
    """The released tensors in their order, in shards of at most `most` bytes or one tensor."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in _slices(model).items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _delete_all(folder: Path, pattern: str) -> None:
    """Delete the files of an export that match."""
    for path in sorted(folder.glob(pattern)):
        if pattern == INDEX or _WEIGHTS.fullmatch(path.name.removesuffix(".new")):
            try:
                path.unlink()
            except OSError as error:
                raise InputError(f"cannot delete {path}: {error.strerror}") from error


def _rename(path: Path, new: Path) -> None:
    try:
        path.replace(new)
    except OSError as error:
        raise InputError(f"cannot rename {path} to {new.name}: {error.strerror}") from error

"""Training state on disk: safetensors for tensors, JSON for the rest, every file under its checksum.

A checkpoint is a folder that is renamed into place once it is complete, so a kill leaves either the old state or the
new one. The newest two are kept; nothing is unpickled.

state.json                 step, shards (file -> SHA-256), places (tensor -> file), and whatever the caller records
shard-RRRRR-NNNNN.safetensors   written by process R; tensors are whole, so any number of processes can read them
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mdlm_min.run.errors import InputError
from mdlm_min.training import distributed

SHARD_BYTES = 2 << 30  # a shard is serialised in memory
_PREFIX = "step-"


def save_checkpoint(
    folder: Path, step: int, tensors: Iterable[tuple[str, Tensor]], record: dict[str, Any], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the state after `step` steps below `folder` and drop all but the newest two. `record` is free JSON. A state of this
    step that is there is left alone: the run goes on from it, or has written it, and has taken no step since.

    Every process calls this with the same names in the same order; tensor i is written by process i modulo their number.
    Raises InputError where the disk refuses; the checkpoints already there are then untouched.
    """
    final = folder / f"{_PREFIX}{step:09d}"
    if final.exists():
        return
    first = distributed.rank() == 0
    temporary = folder / f".new-{step:09d}"
    trouble: OSError | None = None
    try:
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(".new-*"):
                shutil.rmtree(stale)
            temporary.mkdir()
    except OSError as error:
        trouble = error
    _all_well(trouble, folder)
    try:
        trouble = _write_tensors(temporary, tensors, shard_bytes)
    except BaseException:  # a tensor that is not finite, or a stop: nothing half written is left
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _all_well(trouble, folder)
    try:
        if first:
            shards: dict[str, str] = {}
            places: dict[str, str] = {}
            for part in sorted(temporary.glob("list-*.json")):
                found = json.loads(part.read_text())
                shards |= found[0]
                places |= found[1]
                part.unlink()
            state = {"step": step, "shards": shards, "places": places, **record}
            _write(temporary / "state.json", json.dumps({**state, "sha256": _digest(state)}, indent=1).encode())
            temporary.rename(final)
            for old in checkpoints(folder)[:-2]:
                shutil.rmtree(old)
    except OSError as error:
        trouble = error
    _all_well(trouble, folder)


def _write_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> OSError | None:
    """Write this process's share of `tensors` in shards, and the list of what is where. Gives the trouble that the disk makes: a
    process in trouble still takes part in gathering the others' tensors."""
    trouble: OSError | None = None
    shards: dict[str, str] = {}
    places: dict[str, str] = {}
    mine: dict[str, Tensor] = {}
    for index, (name, tensor) in enumerate(tensors):
        if index % distributed.world() != distributed.rank() or trouble:
            continue
        try:
            if mine and sum(part.nbytes for part in mine.values()) + tensor.nbytes > shard_bytes:
                _write_shard(folder, mine, shards, places)
            mine[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # tied weights share storage
        except OSError as error:
            trouble = error
    try:
        if mine and not trouble:
            _write_shard(folder, mine, shards, places)
        if not trouble:
            _write(folder / f"list-{distributed.rank():05d}.json", json.dumps([shards, places]).encode())
    except OSError as error:
        trouble = error
    return trouble


def _write_shard(folder: Path, tensors: dict[str, Tensor], shards: dict[str, str], places: dict[str, str]) -> None:
    """Write `tensors` as the next shard of this process and forget them."""
    file = f"shard-{distributed.rank():05d}-{len(shards):05d}.safetensors"
    data = save(tensors)
    _write(folder / file, data)
    shards[file] = hashlib.sha256(data).hexdigest()
    places |= dict.fromkeys(tensors, file)
    tensors.clear()


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _all_well(trouble: OSError | None, folder: Path) -> None:
    """Raise InputError on every process where one has met trouble."""
    if distributed.any_of(trouble is not None)[0]:
        if distributed.rank() == 0 or trouble:
            for stale in folder.glob(".new-*"):
                shutil.rmtree(stale, ignore_errors=True)
        why = trouble.strerror if trouble else "another process could not write its part"
        raise InputError(f"cannot write a checkpoint below {folder}: {why}; the last good one is kept") from trouble


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below `folder`, oldest first. What else lies there, as a copy of one, is left alone."""
    there = folder.glob(f"{_PREFIX}[0-9]*")
    return sorted((path for path in there if path.name.removeprefix(_PREFIX).isdecimal()), key=step_of)


def step_of(path: Path) -> int:
    """The step of a checkpoint folder, by its name: from 10^9 steps on, names in alphabetical order are not in this one."""
    return int(path.name.removeprefix(_PREFIX))


class Checkpoint:
    """A checkpoint that has been verified: its record, "step" included, and its tensors one by one."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where a file is missing, truncated or altered, naming it. Each process verifies its share."""
        self.path = path
        problem = ""
        try:
            self.record: dict[str, Any] = json.loads((path / "state.json").read_text())
            recorded = self.record.pop("sha256", None)  # checkpoints of older versions have none
            if recorded is not None and recorded != _digest(self.record):
                raise ValueError("state.json is altered: its hash is not the recorded one")
            shards = self.record["shards"]
            for file in sorted(shards)[distributed.rank() :: distributed.world()]:
                with (path / file).open("rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != shards[file]:
                        problem = f"checkpoint {path / file} is truncated or altered: its hash is not the recorded one"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = f"checkpoint {path} cannot be read ({error})"
        if distributed.any_of(bool(problem))[0]:
            problem = problem or f"checkpoint {path} is damaged: another process names the file"
            raise InputError(f"{problem}; delete {path} to go on from the checkpoint before it")

    def __contains__(self, name: str) -> bool:
        return name in self.record["places"]

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.path / self.record["places"][name], framework="pt") as shard:
            return shard.get_tensor(name)

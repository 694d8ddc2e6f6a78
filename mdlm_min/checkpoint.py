"""Training state on disk: safetensors for tensors, JSON for the rest, each checkpoint with the hash of its tensors.

A checkpoint is a folder that is renamed into place once it is complete, so a kill leaves either the old state or the
new one. The newest two are kept; nothing is unpickled.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mdlm_min.errors import InputError

_PREFIX = "step-"


def save_checkpoint(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, record: dict[str, Any]) -> None:
    """Write the state after `step` steps below `folder` and drop all but the newest two. `record` is free JSON.

    Raises InputError where the disk refuses; the checkpoints already there are then untouched.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer.{names[parameter]}.{key}"] = value.contiguous()
    tensors = {name: value.detach().clone() for name, value in tensors.items()}  # tied weights share storage, files may not
    data = save(tensors)
    temporary = folder / f".new-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".new-*"):
            shutil.rmtree(stale)
        temporary.mkdir()
        text = json.dumps({"step": step, "sha256": hashlib.sha256(data).hexdigest(), **record}, indent=1)
        for name, content in (("state.safetensors", data), ("state.json", text.encode())):
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        final = folder / f"{_PREFIX}{step:09d}"
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"cannot write a checkpoint below {folder}: {error.strerror}; the last good one is kept") from error
    for old in checkpoints(folder)[:-2]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below `folder`, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*"))


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the state at `path` into model and optimizer; returns its record, "step" included.

    Raises InputError where a file is missing, truncated or altered, naming it.
    """
    advice = f"delete {path} to go on from the checkpoint before it"
    try:
        record = json.loads((path / "state.json").read_text())
        data = (path / "state.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {path} cannot be read ({error}); {advice}") from error
    if not isinstance(record, dict) or hashlib.sha256(data).hexdigest() != record.get("sha256"):
        raise InputError(
            f"checkpoint {path / 'state.safetensors'} is truncated or altered: its hash is not the recorded one; {advice}"
        )
    tensors = load(data)
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    for name, parameter in model.named_parameters():
        state: dict[str, Tensor] = {}
        for key in ("exp_avg", "exp_avg_sq", "step", "momentum_buffer"):
            if (value := tensors.get(f"optimizer.{name}.{key}")) is not None:
                state[key] = value.to(parameter.device)
        if state:
            optimizer.state[parameter] = state
    return record

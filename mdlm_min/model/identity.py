"""Which weights a model has."""

import hashlib

import torch

from mdlm_min.model.transformer import Transformer


def weights_sha256(model: Transformer) -> str:
    """Hash of every tensor with its name and shape; one of them at a time is copied from a GPU."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()

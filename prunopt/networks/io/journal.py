"""Journals of pruning runs, and the digest of a model that they are tied to."""

from __future__ import annotations

import hashlib

import torch

from prunopt.core.tensor_files import Journal as Journal


def model_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a model's names and weights."""
    whole = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        whole.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        whole.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()

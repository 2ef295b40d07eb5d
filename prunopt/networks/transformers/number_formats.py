"""Number formats of weights: pruning computes in single precision, results keep the format of their checkpoint."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

LOW = (torch.bfloat16, torch.float16)


def stored_dtype(tensor: torch.Tensor, declared: Any) -> torch.dtype:
    """Return the format that a checkpoint keeps a tensor in: the declared one if that loses nothing."""
    kind = as_dtype(declared)
    if kind not in LOW or tensor.dtype not in (torch.float32, torch.float64):
        return tensor.dtype
    if tensor.is_meta:  # of a model that is streamed: its tensors were written in the declared format
        return kind
    return kind if bool(torch.equal(tensor.to(kind).to(tensor.dtype), tensor)) else tensor.dtype


def as_dtype(name: Any) -> torch.dtype | None:
    """Return a format by its name, as configurations write it; None for any other."""
    found = getattr(torch, str(name).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def to_single(model: nn.Module) -> dict[str, torch.dtype]:
    """Bring a model to single precision; return the formats that its tensors had."""
    formats = {name: tensor.dtype for name, tensor in _tensors(model).items() if tensor.is_floating_point()}
    if any(kind != torch.float32 for kind in formats.values()):
        model.float()
    return formats


@torch.no_grad()
def rounded(model: nn.Module, name: str) -> dict[str, torch.dtype]:
    """Round what a model holds to a format, its computation left in single precision; return formats for `restore`."""
    kind = as_dtype(name)
    assert kind is not None
    tensors = {n: t for n, t in _tensors(model).items() if t.is_floating_point()}
    for tensor in tensors.values():
        tensor.copy_(tensor.to(kind).to(tensor.dtype))
    config: Any = getattr(model, "config", None)
    if config is not None:
        config.dtype = kind
    return dict.fromkeys(tensors, kind)


def restore(model: nn.Module, formats: dict[str, torch.dtype]) -> None:
    """Bring a model's tensors back to the formats that they had."""
    for name, tensor in _tensors(model).items():
        if formats.get(name, tensor.dtype) != tensor.dtype:
            tensor.data = tensor.data.to(formats[name])


def most_common(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """Return the format of most of the numbers."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    return max(sizes, key=lambda kind: sizes[kind], default=torch.float32)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())

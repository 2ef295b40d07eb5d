"""Networks of several inputs and outputs: batches of either, and one call for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunopt.core import validate


class Batch:
    """Inputs of a network: a tuple is given as its arguments, a dict as the one argument that it is.

    It is cut along the first axis as a tensor is: ``len(batch)``, ``batch[:4]``, ``batch[indices]``.
    """

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs
        counts = {len(t) for t in tensors_of(inputs)}
        validate.require(len(counts) == 1, "example", "hold tensors of one length along the first axis", sorted(counts))
        self.count = counts.pop()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: Any) -> Batch:
        return self.map(lambda t: t[at])

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        return Batch(mapped(self.inputs, change))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the network is called with."""
        return tuple(self.inputs) if isinstance(self.inputs, tuple | list) else (self.inputs,)


Inputs = torch.Tensor | Batch


def mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return tensors in tuples, lists and dicts, each changed; anything else stays."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {k: mapped(v, change) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return tuple(mapped(v, change) for v in value)
    return value


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Return all tensors in tuples, lists, dicts and data classes, in their order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors_of(v)]
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors_of(v)]
    return []


def batch_of(example: Any) -> Inputs:
    """Return a tensor as it is, several tensors as a `Batch`; anything else is refused."""
    if isinstance(example, torch.Tensor | Batch):
        found: Inputs = example
    elif tensors_of(example):
        found = Batch(example)
    else:
        raise TypeError(
            f"example must be a tensor of one input or more, or a tuple or dict of such, got {type(example).__name__}; "
            "pass pictures"
        )
    if not len(found) or (isinstance(found, torch.Tensor) and found.ndim < 2):
        raise TypeError(f"example must be a tensor of one input or more, got {tuple(getattr(found, 'shape', (0,)))}")
    return found


def called(model: nn.Module, x: Inputs) -> Any:
    """Return what a network gives for a batch."""
    return model(*x.arguments) if isinstance(x, Batch) else model(x)


def split(x: Inputs, size: int) -> Sequence[Any]:
    """Return a batch in parts."""
    return torch.split(x, size) if isinstance(x, torch.Tensor) else [x[k : k + size] for k in range(0, len(x), size)]

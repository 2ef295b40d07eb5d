"""What modules read or give while a network runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
# what has numbers of its own for every channel
CARRIERS = (*NORMS, *INSTANCE_NORMS, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode within the block; each of its modules gets its own mode back."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def mode_kept(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of ``model``, its first argument, leave the network's modes as they were."""

    @functools.wraps(function)
    def kept(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0] if args else kwargs.get("model")
        with in_evaluation(model) if isinstance(model, nn.Module) else nullcontext():
            return function(*args, **kwargs)

    return kept


@contextmanager
def watching(
    model: nn.Module, names: Iterable[str], note: Callable[[str, Any, torch.Tensor], None], *, inputs: bool = False
) -> Iterator[None]:
    """Call ``note(name, module, tensor)`` with every output (or first input) of the named modules within the block."""

    def hook_of(name: str) -> Callable[..., None]:
        if inputs:
            return lambda module, read: note(name, module, read[0])
        return lambda module, _, out: note(name, module, out)

    handles = []
    try:
        for name in names:
            module = model.get_submodule(name)
            attach = module.register_forward_pre_hook if inputs else module.register_forward_hook
            handles.append(attach(hook_of(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def names_of(model: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    """Return the names of the modules of these kinds."""
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def silent(_: str) -> None:
    """Take a message and say nothing."""


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, last, module)

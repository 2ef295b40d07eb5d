"""Weights that are computed before each run, made plain: pruning masks, weight norm, spectral norm."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm


def with_plain_weights(model: nn.Module) -> tuple[nn.Module, str | None]:
    """Return the network with every computed weight as a parameter of its own, and a word on it; else itself.

    The user's network stays as it is. `torch.nn.DataParallel` is taken off.
    """
    inner = model.module if isinstance(model, nn.DataParallel) else model
    computed = [name for name, m in inner.named_modules() if parametrize.is_parametrized(m) or prune.is_pruned(m)]
    held = {id(v): v.detach().clone() for m in inner.modules() for v in vars(m).values() if _is_computed(v)}
    if not computed and not held:
        return inner, None
    plain = copy.deepcopy(inner, dict(held))  # torch copies no tensor that was computed
    done: list[str] = []
    for name, module in list(plain.named_modules()):
        if _made_plain(module):
            done.append(name)
    return plain, f"computed weights made plain in {', '.join(map(repr, done))}" if done else None


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.grad_fn is not None


def _made_plain(module: nn.Module) -> bool:
    found = False
    if "parametrizations" in dict(module.named_children()):
        names: Any = module.parametrizations
        values = {name: getattr(module, name).detach().clone() for name in names}
        # a copy shares its class with what it was copied from: torch's own removal would take the weight from both
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
        found = True
    for name in [n.removesuffix("_orig") for n, _ in module.named_parameters(recurse=False) if n.endswith("_orig")]:
        if f"{name}_mask" in dict(module.named_buffers(recurse=False)):
            prune.remove(module, name)  # type: ignore[no-untyped-call]
        else:
            remove_spectral_norm(module, name)
        found = True
    for name in [n.removesuffix("_g") for n, _ in module.named_parameters(recurse=False) if n.endswith("_g")]:
        if f"{name}_v" in dict(module.named_parameters(recurse=False)):
            remove_weight_norm(module, name)
            found = True
    return found

"""Experts made smaller or fewer for good: slices of their tensors, rows of their router."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunopt.networks.transformers.block_parts import Experts, replace_weight
from prunopt.networks.transformers.surgery import remove_neurons

WIDTHS = ("intermediate_dim", "intermediate_size")  # what modules call the neurons of an expert
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


def keep_neurons(experts: Experts, kept: torch.Tensor, shared: torch.Tensor | None = None) -> None:
    """Leave some neurons of each expert.

    Parameters
    ----------
    kept : (experts, width) int64
        Their numbers, as many of each.
    shared
        Those of the shared experts; None: the first ones.
    """
    width = experts.width
    rows = (
        torch.stack([2 * kept, 2 * kept + 1], 2).flatten(1)
        if experts.alternating
        else torch.cat([kept, kept + width], 1)
    )
    _cut(experts, "gate_up_proj", rows, 1)
    _cut(experts, "down_proj", kept, 2)
    bias = getattr(experts.module, "gate_up_proj_bias", None)
    if isinstance(bias, nn.Parameter):
        _set(experts.module, "gate_up_proj_bias", bias.gather(1, rows))
    if experts.shared is not None:
        left = kept.shape[1] * (experts.shared.width // max(1, width))
        stay = torch.arange(left) if shared is None else shared
        remove_neurons(experts.shared, [k for k in range(experts.shared.width) if k not in set(stay.tolist())])
    _tell(experts.module, WIDTHS, kept.shape[1])


def keep_experts(experts: Experts, kept: torch.Tensor) -> None:
    """Leave some experts, by their numbers: slices of their tensors, rows of the router's, entries of its biases."""
    count = experts.count
    for module in (experts.module, experts.router):
        for name, values in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if values.dim() and len(values) == count:
                _set(module, name, values[kept.to(values.device)])
    for module in (experts.module, experts.router, experts.owner):
        _tell(module, COUNTS, len(kept))


def restore_experts(experts: Experts, state: dict[str, torch.Tensor]) -> None:
    """Give experts, their router and what is beside them the tensors of a state, of any shape."""
    for path, values in state.items():
        owner, _, name = path.rpartition(".")
        module = experts.owner.get_submodule(owner)
        if isinstance(module, nn.Linear) and name == "weight":
            replace_weight(module, values)
        elif not isinstance(module, nn.Linear) or values.shape == getattr(module, name).shape:
            _set(module, name, values.to(getattr(module, name).device))
    _tell(experts.module, WIDTHS, experts.width)
    for module in (experts.module, experts.router, experts.owner):
        _tell(module, COUNTS, experts.count)


def _cut(experts: Experts, name: str, at: torch.Tensor, dim: int) -> None:
    """Leave some rows (1) or columns (2) of every slice."""
    values: Any = getattr(experts.module, name)
    dim = 3 - dim if experts.transposed else dim
    where = at[:, :, None] if dim == 1 else at[:, None, :]
    other = values.shape[3 - dim]
    where = where.expand(-1, -1, other) if dim == 1 else where.expand(-1, other, -1)
    _set(experts.module, name, values.gather(dim, where.to(values.device)))


def _set(module: nn.Module, name: str, values: torch.Tensor) -> None:
    old: Any = getattr(module, name)
    new = values.detach().contiguous().clone()
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _tell(module: Any, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)

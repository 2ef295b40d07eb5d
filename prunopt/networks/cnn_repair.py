"""After the cut: the layers that read the rest re-solved by least squares, batch norms estimated anew; no labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prunopt.networks.cnn_importance import patches
from prunopt.networks.groups import ChannelGroups

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Reached(Exception):
    """The layer that was waited for has its input: the rest of the network need not run."""


def repair(
    dense: nn.Module, pruned: nn.Module, groups: ChannelGroups, keep: Any, images: torch.Tensor, *,
    damping: float = 1e-2, batch: int = 25, seed: int = 0, progress: Callable[[str], None] | None = None,
) -> int:  # fmt: skip
    r"""Re-solve, in order, every layer of ``pruned`` that lost inputs, in place; return how many.

    With X the inputs of the dense layer and X' those that the pruned network, repaired so far, gives to it,

    .. math:: \min_{W', b'} \; \|W X + b - W' X' - b'\|_F^2 + \lambda \|W' - W_{keep}\|_F^2

    so that also what layers before lost is made up for as far as the inputs left can. The bias takes the part of the
    removed channels that is the same everywhere.
    """
    mask = groups.checked(keep)
    done = 0
    cut = [s for s in groups.slots if s.consumes and s.kind != "grouped" and not mask[s.ins].all()]
    for number, slot in enumerate(cut):
        _repair_layer(
            dense, pruned, slot.name, torch.from_numpy(np.flatnonzero(mask[slot.outs])), images, damping, batch, seed
        )
        done += 1
        if progress is not None:
            progress(f"{number + 1} of {len(cut)} layers repaired")
    return done


def _repair_layer(
    dense: nn.Module, pruned: nn.Module, name: str, outs: torch.Tensor, images: torch.Tensor, damping: float,
    batch: int, seed: int,
) -> None:  # fmt: skip
    before: Any = dense.get_submodule(name)
    after: Any = pruned.get_submodule(name)
    W = before.weight.detach().double().flatten(1)[outs]
    bias = torch.zeros(len(outs)).double() if before.bias is None else before.bias.detach().double()[outs]
    n = after.weight[0].numel()
    gram, cross = torch.zeros(n + 1, n + 1).double(), torch.zeros(n + 1, len(outs)).double()
    rows = 0
    for number, x in enumerate(torch.split(images, batch)):
        samples = []
        for model, module in ((dense, before), (pruned, after)):
            generator = torch.Generator().manual_seed(seed + number)  # the same places of both
            samples.append(patches(module, _input_of(model, module, x), generator).double())
        target = samples[0] @ W.T + bias
        X = F.pad(samples[1], [0, 1], value=1.0)
        gram += X.T @ X
        cross += X.T @ target
        rows += len(X)
    start = F.pad(after.weight.detach().double().flatten(1), [0, 1])
    start[:, -1] = bias
    ridge = damping * float(torch.diagonal(gram)[:-1].mean()) * torch.ones(n + 1).double()
    ridge[-1] = 1e-9 * rows
    matrix = gram + torch.diag(ridge)
    change = torch.linalg.solve(matrix, cross - gram @ start.T).T
    solved = start + change
    with torch.no_grad():
        after.weight.copy_(solved[:, :-1].reshape(after.weight.shape))
        if after.bias is None:
            _add_bias(pruned, after, name, solved[:, -1].float())
        else:
            after.bias.copy_(solved[:, -1])


def _add_bias(model: nn.Module, conv: Any, name: str, bias: torch.Tensor) -> None:
    """Give the shift to the batch norm behind the layer, or to the layer itself."""
    norm = norm_behind(model, name)
    if norm is not None and norm.running_mean is not None and norm.num_features == len(bias):
        norm.running_mean -= bias
    else:
        conv.bias = nn.Parameter(bias.clone())


def norm_behind(model: nn.Module, name: str) -> Any:
    """Return the batch norm that reads a layer's output and nothing else does, None where there is none."""
    from prunopt.networks.channel_rules import Tracer

    graph = Tracer().trace(model)
    for node in graph.nodes:
        if node.op == "call_module" and node.target == name and len(node.users) == 1:
            reader = next(iter(node.users))
            if reader.op == "call_module":
                module = model.get_submodule(str(reader.target))
                return module if isinstance(module, NORMS) else None
    return None


def _input_of(model: nn.Module, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    held: list[torch.Tensor] = []

    def stop(_: Any, args: Any) -> None:
        held.append(args[0])
        raise _Reached

    hook = module.register_forward_pre_hook(stop)
    try:
        with torch.inference_mode():
            model.eval()(x)
    except _Reached:
        pass
    finally:
        hook.remove()
    return held[0].clone()


def reestimated(model: nn.Module, images: torch.Tensor, *, batch: int = 50) -> nn.Module:
    """Return a copy whose batch norms hold the means and variances of ``images``."""
    fresh = copy.deepcopy(model)
    norms = [m for m in fresh.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms:
        return fresh
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    fresh.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for x in torch.split(images, batch):
            if len(x) > 1:
                fresh(x)
    for norm, old in zip(norms, (m for m in model.modules() if isinstance(m, NORMS)), strict=False):
        norm.momentum = old.momentum
    return fresh.eval()


@torch.inference_mode()
def divergence(dense_logits: torch.Tensor, model: nn.Module, images: torch.Tensor, *, batch: int = 50) -> float:
    """Return the mean Kullback-Leibler divergence of a network's predictions from the dense ones, in nats."""
    model.eval()
    target = F.log_softmax(dense_logits.double(), 1)
    total = 0.0
    for t, x in zip(torch.split(target, batch), torch.split(images, batch), strict=True):
        found = F.log_softmax(model(x).double(), 1)
        total += float(F.kl_div(found, t, reduction="sum", log_target=True))
    return total / len(images)


@torch.inference_mode()
def logits(model: nn.Module, images: torch.Tensor, *, batch: int = 50) -> torch.Tensor:
    """Return a network's outputs for all images."""
    return torch.cat([model.eval()(x) for x in torch.split(images, batch)])

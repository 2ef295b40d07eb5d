r"""Experts of a block pruned: neurons inside each, or whole ones, by the quadratic form on the tokens routed to them.

With the router's weight :math:`r_e(t)` of expert e for token t, what its neurons give, :math:`a_e(t)`, and its
projection down, :math:`W_e`, what experts put out is :math:`y(t) = \sum_e r_e(t) W_e a_e(t)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, require
from prunopt.networks.transformers.block_arguments import Stop, output_of
from prunopt.networks.transformers.calibration import Activations
from prunopt.networks.transformers.expert_surgery import keep_experts, keep_neurons
from prunopt.networks.transformers.families import Block, Experts
from prunopt.networks.transformers.layer import LayerGoal, LayerReport

UNROUTED = "no token of the calibration was routed to it: chosen by all of them"
MEASURED = "error of what all experts put out, tokens routed to those that stay"
Solve = Callable[[str, torch.Tensor, Floats, LayerGoal], "tuple[Any, Floats, LayerReport]"]


@dataclass(frozen=True, eq=False)
class Routed:
    """What enters the experts at a window: hidden states (tokens, width); experts of each, and weights, (tokens, k)."""

    window: int
    hidden: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor


def routed_tokens(stream: Activations, block: Block, experts: Experts) -> list[Routed]:
    """Return what enters the experts of a block, window by window."""
    found: list[Routed] = []
    for window, compute in stream.run(block):

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], window: int = window) -> None:
            hidden, index, weight = (*args, *kwargs.values())[:3]
            found.append(Routed(window, hidden.reshape(-1, hidden.shape[-1]), index, weight))
            raise Stop

        handle = experts.module.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            compute()
        except Stop:
            pass
        finally:
            handle.remove()
        require(len(found) > 0, block.name, "use its experts", Shown("a forward pass without them"))
    return found


Slices = list[tuple[int, dict[str, torch.Tensor]]]


def identity_slices(experts: Experts) -> Slices:
    """Return projections down that hand neurons on, as many at a time as there are outputs: how many, and tensors."""
    (count, out, width), like, found = experts.down.shape, experts.down, []
    for start in range(0, width, out):
        size = min(out, width - start)
        select = torch.zeros(out, width, dtype=like.dtype, device=like.device)
        select[torch.arange(size), start + torch.arange(size)] = 1
        given = {"down_proj": (select.T if experts.transposed else select).expand(count, -1, -1).contiguous()}
        bias = getattr(experts.module, "down_proj_bias", None)
        if isinstance(bias, torch.Tensor):
            given["down_proj_bias"] = torch.zeros_like(bias)
        found.append((size, given))
    return found


def neurons_of(experts: Experts, slices: Slices, hidden: torch.Tensor, expert: int) -> torch.Tensor:
    """Return what the neurons of an expert give, (tokens, neurons): the module's own values, by `identity_slices`."""
    index = torch.full((len(hidden), 1), expert, device=hidden.device)
    ones = torch.ones(len(hidden), 1, dtype=hidden.dtype, device=hidden.device)
    parts = [functional_call(experts.module, given, (hidden, index, ones))[:, :size] for size, given in slices]
    return torch.cat(parts, dim=1)


def expert_hessian(
    experts: Experts, slices: Slices, calls: list[Routed], counts: torch.Tensor, expert: int
) -> tuple[Floats, bool]:
    r"""Return :math:`\sum_t \omega_t r_e(t)^2 a_e(t) a_e(t)^T / \sum_t \omega_t`, and whether tokens are routed there.

    Where none is, r is 1 for all tokens.
    """
    for routed in (True, False):
        total = torch.zeros(experts.width, experts.width, dtype=torch.float64)
        for call in calls:
            at, slot = torch.where(call.index == expert) if routed else (torch.arange(len(call.hidden)), None)
            share = counts[call.window].to(call.hidden.device)
            share = share.expand(len(call.hidden))[at].sqrt().to(call.hidden.dtype)
            if slot is not None:
                share = share * call.weight[at, slot]
            if len(at) and bool((share != 0).any()):
                rows = neurons_of(experts, slices, call.hidden[at], expert) * share[:, None]
                total += (rows.T @ rows).double().cpu()
        if bool((total.diagonal() > 0).any()):
            break
    hessian: Floats = (total / float(counts.sum())).numpy()
    return (hessian + hessian.T) / 2, routed


def remove_expert_neurons(
    stream: Activations, block: Block, experts: Experts, count: int, solve: Solve
) -> list[LayerReport]:
    """Remove ``count`` neurons of each expert, its own ones, and re-solve the projections down of what stays."""
    calls, counts = routed_tokens(stream, block, experts), stream.weights_of(block, "")
    single, kept, report = list(np.arange(experts.width)[:, None]), [], []
    new, slices = experts.down.detach().clone(), identity_slices(experts)
    for expert in range(experts.count):
        hessian, routed = expert_hessian(experts, slices, calls, counts, expert)
        name = f"{block.name}.{experts.name}.experts.{expert}"
        goal = LayerGoal(single, count, "neuron of an expert")
        value, weight, row = solve(name, experts.down[expert].detach(), hessian, goal)
        new[expert] = torch.from_numpy(weight).to(new)
        kept.append(torch.from_numpy(np.setdiff1d(np.arange(experts.width), value)))
        report.append(row if routed else replace(row, message=f"{UNROUTED}; {row.message}".rstrip("; ")))
    module: Any = experts.module
    stored = new.transpose(1, 2) if experts.transposed else new
    module.down_proj = nn.Parameter(stored.contiguous(), requires_grad=module.down_proj.requires_grad)
    shared = None
    if experts.shared is not None:
        part, layer = experts.shared, f"{experts.shared.name}.{experts.shared.down}"
        goal = LayerGoal(list(np.arange(part.width)[:, None]), count * experts.shared_width, "neuron")
        down: Any = part.projection
        hessian = stream.hessians(block, [layer])[layer]
        value, weight, row = solve(f"{block.name}.{layer}", down.weight.detach(), hessian, goal)
        down.weight.copy_(torch.from_numpy(weight))
        shared = torch.from_numpy(np.setdiff1d(np.arange(part.width), value))
        report.append(row)
    keep_neurons(experts, torch.stack(kept), shared)
    return report


def remove_whole_experts(
    stream: Activations, block: Block, experts: Experts, count: int, solve: Solve
) -> list[LayerReport]:
    r"""Remove ``count`` experts whose absence costs what all put out least.

    .. math:: \min_{|S| = m} \min_{c_S = 0} \sum_t \Big\| \sum_e (1 - c_e) \, r_e(t) W_e a_e(t) \Big\|^2

    is the quadratic form of one row of ones on the Gram matrix of what experts put out. Tokens that had gone to those
    in S go to the router's next choice, which the form does not know of: the error that is reported is measured.
    """
    calls, counts = routed_tokens(stream, block, experts), stream.weights_of(block, "")
    gram, n = np.zeros((experts.count, experts.count)), experts.count
    for call in calls:
        share = counts[call.window].expand(len(call.hidden)).to(call.hidden.device)
        outs = torch.zeros(n, *call.hidden.shape, dtype=call.hidden.dtype, device=call.hidden.device)
        for expert in range(n):
            at, slot = torch.where(call.index == expert)
            if len(at):
                index = torch.full((len(at), 1), expert, device=at.device)
                outs[expert, at] = experts.module(call.hidden[at], index, call.weight[at, slot][:, None])
        flat = (outs * share.sqrt()[None, :, None].to(outs.dtype)).flatten(1)
        gram += (flat @ flat.T).double().cpu().numpy()
    gram = (gram + gram.T) / (2 * float(counts.sum()))
    before = [output_of(experts.owner(call.hidden[None]))[0] for call in calls]
    goal = LayerGoal(list(np.arange(n)[:, None]), count, "expert")
    value, _, row = solve(f"{block.name}.{experts.name}.experts", torch.ones(1, n), gram, goal)
    keep_experts(experts, torch.from_numpy(np.setdiff1d(np.arange(n), value)))
    change = whole = 0.0
    for call, old in zip(calls, before, strict=True):
        share = counts[call.window].to(old.device)[:, None]
        new = output_of(experts.owner(call.hidden[None]))[0]
        change += float(((new - old).double().square() * share).sum())
        whole += float((old.double().square() * share).sum())
    message = f"{MEASURED}; {row.message}".rstrip("; ")
    return [replace(row, error=change / max(whole, 1e-300), refit=False, message=message)]

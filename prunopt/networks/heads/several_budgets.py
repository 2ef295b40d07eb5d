"""Heads under several budgets at once: how many each layer keeps, in one multiple-choice knapsack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Bools, Floats
from prunopt.core.budget import Budget, Budgets, BudgetUse
from prunopt.core.solution import Solution
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.networks.heads.costs import even_batch, head_milliseconds
from prunopt.networks.heads.head_loss import HeadLoss
from prunopt.networks.heads.layers import head_layers
from prunopt.networks.heads.losses import Batch
from prunopt.networks.heads.surgery import attention_parameters

RESOURCES = ("heads", "parameters", "memory", "kv_cache", "latency_ms")
NANO = 1e6  # nanoseconds of a millisecond: costs of the knapsack are whole numbers


@dataclass(frozen=True, eq=False)
class HeadCosts:
    """What heads cost of each resource.

    Parameters
    ----------
    cost
        By resource, of each head, (heads,).
    fixed
        By resource, of the model without heads.
    """

    cost: dict[str, Floats]
    fixed: dict[str, float]

    def total(self, resource: str) -> float:
        """Return what the whole model costs."""
        return self.fixed[resource] + float(self.cost[resource].sum())


@dataclass(frozen=True, eq=False)
class HeadsWithin:
    """Heads that stay within every budget.

    Parameters
    ----------
    kept : (heads,) bool
        Layer after layer.
    budgets
        What is used of each, and its price in units of the loss.
    solution
        The knapsack's answer: the levels, and the proven least sum of the layers' losses.
    """

    kept: Bools
    budgets: tuple[BudgetUse, ...]
    solution: Solution[Any]


def head_costs(model: nn.Module, resources: Sequence[str], batches: Sequence[Batch] = ()) -> HeadCosts:
    """Return what each head costs: 1, parameters, their bytes, bytes of the cache a token, measured milliseconds.

    Parameters
    ----------
    model
        See `head_gates`.
    resources
        Of heads, parameters, memory, kv_cache and latency_ms.
    batches
        What milliseconds are measured on: the one of middle length.
    """
    layers = head_layers(model)
    size = next(model.parameters()).element_size()
    parameters = attention_parameters(model)
    rest = sum(p.numel() for p in model.parameters()) - float(parameters.sum())
    cost, fixed = {}, {}
    for name in resources:
        validate.one_of("resources", name, RESOURCES)
        if name == "latency_ms":
            validate.require(batches, "batches", "hold a Batch to time the model on", batches)
            times = head_milliseconds(model, even_batch(batches), repeats=9)
            cost[name], fixed[name] = times.cost, times.fixed
        elif name == "heads":
            cost[name], fixed[name] = np.ones(len(parameters)), 0.0
        elif name == "kv_cache":  # a key and a value of each group
            parts = [np.full(one.n_heads, 2 * one.head_dim * size / one.heads_per_group) for one in layers]
            cost[name], fixed[name] = np.concatenate([*parts, np.zeros(0)]), 0.0
        else:
            by = size if name == "memory" else 1
            cost[name], fixed[name] = by * parameters, by * rest
    return HeadCosts(cost, fixed)


def heads_within(
    loss: HeadLoss, costs: HeadCosts, budgets: Budgets, *, at_least_one_per_layer: bool = False
) -> HeadsWithin:
    r"""Choose how many heads every layer keeps so that the losses add up to least within all budgets.

    In each layer heads go in the order of their estimated importance, whole groups that share a key-value head. What
    the model loses with j groups gone from one layer alone is measured, and

    .. math:: \min_j \sum_l \mathrm{loss}_{l, j_l} \quad \text{s.t.} \quad
        \sum_l \mathrm{cost}_{r, l, j_l} \le B_r \quad \text{for every resource } r

    is solved with proof. Losses of several layers do not quite add up: measure what the choice loses.

    Parameters
    ----------
    loss
        Of the model, on data.
    costs
        See `head_costs`.
    budgets
        Of the resources of ``costs``, for the whole model.
    at_least_one_per_layer
        Whether every layer keeps a head (a group).

    Raises
    ------
    SolveError
        If nothing is within the budgets; names the resource in the way, and the nearest feasible request.
    """
    limits: dict[str, float] = {}
    for budget in Budget.several(budgets, list(costs.cost)):
        allowed = budget.allowed(costs.total(budget.resource))
        limits[budget.resource] = min(allowed, limits.get(budget.resource, math.inf))
    masks = _levels(loss, at_least_one_per_layer)
    whole = np.ones(sum(loss.n_heads), np.bool_)
    dense, size = loss(whole), max((len(rows) for rows in masks), default=1)
    lost = np.full((len(masks) + 1, size), np.inf)
    lost[-1, 0] = 0.0  # the rest of the model
    for k, rows in enumerate(masks):
        lost[k, : len(rows)] = [loss(kept) - dense for kept in rows]
    tables, whole_limits = {}, {}
    for name, limit in limits.items():
        unit, label = (NANO, "latency_ns") if name == "latency_ms" else (1.0, name)
        table = np.zeros(lost.shape)
        table[-1] = costs.fixed[name]
        for k, rows in enumerate(masks):
            mine = _of_layer(loss, k)
            table[k, : len(rows)] = [float(costs.cost[name][mine][kept[mine]].sum()) for kept in rows]
        tables[label] = np.ceil(np.round(table * unit, 6)).astype(np.int64)
        whole_limits[label] = math.floor(round(limit * unit, 6))
    answer = solve(MultipleChoiceKnapsack(lost, tables, whole_limits))
    levels = np.asarray(answer.value)[:-1].tolist()
    kept = whole.copy()
    for rows, level in zip(masks, levels, strict=True):
        kept &= rows[level]
    prices = np.atleast_1d(answer.stats["penalties"] if "penalties" in answer.stats else answer.duals["penalty"])
    uses = tuple(
        BudgetUse(
            name, limit, costs.total(name), costs.fixed[name] + float(costs.cost[name][kept].sum()),
            float(price) * (NANO if name == "latency_ms" else 1.0),
        )
        for (name, limit), price in zip(limits.items(), prices, strict=True)
    )  # fmt: skip
    return HeadsWithin(kept, uses, answer)


def _of_layer(loss: HeadLoss, k: int) -> slice:
    end = int(np.sum(loss.n_heads[: k + 1]))
    return slice(end - loss.n_heads[k], end)


def _levels(loss: HeadLoss, one_stays: bool) -> list[list[Bools]]:
    """Return for each layer the heads of the whole model that stay as 0, 1, 2 ... of its groups go."""
    whole = np.ones(sum(loss.n_heads), np.bool_)
    scores, out = np.asarray(loss.scores(whole)), []
    for k, (n, per) in enumerate(zip(loss.n_heads, loss.heads_per_group, strict=True)):
        mine = _of_layer(loss, k)
        order = np.argsort(scores[mine].reshape(-1, per).sum(axis=1), kind="stable") if n else np.zeros(0, np.int64)
        rows = [whole]
        for gone in range(1, len(order) + (0 if one_stays else 1)):
            groups = np.ones(len(order), np.bool_)
            groups[order[:gone]] = False
            kept = whole.copy()
            kept[mine] = np.repeat(groups, per)
            rows.append(kept)
        out.append(rows)
    return out

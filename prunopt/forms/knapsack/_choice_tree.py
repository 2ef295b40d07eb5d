"""What a search tree proves about a choice within several limits: its leaves cover all choices, each has a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.core.deadline import is_over
from prunopt.core.solution import CertificateError

BATCH = 2_000_000  # entries of a batch of nodes


class Options(NamedTuple):
    """Losses (G, K) and costs (R, G, K) of options, limits (R,), the columns from ``n_levels`` on being spans.

    A span is an option of all groups from ``first`` to ``last``: it counts at the first of them, the others hold 0.
    """

    loss: Floats
    costs: AnyArray
    limits: Floats
    n_levels: int
    first: Ints
    last: Ints


def tree_bound(options: Options, duals: Mapping[str, Any], *, whole: bool = True) -> float:
    r"""Return the lower bound that multipliers prove, one set of them for each node of a search tree.

    A node allows some options of each group, and its multipliers :math:`\lambda \ge 0` give

    .. math:: L(\lambda) = \min_x \sum_g \bigl( \mathrm{loss}_{g x_g} + \sum_r \lambda_r \mathrm{cost}_{r g x_g} \bigr)
              - \sum_r \lambda_r \mathrm{limit}_r

    over what it allows, spans chosen whole or not at all: a shortest path over the groups. Options with which
    L reaches the claim cannot be part of a choice below the claim and go. The first child of a node allows those of
    ``levels`` in its group, the second the others. The bound is the least of the leaves', and of the claim.

    Parameters
    ----------
    duals
        ``"penalties"`` (nodes, R), the root first; ``"parent"`` (nodes,), each before its children, -1 for the root;
        ``"second"`` (nodes,) bool; ``"group"`` (nodes,) and ``"levels"`` (nodes, K) bool: how the parent was split
        (of two children alike); ``"claim"``. Without a tree: ``"penalty"`` (R,).
    whole
        Round up where all losses are whole numbers.
    """
    if "penalties" not in duals:
        penalties = np.atleast_2d(np.asarray(duals.get("penalty", np.zeros(len(options.limits))), np.float64))
        duals = {"penalties": penalties, "parent": [-1], "second": [False], "group": [0]}
        duals = duals | {"levels": np.zeros((1, options.loss.shape[1]), np.bool_)}
    penalties = np.asarray(duals["penalties"], np.float64)
    parent, second = np.asarray(duals["parent"], np.int64), np.asarray(duals["second"], np.bool_)
    group, levels = np.asarray(duals["group"], np.int64), np.asarray(duals["levels"], np.bool_)
    claim, n = float(duals.get("claim", math.inf)), len(parent)
    groups, columns = options.loss.shape
    _check_tree(parent, second, group, levels, groups)
    if penalties.shape != (n, len(options.limits)) or not (np.isfinite(penalties) & (penalties >= 0)).all():
        raise CertificateError("duals: penalties must be finite numbers >= 0, one of each resource for every node")
    if levels.shape != (n, columns) or math.isnan(claim):
        raise CertificateError("duals: levels of every node, and a claim that is a number, are needed")
    is_parent = np.isin(np.arange(n), parent)
    least, depth_nodes = math.inf, np.zeros(1, np.int64)
    domains = np.isfinite(options.loss)[None]
    size = max(1, BATCH // max(1, groups * columns))
    below = np.flatnonzero(parent >= 0)
    order = below[np.argsort(parent[below], kind="stable")]
    while len(depth_nodes):
        kept: list[Bools] = []
        for start in range(0, len(depth_nodes), size):
            if n > 1 and is_over():
                return -math.inf
            at = depth_nodes[start : start + size]
            values, rest = _node_bounds(options, penalties[at], domains[start : start + size], claim)
            leaf = ~is_parent[at]
            least = min(least, float(values[leaf].min(initial=math.inf)))
            kept.append(rest[~leaf])
        inner = depth_nodes[is_parent[depth_nodes]]
        if not len(inner):
            break
        where = np.searchsorted(parent[order], inner)
        depth_nodes = order[(where[:, None] + np.arange(2)).ravel()]
        domains = np.repeat(np.concatenate(kept), 2, axis=0)
        if len(inner) == 1 and parent[inner[0]] == -1:
            options, levels, domains = _narrowed(options, levels, group, domains)
        rows, split = np.arange(len(depth_nodes)), levels[depth_nodes]
        allowed = np.where(second[depth_nodes][:, None], ~split, split)
        domains[rows, group[depth_nodes]] &= allowed
    bound = min(least, claim)
    finite = options.loss[np.isfinite(options.loss)]
    if whole and abs(bound) < 2.0**50 and np.array_equal(finite, np.rint(finite)):
        return float(math.ceil(bound))  # every choice loses a whole number
    return bound


def _narrowed(options: Options, levels: Bools, group: Ints, domains: Bools) -> tuple[Options, Bools, Bools]:
    """Leave out the columns that the root has ruled out in every group, the rest moved together."""
    n = options.n_levels
    there = np.asarray(domains[:, :, :n].any(axis=0))
    width = max(1, int(there.sum(axis=1).max(initial=0)))
    order = np.argsort(~there, axis=1, kind="stable")[:, :width]
    order = np.concatenate([order, np.tile(np.arange(n, options.loss.shape[1]), (len(order), 1))], axis=1)
    rows = np.arange(len(order))[:, None]
    small = options._replace(loss=options.loss[rows, order], costs=options.costs[:, rows, order], n_levels=width)
    return small, np.take_along_axis(levels, order[group], axis=1), domains[:, rows, order]


def _check_tree(parent: Ints, second: Bools, group: Ints, levels: Bools, groups: int) -> None:
    """Every node but the root has a parent before it; a node has no child, or a first and a second one alike."""
    n = len(parent)
    rest = np.arange(1, n)
    sound = n > 0 and parent[0] == -1 and ((parent[1:] >= 0) & (parent[1:] < rest)).all()
    sound = sound and len(second) == n and len(group) == n and ((group >= 0) & (group < max(1, groups))).all()
    if not sound:
        raise CertificateError("duals: the nodes of the search tree must name a parent before them, and a group")
    order = rest[np.lexsort((second[1:], parent[1:]))]
    if len(order) % 2:
        raise CertificateError("duals: a node of the search tree has one child")
    one, two = order[::2], order[1::2]
    pairs = (parent[one] == parent[two]) & ~second[one] & second[two] & (group[one] == group[two])
    twice = len(np.unique(parent[one])) < len(one)
    if twice or not pairs.all() or (levels[one] != levels[two]).any():
        raise CertificateError("duals: the leaves of the search tree do not cover every choice once")


def _node_bounds(options: Options, penalties: Floats, domain: Bools, claim: float) -> tuple[Floats, Bools]:
    """Return the bound of each node, lowered by what rounding may add, and what is left of its options."""
    n, (groups, _) = len(penalties), options.loss.shape
    cost = np.einsum("nr,rgk->ngk", penalties, options.costs.astype(np.float64))
    domain = domain.copy()
    for s, (a, b) in enumerate(zip(options.first, options.last, strict=True)):
        held = domain[:, a : b + 1, options.n_levels + s]
        held &= np.asarray(held.all(axis=1))[:, None]
    value = np.where(domain, options.loss, np.inf) + np.where(domain, cost, 0.0)
    fixed = penalties @ options.limits
    own = value[:, :, : options.n_levels].min(axis=2, initial=np.inf)
    ahead, behind = np.full((n, groups + 1), np.inf), np.full((n, groups + 1), np.inf)
    ahead[:, 0] = behind[:, groups] = 0.0
    spans = [
        (int(a), int(b), options.n_levels + s) for s, (a, b) in enumerate(zip(options.first, options.last, strict=True))
    ]
    for g in range(groups):
        ahead[:, g + 1] = np.minimum(ahead[:, g + 1], ahead[:, g] + own[:, g])
        for a, b, k in spans:
            if a == g:
                ahead[:, b + 1] = np.minimum(ahead[:, b + 1], ahead[:, g] + value[:, a, k])
    for g in range(groups - 1, -1, -1):
        behind[:, g] = behind[:, g + 1] + own[:, g]
        for a, b, k in spans:
            if a == g:
                behind[:, g] = np.minimum(behind[:, g], behind[:, b + 1] + value[:, a, k])
    sizes = np.abs(np.where(domain, options.loss, 0.0)).max(axis=2) + np.where(domain, cost, 0.0).max(axis=2)
    slack = (groups + 8) * 2.0**-51 * (sizes.sum(axis=1) + np.abs(fixed))
    bounds = ahead[:, groups] - fixed - slack
    left = domain.copy()
    through = ahead[:, :-1, None] + value[:, :, : options.n_levels] + behind[:, 1:, None]
    left[:, :, : options.n_levels] &= through - (fixed + slack)[:, None, None] < claim
    for a, b, k in spans:
        stays = ahead[:, a] + value[:, a, k] + behind[:, b + 1] - fixed - slack < claim
        left[:, a : b + 1, k] &= stays[:, None]
    return bounds, left

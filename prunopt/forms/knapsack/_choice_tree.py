"""What a search tree proves about a choice within several limits: its leaves cover all choices, each has a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.core.deadline import is_over
from prunopt.core.solution import CertificateError

CHUNK = 4096  # nodes between two looks at the clock


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
    from prunopt.forms.knapsack._choice_walk import leaves_from

    inner = np.zeros(n, np.bool_)
    inner[parent[1:]] = True
    place = np.where(inner, np.cumsum(inner) - 1, -1)
    narrow, levels, root = _narrowed(options, penalties[0], levels, group, claim)
    kept = np.zeros((int(inner.sum()), *narrow.loss.shape), np.bool_)
    tables = (narrow.loss, np.ascontiguousarray(np.moveaxis(narrow.costs, 0, 2), np.float64), narrow.limits)
    spans, least = (narrow.n_levels, narrow.first, narrow.last), math.inf
    for start in range(0, n, CHUNK):
        if start and is_over():
            return -math.inf
        nodes = (start, min(n, start + CHUNK), penalties, parent, second, group, levels, place)
        least = min(least, float(leaves_from(tables, spans, nodes, root, kept, claim)))
    bound = min(least, claim)
    finite = options.loss[np.isfinite(options.loss)]
    if whole and abs(bound) < 2.0**50 and np.array_equal(finite, np.rint(finite)):
        return float(math.ceil(bound))  # every choice loses a whole number
    return bound


def _narrowed(
    options: Options, penalties: Floats, levels: Bools, group: Ints, claim: float
) -> tuple[Options, Bools, Bools]:
    """Leave out the columns that the root rules out, those of each group that stay moved together."""
    domain = np.isfinite(options.loss)
    if len(levels) > 1 and not len(options.first):
        value = options.loss + np.tensordot(penalties, options.costs, 1)
        own, fixed = value.min(axis=1), float(penalties @ options.limits)
        edge = claim + fixed - own.sum() + 1e-9 * (abs(fixed) + np.abs(own).sum())  # generous: the root is walked too
        domain &= value - own[:, None] < edge
    n = options.n_levels
    width = max(1, int(domain[:, :n].sum(axis=1).max(initial=0)))
    order = np.argsort(~domain[:, :n], axis=1, kind="stable")[:, :width]
    order = np.concatenate([order, np.tile(np.arange(n, options.loss.shape[1]), (len(order), 1))], axis=1)
    rows = np.arange(len(order))[:, None]
    small = options._replace(loss=options.loss[rows, order], costs=options.costs[:, rows, order], n_levels=width)
    return small, np.take_along_axis(levels, order[group], axis=1), domain[rows, order]


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

r"""Every optimal pruning of a boosted forest over the penalty of cost, exact for a second-order surrogate.

Trees of a boosted forest are not independent: what a tree is worth depends on those before it. The surrogate freezes
each tree's predecessors as they were grown. With first and second derivatives g, s of the loss at the scores of the
trees before t, and v_h the values of node h of tree t,

.. math:: e_h = \sum_{i \in h} w_i \sum_c \bigl( g_{ic} v_{hc} + \tfrac12 s_{ic} v_{hc}^2 \bigr), \qquad
    a_h = e_h - e_{\mathrm{left}(h)} - e_{\mathrm{right}(h)}

is the fall of the second-order loss that the split of h brings. A pruning with kept splits H acquires for each row the
groups on its paths; maximizing profit less the penalized cost over all prunings is a maximum-weight closure, solved
exactly for every penalty at once. The certificate speaks about the surrogate on the rows it was computed on, and
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats, Ints, Ints32
from prunopt.core.jit import njit
from prunopt.forests.boosting.cost_efficient_boosting import Problem
from prunopt.forests.boosting.trees import GrownForest
from prunopt.forms.closure.closure import Closure
from prunopt.forms.closure.parametric_closure import PenaltyPath
from prunopt.problems.forest._routing import child, first_uses
from prunopt.problems.forest.feature_costs import Components
from prunopt.problems.forest.tree_ensemble import Trees
from prunopt.solvers.closure.parametric_cut import closure_path

PROFIT_TOTAL = 2**28  # the profits' absolute values add up to about this
WEIGHT_STEPS = 256.0  # the heaviest row counts as this many, where weights differ
COST_STEPS = 10_000  # the costliest group costs at most this many units


@dataclass(frozen=True, eq=False)
class SurrogatePath:
    """The optimal prunings of one forest, by rising cost.

    Parameters
    ----------
    rank : (N,) int32
        A node inside belongs to the pruning k (0 = the cheapest) when ``rank <= k``; leaves have the greatest number.
    cost : (P,) float64
        Mean cost of a row for each pruning, on the rows of the path, in the caller's unit (rounded to whole units of
        the closure where costs are not small whole numbers).
    profit : (P,) float64
        Fall of the mean surrogate loss.
    penalty : (P,) float64
        Highest penalty, in mean loss for one unit of mean cost, at which the pruning is optimal.
    unit_loss
        Mean loss that one unit of the closure's objective stands for.
    path
        The exact path of the closure, with its certificates; None where only the arrays were kept.
    """

    rank: Ints32
    cost: Floats
    profit: Floats
    penalty: Floats
    unit_loss: float
    path: PenaltyPath | None

    def lifetimes(self, points: NDArray[np.intp]) -> Ints32:
        """Return for the prunings ``points``, by falling cost, how many of them keep each node."""
        rising = np.sort(points)
        return (len(rising) - np.searchsorted(rising, self.rank, side="left")).astype(np.int32)


def surrogate_profits(forest: GrownForest, data: Problem) -> Floats:
    """Return the profit a_h of every node (N,), 0 at leaves, on the rows of ``data``."""
    loss_at = np.zeros(forest.n_nodes)
    scores = np.tile(forest.base, (len(data.target), 1))
    for t in range(forest.n_trees):
        slope, curvature = data.loss.derivatives(scores, data.target)
        w = data.weight[:, None]
        _tree_losses(data.codes, forest.arrays, forest.value, t, slope * w, curvature * w, loss_at, scores)
    profit = np.zeros(forest.n_nodes)
    inside = forest.internal
    profit[inside] = loss_at[inside] - loss_at[forest.left[inside]] - loss_at[forest.right[inside]]
    return profit


def integer_costs(component_cost: Floats) -> tuple[Ints, Fraction]:
    """Return costs as whole numbers, and the cost of one unit: exact for whole numbers, else rounded."""
    largest = float(component_cost.max(initial=0.0))
    if largest == 0.0:
        return np.zeros(component_cost.shape, np.int64), Fraction(1)
    if largest <= COST_STEPS and np.all(component_cost == np.round(component_cost)):
        return component_cost.astype(np.int64), Fraction(1)
    unit = Fraction(largest) / COST_STEPS
    whole = np.round(component_cost / float(unit)).astype(np.int64)
    whole[(whole == 0) & (component_cost > 0)] = 1  # what costs something must not become free
    return whole, unit


def surrogate_closure(forest: GrownForest, data: Problem, profit: Floats) -> tuple[Closure, NDArray[np.intp], float]:
    """Return the closure, the node of each of its items, and how many units of profit make a unit of loss."""
    inside = forest.internal
    item = np.full(forest.n_nodes, -1, np.int32)
    item[inside] = np.arange(len(inside))
    parent = np.full(forest.n_nodes, -1, np.int32)
    parent[forest.left[inside]] = inside
    parent[forest.right[inside]] = inside
    components = data.feature_costs.components
    cost, _ = integer_costs(components.cost)
    costly = np.any(cost > 0, axis=0)
    first = first_uses(forest.arrays, parent, components.of, costly, len(components.known) > 0)
    counts = np.zeros(forest.n_nodes, np.int64)
    n, C = len(data.codes), cost.shape[1]
    nothing = np.zeros(0, np.int32)
    visits = (data.codes, forest.arrays, components, cost, first, counts)
    _visits(*visits, counts, nothing)
    indptr = np.concatenate([[0], np.cumsum(counts[inside])])
    place = np.zeros(forest.n_nodes, np.int64)
    place[inside] = indptr[:-1]
    indices = np.empty(indptr[-1], np.int32)
    _visits(*visits, place, indices)
    used = np.zeros(n * C, np.bool_)
    used[indices] = True
    number = np.cumsum(used, dtype=np.int32) - 1
    pair = np.flatnonzero(used)  # of row and component
    weight = data.weight[pair // C]
    if np.all(data.weight == data.weight[0]):
        weight = np.ones(len(pair))
    else:
        weight = weight * (WEIGHT_STEPS / data.weight.max())
    scale = PROFIT_TOTAL / max(float(np.abs(profit).sum()), 1e-300)
    closure = Closure(
        np.round(profit[inside] * scale).astype(np.int64),
        np.where(parent[inside] >= 0, item[parent[inside]], -1).astype(np.int32),
        indptr,
        number[indices],
        np.maximum(np.round(cost[pair // C % len(cost), pair % C] * weight), 1).astype(np.int64),
    )
    return closure, inside, scale


def surrogate_path(forest: GrownForest, data: Problem, *, keep_proof: bool = False) -> SurrogatePath:
    """Return every optimal pruning of ``forest``; profits and costs are those of the rows of ``data``."""
    closure, inside, scale = surrogate_closure(forest, data, surrogate_profits(forest, data))
    path = closure_path(closure)
    rank = np.full(forest.n_nodes, np.iinfo(np.int32).max, np.int32)
    rank[inside[path.always]] = 0
    for k, block in enumerate(path.blocks):
        rank[inside[block.items]] = k + 1
    _, unit = integer_costs(data.feature_costs.component_cost)
    uniform = bool(np.all(data.weight == data.weight[0]))
    mass = float(len(data.weight)) if uniform else float(data.weight.sum() * WEIGHT_STEPS / data.weight.max())
    cost = np.concatenate([[0.0], np.cumsum(np.array(path.costs, np.float64))]) * float(unit) / mass
    gained = float(closure.profit[path.always].sum())
    profit = gained + np.concatenate([[0.0], np.cumsum(np.array(path.profits, np.float64))])
    per_loss = scale * float(data.weight.sum())
    in_loss = mass / (float(unit) * per_loss)
    penalty = np.array([np.inf, *(float(b.penalty) * in_loss for b in path.blocks)])
    return SurrogatePath(rank, cost, profit / per_loss, penalty, 1.0 / per_loss, path if keep_proof else None)


@njit
def _tree_losses(
    codes: Bytes,
    trees: Trees,
    value: Floats,
    t: int,
    slope: Floats,
    curvature: Floats,
    loss_at: Floats,
    scores: Floats,
) -> None:
    C = value.shape[1]
    for i in range(len(codes)):
        h = trees.offsets[t]
        while True:
            total = 0.0
            for c in range(C):
                total += value[h, c] * (slope[i, c] + 0.5 * curvature[i, c] * value[h, c])
            loss_at[h] += total
            if trees.left[h] < 0:
                break
            h = child(codes[i, trees.feature[h]], h, trees)
        for c in range(C):
            scores[i, c] += value[h, c]


@njit
def _visits(
    codes: Bytes, trees: Trees, costs: Components, cost: Ints, first: Bools, counts: Ints, place: Ints, out: Ints32
) -> None:
    """Count the components that rows incur at each node of ``first`` (``out`` empty), or list them from ``place`` on.

    ``cost`` (1 or n, C) is in whole units.
    """
    fill = len(out) > 0
    n, C = len(codes), cost.shape[1]
    made = np.full(C, -1, np.int64)  # the walk in which a component was last incurred
    for t in range(len(trees.offsets) - 1):
        for i in range(n):
            h = trees.offsets[t]
            walk = t * n + i
            while trees.left[h] >= 0:
                f = trees.feature[h]
                for layer in range(first.shape[1]):
                    if first[h, layer]:
                        c = costs.of[f, layer]
                        if len(costs.known) > 0:
                            if costs.known[i if len(costs.known) > 1 else 0, f] or made[c] == walk:
                                continue
                            made[c] = walk
                        if cost[i if len(cost) > 1 else 0, c] == 0:
                            continue
                        if fill:
                            out[place[h]] = i * C + c
                            place[h] += 1
                        else:
                            counts[h] += 1
                h = child(codes[i, f], h, trees)

r"""The kernel that grows one tree: leaf by leaf, each split penalized for the features that its rows have to acquire.

A split of a node with rows R on a feature of group g is worth

.. math::
    \frac12 \sum_c \Bigl( \frac{G_{Lc}^2}{H_{Lc} + \rho} + \frac{G_{Rc}^2}{H_{Rc} + \rho} - \frac{G_c^2}{H_c + \rho}
    \Bigr) - \lambda \, c_g \sum_{i \in R} s_i \, [\text{row } i \text{ has not acquired } g]

with the sums G, H of first and second derivatives: the fall of the second-order loss less the penalized cost. One tree
has a value for each of the C scores. Histograms of the larger child are the parent's less the smaller child's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import AnyArray, Bools, Bytes, Floats, Ints32
from prunopt.core.jit import njit
from prunopt.problems.forest._routing import goes_left

LEAST_GAIN = 1e-10


class BinnedRows(NamedTuple):
    """Codes (n, K), derivatives ``sums`` (n, 2 C + 1), weights (n,), and the group of each feature (K,)."""

    codes: Bytes
    sums: Floats
    weight: Floats
    group_of: AnyArray


class RowCosts(NamedTuple):
    """What acquiring groups costs the rows, and what they have acquired and incurred; the latter two are changed.

    With ``plain`` costs, ``acquired`` (n, G) and ``incurred`` are one array, and ``penalty`` (G,) is the penalized cost
    of a group. Otherwise ``penalty`` is that of one unit of cost (0 for groups that are free), and a row incurs the
    components ``of`` (G, L), whose ``cost`` is (1 or n, C), of the groups not ``known`` (0, 1 or n, G).
    """

    plain: bool
    penalty: Floats
    costly: Ints32
    of: AnyArray
    cost: Floats
    known: Bools
    acquired: Bools
    incurred: Bools


class TreeSize(NamedTuple):
    """Limits of a tree; with ``reuse``, histograms of siblings are subtracted, which takes memory for all leaves."""

    ridge: float
    min_rows: int
    max_leaves: int
    max_depth: int
    n_codes: int
    reuse: bool


class GrownTree(NamedTuple):
    """One tree: feature (-1 at leaves), code, side of missing values, children, and values (nodes, C)."""

    feature: Ints32
    code: Ints32
    missing_left: Bools
    left: Ints32
    right: Ints32
    value: Floats


@njit
def histogram(codes: Bytes, rows: Ints32, first: int, last: int, sums: Floats, features: Ints32, out: Floats) -> None:
    """Add up the derivatives and the count of ``rows[first:last]`` for each feature and code.

    ``sums`` is (n, 2 C + 1): first derivatives, second derivatives, and 1; ``out`` is (features, codes, 2 C + 1).
    """
    out[:] = 0.0
    width = sums.shape[1]
    if width == 3:
        for a in range(first, last):
            i = rows[a]
            g, h, s = sums[i, 0], sums[i, 1], sums[i, 2]
            for k in range(len(features)):
                cell = out[k, codes[i, features[k]]]
                cell[0] += g
                cell[1] += h
                cell[2] += s
    else:
        for a in range(first, last):
            row = sums[rows[a]]
            for k in range(len(features)):
                cell = out[k, codes[rows[a], features[k]]]
                for c in range(width):
                    cell[c] += row[c]


@njit
def costs_to_acquire(costs: RowCosts, weight: Floats, rows: Ints32, first: int, last: int, out: Floats) -> None:
    """Add up, for each costly group, what the rows have still to spend for it, times their weights.

    With ``plain`` costs that is the weight of the rows that have not acquired it, to be multiplied by one cost.
    """
    out[:] = 0.0
    for a in range(first, last):
        i = rows[a]
        if costs.plain:
            for g in costs.costly:
                if not costs.acquired[i, g]:
                    out[g] += weight[i]
            continue
        cost = costs.cost[i if len(costs.cost) > 1 else 0]
        for g in costs.costly:
            if len(costs.known) > 0 and costs.known[i if len(costs.known) > 1 else 0, g]:
                continue
            for c in costs.of[g]:
                if c >= 0 and not costs.incurred[i, c]:
                    out[g] += weight[i] * cost[c]


@njit
def best_split(
    hist: Floats, features: Ints32, group_of: AnyArray, due: Floats, penalty: Floats, ridge: float, min_rows: int
) -> tuple[float, int, int, bool]:
    """Return worth, feature (-1: no split is worth it), code and the missing values' side of the best split."""
    n_codes, width = hist.shape[1], hist.shape[2]
    C = (width - 1) // 2
    total = np.zeros(width)
    for b in range(n_codes):
        for c in range(width):
            total[c] += hist[0, b, c]
    count = total[width - 1]
    whole = 0.0
    for c in range(C):
        whole += total[c] * total[c] / (total[C + c] + ridge)
    best, best_feature, best_code, best_side = LEAST_GAIN, -1, 0, True
    left = np.empty(width)
    for k in range(len(features)):
        g = group_of[features[k]]
        cost = penalty[g] * due[g] if due[g] > 0.0 else 0.0
        if not cost < np.inf:
            continue
        some_missing = hist[k, 0, width - 1] > 0.0
        for side in range(2 if some_missing else 1):
            # side 0: the missing values go left; side 1: they go right.
            left[:] = 0.0
            for b in range(side, n_codes - 1):
                n_here = hist[k, b, width - 1]
                if n_here == 0.0:
                    continue
                for c in range(width):
                    left[c] += hist[k, b, c]
                if left[width - 1] < min_rows:
                    continue
                if count - left[width - 1] < min_rows:
                    break
                gain = -whole
                for c in range(C):
                    rest = total[c] - left[c]
                    gain += left[c] * left[c] / (left[C + c] + ridge)
                    gain += rest * rest / (total[C + c] - left[C + c] + ridge)
                worth = 0.5 * gain - cost
                if worth > best:
                    best, best_feature, best_code = worth, features[k], b
                    # Where no row tells, missing values go with the majority.
                    best_side = side == 0 if some_missing else left[width - 1] * 2 >= count
    return best, best_feature, best_code, best_side


@njit
def grow_tree(data: BinnedRows, rows: Ints32, features: Ints32, costs: RowCosts, size: TreeSize) -> GrownTree:
    """Grow one tree on ``rows`` that tests ``features``, and mark in ``costs`` what it acquires and incurs.

    Children come after their parents; values are Newton steps.
    """
    codes, sums, weight, group_of, penalty = data.codes, data.sums, data.weight, data.group_of, costs.penalty
    ridge, min_rows, max_leaves, n_codes, reuse = size.ridge, size.min_rows, size.max_leaves, size.n_codes, size.reuse
    width = sums.shape[1]
    C = (width - 1) // 2
    most = 2 * max_leaves - 1
    feature, code = np.full(most, -1, np.int32), np.zeros(most, np.int32)
    missing_left = np.zeros(most, np.bool_)
    left, right = np.full(most, -1, np.int32), np.full(most, -1, np.int32)
    value = np.zeros((most, C))
    first, last, depth = np.zeros(most, np.int64), np.zeros(most, np.int64), np.zeros(most, np.int64)
    worth, choice = np.zeros(most), np.full(most, -1, np.int64)
    choice_code, choice_side = np.zeros(most, np.int64), np.zeros(most, np.bool_)
    slot = np.zeros(most, np.int64)
    pool = np.empty((max_leaves if reuse else 2, len(features), n_codes, width))
    due = np.zeros((max_leaves if reuse else 2, len(penalty)))  # what the rows of a node have still to spend
    order, spare = rows.copy(), np.empty(len(rows), np.int32)

    last[0] = len(order)
    for a in range(len(order)):
        for c in range(C):
            value[0, c] -= sums[order[a], c]
    total = np.zeros(C)
    for a in range(len(order)):
        for c in range(C):
            total[c] += sums[order[a], C + c]
    for c in range(C):
        value[0, c] /= total[c] + ridge
    n_nodes, n_leaves = 1, 1
    if max_leaves > 1:
        histogram(codes, order, 0, len(order), sums, features, pool[0])
        costs_to_acquire(costs, weight, order, 0, len(order), due[0])
        worth[0], choice[0], choice_code[0], choice_side[0] = best_split(
            pool[0], features, group_of, due[0], penalty, ridge, min_rows
        )
    while n_leaves < max_leaves:
        h = -1
        for j in range(n_nodes):
            if left[j] < 0 and choice[j] >= 0 and (h < 0 or worth[j] > worth[h]):
                h = j
        if h < 0:
            break
        f, b, side = choice[h], choice_code[h], choice_side[h]
        g = group_of[f]
        middle, kept = first[h], 0
        for a in range(first[h], last[h]):
            i = order[a]
            if costs.plain:
                costs.acquired[i, g] = True
            elif len(costs.known) == 0 or not costs.known[i if len(costs.known) > 1 else 0, g]:
                costs.acquired[i, g] = True
                for c in costs.of[g]:
                    if c >= 0:
                        costs.incurred[i, c] = True
            if goes_left(codes[i, f], 0, b, side):
                order[middle] = i
                middle += 1
            else:
                spare[kept] = i
                kept += 1
        for a in range(kept):
            order[middle + a] = spare[a]
        feature[h], code[h], missing_left[h] = f, b, side
        left[h], right[h] = n_nodes, n_nodes + 1
        small = n_nodes if 2 * (middle - first[h]) <= last[h] - first[h] else n_nodes + 1
        large = 2 * n_nodes + 1 - small
        for j in (n_nodes, n_nodes + 1):
            first[j] = first[h] if j == n_nodes else middle
            last[j] = middle if j == n_nodes else last[h]
            depth[j] = depth[h] + 1
            total[:] = 0.0
            for a in range(first[j], last[j]):
                for c in range(C):
                    value[j, c] -= sums[order[a], c]
                    total[c] += sums[order[a], C + c]
            for c in range(C):
                value[j, c] /= total[c] + ridge
        n_nodes += 2
        n_leaves += 1
        if n_leaves == max_leaves or depth[large] >= size.max_depth:
            continue
        slot[large] = slot[h] if reuse else 0
        slot[small] = n_leaves - 1 if reuse else 1
        for j in (small, large):
            if last[j] - first[j] < 2 * min_rows and (j == large or not reuse):
                continue
            if reuse and j == small and last[large] - first[large] < 2 * min_rows:
                continue
            table, here = pool[slot[j]], due[slot[j]]
            if reuse and j == large:
                table -= pool[slot[small]]
                here -= due[slot[small]]
                here[g] = 0.0
            else:
                histogram(codes, order, first[j], last[j], sums, features, table)
                if costs.plain:
                    costs_to_acquire(costs, weight, order, first[j], last[j], here)
            if not costs.plain:
                costs_to_acquire(costs, weight, order, first[j], last[j], here)
            if last[j] - first[j] >= 2 * min_rows:
                worth[j], choice[j], choice_code[j], choice_side[j] = best_split(
                    table, features, group_of, here, penalty, ridge, min_rows
                )
    return GrownTree(
        feature[:n_nodes],
        code[:n_nodes],
        missing_left[:n_nodes],
        left[:n_nodes],
        right[:n_nodes],
        value[:n_nodes].copy(),
    )

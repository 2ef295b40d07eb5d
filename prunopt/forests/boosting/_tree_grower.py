r"""The kernel that grows one tree: leaf by leaf, each split paying for the features that its rows have not bought.

A split of a node with rows R on a feature of group g is worth

.. math::
    \frac12 \sum_c \Bigl( \frac{G_{Lc}^2}{H_{Lc} + \rho} + \frac{G_{Rc}^2}{H_{Rc} + \rho} - \frac{G_c^2}{H_c + \rho}
    \Bigr) - \alpha \, c_g \sum_{i \in R} s_i \, [\text{row } i \text{ has not bought } g]

with the sums G, H of first and second derivatives: the fall of the second-order loss less the price. One tree has a
value for each of the C scores. Histograms of the larger child are the parent's less the smaller child's.
"""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Bools, Bytes, Floats, Ints32
from prunopt.core.jit import njit

LEAST_GAIN = 1e-10


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
def unpaid(bought: Bools, weight: Floats, rows: Ints32, first: int, last: int, priced: Ints32, out: Floats) -> None:
    """Add up, for each priced group, the weight of the rows that have not bought it."""
    out[:] = 0.0
    for a in range(first, last):
        i = rows[a]
        for g in priced:
            if not bought[i, g]:
                out[g] += weight[i]


@njit
def unpaid_charges(
    paid: Bools, charges_of: Ints32, charge_cost: Floats, known: Bools, weight: Floats, rows: Ints32, first: int,
    last: int, priced: Ints32, out: Floats,
) -> None:  # fmt: skip
    """Add up, for each priced group, what the rows would pay for it: charges not paid yet, times weights."""
    out[:] = 0.0
    for a in range(first, last):
        i = rows[a]
        cost = charge_cost[i if len(charge_cost) > 1 else 0]
        for g in priced:
            if len(known) > 0 and known[i if len(known) > 1 else 0, g]:
                continue
            for c in charges_of[g]:
                if c >= 0 and not paid[i, c]:
                    out[g] += weight[i] * cost[c]


@njit
def best_split(
    hist: Floats, features: Ints32, group_of: Ints32, owed: Floats, price: Floats, ridge: float, min_rows: int
) -> tuple[float, int, int, bool]:
    """Return the worth of the best split of a node, its feature (-1: none pays), code and the missing values' side."""
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
        fee = price[g] * owed[g] if owed[g] > 0.0 else 0.0
        if not fee < np.inf:
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
                worth = 0.5 * gain - fee
                if worth > best:
                    best, best_feature, best_code = worth, features[k], b
                    # Where no row tells, missing values go with the majority.
                    best_side = side == 0 if some_missing else left[width - 1] * 2 >= count
    return best, best_feature, best_code, best_side


@njit
def goes_left(code: int, threshold: int, missing_left: bool) -> bool:
    """Whether a row goes to the left child."""
    return missing_left if code == 0 else code <= threshold


@njit
def grow_tree(
    codes: Bytes,
    sums: Floats,
    rows: Ints32,
    weight: Floats,
    bought: Bools,
    charges_of: Ints32,
    charge_cost: Floats,
    known: Bools,
    paid: Bools,
    plain: bool,
    group_of: Ints32,
    price: Floats,
    features: Ints32,
    ridge: float,
    min_rows: int,
    max_leaves: int,
    max_depth: int,
    n_codes: int,
    reuse: bool,
) -> tuple[Ints32, Ints32, Bools, Ints32, Ints32, Floats]:
    """Grow one tree on ``rows`` and mark in ``bought`` (n, G) what it buys, in ``paid`` (n, C) what that charges.

    With ``plain`` prices, the two are one array, and ``price`` (G,) is what one unit of a row's weight pays for a
    group; otherwise ``price`` is that of one unit of cost (0 for groups that are free), and ``charges_of`` (G, L),
    ``charge_cost`` (1 or n, C) and ``known`` (0, 1 or n, G) say what a row is charged. Returns feature (-1 at leaves),
    code, missing_left, left and right child, and the Newton values (nodes, C). Children come after their parents.
    """
    width = sums.shape[1]
    C = (width - 1) // 2
    size = 2 * max_leaves - 1
    feature, code = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    missing_left = np.zeros(size, np.bool_)
    left, right = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
    value = np.zeros((size, C))
    first, last, depth = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64)
    worth, choice = np.zeros(size), np.full(size, -1, np.int64)
    choice_code, choice_side = np.zeros(size, np.int64), np.zeros(size, np.bool_)
    slot = np.zeros(size, np.int64)
    pool = np.empty((max_leaves if reuse else 2, len(features), n_codes, width))
    owed = np.zeros((max_leaves if reuse else 2, len(price)))
    n_priced = 0
    priced = np.empty(len(price), np.int32)
    for g in range(len(price)):
        if price[g] > 0.0:
            priced[n_priced] = g
            n_priced += 1
    priced = priced[:n_priced]
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
        if plain:
            unpaid(bought, weight, order, 0, len(order), priced, owed[0])
        else:
            unpaid_charges(paid, charges_of, charge_cost, known, weight, order, 0, len(order), priced, owed[0])
        worth[0], choice[0], choice_code[0], choice_side[0] = best_split(
            pool[0], features, group_of, owed[0], price, ridge, min_rows
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
            if plain:
                bought[i, g] = True
            elif len(known) == 0 or not known[i if len(known) > 1 else 0, g]:
                bought[i, g] = True
                for c in charges_of[g]:
                    if c >= 0:
                        paid[i, c] = True
            if goes_left(codes[i, f], b, side):
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
        if n_leaves == max_leaves or depth[large] >= max_depth:
            continue
        slot[large] = slot[h] if reuse else 0
        slot[small] = n_leaves - 1 if reuse else 1
        for j in (small, large):
            if last[j] - first[j] < 2 * min_rows and (j == large or not reuse):
                continue
            if reuse and j == small and last[large] - first[large] < 2 * min_rows:
                continue
            table, debt = pool[slot[j]], owed[slot[j]]
            if reuse and j == large:
                table -= pool[slot[small]]
                debt -= owed[slot[small]]
                debt[g] = 0.0
            else:
                histogram(codes, order, first[j], last[j], sums, features, table)
                if plain:
                    unpaid(bought, weight, order, first[j], last[j], priced, debt)
            if not plain:
                unpaid_charges(
                    paid, charges_of, charge_cost, known, weight, order, first[j], last[j], priced, debt
                )  # fmt: skip
            if last[j] - first[j] >= 2 * min_rows:
                worth[j], choice[j], choice_code[j], choice_side[j] = best_split(
                    table, features, group_of, debt, price, ridge, min_rows
                )
    return (
        feature[:n_nodes], code[:n_nodes], missing_left[:n_nodes],
        left[:n_nodes], right[:n_nodes], value[:n_nodes].copy(),
    )  # fmt: skip

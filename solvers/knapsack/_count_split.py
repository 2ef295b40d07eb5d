r"""Plain 0-1 knapsacks split by how many items are taken: bounds of both sides, and better choices around them.

Where profits are weights plus a constant, the Lagrangian bound of the budget alone is far off: it takes a part of an
item, and with it a part of the constant. A second multiplier, of the number of items, closes that [1]_: of the choices
of fewer than K items, and of those of K or more, each has its own bound.

References
----------
.. [1] S. Martello, P. Toth, "Upper bounds and algorithms for hard 0-1 knapsack problems", Oper. Res. 45 (1997).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack

HALVINGS = 60  # of the range of a multiplier
CORE, COUNTS, WIDTH = 48, 9, 2**16  # items that may change at once, changes of their number, and of weight
ROUNDS = 12  # cores that are tried for one side


class Items(NamedTuple):
    """A plain knapsack of two levels each, as items: taking one changes the loss by ``change`` and costs ``weight``."""

    change: Floats
    weight: Ints  # above 0
    cheap: Ints  # the level of those not taken
    at: Ints  # the groups that are items; the others have levels of one cost, and keep the better one
    rest: Ints  # the choice (G,) that takes no item
    budget: int


class Side(NamedTuple):
    """The choices of at most or at least so many items: multipliers, and what the relaxation takes beside them."""

    penalty: float
    count_penalty: float
    over: Bools  # takes more than the budget, or ends there
    within: Bools


def as_items(problem: MultipleChoiceKnapsack) -> Items | None:
    """Return a plain problem of two levels for each group as items, None for others."""
    if not problem.is_plain or problem.n_levels != 2 or not np.isfinite(problem.loss).all():
        return None
    groups = np.arange(problem.n_groups)
    cheap = problem.cost.argmin(axis=1)
    weight = problem.cost[groups, 1 - cheap] - problem.cost[groups, cheap]
    rest = np.where(weight > 0, cheap, problem.loss.argmin(axis=1))
    at = np.flatnonzero(weight > 0)
    change = problem.loss[at, 1 - cheap[at]] - problem.loss[at, cheap[at]]
    return Items(change, weight[at], cheap[at], at, rest, problem.budget - int(problem.cost[groups, rest].sum()))


class Split(NamedTuple):
    """The sides of fewer than, and of at least ``number`` items."""

    items: Items
    number: int
    sides: tuple[Side, Side]

    @property
    def duals(self) -> dict[str, Any]:
        """The certificate as the form reads it."""
        return {"split": self.number, "sides": np.array([side[:2] for side in self.sides])}

    def improved(self, value: Ints, enough: Callable[[float], bool]) -> Ints:
        """Return a choice at least as good as ``value``; ``enough`` says whether so much change of its loss will do."""
        items = self.items
        best = value[items.at] != items.cheap
        start = float(items.change[best].sum())
        for side, limits in zip(self.sides, ((0, self.number - 1), (self.number, len(items.at))), strict=True):
            if _fits(items, side.within):
                best = _around(items, side, best, limits, lambda now: enough(now - start))
        out = items.rest.copy()
        out[items.at] = np.where(best, 1 - items.cheap, items.cheap)
        return out


def split(problem: MultipleChoiceKnapsack) -> Split | None:
    """Return the sides of a plain problem of two levels; None for others, and where all or no items fit."""
    items = as_items(problem)
    if items is None or len(items.at) < 2 or int(items.weight.sum()) <= items.budget:
        return None
    order = np.argsort(items.change / items.weight, kind="stable")
    number = int(np.searchsorted(np.cumsum(items.weight[order]), items.budget, side="right"))
    if not 0 < number < len(order):
        return None
    return Split(items, number + 1, (_side(items, number, at_least=False), _side(items, number + 1, at_least=True)))


def _fits(items: Items, taken: Bools) -> bool:
    return int(items.weight[taken].sum()) <= items.budget


def _side(items: Items, number: int, *, at_least: bool) -> Side:
    """Maximize the bound of one side over both multipliers: halving for the budget's, by rank for the number's."""
    n = len(items.change)

    def taken(penalty: float) -> tuple[Bools, float]:
        reduced = items.change + penalty * items.weight
        rank = np.argpartition(reduced, number - 1) if number < n else np.arange(n)
        edge = float(reduced[rank[:number]].max()) if number else 0.0
        chosen = np.zeros(n, np.bool_)
        chosen[rank[:number]] = True
        if at_least:
            return chosen | (reduced < 0), max(edge, 0.0)
        following = float(reduced[rank[number:]].min(initial=0.0))
        return chosen & (reduced < 0), max(0.0, -(min(edge, 0.0) + min(following, 0.0)) / 2)

    low, high = 0.0, 2.0 * float(np.max(-items.change / items.weight, initial=0.0)) + 1.0
    over, within = taken(low)[0], taken(high)[0]
    for _ in range(HALVINGS if _fits(items, within) else 0):
        middle = (low + high) / 2
        chosen, _ = taken(middle)
        if _fits(items, chosen):
            high, within = middle, chosen
        else:
            low, over = middle, chosen
    if not _fits(items, within):  # nothing on this side may fit: a large multiplier proves it
        high *= 2.0**10
    return Side(high, taken(high)[1], over, within)


def _around(items: Items, side: Side, best: Bools, limits: tuple[int, int], enough: Callable[[float], bool]) -> Bools:
    """Go from what fits towards what does not, item for item, and look at all changes of a few items that matter."""
    taken = side.within.copy()
    room = items.budget - int(items.weight[taken].sum())
    into, out = np.flatnonzero(side.over & ~taken), np.flatnonzero(taken & ~side.over)
    into, out = into[np.argsort(items.weight[into])], out[np.argsort(-items.weight[out])]
    for i, j in zip(into.tolist(), out.tolist(), strict=False):
        more = int(items.weight[i] - items.weight[j])
        if 0 <= more <= room:
            taken[i], taken[j] = True, False
            room -= more
    sign = 1.0 if limits[0] == 0 else -1.0
    reduced = np.abs(items.change + side.penalty * items.weight + sign * side.count_penalty)
    rng = np.random.default_rng(len(reduced))
    value, known = float(items.change[taken].sum()), float(items.change[best].sum())
    if value < known and limits[0] <= taken.sum() <= limits[1]:
        best, known = taken.copy(), value
    for _ in range(ROUNDS):
        if enough(known):
            break
        noise = 1e-9 * (1.0 + reduced.max()) * rng.random(len(reduced))
        core = np.argpartition(reduced + noise, min(CORE, len(reduced)) - 1)[:CORE]
        turned = np.where(taken[core], -1, 1)
        change, weight = turned * items.change[core], turned * items.weight[core]
        most = min(WIDTH // 2, 4 * int(np.abs(weight).max()))
        count = int(taken.sum())
        toggled = best_change(change, weight, turned, room, most, limits[0] - count, limits[1] - count)
        if toggled.any():
            where = core[toggled]
            taken[where] = ~taken[where]
            room = items.budget - int(items.weight[taken].sum())
        value = float(items.change[taken].sum())
        if value < known and limits[0] <= taken.sum() <= limits[1]:
            best, known = taken.copy(), value
    return best


@njit
def best_change(change: Floats, weight: Ints, turned: Ints, room: int, most: int, fewest: int, largest: int) -> Bools:
    """Return which items to turn over so that the loss changes best within ``room`` and the numbers allowed.

    The table holds the least change for each change of the number (``COUNTS`` of them, around none) and of the weight
    (from ``-most`` to ``most``).
    """
    n, half, width = len(change), COUNTS // 2, 2 * most + 1
    least = np.full((COUNTS, width), np.inf)
    least[half, most] = 0.0
    took = np.zeros((n, COUNTS, width), np.bool_)
    for i in range(n):
        w, t = weight[i], turned[i]
        before = least.copy()
        for c in range(max(0, -t), min(COUNTS, COUNTS - t)):
            for s in range(max(0, -w), min(width, width - w)):
                new = before[c, s] + change[i]
                if new < least[c + t, s + w]:
                    least[c + t, s + w] = new
                    took[i, c + t, s + w] = True
    best, at_c, at_s = np.inf, -1, -1
    for c in range(COUNTS):
        if fewest <= c - half <= largest:
            for s in range(min(width, most + room + 1)):
                if least[c, s] < best:
                    best, at_c, at_s = least[c, s], c, s
    out = np.zeros(n, np.bool_)
    if at_c < 0 or (best >= 0.0 and fewest <= 0 <= largest and room >= 0):
        return out
    for i in range(n - 1, -1, -1):
        if took[i, at_c, at_s]:
            out[i] = True
            at_c -= turned[i]
            at_s -= weight[i]
    return out

"""Every optimum of a closure over its price: divide and conquer on contracted problems."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.solution import CertificateError
from prunopt.core.solver import Limits, Run
from prunopt.forms.closure import INT64_SAFE, Closure, exact_sum
from prunopt.forms.price_path import Block, PricePath
from prunopt.solvers.kernels import closure_flow as flows
from prunopt.solvers.kernels.closure_split import Part, needs_nothing, restrict, value_of
from prunopt.solvers.min_cut import NO_GUESS, SLICE

NO_FLOW = np.zeros(0, np.int64)
ROUNDED_TOTAL = 2**61


def closure_path(closure: Closure, limits: Limits | None = None) -> PricePath:
    r"""Return the largest optimum of a closure for every price p >= 0.

    Between two nested optima with profits and costs :math:`(A_1, C_1) \subset (A_2, C_2)` the price at which they tie
    is :math:`p = (A_2 - A_1) / (C_2 - C_1)`. If the contracted problem at p gains nothing, p is a breakpoint and the
    items between the two leave the optimum together; otherwise its optimum lies strictly between, and both sides are
    searched in turn, contracted: B breakpoints take 2 B - 1 cuts of shrinking problems. Profits, costs and prices are
    integers and exact rationals. Where their products do not fit into 62 bits, the cut is found on costs rounded to
    the last of 61 bits, decisions are still taken on exact sums, and the certified gap of the points says what that
    may have cost.

    Parameters
    ----------
    closure
        A closure without ``arcs`` (its items form a forest). Its own price plays no part.
    limits
        Time limit; when it strikes, or on an interrupt, the path found so far is returned, marked incomplete.

    References
    ----------
    M. J. Eisner, D. G. Severance, "Mathematical techniques for efficient record segmentation in large shared
    databases", J. ACM 23 (1976); G. Gallo, M. D. Grigoriadis, R. E. Tarjan, SIAM J. Comput. 18 (1989).
    """
    if len(closure.arcs):
        raise ValueError(f"closure: it has {len(closure.arcs)} arcs besides the forest; a path needs a forest alone")
    run = Run(limits or Limits())
    free = needs_nothing(closure.parent, closure.indptr, closure.indices, closure.cost)
    total = exact_sum(np.abs(closure.profit))
    always = closure.tree_closure(np.where(free, closure.profit, -total - 1), ties=True)
    largest = closure.tree_closure(closure.profit, ties=True)
    first = restrict(_whole(closure), largest & ~always, always, NO_FLOW, NO_FLOW, NO_FLOW, 1.0)
    stack: list[_Open] = [_Open(first, Fraction(0), True, Fraction(0), None)]
    blocks: list[Block] = []
    stats = {"cuts": 0, "edges": 0, "rounded cuts": 0, "rounded ties": 0, "seconds": 0.0}
    complete = True
    while stack:
        part, price_of_guess, upper, least, most = stack.pop()
        if not len(part.items):
            continue
        profit, cost = exact_sum(part.profit), exact_sum(part.cost)
        if profit < 0 or (cost == 0 and profit != 0):
            # Between two exact optima this cannot be; between two found on rounded costs it can, by a trifle.
            if not stats["rounded cuts"]:
                raise CertificateError(f"the path is not nested: profit {profit} at cost {cost} between two optima")
            stats["rounded ties"] += 1
            shares = np.floor(part.guess_edge.astype(np.float64)).astype(np.int64)
            blocks.append(Block(price_of_guess, part.items, part.requirements, shares, 1))
            continue
        price = Fraction(profit, cost) if cost else Fraction(0)
        stats["cuts"] += 1
        stats["edges"] += len(part.indices)
        factor = 1.0 if upper or not price_of_guess else float(price / price_of_guess)
        cut = None if not complete else _cut(part, price, factor, run, stats)
        if cut is None:
            complete = False
            none = np.zeros(len(part.indices), np.int64)
            blocks.append(Block(_between(price, least, most), part.items, part.requirements, none, 1))
            continue
        chosen, flow, scale = cut
        if chosen is None:
            blocks.append(Block(_between(price, least, most), part.items, part.requirements, flow.edge, scale))
            continue
        nobody = np.zeros(len(chosen), np.bool_)
        guess = (flow.edge, flow.up, flow.lost, float(scale))
        above = restrict(part, chosen, nobody, *guess)
        below = restrict(part, ~chosen, chosen, *guess)
        del flow, guess, cut, part
        middle = _between(price, least, most)
        stack.append(_Open(below, price, False, least, middle))
        stack.append(_Open(above, price, True, middle, most))
    blocks.sort(key=lambda b: -b.price)
    stats["seconds"] = run.seconds
    return PricePath(closure, always, tuple(blocks), complete, stats)


class _Open(NamedTuple):
    """A part to be searched: where its guess comes from, and the prices that its blocks must lie between."""

    part: Part
    price_of_guess: Fraction
    upper: bool
    least: Fraction
    most: Fraction | None


def _between(price: Fraction, least: Fraction, most: Fraction | None) -> Fraction:
    """Keep blocks nested: exact prices are in order by themselves, those of rounded cuts may miss it by a trifle."""
    price = max(price, least)
    return price if most is None else min(price, most)


def _whole(closure: Closure) -> Part:
    return Part(
        np.arange(closure.n_items, dtype=np.int32),
        np.arange(closure.n_requirements, dtype=np.int32),
        closure.parent,
        closure.profit,
        closure.indptr,
        closure.indices,
        closure.cost,
        NO_GUESS,
        NO_GUESS,
        NO_GUESS,
    )


def _cut(
    part: Part, price: Fraction, factor: float, run: Run, stats: dict[str, float]
) -> tuple[NDArray[np.bool_] | None, flows.Flow, int] | None:
    """Solve a part at the price where all and nothing tie.

    Returns what is worth more than both (None if nothing is), the flow, and its unit; None when time ran out.
    """
    supply, capacity, scale = _capacities(part, price)
    if scale != price.denominator:
        stats["rounded cuts"] += 1
    graph = flows.build_graph(part.parent, part.indptr, part.indices, len(part.cost))
    guess = (part.guess_edge, part.guess_up, part.guess_lost)
    flow = flows.start_flow(graph, supply, capacity, *guess, factor * scale)
    done = False
    try:
        while not done:
            if run.out_of_time:
                return None
            done = flows.advance(graph, flow, supply, capacity, SLICE)
    except KeyboardInterrupt:
        return None
    chosen = flow.label[len(part.cost) :] >= flows.FAR
    if scale == price.denominator:
        return (None if chosen.all() else chosen), flow, scale
    profit, cost = value_of(part, chosen)
    better = int(profit) - price * int(cost) > 0
    return (chosen if better else None), flow, scale


def _capacities(part: Part, price: Fraction) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Supplies and capacities as integers, and how many of their units make one unit of profit."""
    numerator, denominator = price.numerator, price.denominator
    sizes = exact_sum(np.abs(part.profit)), exact_sum(part.cost)
    if max(sizes[0] * denominator, sizes[1] * numerator) < INT64_SAFE:
        return part.profit * denominator, part.cost * numerator, denominator
    largest = max(sizes[0], -(-sizes[1] * numerator // denominator), 1)
    scale = 1 << max((ROUNDED_TOTAL // largest).bit_length() - 1, 0)
    exact = np.longdouble(numerator) * np.longdouble(scale) / np.longdouble(denominator)
    return part.profit * scale, np.floor(part.cost * exact).astype(np.int64), scale

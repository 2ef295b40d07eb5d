"""One option for every group within limits: the Lagrangian bound, and the list that proves a claim about the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import AnyArray, Floats
from prunopt.core.deadline import is_over
from prunopt.core.solution import CertificateError

STATES = 4_000_000  # partial choices that a proof may hold at once
UNNOTICED = 10_000  # partial choices that cost no time
NEAR = 1e-6  # of a step: how far rounding may take a value from the one that it is
WHOLE = 2.0**50  # sums of whole numbers below this are exact
MISSING = 2**62  # the cost of an option that does not exist


class Choices(NamedTuple):
    """A multiple-choice knapsack: losses (G, L), infinite for missing options, and R resources, costs (R, G, L)."""

    loss: Floats
    costs: Sequence[AnyArray]
    limits: Sequence[float]  # infinite for a resource without a limit
    unit: float  # the sum of the largest losses
    leeway: float = 0.0  # relative: by how much a sum of costs may be beyond its limit


def multiplier_of(duals: Mapping[str, Any], name: str, default: float) -> float:
    """Return a multiplier, which is a finite number >= 0."""
    multiplier = float(duals.get(name, default))
    if not 0 <= multiplier < math.inf:
        raise CertificateError(f"duals[{name!r}] must be a finite number >= 0, got {multiplier}")
    return multiplier


def relaxed(choices: Choices, multipliers: Sequence[float]) -> tuple[Floats, float]:
    r"""Return loss + multipliers * costs of every option, and the multipliers times their limits."""
    total, fixed = choices.loss, 0.0
    for multiplier, cost, limit in zip(multipliers, choices.costs, choices.limits, strict=True):
        if multiplier and math.isfinite(limit):
            total = total + multiplier * np.where(np.isfinite(choices.loss), cost, 0)
            fixed += multiplier * limit
    return total, fixed


def bound(choices: Choices, multipliers: Sequence[float], claim: float = -math.inf) -> float:
    r"""Return the lower bound that multipliers >= 0, one of each resource, and a claim prove.

    .. math:: L(\lambda) = \sum_g \min_j \bigl( \mathrm{loss}_{gj} + \sum_r \lambda_r \mathrm{cost}_{rgj} \bigr)
              - \sum_r \lambda_r \mathrm{limit}_r

    Where all losses are whole numbers, it is rounded up to the next that a choice can lose. A claim "no choice loses
    less than v" is checked by `_least_below`; where too many partial choices remain, or the time is up, it does not
    count.
    """
    total, fixed = relaxed(choices, multipliers)
    least = total.min(axis=1)
    # Lowered by what rounding may add: large multipliers drown the losses.
    slack = 2.0**-50 * (choices.unit + float(np.abs(least).sum()) + abs(fixed))
    lagrangian = math.fsum([*least, -fixed]) - slack
    steps = lattice(choices.loss, choices.unit)
    rounded = lagrangian if steps is None else steps.up(lagrangian)
    if not rounded + 2 * slack < claim < math.inf:  # beyond, a list of choices could prove no more than rounding
        return rounded
    # What is below the claim lies a step below the next value that a choice can lose.
    room = claim - lagrangian
    if steps is not None:
        room = min(room, steps.up(claim) - (1 - NEAR) * steps.step - lagrangian + 2 * slack)
    least_found = _least_below(choices, multipliers, claim, (lagrangian, room), total - least[:, None])
    if steps is not None and math.isfinite(least_found):
        least_found = min(claim, steps.up(least_found - NEAR * steps.step))
    return max(rounded, least_found)


def counted_bound(choices: Choices, duals: Mapping[str, Any]) -> float:
    """Return the lesser bound of the choices of fewer than K groups above their cheapest level, and of K or more."""
    number, sides = duals["split"], np.asarray(duals.get("sides"), np.float64)
    if not isinstance(number, (int, np.integer)) or sides.shape != (2, 2):
        raise CertificateError(f"duals['split'] must be a whole number, with sides of shape (2, 2), got {sides.shape}")
    if not (np.isfinite(sides) & (sides >= 0)).all():
        raise CertificateError("duals['sides'] must hold finite numbers >= 0")
    cost, there = choices.costs[0], np.isfinite(choices.loss)
    least = np.where(there, cost, MISSING).min(axis=1)
    above = (cost > least[:, None]).astype(np.int64)
    fewer = choices._replace(costs=(cost, above), limits=(choices.limits[0], int(number) - 1))
    # "at least K above" reads "at most G - K at the cheapest"
    more = choices._replace(costs=(cost, 1 - above), limits=(choices.limits[0], len(cost) - int(number)))
    claim = float(duals.get("claim", -math.inf))
    return min(bound(side, tuple(own), claim) for side, own in zip((fewer, more), sides.tolist(), strict=True))


class Lattice(NamedTuple):
    """All values that a choice can lose are ``base`` plus a multiple of ``step``, all of them whole numbers."""

    base: int
    step: int

    def up(self, value: float) -> float:
        """Return the least of these values that is no less than ``value``."""
        return float(self.base + self.step * math.ceil((value - self.base) / self.step))


def lattice(loss: Floats, unit: float) -> Lattice | None:
    """Return the values that choices of one level of each group can lose, None where losses are not whole numbers."""
    there = np.isfinite(loss)
    if not unit < WHOLE or not loss.size or not there.any(axis=1).all():
        return None
    whole = np.where(there, loss, 0.0)
    if not np.array_equal(whole, np.rint(whole)):
        return None
    first = loss[np.arange(len(loss)), there.argmax(axis=1)].astype(np.int64)
    steps = np.where(there, whole.astype(np.int64) - first[:, None], 0)
    return Lattice(int(first.sum()), int(np.gcd.reduce(np.abs(steps), axis=None)) or 1)


def _least_below(
    choices: Choices, multipliers: Sequence[float], claim: float, known: tuple[float, float], reduced: Floats
) -> float:
    """Return the least loss below ``claim``, the claim where there is none, -inf where too many choices remain.

    Group by group the partial choices are listed that could still end below the claim: a choice loses the Lagrangian
    bound plus the reduced losses of its options, plus the multiplier of every unit that it leaves. Of partial choices
    of the same groups one that neither uses nor loses more replaces another. ``known``: the Lagrangian bound, and up to
    how far above it a choice is of interest.
    """
    lagrangian, room = known
    useful = reduced < room
    second = np.partition(reduced, 1, axis=1)[:, 1] if reduced.shape[1] > 1 else np.full(len(reduced), np.inf)
    order = np.argsort(np.where(np.count_nonzero(useful, axis=1) > 1, second, np.inf), kind="stable")
    limited = [
        (
            cost,
            limit,
            multiplier,
            _still(np.where(useful, cost, MISSING).min(axis=1)[order]),
            _still(np.where(useful, cost, -1).max(axis=1)[order]),
        )
        for cost, limit, multiplier in zip(choices.costs, choices.limits, multipliers, strict=True)
        if math.isfinite(limit)
    ]
    used, lost = [np.zeros(1, cost.dtype) for cost, *_ in limited], np.zeros(1)
    for place, g in enumerate(order):
        options = np.flatnonzero(useful[g])
        if len(lost) * len(options) > STATES or (len(lost) * len(options) > UNNOTICED and is_over()):
            return -math.inf
        used = [(u[:, None] + cost[g, options]).ravel() for u, (cost, *_) in zip(used, limited, strict=True)]
        lost = (lost[:, None] + reduced[g, options]).ravel()
        ends, fits = lost, np.ones(len(lost), np.bool_)
        for u, (_, limit, multiplier, least, most) in zip(used, limited, strict=True):
            ends = ends + multiplier * np.maximum(limit - u - most[place + 1], 0)
            fits &= u + least[place + 1] <= (limit * (1 + choices.leeway) if choices.leeway else limit)
        held = (ends < room) & fits
        used, lost = [u[held] for u in used], lost[held]
        if not len(lost):
            return claim
        real = lost  # what the options lose, but for a constant
        for u, (_, _, multiplier, _, _) in zip(used, limited, strict=True):
            real = real - multiplier * u
        stays = _undominated(real, used)
        used, lost = [u[stays] for u in used], lost[stays]
    found = lagrangian + lost
    for u, (_, limit, multiplier, _, _) in zip(used, limited, strict=True):
        found = found + multiplier * (limit - u)
    return float(min(claim, found.min(initial=np.inf)))


def _still(of_groups: AnyArray) -> AnyArray:
    """What the groups from each one on add up to, 0 behind the last."""
    return np.append(np.cumsum(of_groups[::-1])[::-1], of_groups.dtype.type(0))


def _undominated(lost: Floats, used: Sequence[AnyArray]) -> AnyArray:
    """Return the places of which no other has lost and used no more."""
    if len(used) == 2:
        from prunopt.forms.knapsack._pareto import undominated

        return undominated(lost, *used)
    order = np.lexsort((lost, *used))
    return order[lost[order] < np.minimum.accumulate(np.concatenate([[np.inf], lost[order][:-1]]))]

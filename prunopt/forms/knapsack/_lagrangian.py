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

    Where all losses are whole numbers, it is rounded up. A claim "no choice loses less than v" is checked by
    `_least_below`; where too many partial choices remain, or the time is up, it does not count.
    """
    total, fixed = relaxed(choices, multipliers)
    least = total.min(axis=1)
    # Lowered by what rounding may add: large multipliers drown the losses.
    slack = 2.0**-50 * (choices.unit + float(np.abs(least).sum()) + abs(fixed))
    lagrangian = math.fsum([*least, -fixed]) - slack
    losses = choices.loss[np.isfinite(choices.loss)]
    if choices.unit < WHOLE and np.array_equal(losses, np.rint(losses)):
        lagrangian = float(math.ceil(lagrangian))  # every choice loses a whole number
    if not lagrangian + 2 * slack < claim < math.inf:  # beyond, a list of choices could prove no more than rounding
        return lagrangian
    return max(lagrangian, _least_below(choices, multipliers, claim, lagrangian, total - least[:, None]))


def _least_below(
    choices: Choices, multipliers: Sequence[float], claim: float, lagrangian: float, reduced: Floats
) -> float:
    """Return the least loss below ``claim``, the claim where there is none, -inf where too many choices remain.

    Group by group the partial choices are listed that could still end below the claim: a choice loses the Lagrangian
    bound plus the reduced losses of its options, plus the multiplier of every unit that it leaves. Of partial choices
    of the same groups one that neither uses nor loses more replaces another.
    """
    room = claim - lagrangian
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

"""The search for policies: forests grown at many penalties, their exact prunings, the best at every level of cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints32
from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy
from prunopt.forests.boosting.cost_efficient_boosting import Problem, Shape, boost, largest_penalty
from prunopt.forests.boosting.predictors import free_shape
from prunopt.forests.boosting.surrogate_path import surrogate_path, surrogate_profits
from prunopt.forests.boosting.trees import GrownForest

# Long forests of small steps, and four large trees: the latter make deep cheap policies at small budgets.
SHAPES = (Shape(0.3, 16, 40), Shape(0.15, 16, 50), Shape(0.8, 32, 4))
# Penalties as shares of the largest that acquires anything.
PENALTIES: tuple[float, ...] = (*np.geomspace(0.95, 0.15, 5).tolist(), *np.geomspace(0.07, 0.0015, 6).tolist())
PREFIXES = (1, 2, 3, 5, 8, 12, 20, 30, 40, 50)


def penalties_for(count: int) -> tuple[float, ...]:
    """Return ``count`` penalties on the curve of `PENALTIES`."""
    if count == len(PENALTIES):
        return PENALTIES
    at, knots = np.linspace(0.0, 1.0, count), np.linspace(0.0, 1.0, len(PENALTIES))
    return tuple(np.exp(np.interp(at, knots, np.log(PENALTIES))).tolist())


@dataclass(frozen=True, eq=False)
class Sketch:
    """A policy before it is made: one pruning out of a nested family, and what its own trees are worth."""

    forest: GrownForest
    lifetime: Ints32
    point: int
    kind: str
    shape: str
    penalty: float
    cost: float
    score: float
    loss: float

    @property
    def origin(self) -> str:
        """Where the policy comes from, in words."""
        how = "as grown" if self.kind == "grown" else f"pruned on the {self.kind} rows"
        return f"{self.shape} at penalty {self.penalty:.3g}, {how}"

    def policy(self, data: Problem) -> AcquisitionPolicy:
        """Return the policy."""
        pruned = self.forest.pruned(self.lifetime > self.point)
        return AcquisitionPolicy(pruned, data.feature_costs.free_groups, data.feature_costs)


@dataclass(frozen=True, eq=False)
class Proposal:
    """A policy, its mean cost on the validation rows, and the loss of a quick predictor there."""

    policy: AcquisitionPolicy
    origin: str
    sketch: Sketch | None
    cost: float
    quick_loss: float


def sketches(
    train: Problem,
    valid: Problem,
    levels: Floats,
    *,
    shapes: Iterable[Shape] = SHAPES,
    penalties: Iterable[float] = PENALTIES,
    profits: Iterable[str] = ("validation",),
    seed: int = 0,
    n_jobs: int | None = None,
) -> list[Sketch]:
    """Grow a forest for each shape and penalty, and return its prefixes and its exact prunings near the ``levels``.

    Parameters
    ----------
    train, valid
        Rows to grow on, and rows to judge by.
    levels : (L,) float64
        Rising costs; of every path the costliest pruning below each is taken.
    shapes
        Shapes of forests.
    penalties
        Penalties as shares of the largest that acquires anything.
    profits
        Rows that the pruning paths are computed on: ``"train"``, ``"validation"``, or both one after the other.
    seed
        Seed of the growing.
    n_jobs
        Threads.
    """
    jobs = []
    for shape in shapes:
        largest = largest_penalty(train, shape.ridge, shape.min_rows)
        jobs += [(shape, largest * share) for share in penalties]
    kinds = tuple(profits)
    done = Parallel(n_jobs=n_jobs, prefer="threads")(
        delayed(_family_of)(train, valid, levels, shape, penalty, kinds, seed) for shape, penalty in jobs
    )
    return [sketch for family in done for sketch in family]


def _family_of(
    train: Problem, valid: Problem, levels: Floats, shape: Shape, penalty: float, kinds: tuple[str, ...], seed: int
) -> list[Sketch]:
    forest, _ = boost(train, shape, penalty, seed)
    if forest.n_trees == 0:
        return []
    name = f"{shape.n_trees} trees of {shape.max_leaves} leaves"
    sizes = np.array(sorted({min(s, forest.n_trees) for s in PREFIXES}))
    tree = np.repeat(np.arange(forest.n_trees), np.diff(forest.offsets))
    prefix = (len(sizes) - np.searchsorted(sizes, tree, side="right")).astype(np.int32)
    out = _judged(forest, prefix, len(sizes), ("grown", name, penalty), valid)
    for kind in kinds:
        path = surrogate_path(forest, train if kind == "train" else valid)
        below = np.searchsorted(path.cost, levels * (1 + 1e-12), side="right") - 1
        points = np.unique(below[below > 0])
        if len(points):
            out += _judged(forest, path.lifetimes(points), len(points), (kind, name, penalty), valid)
    return out


def _judged(
    forest: GrownForest, lifetime: Ints32, n_points: int, source: tuple[str, str, float], valid: Problem
) -> list[Sketch]:
    scores, costs = forest.family(valid.codes, lifetime, n_points, valid.feature_costs)
    out = []
    share = valid.weight / valid.weight.sum()
    for k in range(n_points):
        score, loss = valid.loss.judge(valid.loss.predictions(scores[k]), valid.target)
        out.append(
            Sketch(forest, lifetime, k, *source, float(share @ costs[k]), float(share @ score), float(share @ loss))
        )
    return out


def proposals(
    found: list[Sketch],
    train: Problem,
    valid: Problem,
    levels: Floats,
    *,
    per_level: int = 2,
    shortlist: int = 2,
    seed: int = 0,
    n_jobs: int | None = None,
) -> list[list[Proposal]]:
    """Return the best policies of each level: cheaper than the level, costlier than the one before.

    Of each kind (shape and pruning) the best sketches by the loss of their own trees are made into policies, with what
    is left of the level spent on the groups that are worth most for their cost; a small boosted forest on what each
    acquires then decides.
    """
    worth = group_worth(train, valid, seed)
    nothing = AcquisitionPolicy.of_nothing(train.feature_costs, train.loss.start(train.target, train.weight))
    out = []
    for level, below in zip(levels, [-1.0, *levels[:-1]], strict=True):
        kinds: dict[str, list[Sketch]] = {}
        for s in found:
            if below < s.cost <= level:
                kinds.setdefault(s.shape + s.kind, []).append(s)
        chosen: list[Sketch] = []
        for group in kinds.values():
            chosen += sorted(group, key=lambda s: s.loss)[:shortlist]
        fixed = nothing.filled(_fill(nothing, worth, level, valid))
        jobs: list[tuple[AcquisitionPolicy, str, Sketch | None]] = [(fixed, "the same groups for every row", None)]
        for s in chosen:
            policy = s.policy(train)
            jobs.append((policy, s.origin, s))
            extra = _fill(policy, worth, level, valid)
            if len(extra):
                jobs.append((policy.filled(extra), s.origin + ", filled up", s))
        made: list[Any] = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(quick)(*job, train, valid, seed) for job in jobs
        )
        best = sorted((p for p in made if p.cost <= level), key=lambda p: p.quick_loss)
        out.append(best[:per_level])
    return out


def quick(
    policy: AcquisitionPolicy, origin: str, sketch: Sketch | None, train: Problem, valid: Problem, seed: int
) -> Proposal:
    """Judge a policy by a small forest on what it acquires."""
    seen, _ = policy.masked(train.codes, train.feature_costs)
    codes, costs = policy.masked(valid.codes, valid.feature_costs)
    forest, _ = boost(train.seen(seen), QUICK, 0.0, seed)
    _, loss = valid.loss.judge(valid.loss.predictions(forest.scores(codes)), valid.target)
    share = valid.weight / valid.weight.sum()
    return Proposal(policy, origin, sketch, float(share @ costs), float(share @ loss))


QUICK = Shape(0.3, 24, 20, max_depth=10, ridge=1.0, rows=0.8, features=0.7)


def group_worth(train: Problem, valid: Problem, seed: int) -> Floats:
    """Return what each group is worth: the fall of validation loss at its splits in a forest without penalty."""
    forest, _ = boost(train, free_shape(train.loss, 48), 0.0, seed)
    profit = surrogate_profits(forest, valid)
    worth = np.zeros(len(train.feature_costs.group_cost))
    inside = forest.internal
    np.add.at(worth, train.feature_costs.group_of[forest.feature[inside]], profit[inside])
    return worth


def _fill(policy: AcquisitionPolicy, worth: Floats, level: float, valid: Problem) -> NDArray[np.intp]:
    """Groups to acquire for every row as well, by worth for cost, as far as the level allows."""
    costs = valid.feature_costs
    acquired = policy.acquired(valid.codes, costs)
    share = valid.weight / valid.weight.sum()
    left = level - float(share @ costs.of_rows(acquired))
    if not costs.is_plain:
        return _fill_components(acquired, worth, left, valid)
    extra = (share @ ~acquired) * costs.group_cost
    out = []
    for g in np.argsort(-worth / np.maximum(extra, 1e-12), kind="stable"):
        if worth[g] > 0 and 0 < extra[g] <= left * (1 - 1e-9):
            out.append(g)
            left -= extra[g]
    return np.array(out, np.intp)


def _fill_components(acquired: Bools, worth: Floats, left: float, valid: Problem) -> NDArray[np.intp]:
    """The same where what a group costs depends on what else is acquired: the best group, again and again."""
    costs = valid.feature_costs
    known = costs.known_groups
    share = valid.weight / valid.weight.sum()
    incurred = np.column_stack([costs.incurred(acquired), np.ones(len(acquired), np.bool_)])  # -1 = no component
    price = np.column_stack([costs.component_cost, np.zeros(len(costs.component_cost))])
    out: list[int] = []
    while True:
        due = share[:, None] * np.where(incurred, 0.0, price)  # what each row would pay for each component
        if len(known) == 0:
            extra = due.sum(axis=0)[costs.components_of].sum(axis=1)
        else:
            extra = np.array(
                [
                    (due[:, own].sum(axis=1) @ ~known[:, g]) if len(known) > 1 else due[:, own].sum() * ~known[0, g]
                    for g, own in enumerate(costs.components_of)
                ]
            )
        extra[out] = 0.0
        fits = (worth > 0) & (extra > 1e-12) & (extra <= left * (1 - 1e-9))
        if not fits.any():
            return np.array(out, np.intp)
        g = int(np.argmax(np.where(fits, worth / np.where(fits, extra, 1.0), -np.inf)))
        out.append(g)
        left -= extra[g]
        asked = True if len(known) == 0 else ~np.broadcast_to(known[:, g], len(incurred))
        for c in costs.components_of[g]:
            incurred[:, c] |= asked

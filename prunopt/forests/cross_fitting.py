"""The choice of a recipe: every recipe fitted on parts of the rows, judged on the others, again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from prunopt.core.arrays import AnyArray, Floats, Ints
from prunopt.forests.recipes import DEFAULT, NOTHING, Data, Recipe, fitted
from prunopt.forests.scoring import Scoring
from prunopt.forests.staged import StagedModel

RACE = 1.0  # paired standard errors by which a candidate may be worse than one as cheap, to be judged again
ALWAYS = DEFAULT, NOTHING
SURELY_WORSE = 2.0  # paired standard errors below the best that the cheapest model may be
TWO_SIDED = 1.959964  # standard errors of a 95 % interval


@dataclass(frozen=True)
class Judged:
    """A candidate by cross-fitting: every row judged by models that were fitted without it.

    Parameters
    ----------
    name
        What the candidate is.
    level
        The greatest cost it was made for.
    score
        Accuracy, or minus the mean squared error.
    cost
        Mean cost of a row.
    difference, standard_error
        Mean of score less that of scikit-learn's default forest on the same rows, and its standard error.
    """

    name: str
    level: float
    score: float
    cost: float
    difference: float
    standard_error: float


@dataclass(frozen=True)
class Comparison:
    """What the whole rule reaches, its choice included, against scikit-learn's default forest on all features.

    Each fold's rows are judged by the candidate that the other folds choose, so the choice has not seen them.

    Parameters
    ----------
    score, cost
        Accuracy (or minus the mean squared error) and mean cost of a row of the rule.
    default_score, default_cost
        Those of the default forest.
    difference, low, high
        Score less default score, paired by rows, and its 95 % interval.
    score_low, score_high, cost_low, cost_high
        95 % intervals of score and cost.
    rows, folds, repeats
        On how many rows, and how.
    """

    score: float
    cost: float
    default_score: float
    default_cost: float
    difference: float
    low: float
    high: float
    score_low: float
    score_high: float
    cost_low: float
    cost_high: float
    rows: int
    folds: int
    repeats: int


class Table(NamedTuple):
    """What every recipe did on every row, out of fold, (recipes, repeats, n); the fold of each row, (repeats, n)."""

    recipes: list[Recipe]
    score: Floats
    utility: Floats
    cost: Floats
    fold: Ints
    weight: Floats
    in_money: bool = False
    cap: float = np.inf  # what a single row may cost
    tolerance: float = np.inf  # what the cheapest model may lose to the best, however uncertain the difference is

    @property
    def gain(self) -> Floats:
        """What is chosen by: utility, less the cost where both are money."""
        return self.utility - self.cost if self.in_money else self.utility

    def mean(self, values: Floats, rows: AnyArray | None = None) -> Floats:
        """Return weighted means over (some of the) rows, of all repeats."""
        weight = np.broadcast_to(self.weight, self.fold.shape) * (1.0 if rows is None else rows)
        return np.asarray((values * weight).sum(axis=(-2, -1)) / weight.sum())

    def only(self, keep: AnyArray) -> Table:
        """Return the table of some of the recipes."""
        return self._replace(
            recipes=[recipe for recipe, kept in zip(self.recipes, keep, strict=True) if kept],
            score=self.score[keep],
            utility=self.utility[keep],
            cost=self.cost[keep],
        )

    def error_of(self, values: Floats) -> float:
        """Return the standard error of the mean of (repeats, n) values over rows; repeats share their rows."""
        per_row, share = values.mean(axis=0), self.weight / self.weight.sum()
        spread = float(share @ np.square(per_row - share @ per_row))
        return float(np.sqrt(spread * np.square(share).sum() * len(share) / max(len(share) - 1, 1)))


def folds_of(data: Data, n_folds: int, repeats: int, seed: int) -> Ints:
    """Return the fold of each row, (repeats, n), every class spread over all folds."""
    random = np.random.default_rng(seed)
    out = np.empty((repeats, len(data.y)), np.int64)
    for r in range(repeats):
        order = random.permutation(len(data.y))
        if data.n_classes:
            order = order[np.argsort(data.y[order], kind="stable")]
        out[r, order] = np.arange(len(order)) % n_folds
    return out


def cross_fit(
    data: Data,
    recipes: list[Recipe],
    scoring: Scoring,
    folds: Ints,
    n_trees: int,
    seed: int,
    n_jobs: int | None,
    tell: Callable[[str], Any],
) -> Table:
    """Fit the recipes on the other folds, and judge them on each.

    After the first repeat those leave the race that another one, no costlier, surpasses by more than `RACE` paired
    standard errors.
    """
    n_folds = int(folds.max()) + 1
    none = np.zeros((len(recipes), 0, len(data.y)))
    table = Table(recipes, none, none, none, folds[:0], data.weight, scoring.in_money, data.cap, scoring.tolerance)
    for r in range(len(folds)):
        shape = len(table.recipes), len(data.y)
        new = np.full((3, *shape), np.nan)
        work = (
            delayed(_fold)(data, table.recipes, scoring, folds[r] == f, n_trees, seed + 1000 * r + f)
            for f in range(n_folds)
        )
        for f, found in enumerate(Parallel(n_jobs=n_jobs, return_as="generator")(work)):
            for k, judged in found.items():
                new[:, k, folds[r] == f] = judged
            tell(f"fold {r * n_folds + f + 1} of {len(folds) * n_folds}")
        table = table._replace(
            score=np.concatenate([table.score, new[0][:, None]], axis=1),
            utility=np.concatenate([table.utility, new[1][:, None]], axis=1),
            cost=np.concatenate([table.cost, new[2][:, None]], axis=1),
            fold=folds[: r + 1],
        )
        table = table.only(np.asarray(np.isfinite(table.score).all(axis=(1, 2))))
        if r == 0 and len(folds) > 1:
            table = table.only(_in_the_race(table))
    return table


def _in_the_race(table: Table) -> AnyArray:
    gain, cost = table.mean(table.gain), table.mean(table.cost)
    keep = np.ones(len(gain), np.bool_)
    for k, recipe in enumerate(table.recipes):
        if recipe not in ALWAYS:
            as_cheap = np.flatnonzero(cost <= cost[k] * (1 + 1e-9))
            best = as_cheap[gain[as_cheap].argmax()]
            keep[k] = gain[k] >= gain[best] - RACE * table.error_of(table.gain[best] - table.gain[k])
    return keep


def _fold(
    data: Data, recipes: list[Recipe], scoring: Scoring, test: AnyArray, n_trees: int, seed: int
) -> dict[int, tuple[Floats, Floats, Floats]]:
    models = fitted(data.take(~test), recipes, n_trees, seed)
    rows, out = data.take(test), {}
    done: dict[int, tuple[Floats, Floats, Floats]] = {}  # recipes that end in one model are judged once
    seen: dict[int, Floats] = {}
    for k, recipe in enumerate(recipes):
        if (model := models.get(recipe)) is not None:
            if id(model) not in done:
                done[id(model)] = judged(model, rows, scoring, seen)
            out[k] = done[id(model)]
    return out


def judged(
    model: Any, rows: Data, scoring: Scoring, seen: dict[int, Floats] | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return score, utility and cost of each row; ``seen`` as in `prunopt.forests.staged.StagedModel.stopped`."""
    if isinstance(model, StagedModel):
        values, cost = model.judged(rows.X, rows.costs, {} if seen is None else seen)
    else:
        own = rows.costs if rows.costs.n_rows is not None else None
        values, cost = values_of(model, rows), model.on_demand(rows.X, None, feature_costs=own).cost
    if rows.one_price:
        cost = rows.costs.of_rows(np.broadcast_to(model.used, (len(cost), len(model.used))))
    return *scoring.of_rows(values, rows.y), cost


def values_of(model: Any, rows: Data) -> Floats:
    """Return class probabilities over all classes (n, C), or predictions (n, 1)."""
    found = np.asarray(model.values(rows.X))
    codes = model.codes if hasattr(model, "codes") else model.classes
    if codes is None or found.shape[1] == rows.n_classes:
        return found
    out = np.zeros((len(found), rows.n_classes))
    out[:, np.asarray(codes, np.int64)] = found
    return out


def choose(table: Table, budget: float | None, rows: AnyArray | None = None) -> int:
    """Return the recipe for a budget, by (some of the) judged rows.

    Within a budget, the one of greatest utility whose rows cost no more on average. Without one, the cheapest that is
    not surely worse than the best: by no more than `SURELY_WORSE` paired standard errors of the utility, nor by more
    than the table's tolerance. Where utilities are money, costs are in them, and the best is taken.
    """
    utility, cost = table.mean(table.gain, rows), table.mean(table.cost, rows)
    over = table.cost.max(axis=(1, 2), initial=0.0) > table.cap * (1 + 1e-9)  # rows that cost more than one may
    utility, cost = np.where(over, -np.inf, utility), np.where(over, np.inf, cost)
    if budget is not None:
        inside = np.flatnonzero(cost <= budget * (1 + 1e-9))
        if not len(inside):
            return int(np.argmin(cost))
        return int(inside[np.lexsort((cost[inside], -utility[inside]))[0]])
    best = int(utility.argmax())
    if table.in_money:
        return best
    error = np.array([table.error_of(table.gain[best] - other) for other in table.gain])
    inside = np.flatnonzero(utility >= utility[best] - np.minimum(SURELY_WORSE * error, table.tolerance))
    return int(inside[np.lexsort((-utility[inside], cost[inside]))[0]])


def compared(table: Table, budget: float | None) -> Comparison:
    """Return what the rule reaches: each fold judged by the choice of the others."""
    base = table.recipes.index(DEFAULT)
    score, cost = np.empty(table.fold.shape), np.empty(table.fold.shape)
    n_folds = int(table.fold.max()) + 1
    for r in range(len(table.fold)):
        for f in range(n_folds):
            inside = table.fold[r] == f
            others = np.broadcast_to(~inside, table.fold.shape)  # these rows have no say in any repeat
            k = choose(table, budget, others)
            score[r, inside], cost[r, inside] = table.score[k, r, inside], table.cost[k, r, inside]
    gap = score - table.score[base]
    right, bill, gap = (float(table.mean(values)) for values in (score, cost, score - table.score[base]))
    own, spread, pair = (TWO_SIDED * table.error_of(values) for values in (score, cost, score - table.score[base]))
    return Comparison(
        score=right,
        cost=bill,
        default_score=float(table.mean(table.score[base])),
        default_cost=float(table.mean(table.cost[base])),
        difference=gap,
        low=gap - pair,
        high=gap + pair,
        score_low=right - own,
        score_high=min(right + own, 1.0 if table.score.max() > 0 else 0.0),
        cost_low=max(bill - spread, 0.0),
        cost_high=bill + spread,
        rows=len(table.weight),
        folds=n_folds,
        repeats=len(table.fold),
    )


def report(table: Table) -> tuple[Judged, ...]:
    """Return every candidate, by rising cost."""
    base = table.recipes.index(DEFAULT)
    score, cost = table.mean(table.score), table.mean(table.cost)
    out = [
        Judged(
            recipe.words, recipe.level, float(score[k]), float(cost[k]), float(score[k] - score[base]),
            table.error_of(table.score[k] - table.score[base]),
        )
        for k, recipe in enumerate(table.recipes)
    ]  # fmt: skip
    return tuple(sorted(out, key=lambda judged: judged.cost))

"""Which features a forest gets under a budget: a greedy search by out-of-bag error, all on the same bootstraps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from prunopt.core.arrays import AnyArray, Bools, Floats
from prunopt.problems.forest.feature_costs import FeatureCosts

SEARCH_TREES, SEARCH_ROWS = 20, 1500
MOST_GROUPS = 24  # that are searched; more are screened by the importances of one forest
LOOK_AGAIN = 3  # how many groups with the best gains of before are measured again in each step
LEAST_GAIN = 1e-4  # of the error without features


@dataclass(eq=False)
class SubsetSearch:
    r"""Sets of groups of features at rising cost.

    .. math:: \min_{S} \; \text{out-of-bag error of a forest on } S \quad \text{s.t.} \quad c(S) \le B

    is approached by adding, while the budget lasts, the group of the greatest gain for its cost, then groups of the
    greatest gain alone. Errors are squared errors (of class probabilities). The
    gains of all groups are measured once; after that, those whose last gains were greatest are measured again.

    Parameters
    ----------
    X, y, weight
        Rows; codes of labels, or numbers; weights.
    costs : FeatureCosts
        Groups and costs.
    n_classes
        Number of classes, 0 for regression.
    seed
        Seed of the forests.
    """

    X: Floats
    y: AnyArray
    weight: Floats
    costs: FeatureCosts
    n_classes: int
    seed: int
    _error: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.X) > SEARCH_ROWS:
            rows = np.random.default_rng(self.seed).permutation(len(self.X))[:SEARCH_ROWS]
            self.X, self.y, self.weight = self.X[rows], self.y[rows], self.weight[rows]
            if self.costs.n_rows is not None:
                self.costs = self.costs.take(rows)
        # Smaller leaves overfit a single feature so far that it seems worse than none.
        self._leaf = max(1, round(np.sqrt(len(self.X))))
        self._screened = self._screen()
        self._prefixes = self._add(self._free(), None, by_cost=True)

    def within(self, budget: float) -> Bools:
        """Return the groups (G,) found for a budget."""
        affordable = [groups for groups in self._prefixes if self.cost(groups) <= budget * (1 + 1e-9)]
        if not affordable:
            return self._free()
        return self._add(affordable[-1], budget, by_cost=False)[-1]

    def cost(self, groups: Bools) -> float:
        """Return the mean cost of a row that acquires the groups."""
        n = self.costs.n_rows or 1
        return float(self.costs.of_rows(np.broadcast_to(groups, (n, len(groups)))).mean())

    def error(self, groups: Bools) -> float:
        """Return the out-of-bag squared error of a forest on the groups."""
        key = groups.tobytes()
        if key not in self._error:
            self._error[key] = self._measured(self.X[:, self.costs.features(groups)])
        return self._error[key]

    def _measured(self, columns: Floats) -> float:
        share = self.weight / self.weight.sum()
        truth = np.eye(self.n_classes)[self.y] if self.n_classes else self.y[:, None]
        prior = share @ truth
        start = float(share @ np.square(truth - prior).sum(axis=1))
        if columns.shape[1] == 0 or start == 0.0:
            return start
        kind = RandomForestClassifier if self.n_classes else RandomForestRegressor
        forest = kind(
            SEARCH_TREES, min_samples_leaf=self._leaf, max_features="sqrt", oob_score=True, random_state=self.seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that are in every bootstrap
            forest.fit(columns, self.y, self.weight)
        if self.n_classes:
            found = np.zeros(truth.shape)
            found[:, forest.classes_.astype(np.int64)] = np.nan_to_num(forest.oob_decision_function_)
        else:
            found = forest.oob_prediction_[:, None]
        return float(share @ np.square(truth - found).sum(axis=1))

    def _free(self) -> Bools:
        return self.costs.free_groups.copy()

    def _screen(self) -> Bools:
        """The groups that are searched."""
        G = len(self.costs.group_cost)
        if G <= MOST_GROUPS:
            return np.ones(G, np.bool_)
        kind = RandomForestClassifier if self.n_classes else RandomForestRegressor
        forest = kind(SEARCH_TREES, min_samples_leaf=self._leaf, max_features="sqrt", random_state=self.seed)
        gain = np.bincount(
            self.costs.group_of, weights=forest.fit(self.X, self.y, self.weight).feature_importances_, minlength=G
        )
        per_cost = gain / np.maximum(self.costs.group_cost, self.costs.group_cost.mean() / 20)
        chosen = np.zeros(G, np.bool_)
        for rank in (gain, per_cost):
            chosen[np.argsort(-rank, kind="stable")[: MOST_GROUPS // 2]] = True
        return chosen

    def _add(self, start: Bools, budget: float | None, *, by_cost: bool) -> list[Bools]:
        """The sets passed by adding groups to ``start``, within the budget."""
        path, least = [start], LEAST_GAIN * self.error(np.zeros_like(start))
        last = np.full(len(start), np.inf)
        while True:
            groups, here = path[-1], self.error(path[-1])
            spent, limit = self.cost(groups), np.inf if budget is None else budget * (1 + 1e-9)
            more: dict[int, float] = {}
            for g in np.flatnonzero(self._screened & ~groups).tolist():
                more[g] = self.cost(groups | (np.arange(len(groups)) == g)) - spent
            more = {g: extra for g, extra in more.items() if spent + extra <= limit}
            unit = max(self.costs.total * 1e-3, 1e-12)
            worth = {g: last[g] / max(extra, unit) if by_cost else last[g] for g, extra in more.items()}
            order = sorted(worth, key=lambda g: -worth[g])
            again = order if np.isinf(last).any() and len(path) == 1 else order[:LOOK_AGAIN]
            for g in again:
                last[g] = here - self.error(groups | (np.arange(len(groups)) == g))
            gains = {g: last[g] / max(more[g], unit) if by_cost else last[g] for g in again if last[g] > least}
            if not gains:
                return path
            best = max(gains, key=lambda g: gains[g])
            path.append(groups | (np.arange(len(groups)) == best))

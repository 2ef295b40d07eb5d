"""Which features a model gets under a budget: a search by errors on rows that the model has not seen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.problems.forest.feature_costs import FeatureCosts

SEARCH_TREES, SEARCH_ROWS = 20, 1500
MOST_GROUPS = 24  # that are searched; more are screened by the importances of one forest
LOOK_AGAIN = 3  # how many groups with the best gains of before are measured again in each step
LEAST_GAIN = 1e-4  # of the error without features
FEW_GROUPS = 8  # up to which every set is tried
ADDITIVE_ROWS = 2000  # up to which additive models are searched by, above forests
RIDGE = 10.0  # of additive models, whose columns have variance 1
CHEAP, BUNDLES = 0.05, 3  # share of the cost of everything; how many costly bundles stages are made of
APART, MOST_PREFIXES = 1.3, 8  # how much costlier the next set of stages is, and how many there are
BINS = 4  # of a feature in an additive model
LEAST_LEAF = 3  # of forests
WEIGHTS = 0.0, 0.5, 1.0  # powers of the cost that importances are divided by to fill a budget


@dataclass(eq=False)
class SubsetSearch:
    r"""Sets of groups of features at rising cost.

    .. math:: \min_{S} \; \text{error of a model on } S \quad \text{s.t.} \quad c(S) \le B

    with squared errors (of class probabilities) of rows that the model has not seen: those of an additive ridge model,
    leave-one-out in closed form (Allen 1974), up to `ADDITIVE_ROWS` rows, and out of bag of a forest above. With up to
    `FEW_GROUPS` groups every set is tried. Otherwise the minimum is approached by adding, while the budget lasts, the
    group of the greatest gain for its cost, then groups of the greatest gain alone, and at last by exchanging one
    group for another. The gains of all groups are measured once; after that, those whose last gains were greatest
    are measured again. Forests' errors do not tell small gains: what is left of a budget is filled by importance in one
    forest on everything, over three powers of the cost, and the set of least error is taken.

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
    additive
        Whether additive models judge; None = up to `ADDITIVE_ROWS` rows.
    """

    X: Floats
    y: AnyArray
    weight: Floats
    costs: FeatureCosts
    n_classes: int
    seed: int
    additive: bool | None = None
    _error: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.additive is None:
            self.additive = len(self.X) <= ADDITIVE_ROWS
        if len(self.X) > SEARCH_ROWS and not self.additive:
            rows = np.random.default_rng(self.seed).permutation(len(self.X))[:SEARCH_ROWS]
            self.X, self.y, self.weight = self.X[rows], self.y[rows], self.weight[rows]
            if self.costs.n_rows is not None:
                self.costs = self.costs.take(rows)
        self._basis = [_columns(x) for x in self.X.T] if self.additive else []
        self._screened = self._screen()
        self._prefixes = self._add(self._free(), None, by_cost=True)
        if not self.additive:  # whose errors are too noisy to tell what the last groups bring
            self._prefixes += self._filled(self._prefixes[-1], 1.0, np.inf)[1:]

    def within(self, budget: float) -> Bools:
        """Return the groups (G,) found for a budget."""
        affordable = [groups for groups in self._prefixes if self.cost(groups) <= budget * (1 + 1e-9)]
        if not affordable:
            return self._free()
        if self._screened.sum() <= FEW_GROUPS:
            return self._best_of_all(budget)
        found = self._exchanged(self._add(affordable[-1], budget, by_cost=False)[-1], budget)
        if self.additive:
            return found
        sets = [found, *(self._filled(found, by, budget)[-1] for by in WEIGHTS)]
        return min([*sets, *(self._filled(self._free(), by, budget)[-1] for by in WEIGHTS)], key=self.error)

    def family(self) -> list[Bools]:
        """Return sets that stages can be made of, by rising cost.

        They are the sets that adding by gain for the cost passes, and the last one of these that is cheap (`CHEAP`)
        with every choice among `BUNDLES` bundles: those that are added next, and the costly one of greatest gain for
        its cost by itself, which a costlier one may have made useless. Each bundle is a set of its own, too: what is
        asked of every row should not hold what only rows in doubt need.
        """
        prefixes = [self._prefixes[k] for k in _apart([self.cost(p) for p in self._prefixes], self.costs.total)]
        cheap = [groups for groups in self._prefixes if self.cost(groups) <= CHEAP * self.costs.total]
        base = cheap[-1] if cheap else self._free()
        added = [int(np.flatnonzero(after & ~before)[0]) for before, after in pairwise(self._prefixes)]
        order: list[Bools] = []
        for most, groups in ((BUNDLES - 1, added), (BUNDLES, self._alone()), (BUNDLES, added)):
            for g in groups:
                new = self._bundle(g) & ~base
                if len(order) < most and new.any() and not any((new & other).any() for other in order):
                    order.append(new)
        made = [base | np.any([b for b, use in zip(order, choice, strict=True) if use], axis=0)
                for choice in product((False, True), repeat=len(order)) if any(choice)]  # fmt: skip
        made += [self._free() | b for b in order]
        if not self.additive and order:  # the few rows in doubt can have all bundles and what is cheap
            cheap = self._filled(self._free(), 1.0, CHEAP * self.costs.total)
            made.append(cheap[-1] | np.any(order, axis=0))
        found = {groups.tobytes(): groups for groups in [*prefixes, base, *made]}
        return sorted(found.values(), key=lambda groups: (self.cost(groups), groups.sum()))

    def _alone(self) -> list[int]:
        """The groups that are not cheap and help by themselves, by gain for the cost."""
        free = self._free()
        worth = {}
        for g in np.flatnonzero(self._screened & ~free).tolist():
            groups = free | (np.arange(len(free)) == g)
            if (cost := self.cost(groups)) > CHEAP * self.costs.total:
                worth[g] = (self.error(free) - self.error(groups)) / cost
        return sorted((g for g in worth if worth[g] > 0), key=lambda g: -worth[g])

    def _bundle(self, group: int) -> Bools:
        """The groups that cost little more once this one is acquired, itself among them."""
        components, price = self.costs.components_of, self.costs.component_cost.mean(axis=0)
        own = components[group][components[group] >= 0]
        out = np.zeros(len(components), np.bool_)
        for g, others in enumerate(components):
            others = others[others >= 0]
            out[g] = g == group or price[np.intersect1d(own, others)].sum() > price[others].sum() / 2
        return out

    def cost(self, groups: Bools) -> float:
        """Return the mean cost of a row that acquires the groups."""
        n = self.costs.n_rows or 1
        return float(self.costs.of_rows(np.broadcast_to(groups, (n, len(groups)))).mean())

    def most(self, groups: Bools) -> float:
        """Return the greatest cost of a row that acquires the groups."""
        n = self.costs.n_rows or 1
        return float(self.costs.of_rows(np.broadcast_to(groups, (n, len(groups)))).max())

    def error(self, groups: Bools) -> float:
        """Return the squared error of a model on the groups, of rows that it has not seen."""
        key = groups.tobytes()
        if key not in self._error:
            self._error[key] = self._measured(self.costs.features(groups))
        return self._error[key]

    def _measured(self, features: Bools) -> float:
        share = self.weight / self.weight.sum()
        truth = np.eye(self.n_classes)[self.y] if self.n_classes else self.y[:, None]
        prior = share @ truth
        start = float(share @ np.square(truth - prior).sum(axis=1))
        if not features.any() or start == 0.0:
            return start
        if self.additive:
            return self._leave_one_out(features, truth - prior, share)
        columns = self.X[:, features]
        kind = RandomForestClassifier if self.n_classes else RandomForestRegressor
        # Smaller leaves overfit a single feature so far that it seems worse than none.
        leaf = max(LEAST_LEAF, round(np.sqrt(len(columns)) / columns.shape[1]))
        forest = kind(SEARCH_TREES, min_samples_leaf=leaf, max_features="sqrt", oob_score=True, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that are in every bootstrap
            forest.fit(columns, self.y, self.weight)
        if self.n_classes:
            found = np.zeros(truth.shape)
            found[:, forest.classes_.astype(np.int64)] = np.nan_to_num(forest.oob_decision_function_)
        else:
            found = forest.oob_prediction_[:, None]
        return float(share @ np.square(truth - found).sum(axis=1))

    def _leave_one_out(self, features: Bools, rest: Floats, share: Floats) -> float:
        basis = np.hstack([self._basis[k] for k in np.flatnonzero(features)])
        basis = basis - share @ basis
        weighted = basis * (len(share) * share)[:, None]
        gram = weighted.T @ basis
        gram[np.diag_indices_from(gram)] += RIDGE
        solved = np.linalg.solve(gram, weighted.T)  # (p, n)
        lever = np.einsum("ip,pi->i", basis, solved) + share
        left = rest - basis @ (solved @ rest)
        return float(share @ np.square(left / np.maximum(1 - lever, 1e-3)[:, None]).sum(axis=1))

    def _best_of_all(self, budget: float) -> Bools:
        """The set of least error within the budget, the cheapest of equals, by trying all."""
        free, searched = self._free(), np.flatnonzero(self._screened & ~self._free())
        best, least = free, (self.error(free), 0.0)
        for choice in product((False, True), repeat=len(searched)):
            groups = free.copy()
            groups[searched] = choice
            cost = self.cost(groups)
            if cost <= budget * (1 + 1e-9) and (self.error(groups), cost) < least:
                best, least = groups, (self.error(groups), cost)
        return best

    def _exchanged(self, groups: Bools, budget: float) -> Bools:
        """A set within the budget that no exchange of one of its groups for another one makes better."""
        if not self.additive:
            return groups  # a forest's errors are too noisy, and too costly, to be compared so often
        while True:
            inside, outside = np.flatnonzero(groups & ~self._free()), np.flatnonzero(self._screened & ~groups)
            best, least = groups, self.error(groups) - LEAST_GAIN * self.error(np.zeros_like(groups))
            for out, new in product(inside, outside):
                other = groups.copy()
                other[out], other[new] = False, True
                if self.cost(other) <= budget * (1 + 1e-9) and self.error(other) < least:
                    best, least = other, self.error(other)
            if best is groups:
                return groups
            groups = best

    def _free(self) -> Bools:
        return self.costs.free_groups.copy()

    def _screen(self) -> Bools:
        """The groups that are searched."""
        G = len(self.costs.group_cost)
        if G <= MOST_GROUPS:
            return np.ones(G, np.bool_)
        chosen = np.zeros(G, np.bool_)
        for by in (0.0, 1.0):
            chosen[self._order(by)[: MOST_GROUPS // 2]] = True
        return chosen

    @cached_property
    def _importance(self) -> Floats:
        """The importances of the groups (G,) in one forest on all of them."""
        kind = RandomForestClassifier if self.n_classes else RandomForestRegressor
        forest = kind(2 * SEARCH_TREES, min_samples_leaf=LEAST_LEAF, max_features="sqrt", random_state=self.seed)
        found = forest.fit(self.X, self.y, self.weight).feature_importances_
        return np.asarray(np.bincount(self.costs.group_of, found, len(self.costs.group_cost)), np.float64)

    def _order(self, by: float) -> Ints:
        """The groups by importance over their cost to the power ``by``."""
        cost = np.maximum(self.costs.group_cost, self.costs.group_cost.mean() / 20)
        return np.argsort(-self._importance / cost**by, kind="stable")

    def _filled(self, groups: Bools, by: float, budget: float) -> list[Bools]:
        """The sets passed by adding groups to ``groups`` in the order of `_order`, as far as the budget allows."""
        path = [groups]
        for g in self._order(by):
            more = path[-1] | (np.arange(len(groups)) == g)
            if not path[-1][g] and self.cost(more) <= budget * (1 + 1e-9):
                path.append(more)
        return path

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


def _columns(x: Floats) -> Floats:
    """A feature (n,) as columns of an additive model: its value, its bins, and whether it is missing."""
    missing = np.isnan(x)
    have = x[~missing]
    if not len(have):
        return np.zeros((len(x), 0))
    values = np.unique(have)
    edges = values[1:] if len(values) <= BINS else np.unique(np.quantile(have, np.arange(1, BINS) / BINS))
    filled = np.where(missing, have.mean(), x)
    columns = [filled, *(filled >= edge for edge in edges), missing]
    out = np.stack(columns, axis=1).astype(np.float64)
    out -= out.mean(axis=0)
    spread = out.std(axis=0)
    return np.asarray(out[:, spread > 0] / spread[spread > 0])


def _apart(costs: list[float], total: float) -> list[int]:
    """Which of rising costs are well below the next one that is taken; `MOST_PREFIXES` at most."""
    kept = [k for k, after in enumerate([*costs[1:], np.inf]) if after > APART * costs[k] + 0.01 * total]
    at = np.linspace(0, len(kept) - 1, min(len(kept), MOST_PREFIXES))
    return [kept[round(i)] for i in at.tolist()]

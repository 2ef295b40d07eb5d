"""Models that acquire in stages: cheap features for every row, costly ones only where the answer is in doubt."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.forests._votes import len_of
from prunopt.forests.acquisitions import OnDemand, Supplier, checked_count, checked_known, checked_rows
from prunopt.problems.forest.feature_costs import FeatureCosts

INVERSE_RIDGE = 0.3  # of the logistic regressions, columns being standardized
OUTLIER = 4.0  # standard deviations that columns are cut at
FOLDS = 5  # that the logistic regressions are judged by; forests are judged out of bag
NEWTON_STEPS, PRECISE = 50, 1e-6  # of the logistic regressions of two classes
LEAF = 3
MOST_STAGES = 3
SHARES = (0.03, 0.06, *np.arange(1, 10) / 10)  # of the rows that may go on after the first stage


@dataclass(frozen=True, eq=False)
class Logistic:
    """A ridge logistic regression on standardized columns; what is missing counts as the mean."""

    center: Floats
    scale: Floats
    weights: Floats
    intercept: Floats

    @classmethod
    def fit(cls, X: Floats, code: AnyArray, weight: Floats, n_classes: int) -> Logistic:
        """Fit to columns (n, p) and codes of classes; a class that is absent gets no probability."""
        empty = np.isnan(X).all(axis=0)
        X = np.where(empty, 0.0, X)
        center = np.nanmean(X, axis=0)
        scale = np.nanstd(X, axis=0)
        scale[scale == 0] = 1.0
        found = np.unique(code)
        weights, intercept = np.zeros((X.shape[1], n_classes)), np.full(n_classes, -np.inf)
        intercept[found] = 0.0
        if len(found) > 1:
            rows, share = cls._standard(X, center, scale), weight / weight.mean()
            if len(found) == 2:
                weights[:, found[1]], intercept[found[1]] = _log_odds(rows, code == found[1], share)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of too few iterations: the ridge makes that harmless
                    model = LogisticRegression(C=INVERSE_RIDGE, max_iter=200).fit(rows, code, sample_weight=share)
                weights[:, found], intercept[found] = model.coef_.T, model.intercept_
        return cls(center, scale, weights, intercept)

    @staticmethod
    def _standard(X: Floats, center: Floats, scale: Floats) -> Floats:
        return np.nan_to_num(np.clip((X - center) / scale, -OUTLIER, OUTLIER))

    def values(self, X: Floats) -> Floats:
        """Return class probabilities, (n, C)."""
        score = self._standard(X, self.center, self.scale) @ self.weights + self.intercept
        chance = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(chance / chance.sum(axis=1, keepdims=True))


def _log_odds(X: Floats, truth: Bools, weight: Floats) -> tuple[Floats, float]:
    """Return slopes (p,) and intercept of a ridge logistic regression, by Newton's method with halved steps."""
    rows, sign = np.column_stack([X, np.ones(len(X))]), np.where(truth, 1.0, -1.0)
    ridge = np.append(np.full(X.shape[1], 1 / INVERSE_RIDGE), 1e-9)
    at = np.zeros(len(ridge))

    def loss(at: Floats) -> float:
        return float(weight @ np.logaddexp(0.0, -sign * (rows @ at)) + ridge @ np.square(at) / 2)

    value = loss(at)
    for _ in range(NEWTON_STEPS):
        chance = expit(rows @ at)
        slope = rows.T @ (weight * (chance - truth)) + ridge * at
        curvature = (rows * (weight * chance * (1 - chance))[:, None]).T @ rows
        step = np.linalg.solve(curvature + np.diag(ridge), slope)
        while (found := loss(at - step)) > value and np.abs(step).max() > PRECISE:
            step /= 2
        at, value = at - step, found
        if np.abs(step).max() <= PRECISE:
            break
    return at[:-1], float(at[-1])


class Stage(NamedTuple):
    """What is acquired up to a stage, and what predicts from it.

    Parameters
    ----------
    groups
        The groups (G,) that are known at the end of the stage.
    columns
        Their features.
    forest
        A forest on these columns; its classes are codes. None where there are no columns.
    logistic
        A logistic regression whose probabilities are averaged with the forest's, or None.
    prior
        Class probabilities without features, (C,).
    """

    groups: Bools
    columns: Ints
    forest: Any
    logistic: Logistic | None
    prior: Floats

    def values(self, X: Floats) -> Floats:
        """Return class probabilities (n, C) from rows (n, K), of which only the columns are read."""
        if self.forest is None:
            return np.tile(self.prior, (len(X), 1))
        known = X[:, self.columns]
        out = np.zeros((len(X), len(self.prior)))
        out[:, self.forest.classes_.astype(np.int64)] = self.forest.predict_proba(known)
        return out if self.logistic is None else (out + self.logistic.values(known)) / 2


@dataclass(frozen=True, eq=False)
class StagedModel:
    r"""Stages of features; a row goes on to the next stage only while its answer is in doubt.

    .. math:: \text{row } x \text{ stops at the first stage } s \text{ with } 1 - \max_c p_s(c \mid x) \le \tau_s

    with :math:`p_s` the class probabilities from what is known at stage s. The last stage always stops.

    Parameters
    ----------
    stages
        The stages, each with the groups of the ones before it.
    limits
        The limit of every stage but the last.
    feature_costs
        Groups and their costs.
    """

    stages: tuple[Stage, ...]
    limits: tuple[float, ...]
    feature_costs: FeatureCosts

    @property
    def forests(self) -> list[Any]:
        """The forests of the stages."""
        return [stage.forest for stage in self.stages if stage.forest is not None]

    @property
    def codes(self) -> None:
        """No list of classes is needed: `values` has a column for each."""
        return

    @property
    def used(self) -> Bools:
        """The groups (G,) that some row may acquire."""
        return self.stages[-1].groups

    def values(self, X: Any) -> Floats:
        """Return class probabilities (n, C) of known rows, by the stage at which each stops."""
        return self.stopped(X)[0]

    def stopped(self, X: Any, seen: dict[int, Floats] | None = None) -> tuple[Floats, Ints]:
        """Return class probabilities (n, C), and the stage at which each row stops.

        ``seen`` keeps what the stages say of all of these rows, for other models that share them.
        """
        rows, seen = np.asarray(X, np.float64), {} if seen is None else seen
        out, at = np.zeros((len(rows), len(self.stages[0].prior))), np.zeros(len(rows), np.int64)
        going = np.arange(len(rows))
        for s, stage in enumerate(self.stages):
            if id(stage) not in seen:
                seen[id(stage)] = stage.values(rows)
            out[going], at[going] = seen[id(stage)][going], s
            going = going[self._goes_on(s, out[going])]
        return out, at

    def judged(self, X: Floats, costs: FeatureCosts, seen: dict[int, Floats]) -> tuple[Floats, Floats]:
        """Return class probabilities (n, C) and the cost of each row (n,); see `stopped`."""
        values, at = self.stopped(X, seen)
        return values, costs.of_rows(np.stack([stage.groups for stage in self.stages])[at])

    def on_demand(
        self,
        acquire_or_X: Any,
        n_rows: int | None,
        *,
        feature_costs: Any = None,
        known: Any = None,
        known_values: Any = None,
        batch: bool = False,
    ) -> OnDemand:
        """Return predictions (codes), what was acquired, and its cost."""
        asks = callable(acquire_or_X)
        n = checked_count(n_rows) if asks else len_of(acquire_or_X)
        costs = self.feature_costs.for_other_rows(n, feature_costs, known)
        mask, G = costs.known_mask, len(costs.group_cost)
        have = np.broadcast_to(mask if len(mask) else False, (n, len(costs.group_of))).copy()
        turn, count = np.zeros((n, G), np.int16), np.zeros(n, np.int16)
        if not asks:
            checked_rows(n_rows, n)
            rows = np.asarray(acquire_or_X, np.float64)
        else:
            checked_known(known_values, have)
            rows = np.full(have.shape, np.nan) if known_values is None else np.where(have, known_values, np.nan)
            supply = Supplier(acquire_or_X, costs, tuple(f"x{k}" for k in range(have.shape[1])), batch, np.float64)
        members = [np.flatnonzero(costs.group_of == g) for g in range(G)]
        codes = np.zeros(n, np.int64)
        everyone = np.arange(n)
        for going in everyone[:, None] if asks and not batch else [everyone]:
            for s, stage in enumerate(self.stages):
                for g in np.flatnonzero(stage.groups):
                    asking = going[~have[going][:, members[g]].all(axis=1)]
                    if len(asking):
                        count[asking] += 1
                        turn[asking, g] = count[asking]
                        cells = np.ix_(asking, members[g])
                        if asks:
                            rows[cells] = supply(asking, int(g))
                        have[cells] = True
                chances = stage.values(rows[going])
                codes[going] = chances.argmax(axis=1)
                going = going[self._goes_on(s, chances)]
                if not len(going):
                    break
        return OnDemand.of(codes, turn, costs)

    def _goes_on(self, stage: int, chances: Floats) -> Bools:
        if stage == len(self.stages) - 1:
            return np.zeros(len(chances), np.bool_)
        return np.asarray(1 - chances.max(axis=1) > self.limits[stage])


class Policy(NamedTuple):
    """A chain of sets, the limit that all its stages but the last have, and what it reached out of bag."""

    chain: tuple[int, ...]
    limit: float
    utility: float
    cost: float


def policies(
    sets: list[Bools], risk: Floats, utility: Floats, bill: Floats, weight: Floats, most_stages: int = MOST_STAGES
) -> list[Policy]:
    """Judge every chain of nested sets at every limit.

    Parameters
    ----------
    sets
        Groups (G,), by rising cost.
    risk, utility, bill : (sets, n)
        Doubt, utility and cost of each row, were it to stop at the set.
    weight : (n,)
        Weights of rows.
    most_stages
        How long chains are.
    """
    share = weight / weight.sum()
    out = [Policy((k,), np.inf, float(share @ utility[k]), float(share @ bill[k])) for k in range(len(sets))]
    for size in range(2, most_stages + 1):
        for chain in combinations(range(len(sets)), size):
            if any(np.any(sets[a] & ~sets[b]) for a, b in pairwise(chain)):
                continue
            for limit in np.unique(np.quantile(risk[chain[0]], 1 - np.array(SHARES))):
                at = np.full(risk.shape[1], chain[-1])
                for k in reversed(chain[:-1]):
                    at = np.where(risk[k] <= limit, k, at)
                rows = np.arange(len(at))
                gain, cost = float(share @ utility[at, rows]), float(share @ bill[at, rows])
                out.append(Policy(chain, float(limit), gain, cost))
    return out


def judged_stage(
    X: Floats, code: AnyArray, weight: Floats, groups: Bools, columns: Ints, *, prior: Floats, linear: bool,
    n_trees: int, seed: int,
) -> tuple[Stage, dict[str, Floats]]:  # fmt: skip
    """Fit a stage's parts, and return them with the class probabilities (n, C) of rows that each has not seen."""
    n_classes = len(prior)
    if not len(columns):
        same = np.tile(prior, (len(X), 1))
        return Stage(groups, columns, None, None, prior), {"forest": same, "logistic": same}
    known = X[:, columns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are in every bootstrap
        forest = RandomForestClassifier(n_trees, min_samples_leaf=LEAF, oob_score=True, random_state=seed)
        forest.fit(known, code, weight)
    found = np.zeros((len(X), n_classes))
    found[:, forest.classes_.astype(np.int64)] = forest.oob_decision_function_
    found = np.where(np.isnan(found).any(axis=1, keepdims=True), prior, found)
    del forest.oob_decision_function_
    if not linear:
        return Stage(groups, columns, forest, None, prior), {"forest": found}
    other = np.zeros_like(found)
    fold = np.random.default_rng(seed).permutation(len(X)) % FOLDS
    for f in range(FOLDS):
        inside = fold == f
        part = Logistic.fit(known[~inside], code[~inside], weight[~inside], n_classes)
        other[inside] = part.values(known[inside])
    return Stage(groups, columns, forest, Logistic.fit(known, code, weight, n_classes), prior), {
        "forest": found,
        "logistic": other,
    }

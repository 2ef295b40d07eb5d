"""What a user would try instead: LightGBM's cost-effective boosting, pruned forests of scikit-learn, fewer features.

Every method has the same interface: candidates are fitted on the training rows, the best within each budget is chosen
on the validation rows by accuracy (then by log loss), and the chosen one is fitted again on both together. LightGBM
near its highest prices can then buy nothing at all, or more than the budget: in that case the first fit is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.cost_efficient_boosting import Problem, largest_penalty
from prunopt.forests.boosting.losses import Classification
from prunopt.problems.forest.feature_costs import FeatureCosts

Predictor = Callable[[Floats], tuple[Floats, Bools]]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to fit on, to choose on and to test on; NaN = missing; labels are codes."""

    train: tuple[Floats, Ints]
    valid: tuple[Floats, Ints]
    test: tuple[Floats, Ints]
    costs: Floats
    budgets: Floats

    @property
    def both(self) -> tuple[Floats, Ints]:
        """Training and validation rows."""
        return np.vstack([self.train[0], self.valid[0]]), np.concatenate([self.train[1], self.valid[1]])


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model on the validation rows, and how to fit it to others: ``again(X, y)`` returns a predictor.

    A predictor returns class probabilities and which features are bought. ``first``, if there is one, is the predictor
    that was judged; it stays where the second fit is worse on the validation rows or costs more than the budget there.
    """

    cost: float
    score: float
    loss: float
    again: Callable[[Floats, Ints], Predictor]
    tag: str
    first: Predictor | None = None


def measured(proba: Floats, y: Ints) -> tuple[float, float]:
    """Return accuracy and log loss."""
    likelihood = np.clip(proba[np.arange(len(y)), y], 1e-9, 1.0)
    return float((proba.argmax(axis=1) == y).mean()), float(-np.log(likelihood).mean())


def chosen_within(candidates: list[Candidate], split: Split) -> list[dict[str, Any]]:
    """Return a record for each budget: the candidate chosen on the validation rows, fitted again, on the test rows."""
    records: list[dict[str, Any]] = []
    done: dict[int, Predictor] = {}
    for budget in split.budgets:
        within = [c for c in candidates if c.cost <= budget * (1 + 1e-9)]
        best = max(within, key=lambda c: (c.score, -c.loss))
        if id(best) not in done:
            done[id(best)] = best.again(*split.both)
        predictor = done[id(best)]
        if best.first is not None:
            proba, bought = predictor(split.valid[0])
            worse = measured(proba, split.valid[1])[0] < best.score
            if worse or float((bought @ split.costs).mean()) > budget * (1 + 1e-9):
                predictor = best.first
        proba, bought = predictor(split.test[0])
        accuracy, loss = measured(proba, split.test[1])
        records.append(
            {"budget": float(budget), "accuracy": accuracy, "log_loss": loss,
             "cost": float((bought @ split.costs).mean()),
             "validation_accuracy": best.score, "validation_cost": best.cost, "tag": best.tag}
        )  # fmt: skip
    return records


def majority(split: Split) -> Candidate:
    """Return the model that buys nothing."""

    def again(X: Floats, y: Ints) -> Predictor:
        share = np.bincount(y, minlength=n_classes(split)) / len(y)
        return lambda X_test: (np.tile(share, (len(X_test), 1)), np.zeros(X_test.shape, np.bool_))

    proba, _ = again(*split.train)(split.valid[0])
    return Candidate(0.0, *measured(proba, split.valid[1]), again, "majority")


def n_classes(split: Split) -> int:
    """Return the number of classes."""
    return int(max(split.train[1].max(), split.valid[1].max(), split.test[1].max())) + 1


# LightGBM, cegb_penalty_feature_lazy: a feature is paid once for each row, as here.

CEGB_SHAPES = ((0.1, 15, 100), (0.2, 31, 60), (0.4, 8, 60))
CEGB_STAGES = (1, 2, 3, 5, 8, 12, 20, 30, 40, 60, 80, 100)
CEGB_PRICES = tuple(np.geomspace(0.95, 0.0015, 12))


def cegb(split: Split, n_tradeoffs: int = 12) -> tuple[list[dict[str, Any]], float, int]:
    """Return records, seconds and the number of candidates."""
    start = time.perf_counter()
    top = largest_tradeoff(split)
    candidates = [majority(split)]
    for rate, leaves, rounds in CEGB_SHAPES:
        for share in np.geomspace(CEGB_PRICES[0], CEGB_PRICES[-1], n_tradeoffs):
            candidates += _cegb_stages(split, rate, leaves, rounds, top * share)
    records = chosen_within(candidates, split)
    return records, time.perf_counter() - start, len(candidates)


def largest_tradeoff(split: Split) -> float:
    """Return the trade-off from which on nothing is acquired: LightGBM's gains are twice the fall of the loss."""
    X, y = split.train
    bins = QuantileBins.of(X, 250)
    codes, classes = bins(X), n_classes(split)
    best = 0.0
    for c in range(1 if classes == 2 else classes):
        target = (y == (1 if classes == 2 else c)).astype(np.float64)
        if 0 < target.sum() < len(y):
            costs = FeatureCosts.of(split.costs, X.shape[1])
            one = Problem(codes, target, np.ones(len(y)), costs, Classification(2), bins.n_codes)
            best = max(best, 2 * largest_penalty(one, 1e-3, _min_rows(len(y))))
    return best


def _min_rows(n: int) -> int:
    """LightGBM's default of 20 rows in a leaf, fewer for small sets."""
    return int(np.clip(n // 40, 3, 20))


def _cegb_model(
    X: Floats, y: Ints, costs: Floats, classes: int, rate: float, leaves: int, rounds: int, tradeoff: float
) -> Any:
    options: dict[str, Any] = {
        "objective": "binary" if classes == 2 else "multiclass",
        "learning_rate": rate, "num_leaves": leaves, "min_data_in_leaf": _min_rows(len(y)),
        "cegb_tradeoff": tradeoff, "cegb_penalty_feature_lazy": costs.tolist(),
        "verbosity": -1, "num_threads": 1, "seed": 0, "max_bin": 250, "feature_pre_filter": False,
    }  # fmt: skip
    if classes > 2:
        options["num_class"] = classes
    import lightgbm  # the tables of what is on file are drawn without it

    return lightgbm.train(
        options, lightgbm.Dataset(X, y, params={"verbosity": -1, "max_bin": 250, "feature_pre_filter": False}), rounds
    )


def _cegb_stages(split: Split, rate: float, leaves: int, rounds: int, tradeoff: float) -> list[Candidate]:
    classes = n_classes(split)
    model = _cegb_model(*split.train, split.costs, classes, rate, leaves, rounds, tradeoff)
    per_round = 1 if classes == 2 else classes
    stages = [s for s in CEGB_STAGES if s <= min(rounds, model.current_iteration())]
    X, y = split.valid
    out = []
    for stage, bought in zip(stages, _bought(model, X, stages, per_round), strict=True):
        if not bought.any():
            continue

        def again(X: Floats, y: Ints, stage: int = stage) -> Predictor:
            model = _cegb_model(X, y, split.costs, classes, rate, leaves, stage, tradeoff)
            return partial(_cegb_predict, model, min(stage, model.current_iteration()), per_round)

        score, loss = measured(_proba(model.predict(X, num_iteration=stage)), y)
        tag = f"rate {rate}, {leaves} leaves, tradeoff {tradeoff:.3g}, {stage} rounds"
        first = partial(_cegb_predict, model, stage, per_round)
        out.append(Candidate(float((bought @ split.costs).mean()), score, loss, again, tag, first))
    return out


def _cegb_predict(model: Any, stage: int, per_round: int, X: Floats) -> tuple[Floats, Bools]:
    bought = _bought(model, X, [stage], per_round)
    nothing = np.zeros(X.shape, np.bool_)
    return _proba(model.predict(X, num_iteration=stage)), bought[0] if bought else nothing


def _proba(raw: Any) -> Floats:
    p = np.asarray(raw, np.float64)
    return np.column_stack([1 - p, p]) if p.ndim == 1 else p


def _bought(model: Any, X: Floats, stages: list[int], per_round: int) -> list[Bools]:
    """Return, for each stage, which features the trees up to it ask for, (n, K) each."""
    if not stages:
        return []
    trees = model.dump_model(num_iteration=stages[-1])["tree_info"]
    leaf = np.asarray(model.predict(X, pred_leaf=True, num_iteration=stages[-1])).reshape(len(X), -1).astype(np.int64)
    bought = np.zeros(X.shape, np.bool_)
    out = []
    for t, tree in enumerate(trees):
        if "split_feature" in tree["tree_structure"]:
            asked = np.zeros((tree["num_leaves"], X.shape[1]), np.bool_)
            _paths(tree["tree_structure"], [], asked)
            bought |= asked[leaf[:, t]]
        if (t + 1) % per_round == 0 and (t + 1) // per_round in stages:
            out.append(bought.copy())
    return out


def _paths(node: dict[str, Any], above: list[int], asked: Bools) -> None:
    if "split_feature" not in node:
        asked[node.get("leaf_index", 0), above] = True
        return
    for side in ("left_child", "right_child"):
        _paths(node[side], [*above, node["split_feature"]], asked)


# scikit-learn: random forests, pruned by cost-complexity, or grown on fewer features.

CCP_ALPHAS = (0.0, *np.geomspace(2e-4, 0.1, 11))


def ccp(split: Split) -> tuple[list[dict[str, Any]], float, int]:
    """Random forests at 12 strengths of cost-complexity pruning, with 10 and 50 trees."""
    start = time.perf_counter()
    everything = np.arange(len(split.costs))
    candidates = [majority(split)]
    for trees in (10, 50):
        candidates += [_forest(split, everything, trees, float(alpha)) for alpha in CCP_ALPHAS]
    records = chosen_within(candidates, split)
    return records, time.perf_counter() - start, len(candidates)


def subset(split: Split) -> tuple[list[dict[str, Any]], float, int]:
    """Random forests on the best features within each budget: by importance, and by importance for cost."""
    start = time.perf_counter()
    model = RandomForestClassifier(100, random_state=0).fit(*split.train)
    importance = model.feature_importances_
    ratio = importance / np.maximum(split.costs, 1e-12)
    candidates = [majority(split)]
    seen: set[tuple[int, ...]] = set()
    for budget in split.budgets:
        for order in (np.argsort(-importance), np.argsort(-ratio), np.argsort(-importance * np.sqrt(ratio))):
            for skip in range(min(3, len(order))):
                features, left = [], budget * (1 + 1e-9)
                for k in order[skip:]:
                    if split.costs[k] <= left:
                        features.append(int(k))
                        left -= split.costs[k]
                if features and tuple(sorted(features)) not in seen:
                    seen.add(tuple(sorted(features)))
                    candidates.append(_forest(split, np.array(sorted(features)), 100, 0.0))
    records = chosen_within(candidates, split)
    return records, time.perf_counter() - start, len(candidates)


def unpruned(split: Split) -> tuple[list[dict[str, Any]], float, int]:
    """A random forest of 300 trees on everything, whatever it costs."""
    start = time.perf_counter()
    candidate = _forest(split, np.arange(len(split.costs)), 300, 0.0)
    everything = np.array([split.costs.sum()])
    record = chosen_within([candidate], Split(split.train, split.valid, split.test, split.costs, everything))
    return record, time.perf_counter() - start, 1


def _forest(split: Split, features: NDArray[np.intp], trees: int, alpha: float) -> Candidate:
    def fit(X: Floats, y: Ints) -> Predictor:
        model = RandomForestClassifier(trees, ccp_alpha=alpha, random_state=0).fit(X[:, features], y)
        return partial(_forest_predict, model, features, n_classes(split))

    proba, bought = fit(*split.train)(split.valid[0])
    cost = float((bought @ split.costs).mean())
    return Candidate(
        cost, *measured(proba, split.valid[1]), fit, f"{len(features)} features, {trees} trees, ccp_alpha {alpha:.3g}"
    )


def _forest_predict(model: Any, features: NDArray[np.intp], classes: int, X: Floats) -> tuple[Floats, Bools]:
    proba = np.zeros((len(X), classes))
    proba[:, model.classes_] = model.predict_proba(X[:, features])
    bought = np.zeros(X.shape, np.bool_)
    for tree in model.estimators_:
        nodes = tree.decision_path(X[:, features].astype(np.float32)).tocsr()
        tests = tree.tree_.feature
        uses = np.zeros((len(tests), X.shape[1]))
        inside = np.flatnonzero(tests >= 0)
        uses[inside, features[tests[inside]]] = 1.0
        bought |= np.asarray(nodes @ uses) > 0
    return proba, bought

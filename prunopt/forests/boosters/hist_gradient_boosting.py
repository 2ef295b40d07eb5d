"""scikit-learn's HistGradientBoosting: its trees are read from, and written to, the predictors of a fitted model.

They are private attributes of scikit-learn (``_predictors``, ``_baseline_prediction``); `tests/forests/boosters/
test_hist_gradient_boosting.py` names what is used.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from prunopt.core.arrays import Bools
from prunopt.core.validate import Shown, invalid, require
from prunopt.forests.boosters.booster import Booster, Model, Tree, loss_of


class HistGradientBoostingModel(Booster):
    """A fitted HistGradientBoostingClassifier or -Regressor."""

    def __init__(self, estimator: Any) -> None:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(estimator)
        self.estimator = estimator
        trees = [_tree(tree.nodes) for iteration in estimator._predictors for tree in iteration]
        classes = getattr(estimator, "classes_", None)
        if classes is None:
            known = estimator.loss == "squared_error"
            require(known, "model", "have the loss squared_error", Shown(repr(estimator.loss)))
        base = np.ravel(estimator._baseline_prediction).astype(np.float64)
        output = np.arange(len(trees)) % len(base)
        names = getattr(estimator, "feature_names_in_", None)
        kept = None if names is None else tuple(map(str, names))
        loss = loss_of(0 if classes is None else len(classes))
        super().__init__(trees, Model(base, output, loss, 1.0, classes, int(estimator.n_features_in_), kept))

    def text(self) -> str:
        """Refuse: the format of scikit-learn's models is skops's."""
        raise invalid(
            "model", "be of XGBoost or LightGBM to be written as text", Shown("HistGradientBoosting"), "use skops"
        )

    def _written(self, live: Bools, split: Bools) -> Any:
        e, t = self.ensemble, 0
        fresh = copy.deepcopy(self.estimator)
        for iteration in fresh._predictors:
            for tree in iteration:
                stays = np.flatnonzero(live[e.offsets[t] : e.offsets[t + 1]]) + e.offsets[t]
                place = np.zeros(e.n_nodes, np.int64)
                place[stays] = np.arange(len(stays))
                nodes = tree.nodes[self.node[stays]].copy()
                inner = split[stays]
                nodes["left"] = np.where(inner, place[e.left[stays]], 0)
                nodes["right"] = np.where(inner, place[e.right[stays]], 0)
                turned = ~inner & (nodes["is_leaf"] == 0)
                nodes["value"] = np.where(inner, nodes["value"], self.value[stays])
                nodes["is_leaf"] = ~inner
                nodes["gain"] = np.where(turned, -1.0, nodes["gain"])
                tree.nodes = nodes
                t += 1
        return fresh


def _tree(nodes: Any) -> Tree:
    leaf = nodes["is_leaf"] != 0
    categorical = bool(np.any(nodes["is_categorical"][~leaf]))
    require(not categorical, "model", "split on numbers", Shown("a categorical split"), "encode categories as numbers")
    return Tree(
        np.where(leaf, -1, nodes["left"].astype(np.int64)),
        np.where(leaf, -1, nodes["right"].astype(np.int64)),
        nodes["feature_idx"].astype(np.int64),
        nodes["num_threshold"].astype(np.float64),
        nodes["missing_go_to_left"] != 0,
        nodes["value"].astype(np.float64),
        nodes["count"].astype(np.float64),
    )

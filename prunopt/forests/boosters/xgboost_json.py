"""XGBoost models in the JSON format that `Booster.save_model` writes: trees of ``gbtree`` with numerical splits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from scipy.special import logit

from prunopt.core.arrays import Bools
from prunopt.core.validate import Shown, invalid, require
from prunopt.forests.boosters.booster import Booster, Model, Tree, loss_of, numbers

# What a node has one entry of, in the order of the nodes.
NODES = (
    "base_weights", "default_left", "left_children", "loss_changes", "parents", "right_children", "split_conditions",
    "split_indices", "split_type", "sum_hessian",
)  # fmt: skip
NO_PARENT = 2**31 - 1


class XGBoostModel(Booster):
    """A model of XGBoost: its document with other trees is the pruned model."""

    def __init__(self, document: dict[str, Any], classes: Any = None) -> None:
        try:
            learner = document["learner"]
            kind = learner["gradient_booster"]["name"]
            wanted = "be of the booster gbtree"
            require(kind == "gbtree", "model", wanted, kind, "dart weighs its trees, gblinear has none")
            self.document = _stopped(document)
            found = self.document["learner"]["gradient_booster"]["model"]
            trees = [_tree(tree) for tree in found["trees"]]
            super().__init__(trees, _model(learner, numbers("tree_info", found["tree_info"], np.int64), classes))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            kind = f"{type(error).__name__}: {error}"
            raise invalid("model", "be XGBoost's JSON of a model", Shown(kind), "write it by save_model") from None

    def text(self) -> str:
        """Return the JSON that XGBoost loads."""
        return json.dumps(self.document, separators=(",", ":"))

    def _written(self, live: Bools, split: Bools) -> XGBoostModel:
        document = json.loads(self.text())
        model = document["learner"]["gradient_booster"]["model"]
        for t, tree in enumerate(model["trees"]):
            mine = slice(self.ensemble.offsets[t], self.ensemble.offsets[t + 1])
            stays = np.flatnonzero(live[mine]) + self.ensemble.offsets[t]
            model["trees"][t] = self._tree_of(tree, stays, split)
        return XGBoostModel(document, self.model.classes)

    def _tree_of(self, tree: dict[str, Any], stays: Any, split: Bools) -> dict[str, Any]:
        old = self.node[stays]
        place = {int(h): k for k, h in enumerate(old)}
        out = {**tree, **{name: [tree[name][h] for h in old] for name in NODES}}
        for k, (h, inner) in enumerate(zip(old.tolist(), split[stays].tolist(), strict=True)):
            parent = tree["parents"][h]
            out["parents"][k] = place[parent] if k else NO_PARENT
            out["left_children"][k] = place[tree["left_children"][h]] if inner else -1
            out["right_children"][k] = place[tree["right_children"][h]] if inner else -1
            if not inner and tree["left_children"][h] >= 0:
                value = float(np.float32(self.value[stays[k]]))
                out["split_conditions"][k] = out["base_weights"][k] = value
                out["split_indices"][k] = out["default_left"][k] = 0
                out["loss_changes"][k] = 0.0
        out["tree_param"] = {**tree["tree_param"], "num_nodes": str(len(old)), "num_deleted": "0"}
        return out


def _stopped(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the rounds up to the best one, which XGBoost's estimators predict with, and no others."""
    learner = document["learner"]
    noted = dict(learner.get("attributes") or {})
    best = noted.pop("best_iteration", None)
    if best is None:
        return document
    noted.pop("best_score", None)
    booster = learner["gradient_booster"]
    model = booster["model"]
    starts = model["iteration_indptr"][: int(best) + 2]
    n = starts[-1]
    model = {**model, "iteration_indptr": starts, "trees": model["trees"][:n], "tree_info": model["tree_info"][:n]}
    model["gbtree_model_param"] = {**model["gbtree_model_param"], "num_trees": str(n)}
    return {**document, "learner": {**learner, "attributes": noted, "gradient_booster": {**booster, "model": model}}}


def _tree(tree: dict[str, Any]) -> Tree:
    width = int(tree["tree_param"]["size_leaf_vector"])
    require(width <= 1, "model", "have one number in each leaf", width, "fit one model for each output")
    n = int(tree["tree_param"]["num_nodes"])
    short = [name for name in NODES if len(tree[name]) != n]
    require(not short, "a tree", f"have {n} entries in each list", Shown(f"another number in {short}"))
    left, right = (numbers(name, tree[name], np.int64) for name in ("left_children", "right_children"))
    categorical = np.any(numbers("split_type", tree["split_type"], np.int64)[left >= 0] != 0)
    require(not categorical, "model", "split on numbers", Shown("a categorical split"), "encode categories as numbers")
    condition = numbers("split_conditions", tree["split_conditions"], np.float32)
    # A float32 value goes left when it is less than the condition: at most the next smaller number.
    below = np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)
    return Tree(
        left,
        right,
        numbers("split_indices", tree["split_indices"], np.int64),
        below,
        numbers("default_left", tree["default_left"], np.int64) != 0,
        condition.astype(np.float64),
        numbers("sum_hessian", tree["sum_hessian"], np.float64),
    )


def _model(learner: dict[str, Any], output: Any, classes: Any) -> Model:
    param, objective = learner["learner_model_param"], learner["objective"]["name"]
    n_classes = int(param["num_class"])
    given = param["base_score"].strip("[]").split(",")
    score = np.array([float(part) for part in given])
    if objective in ("multi:softprob", "multi:softmax"):
        base = np.broadcast_to(score, (n_classes,)).astype(np.float64)
    elif objective in ("binary:logistic", "reg:logistic", "binary:logitraw"):
        n_classes, base = 2, score if objective == "binary:logitraw" else logit(score)
    elif objective == "reg:squarederror":
        n_classes, base = 0, score
    else:
        known = "binary:logistic, multi:softprob, reg:squarederror"
        raise invalid("model", f"have the objective {known}", objective)
    names = tuple(learner.get("feature_names") or ()) or None
    labels = (np.arange(n_classes) if classes is None else np.asarray(classes)) if n_classes else None
    n_features = int(param["num_feature"])
    return Model(base, output, loss_of(n_classes), 1.0, labels, n_features, names, np.float32)

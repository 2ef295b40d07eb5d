"""LightGBM models in the text format that `Booster.save_model` writes: numerical splits, constant leaves."""

from __future__ import annotations

from typing import Any

import numpy as np

from prunopt.core.arrays import Bools
from prunopt.core.validate import Shown, invalid, require
from prunopt.forests.boosters.booster import Booster, Model, Tree, loss_of, numbers

SPLITS = (
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "internal_value",
    "internal_weight",
    "internal_count",
)
LEAVES = ("leaf_value", "leaf_weight", "leaf_count")
CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of a decision type; the next two say what is missing
MISSING = {0: "none", 1: "zero", 2: "nan"}
END = "end of trees"


class LightGBMModel(Booster):
    """A model of LightGBM: its text with other trees is the pruned model."""

    def __init__(self, text: str, classes: Any = None) -> None:
        try:
            require(text.startswith("tree\n"), "model", "be LightGBM's text of a model", Shown(repr(text[:20])))
            whole, end, self.tail = text.partition(END)
            require(end, "model", f"hold {END!r}", Shown("a text without"), "is the file whole?")
            self.head, *blocks = whole.split("Tree=")
            head = _fields(self.head)
            self.trees = [_fields(block.partition("\n")[2]) for block in blocks]
            said = len(head.get("tree_sizes", "").split()) or len(self.trees)
            require(said == len(self.trees), "model", f"hold {said} trees", len(self.trees), "is the file damaged?")
            trees = [_tree(fields) for fields in self.trees]
            super().__init__(trees, _model(head, self.head, len(trees), classes))
        except (KeyError, IndexError) as error:
            kind = f"{type(error).__name__}: {error}"
            raise invalid("model", "be LightGBM's text of a model", Shown(kind), "write it by save_model") from None

    def text(self) -> str:
        """Return the text that LightGBM loads."""
        blocks = []
        for t, fields in enumerate(self.trees):
            lines = "".join(f"{name}={value}\n" for name, value in fields.items())
            blocks.append(f"Tree={t}\n{lines}\n\n")
        sizes = " ".join(str(len(block.encode())) for block in blocks)
        head = "\n".join(
            f"tree_sizes={sizes}" if line.startswith("tree_sizes=") else line for line in self.head.split("\n")
        )
        return f"{head}{''.join(blocks)}{END}{self.tail}"

    def _written(self, live: Bools, split: Bools) -> LightGBMModel:
        other = LightGBMModel.__new__(LightGBMModel)
        other.head, other.tail, trees = self.head, self.tail, []
        for t, fields in enumerate(self.trees):
            mine = slice(self.ensemble.offsets[t], self.ensemble.offsets[t + 1])
            stays = np.flatnonzero(live[mine]) + self.ensemble.offsets[t]
            trees.append(self._tree_of(fields, stays, split))
        other.trees = trees
        return LightGBMModel(other.text(), self.model.classes)

    def _tree_of(self, fields: dict[str, str], stays: Any, split: Bools) -> dict[str, str]:
        splits = max(int(fields["num_leaves"]) - 1, 0)
        read = {name: fields[name].split() for name in (*SPLITS, *LEAVES) if name in fields}
        inner = [int(h) for h in stays if split[h]]
        leaves = [int(h) for h in stays if not split[h]]
        number = {h: k for k, h in enumerate(inner)} | {h: ~k for k, h in enumerate(leaves)}
        out = dict(fields)
        out["num_leaves"] = str(len(leaves))
        for name in (n for n in SPLITS if n in read):
            out[name] = " ".join(read[name][self.node[h]] for h in inner)
        e = self.ensemble
        for name, side in (("left_child", e.left), ("right_child", e.right)):
            out[name] = " ".join(str(number[int(side[h])]) for h in inner)
        for name, above in (("leaf_value", ""), ("leaf_weight", "internal_weight"), ("leaf_count", "internal_count")):
            if read.get(name):
                out[name] = " ".join(
                    read[name][self.node[h] - splits]
                    if self.node[h] >= splits
                    else repr(float(self.value[h]))
                    if name == "leaf_value"
                    else read[above][self.node[h]]
                    for h in leaves
                )
        return out


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.split("\n") if "=" in line)
    return {name: value for name, _, value in pairs}


def _tree(fields: dict[str, str]) -> Tree:
    """The tree with its leaves numbered after its splits."""
    leaves = int(numbers("num_leaves", fields["num_leaves"], np.int64))
    splits = max(leaves - 1, 0)
    require(fields.get("is_linear", "0") == "0", "model", "have constant leaves", Shown("a linear tree"))

    def read(name: str, size: int, kind: type = np.float64) -> Any:
        found = numbers(name, fields[name].split() if size else [], kind)
        require(len(found) == size, name, f"hold {size} numbers", Shown(str(len(found))), "is the file damaged?")
        return found

    value, nothing = read("leaf_value", leaves), np.zeros(leaves)
    weighs = next((name for name in ("leaf_weight", "leaf_count") if fields.get(name, "").strip()), None)
    cover = np.ones(leaves) if weighs is None else read(weighs, leaves)
    feature, threshold = read("split_feature", splits, np.int64), read("threshold", splits)
    decision = read("decision_type", splits, np.int64)
    require(not np.any(decision & CATEGORICAL), "model", "split on numbers", Shown("a categorical split"))
    kind = (decision >> 2) & 3
    mend = "fit it with zero_as_missing=false"
    require(not np.any(kind == 1), "model", "tell zeros from missing values", Shown("zero_as_missing"), mend)
    # Where nothing was missing in training, NaN counts as 0.
    missing_left = np.where(kind == 2, (decision & DEFAULT_LEFT) != 0, threshold >= 0)
    children = []
    for name in ("left_child", "right_child"):
        side = read(name, splits, np.int64)
        children.append(np.concatenate([np.where(side >= 0, side, splits + ~side), np.full(leaves, -1)]))
    left, right = children
    return Tree(
        left.astype(np.int64),
        right.astype(np.int64),
        np.concatenate([feature, nothing]).astype(np.int64),
        np.concatenate([threshold, nothing]),
        np.concatenate([missing_left, nothing]).astype(np.bool_),
        np.concatenate([np.zeros(splits), value]),
        np.concatenate([np.zeros(splits), cover]),
    )


def _model(head: dict[str, str], text: str, n_trees: int, classes: Any) -> Model:
    require("average_output" not in text, "model", "add its trees", Shown("boosting=rf, which averages them"))
    kind, *options = head.get("objective", "none").split()
    given = dict(option.partition(":")[::2] for option in options)
    slope, outputs = 1.0, int(head["num_tree_per_iteration"])
    if kind == "binary":
        n_classes, slope = 2, float(given.get("sigmoid", 1))
    elif kind in ("multiclass", "softmax"):
        n_classes = int(head["num_class"])
    elif kind in ("regression", "regression_l2", "l2", "mse") and "sqrt" not in options:
        n_classes = 0
    else:
        raise invalid("model", "have the objective binary, multiclass or regression", head.get("objective", "none"))
    names = tuple(head["feature_names"].split())
    labels = (np.arange(n_classes) if classes is None else np.asarray(classes)) if n_classes else None
    unnamed = names == tuple(f"Column_{k}" for k in range(len(names)))
    output = np.arange(n_trees) % outputs
    base = np.zeros(outputs)
    return Model(base, output, loss_of(n_classes), slope, labels, len(names), None if unnamed else names)

"""Forests in skops files: read without unpickling, checked before scikit-learn follows their links."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.validate import Shown, require
from prunopt.forests.boosters.hist_gradient_boosting import HistGradientBoostingModel

TREE = "sklearn.tree._tree.Tree"  # the one type beyond scikit-learn's estimators that a forest needs
PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"  # and histogram boosting
LARGEST = 8 * 2**30  # bytes that a forest may unpack to


def read_forest(path: Path) -> Any:
    """Return the forest in a skops file.

    Raises
    ------
    ValueError
        If the file is damaged, unpacks to more than `LARGEST` bytes, or holds anything but a scikit-learn forest.
    """
    import skops.io
    from sklearn.ensemble import BaseEnsemble, HistGradientBoostingClassifier, HistGradientBoostingRegressor

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        require(size <= LARGEST, "the file", f"unpack to at most {LARGEST} bytes", size)
        strange = set(skops.io.get_untrusted_types(file=path)) - {TREE, PREDICTOR}
        require(not strange, "the file", "hold a scikit-learn forest alone", Shown(", ".join(sorted(strange))))
        forest = skops.io.load(path, trusted=[TREE, PREDICTOR])
        hist = isinstance(forest, HistGradientBoostingClassifier | HistGradientBoostingRegressor)
        if hist:
            HistGradientBoostingModel(forest)  # reads and checks every link
        else:
            check_trees(forest)
    except OSError:
        raise
    except Exception as error:  # skops has no errors of its own: a damaged file ends in any of Python's
        raise ValueError(f"{path}: cannot be read as a forest ({type(error).__name__}: {error})") from None
    require(hist or isinstance(forest, BaseEnsemble), f"{path}", "hold a forest", Shown(f"a {type(forest).__name__}"))
    return forest


def check_trees(forest: Any) -> None:
    """Refuse a forest one of whose trees leads nowhere."""
    for tree in np.ravel(getattr(forest, "estimators_", ())):
        _check_tree(tree.tree_, int(forest.n_features_in_))


def _check_tree(tree: Any, n_features: int) -> None:
    """Refuse a tree whose links leave its arrays: scikit-learn follows them unchecked, in C."""
    fits = 0 < tree.node_count <= tree.capacity and tree.n_features == n_features
    given = Shown(f"{tree.node_count} nodes and {tree.n_features} features")
    require(fits, "a tree", f"have nodes, and {n_features} features", given)
    nodes, left, right = np.arange(tree.node_count), tree.children_left, tree.children_right
    leaf = left == -1
    inner = (left > nodes) & (left < len(nodes)) & (right > nodes) & (right < len(nodes))
    inner &= (tree.feature >= 0) & (tree.feature < n_features)
    whole = np.all(np.where(leaf, right == -1, inner))
    require(whole, "a tree", "have nodes whose children exist", Shown("one that leads nowhere"))

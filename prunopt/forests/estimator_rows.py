"""What estimators that read rows with gaps share: tags, and checks of rows, labels, weights and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from prunopt.core.arrays import AnyArray, Floats, Ints
from prunopt.core.validate import Shown, invalid
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest.feature_costs import FeatureCosts

ROWS: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}


def keep(estimator: BaseEstimator, arguments: Mapping[str, Any]) -> None:
    """Set the ``locals()`` of a constructor as attributes, unchanged, which scikit-learn reads parameters from."""
    vars(estimator).update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})


class EstimatorOfRows(BaseEstimator):  # type: ignore[misc]
    """The base of estimators with ``feature_costs`` and ``feature_groups`` that take NaN as missing."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = False
        return tags

    @property
    def _names(self) -> tuple[str, ...] | None:
        """The names of the columns that the estimator was fitted on."""
        return tuple(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None

    def _new_rows(self, X: Any) -> Floats:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, **ROWS))

    def _labeled(self, X: Any, y: Any) -> tuple[Floats, Ints]:
        """Rows, and codes of their labels, which become ``classes_``."""
        rows, labels = validate_data(self, X, y, ensure_min_samples=2, **ROWS)
        check_classification_targets(labels)
        self.classes_, code = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise invalid("y", "hold two classes or more", Shown(f"one class only, {self.classes_.tolist()[0]!r}"))
        return rows, code.astype(np.int64)

    def _numbered(self, X: Any, y: Any) -> tuple[Floats, Floats]:
        """Rows, and numbers to predict."""
        rows, numbers = validate_data(self, X, y, ensure_min_samples=2, y_numeric=True, **ROWS)
        return rows, np.asarray(numbers, np.float64)

    def _costs(self, X: Any, rows: AnyArray, feature_costs: Any, known: Any) -> FeatureCosts:
        """The costs of the rows of a fit: those given with them, or those of the constructor."""
        given = of_rows(self.feature_costs if feature_costs is None else feature_costs, X)
        return FeatureCosts.of(given, rows.shape[1], self._names, self.feature_groups, known).for_rows(len(rows))

"""Every Python block of the README runs, and the solver that it adds passes the conformance suite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from prunopt.core.solver import _REGISTRY
from prunopt.testing import check, conformance_cases

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def run(block: str, names: dict[str, Any]) -> dict[str, Any]:
    # A module of that name, so that dataclasses find their annotations.
    names["__name__"] = "readme"
    exec(compile(block, "README.md", "exec"), names)  # our own file
    return names


def test_blocks_run_in_order() -> None:
    mpl.use("Agg")
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(X[:300], y[:300])
    given = {"X_valid": X[300:450], "y_valid": y[300:450], "X_test": X[450:], "y_test": y[450:]}
    names: dict[str, Any] = {"forest": forest, "feature_costs": np.ones(30), **given}
    assert len(BLOCKS) == 5
    try:
        for block in BLOCKS:
            run(block, names)
        assert names["model"].expected_cost_ <= 150
        assert type(names["small"]) is RandomForestClassifier
        assert names["solution"].gap == 0
        for case in conformance_cases("keep-nothing"):
            check(case)
    finally:
        _REGISTRY.pop("keep-nothing", None)

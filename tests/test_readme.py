"""Every Python block of the README runs, and the solver that it adds passes the conformance suite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
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


def test_the_transformer_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model, in the place of the 135 million parameters of the real one."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from prunopt import networks
    from prunopt.networks.transformers.tiny_models import write_tiny_model

    write_tiny_model(tmp_path / "tiny")
    tiny = networks.read_model(tmp_path / "tiny")
    monkeypatch.setattr(networks, "read_model", {"smollm2": tiny}.__getitem__)
    monkeypatch.chdir(tmp_path)
    block = next(b for b in BLOCKS if "prune_transformer" in b)
    names = run(block.replace("length=512", "length=64"), {"text": "To be, or not to be: that is the question. " * 60})
    assert names["result"].removed > 0
    assert type(names["model"]) is type(tiny[0])


@pytest.mark.slow
def test_blocks_run_in_order() -> None:
    mpl.use("Agg")
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(X[:300], y[:300])
    given = {"X_valid": X[300:450], "y_valid": y[300:450], "X_test": X[450:], "y_test": y[450:]}
    names: dict[str, Any] = {"forest": forest, "feature_costs": np.ones(30), **given}
    assert len(BLOCKS) == 7
    try:
        for block in BLOCKS:
            if "prune_transformer" not in block:
                run(block, names)
        assert names["model"].expected_cost_ <= 150
        assert type(names["small"]) is RandomForestClassifier
        assert names["solution"].gap == 0
        for case in conformance_cases("keep-nothing"):
            check(case)
    finally:
        _REGISTRY.pop("keep-nothing", None)

"""LayerReconstruction: the task's own terms against its forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.problems import LayerReconstruction


def inputs(tokens: int = 60, columns: int = 8, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, columns)), rng.normal(size=(tokens, columns)) @ rng.normal(size=(columns, columns))


@pytest.mark.parametrize(
    ("options", "solver", "zeros"),
    [
        ({"groups": [[0, 1], [2, 3], [4, 5], [6, 7]], "remove": 2}, None, 12),
        ({"groups": [[0, 1], [2, 3], [4, 5], [6, 7]], "remove": 2}, "slimgpt", 12),
        ({"pattern": (2, 4)}, None, 12),
        ({"sparsity": 0.25}, "sparsegpt", 6),
        ({"sparsity": 0.25, "scope": "layer"}, "wanda", 6),
    ],
)
def test_answers_are_weights_and_lose_what_they_say(options: dict[str, Any], solver: str | None, zeros: int) -> None:
    W, X = inputs()
    task = LayerReconstruction.from_inputs(W, X, **options)
    answer = po.solve(task, solver)
    assert np.count_nonzero(answer.value == 0) == zeros
    assert answer.objective == pytest.approx(float(np.sum((X @ (W - answer.value).T) ** 2)) / len(X), rel=1e-9)
    assert task.relative_error(answer.value) == pytest.approx(answer.objective / (np.sum((X @ W.T) ** 2) / len(X)))
    po.verify(task, answer)
    assert task.violation(W) > 0


def test_padding_counts_for_nothing() -> None:
    W, X = inputs()
    weights = np.r_[np.ones(50), np.zeros(10)]
    padded = LayerReconstruction.from_inputs(W, X, sample_weight=weights, pattern=(2, 4))
    plain = LayerReconstruction.from_inputs(W, X[:50], pattern=(2, 4))
    np.testing.assert_allclose(padded.hessian, plain.hessian, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must be given, got none"),
        ({"pattern": (2, 4), "sparsity": 0.5}, "must be given, got pattern, sparsity"),
        ({"groups": [[0]]}, "remove must come together with groups, got None"),
    ],
)
def test_bad_requests(options: dict[str, Any], message: str) -> None:
    W, X = inputs()
    with pytest.raises(ValueError, match=message):
        LayerReconstruction.from_inputs(W, X, **options)


def test_bad_inputs() -> None:
    W, X = inputs()
    with pytest.raises(ValueError, match="inputs must hold a token"):
        LayerReconstruction.from_inputs(W, X[:0], sparsity=0.5)
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"inputs must hold finite numbers, got inputs\[3\]\[2\] = nan"):
        LayerReconstruction.from_inputs(W, X, sparsity=0.5)
    with pytest.raises(ValueError, match="sample_weight"):
        LayerReconstruction.from_inputs(W, X[:3], sample_weight=[1, -1, 1], sparsity=0.5)

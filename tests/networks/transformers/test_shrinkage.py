"""Shrinkage chosen by windows left out: layer by layer, more where less was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.networks import PruneOptions, prune_transformer, verify_folder  # noqa: E402
from prunopt.networks.transformers.calibration import Activations, as_calibration  # noqa: E402
from prunopt.networks.transformers.families import blocks  # noqa: E402
from prunopt.networks.transformers.layer import LayerGoal  # noqa: E402
from prunopt.networks.transformers.shrinkage import chosen_shrinkage, fold_hessians, mean_of  # noqa: E402
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer  # noqa: E402

HALF = LayerGoal(sparsity=0.5)


def folds_of(tokens: int, d: int = 24, seed: int = 0) -> list[tuple[float, Any]]:
    """Three folds of correlated inputs."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d) + np.eye(d)
    parts = [rng.normal(size=(tokens, d)) @ mix for _ in range(3)]
    return [(1.0, x.T @ x / tokens) for x in parts]


def test_the_more_is_seen_the_less_is_shrunk() -> None:
    weight = np.random.default_rng(1).normal(size=(16, 24))
    found = [chosen_shrinkage(weight, folds_of(n), HALF, 0.01) for n in (4, 16, 64, 4096)]
    assert found == sorted(found, reverse=True)
    assert found[0] >= 0.5
    assert found[-1] <= 0.1


def test_inputs_without_correlations_are_left_alone() -> None:
    weight, rng = np.random.default_rng(1).normal(size=(16, 24)), np.random.default_rng(2)
    folds = [(1.0, x.T @ x / 30) for x in (rng.normal(size=(30, 24)) for _ in range(3))]
    assert chosen_shrinkage(weight, folds, HALF, 0.01) >= 0.7
    assert chosen_shrinkage(weight, folds[:1], HALF, 0.01) == 1.0


@pytest.mark.parametrize("n", [1, 2, 7])
def test_folds_add_up_to_the_hessian(n: int) -> None:
    model, ids = tiny_transformer(), tiny_tokens(n)
    mask = torch.ones_like(ids)
    mask[0, 25:] = 0
    stream = Activations(model, blocks(model), as_calibration({"input_ids": ids, "attention_mask": mask}))
    block, layer = blocks(model)[0], "mlp.down_proj"
    folds = fold_hessians(stream, block, layer)
    assert len(folds) == 3
    assert sum(w for w, _ in folds) == int(mask.sum())
    np.testing.assert_allclose(mean_of(folds), stream.hessians(block, [layer])[layer], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"pattern": "2:4"}, {"pattern": "unstructured", "sparsity": 0.5}, {"units": "ffn"}]
)
def test_every_layer_has_its_own_and_says_so(options: dict[str, Any], tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens(9)
    result = prune_transformer(model, ids, **options, options=PruneOptions(shrinkage="auto"), resume_dir=tmp_path / "w")
    found = {row.shrinkage for row in result.report}
    assert all(0 < r <= 1 for r in found)
    assert any("layer by layer" in note for note in result.notes)
    again = prune_transformer(model, ids, **options, options=PruneOptions(shrinkage="auto"), resume_dir=tmp_path / "w")
    assert [r.shrinkage for r in again.report] == [r.shrinkage for r in result.report]
    result.save(tmp_path / "out")
    verify_folder(tmp_path / "out", model, ids)

"""Published weights from the norms of inputs: those of the forms, without a Hessian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


from prunopt.forms.layer.layer_least_squares import LayerLeastSquares
from prunopt.networks import PruneOptions, prune_transformer, verify_folder
from prunopt.networks.transformers import scored
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import blocks, weight_of
from prunopt.networks.transformers.layer import LayerGoal, relative_error, solve_layer
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer

GOALS = {
    "units": LayerGoal([[k, k + 32] for k in range(32)], 9, "neuron"),
    "2:4": LayerGoal(pattern=(2, 4)),
    "unstructured": LayerGoal(sparsity=0.37),
}


@pytest.mark.parametrize("method", scored.BY_NORMS)
@pytest.mark.parametrize("goal", GOALS)
def test_the_choice_is_that_of_the_form(method: str, goal: str) -> None:
    model = tiny_transformer()
    block = blocks(model)[0]
    stream = Activations(model, blocks(model), as_calibration(tiny_tokens(6)))
    layer = "mlp.down_proj"
    weight = weight_of(block.module.get_submodule(layer)).detach().double().numpy()
    hessian = stream.hessians(block, [layer])[layer]
    value, new, row = solve_layer("x", weight, hessian, method, GOALS[goal], refit=False)
    norms = scored.InputNorms(stream, block, layer, 1)
    assert np.allclose(norms.energies, np.diag(hessian), rtol=1e-5)
    other, same, told = scored.solve_by_norms("x", weight, norms, method, GOALS[goal], 1)
    assert np.array_equal(value, other)
    assert np.array_equal(new, same)
    assert (told.kept, told.total, told.gone, told.unit) == (row.kept, row.total, row.gone, row.unit)
    assert told.error == pytest.approx(relative_error(weight, new, hessian), rel=1e-4)


@pytest.mark.parametrize("options", [{"pattern": "2:4"}, {"units": ("heads", "ffn"), "sparsity": 0.3}])
def test_nothing_is_factored(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a Hessian")

    monkeypatch.setattr(scored, "SAMPLED", 100)  # of 8 x 32 tokens, every third
    model = tiny_transformer()
    with monkeypatch.context() as patch:
        patch.setattr(LayerLeastSquares, "__post_init__", refuse)
        patch.setattr(Activations, "hessians", refuse)
        result = prune_transformer(model, tiny_tokens(8), method="wanda", options=PruneOptions(refit=False), **options)
        with pytest.raises(AssertionError, match="a Hessian"):  # the test would see one
            prune_transformer(model, tiny_tokens(8), method="wanda", **options)
    assert all("error on one of every 3 tokens" in row.message for row in result.report)
    result.save(tmp_path / "out")
    assert f"{len(result.report)} layers recomputed" in verify_folder(tmp_path / "out", model, tiny_tokens(8))["errors"]

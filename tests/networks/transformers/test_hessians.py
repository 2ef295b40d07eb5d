"""Second moments by name, and a layer solved with one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import prunopt as po  # noqa: E402
from prunopt.networks import calibrate  # noqa: E402
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer  # noqa: E402
from prunopt.problems import LayerReconstruction  # noqa: E402

NAME = "model.layers.1.mlp.down_proj"


def test_a_layer_is_solved_with_its_hessian() -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    seen = []
    layer = model.get_submodule(NAME)
    handle = layer.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().reshape(-1, 64)))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    x = torch.cat(seen).double().numpy()
    found = calibrate(model, ids, layers=[NAME])
    assert list(found) == [NAME]
    assert np.allclose(found[NAME], x.T @ x / len(x), rtol=1e-4, atol=1e-6)
    task = LayerReconstruction(layer.get_parameter("weight").detach().numpy(), found[NAME], pattern="2:4", damping=0.01)
    assert np.isfinite(po.solve(task, "sparsegpt").objective)


def test_all_layers_and_unknown_ones() -> None:
    model, ids = tiny_transformer("gpt2"), tiny_tokens(4)
    assert len(calibrate(model, ids)) == 2 * 4
    with pytest.raises(ValueError, match=r"layers must name linear layers of blocks, got 'lm_head'"):
        calibrate(model, ids, layers=["lm_head"])

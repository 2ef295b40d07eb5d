"""The allocation by swaps from the knapsack's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("optuna")

from prunopt.networks.transformers.allocation import LoadedModel, named_allocation, swapped_allocation
from prunopt.networks.transformers.block_allocation import block_sparsities, resolved
from prunopt.networks.transformers.calibration import as_calibration
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer


@pytest.mark.filterwarnings("ignore:.* blocks lose nothing")
def test_swaps_meet_the_budget_and_are_judged_no_worse_than_their_start() -> None:
    model, tokens = tiny_transformer(), as_calibration(tiny_tokens(8))
    loaded = LoadedModel(model, tokens)
    found = swapped_allocation(loaded, 0.5)
    assert loaded.sizes @ found >= 0.5 * loaded.sizes.sum() - 1e-6
    judge = loaded.judge()
    assert judge.loss(found) <= judge.loss(named_allocation("mckp", loaded, 0.5))
    assert len(judge.windows) == 4  # none of those that were searched on
    assert np.array_equal(found, swapped_allocation(loaded, 0.5))


def test_swaps_need_windows_to_judge_and_single_weights() -> None:
    model, tokens = tiny_transformer(), as_calibration(tiny_tokens(4))
    with pytest.raises(ValueError, match="calibration must have more than 4 windows to judge a search, got 4"):
        block_sparsities(resolved("swaps"), model, tokens, 0.5, units=(), damping=0.1)
    with pytest.raises(ValueError, match="allocation must be another rule for whole units"):
        block_sparsities(resolved("swaps"), model, tokens, 0.5, units=("ffn",), damping=0.1)

"""Short rows are proven, and what proves them is checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import MaskBlocks
from prunopt.solvers.layer.mask_branch_and_bound import MaskBranchAndBound
from prunopt.testing.layers import brute_force_mask, random_layer


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_of_every_row_is_found_and_proven(seed: int) -> None:
    rng = np.random.default_rng(seed)
    W, H = random_layer(rng, 3, 9)
    form = MaskBlocks(W, H, sparsity=float(rng.choice([0.3, 0.5, 0.7])), damping=0.01)
    answer = po.solve(form, "mask-branch-and-bound")
    assert answer.status is po.Status.OPTIMAL
    assert answer.stats["rows proven"] == 3
    alone = [brute_force_mask(MaskBlocks(w[None], H, sparsity=form.sparsity, damping=0.01)) for w in W]
    assert answer.objective == pytest.approx(sum(alone), rel=1e-9)
    assert answer.bound <= sum(alone)
    po.verify(form, answer)


def test_rows_of_twenty_four_weights() -> None:
    W, H = random_layer(np.random.default_rng(8), 4, 24)
    form = MaskBlocks(W, H, sparsity=0.25, damping=0.01)
    answer = po.solve(form, "mask-branch-and-bound")
    assert answer.status is po.Status.OPTIMAL
    assert answer.objective <= po.solve(form, "obc").objective * (1 + 1e-9)
    assert po.solve(form, "obc").bound <= answer.objective


def test_leaves_that_do_not_hold_every_answer_prove_nothing() -> None:
    W, H = random_layer(np.random.default_rng(9), 2, 8)
    form = MaskBlocks(W, H, sparsity=0.5, damping=0.01)
    answer = po.solve(form, "mask-branch-and-bound")
    rows = np.asarray(answer.duals["rows"])
    for stay in (rows == 0, np.arange(len(rows)) > 0):
        with pytest.raises(po.CertificateError):
            po.verify(form, replace(answer, duals={name: a[stay] for name, a in answer.duals.items()}))
    with pytest.raises(po.CertificateError, match="are needed"):
        form.bound({"rows": rows, "removed": answer.duals["removed"]})


def test_what_is_not_branched_on_is_said() -> None:
    W, H = random_layer(np.random.default_rng(10), 2, 12)
    for options in ({"pattern": (2, 4)}, {"sparsity": 0.5, "scope": "layer"}):
        answer = po.solve(MaskBlocks(W, H, **options), "mask-branch-and-bound")
        assert "an answer of obc" in answer.message
    answer = po.solve(MaskBlocks(W, H, sparsity=0.5), MaskBranchAndBound(largest=11))
    assert "rows of up to 11 weights" in answer.message
    early = po.solve(MaskBlocks(W, H, sparsity=0.5), MaskBranchAndBound(nodes=1))
    assert early.bound <= early.objective
    with pytest.raises(ValueError, match="nodes must be a whole number >= 1, got 0"):
        MaskBranchAndBound(nodes=0)

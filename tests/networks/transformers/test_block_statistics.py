"""Statistics of a small transformer against direct computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

import prunopt as po
from prunopt.networks.transformers.block_statistics import block_statistics, error_curve
from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator
from prunopt.networks.transformers.families import blocks, weight_of
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer
from prunopt.problems import AllocationSearch, LayerAllocation
from prunopt.problems.allocation.als import redundancy_matrix


def test_statistics_of_a_tiny_transformer() -> None:
    model, tokens = tiny_transformer(), tiny_tokens(6)
    found = block_statistics(model, tokens, tokens=40, rows=0, levels=[0.0, 0.5, 1.0])
    n = len(blocks(model))
    assert found.sizes.tolist() == [
        sum(weight_of(b.module.get_submodule(x)).numel() for x in b.layers) for b in blocks(model)
    ]
    assert found.errors.shape == (n, 3)
    assert np.allclose(found.errors[:, 0], 0)
    assert np.allclose(found.errors[:, 2], 1)
    assert np.all(np.diff(found.errors, axis=1) > 0)
    assert np.allclose(np.diag(found.redundancy), 1)
    assert all(len(v) == n for v in found.samples.values())
    inputs: list[list[torch.Tensor]] = [[] for _ in range(n)]
    hooks = [
        weight_owner(block).register_forward_pre_hook(lambda m, args, k=k: inputs[k].append(args[0]))
        for k, block in enumerate(blocks(model))
    ]
    with torch.no_grad():
        for window in tokens:
            model(window[None])
    for hook in hooks:
        hook.remove()
    X = [torch.cat([x.reshape(-1, x.shape[-1]) for x in seen])[:40].double().numpy() for seen in inputs]
    assert np.allclose(found.redundancy, redundancy_matrix(X), atol=1e-5)


def weight_owner(block: Any) -> Any:
    """The first linear layer of a block."""
    return block.module.get_submodule(block.layers[0])


def test_error_curve_by_hand() -> None:
    rng = np.random.default_rng(0)
    W, X = rng.normal(size=(5, 8)), rng.normal(size=(8, 40))
    H, score = X @ X.T / 40, np.abs(W)
    found = error_curve(W, score, H, np.array([0.5]), rng=rng, rows=0)[0]
    kept = np.where(score.argsort(1).argsort(1) < 4, 0.0, W)
    assert np.isclose(found, np.square((W - kept) @ X).sum() / np.square(W @ X).sum())


def test_from_model_to_allocation() -> None:
    model, tokens = tiny_transformer(), tiny_tokens(6)
    found = block_statistics(model, tokens, tokens=64)
    masks = SparsityMasks(model, tokens)
    alone, evaluator = np.diag(np.full(len(found.sizes), 0.5)), TextEvaluator(masks, tokens, measure="kl")
    kl = np.array([evaluator.loss(one) for one in alone])  # of the model with one block at a time pruned
    task = LayerAllocation.from_curves(found.sizes, found.levels, found.errors, 0.5, weighting="kl", kl=kl)
    answer = po.solve(task)
    assert answer.status is po.Status.OPTIMAL
    als = po.solve(LayerAllocation.als(found.redundancy, found.sizes, 0.5))
    assert np.isclose(found.sizes @ als.value, 0.5 * found.sizes.sum())
    search = AllocationSearch(TextEvaluator(masks, tokens), masks.block_sizes, 0.5, statistics=found.samples)
    run = po.search(search, trials=6)
    assert run.best.value is not None
    assert np.isfinite(run.best.value)


@pytest.mark.parametrize("shapes", [[(30, 8), (30, 5), (30, 8)], [(6, 40), (6, 20), (6, 9)]])
def test_both_sides_of_the_gram_agree(shapes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(1)
    X = [rng.normal(size=s) for s in shapes]
    direct = [[np.sum((a.T @ b) ** 2) / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b) for b in X] for a in X]
    assert np.allclose(redundancy_matrix(X), direct)

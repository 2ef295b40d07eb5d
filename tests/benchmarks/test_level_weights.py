"""Blocks solved at every level: what the contexts give, against the solver called by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from benchmarks.level_weights import LevelWeights
from prunopt.networks import PruneOptions, prune_transformer
from prunopt.networks.transformers.families import blocks, weight_of
from prunopt.networks.transformers.surgery import parameters_of, remove_neurons
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer


def outputs(model: Any, tokens: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=tokens).logits


def test_the_first_block_is_what_pruning_gives(tmp_path: Path) -> None:
    model, tokens = tiny_transformer(), tiny_tokens(6)
    held = LevelWeights(model, tokens, (0.25, 0.5), folder=tmp_path)
    n = len(blocks(model))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    pruned = prune_transformer(
        model,
        tokens,
        sparsity=0.5,
        allocation="uniform",
        pattern="unstructured",
        method="sparsegpt",
        options=PruneOptions(refit=False),
    ).model
    with held([0.5] + [0.0] * (n - 1)) as masked:
        stage = blocks(masked)[0].stages[0]  # later stages of the walk see pruned inputs
        for name in stage:
            ours = weight_of(blocks(masked)[0].module.get_submodule(name))
            torch.testing.assert_close(ours, weight_of(blocks(pruned)[0].module.get_submodule(name)))
        assert torch.equal(blocks(masked)[1].module.state_dict()["mlp.down_proj.weight"],
                           before["model.layers.1.mlp.down_proj.weight"])  # fmt: skip
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert held.errors.shape == (n, 2)
    assert np.all(np.diff(held.errors, axis=1) > 0)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = LevelWeights(model, tokens, (0.25, 0.5), folder=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == stamps
    assert np.array_equal(again.errors, held.errors)


def test_masked_neurons_are_removed_neurons(tmp_path: Path) -> None:
    model, tokens = tiny_transformer(), tiny_tokens(6)
    held = LevelWeights(model, tokens, (0.2, 0.4), units="ffn", method="wanda", folder=tmp_path)
    n = len(blocks(model))
    share = [0.4] + [0.0] * (n - 1)
    with held(share) as masked:
        ours = outputs(masked, tokens)
        ffn = blocks(masked)[0].feed_forward
        assert ffn is not None
        gone = np.flatnonzero(weight_of(ffn.projection).detach().abs().sum(0).numpy() == 0)
        neuron = parameters_of(blocks(masked)[0])["neuron"]
        assert len(gone) * neuron >= 0.4 * held.block_sizes[0] > (len(gone) - 1) * neuron
        smaller = copy.deepcopy(masked)
    ffn = blocks(smaller)[0].feed_forward
    assert ffn is not None
    remove_neurons(ffn, gone)
    torch.testing.assert_close(outputs(smaller, tokens), ours, atol=1e-5, rtol=1e-5)


def test_shrinkage_is_that_of_pruning(tmp_path: Path) -> None:
    model, tokens = tiny_transformer(), tiny_tokens(6)
    n = len(blocks(model))
    for shrinkage in (None, 0.0, 0.5):
        held = LevelWeights(model, tokens, (0.5,), refit=True, shrinkage=shrinkage, folder=tmp_path)
        pruned = prune_transformer(
            model,
            tokens,
            sparsity=0.5,
            allocation="uniform",
            pattern="unstructured",
            method="sparsegpt",
            options=PruneOptions(shrinkage=0.2 if shrinkage is None else shrinkage),
        ).model
        with held([0.5] + [0.0] * (n - 1)) as masked:
            for name in blocks(masked)[0].stages[0]:
                ours = weight_of(blocks(masked)[0].module.get_submodule(name))
                torch.testing.assert_close(ours, weight_of(blocks(pruned)[0].module.get_submodule(name)))
    own = [LevelWeights(model, tokens, (0.4,), units="ffn", method="wanda", shrinkage=s, folder=tmp_path).errors
           for s in (0.0, None)]  # fmt: skip
    assert (own[0] < own[1]).all()  # the error is of the measured Hessian, which the first minimizes


def test_snapped_meets_the_budget(tmp_path: Path) -> None:
    model, tokens = tiny_transformer(), tiny_tokens(2)
    held = LevelWeights(model, tokens, (0.2, 0.4, 0.6), method="magnitude", folder=tmp_path)
    n = len(blocks(model))
    rng = np.random.default_rng(0)
    sizes = np.array(held.block_sizes)
    for _ in range(20):
        wanted = rng.uniform(0, 0.6, n)
        found = held.snapped(wanted)
        assert np.isin(found, [0, 0.2, 0.4, 0.6]).all()
        assert np.abs(found - wanted).max() < 0.2 + 1e-9
        assert -1e-9 <= sizes @ (found - wanted) <= 0.2 * sizes.max() + 1e-9
    assert np.array_equal(held.snapped([0.4] * n), [0.4] * n)
    for bad, words in (([0.7] * n, "highest level"), ([0.1], "shape")):
        with pytest.raises(ValueError, match=words):
            held.snapped(bad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": (0.5, 0.2)}, "levels must be rising"),
        ({"units": "rows"}, "units must be one of .*got 'rows'"),
        ({"units": "ffn"}, "method must be 'wanda'.*got 'sparsegpt'"),
        ({"shrinkage": -0.1}, "shrinkage must be .*got -0.1"),
        ({"units": "ffn", "method": "wanda", "levels": (0.95,)}, "levels must leave neurons.*pass lower"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"levels": (0.5,), "folder": tmp_path, **change}
    with pytest.raises(ValueError, match=words):
        LevelWeights(tiny_transformer(), tiny_tokens(2), **given)

"""Heads within several budgets at once: costs are the model's, the choice is the best of all, the command tells it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch
from typer.testing import CliRunner

import prunopt as po
from prunopt.cli import app
from prunopt.networks import load
from prunopt.networks.heads import Batch, HeadLoss, head_layers, next_token_loss, prune_heads
from prunopt.networks.heads.several_budgets import head_costs, heads_within
from prunopt.networks.transformers.tiny_models import tiny_transformer, write_tiny_model

IDS = torch.randint(3, 90, (4, 16), generator=torch.Generator().manual_seed(0))
BATCH = Batch({"input_ids": IDS}, IDS)


def test_costs_are_those_of_the_pruned_model() -> None:
    model = tiny_transformer("llama")
    layers = head_layers(model)
    costs = head_costs(model, ["heads", "parameters", "memory", "kv_cache"])
    assert costs.total("parameters") == sum(p.numel() for p in model.parameters())
    assert costs.total("memory") == 4 * costs.total("parameters")
    assert costs.total("kv_cache") == sum(2 * one.n_groups * one.head_dim * 4 for one in layers)
    kept = np.ones(sum(one.n_heads for one in layers), np.bool_)
    kept[: layers[0].heads_per_group] = False
    smaller = prune_heads(model, kept).model
    used = costs.fixed["parameters"] + costs.cost["parameters"][kept].sum()
    assert used == sum(p.numel() for p in smaller.parameters())


def test_the_choice_is_the_best_of_all() -> None:
    model = tiny_transformer("llama")
    with torch.no_grad():
        batch = Batch({"input_ids": IDS}, model(input_ids=IDS).logits)
    loss = HeadLoss(
        model, [batch], lambda out, wanted: (out.logits - wanted).square().mean((1, 2)), remember=True,
        score_loss=lambda out, _: out.logits.square().mean((1, 2)),
    )  # fmt: skip
    costs = head_costs(model, ["heads", "parameters", "kv_cache"])
    found = heads_within(loss, costs, {"heads": 0.7, "kv_cache": "0.6x", "parameters": "0.95x"})
    assert all(use.used <= use.limit for use in found.budgets)
    assert any(use.price > 0 for use in found.budgets)
    n, per = loss.n_heads[0], loss.heads_per_group[0]
    whole = np.ones(sum(loss.n_heads), np.bool_)
    order = [np.argsort(loss.scores(whole)[k * n : (k + 1) * n].reshape(-1, per).sum(1)) for k in range(3)]
    best = np.inf
    for gone in itertools.product(range(n // per + 1), repeat=3):
        total, kept = 0.0, whole.copy()
        for k, j in enumerate(gone):
            alone = whole.copy()
            for group in order[k][:j]:
                alone[k * n + group * per : k * n + (group + 1) * per] = False
            kept &= alone
            total += loss(alone) - loss(whole)
        uses = {r: costs.fixed[r] + costs.cost[r][kept].sum() for r in costs.cost}
        if all(uses[u.resource] <= u.limit for u in found.budgets):
            best = min(best, total)
    assert found.solution.objective == pytest.approx(best, abs=1e-9)


def test_what_cannot_be_met_is_named() -> None:
    model = tiny_transformer("llama")
    loss = HeadLoss(model, [BATCH], next_token_loss)
    costs = head_costs(model, ["heads", "parameters"])
    with pytest.raises(po.SolveError, match="in the way: parameters"):
        heads_within(loss, costs, ["heads=0.5", "parameters=0.01"])
    with pytest.raises(ValueError, match=r"resource of budget .*kv_cache"):
        heads_within(loss, costs, "kv_cache=0.5")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["heads", *map(str, arguments)])


def test_the_command_takes_several_budgets(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "llama", "llama")
    (tmp_path / "text.txt").write_text(" ".join(f"word {k} of a text;" for k in range(80)), "utf-8")
    line = [tmp_path / "llama", "--data", tmp_path / "text.txt", "--examples", 4, "--length", 16, "--no-curve"]
    line += ["--budget", "parameters=0.9", "--budget", "kv_cache=0.7", "--budget", "latency_ms=90x"]
    done = run(*line, "--out", tmp_path / "x", "--json")
    assert done.exit_code == 0, done.output
    uses = {use["resource"]: use for use in json.loads(done.stdout)["budgets"]}
    assert list(uses) == ["parameters", "kv_cache", "latency_ms"]
    smaller = load(tmp_path / "x")
    assert uses["parameters"]["used"] == sum(p.numel() for p in smaller.parameters()) <= uses["parameters"]["limit"]
    shown = run(*line, "--out", tmp_path / "y")
    assert "kv_cache: " in shown.output
    assert "used (before: " in shown.output
    refused = run(*line, "--out", tmp_path / "z", "--method", "swap")
    assert refused.exit_code != 0
    assert "--method must be left out with several budgets" in refused.output

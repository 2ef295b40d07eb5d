"""Several budgets at once: alternatives of blocks are measured, chosen with proof, and removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch

import prunopt as po
from prunopt.networks import load, prune_to_budgets, verify_folder
from prunopt.networks.transformers import Alternatives, MeasureOptions, blocks, drop_blocks, measure_alternatives
from prunopt.networks.transformers.budgeted_pruning import said
from prunopt.networks.transformers.text import divergence
from prunopt.networks.transformers.tiny_models import tiny_transformer

IDS = torch.randint(3, 90, (8, 24), generator=torch.Generator().manual_seed(0))
FEW = MeasureOptions(widths=(0.5,), windows=2)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_transformer("llama")


@pytest.fixture(scope="module")
def library(model: Any) -> Alternatives:
    return measure_alternatives(model, IDS, options=FEW, resources=("parameters", "memory", "kv_cache", "latency_ms"))


def test_costs_are_those_of_the_model(model: Any, library: Alternatives) -> None:
    assert library.total("parameters") == sum(p.numel() for p in model.parameters())
    assert library.total("memory") == 4 * library.total("parameters")
    attention = blocks(model)[0].attention
    assert attention is not None
    assert library.costs["kv_cache"][0, 0] == 2 * attention.n_groups * 4 * 4
    assert (library.loss[:, 0] == 0).all()
    assert (library.loss[:, 1:] > 0).all()
    assert not library.about["whole passes"]


def test_the_loss_of_a_dropped_block_is_the_models(model: Any, library: Alternatives) -> None:
    for k in range(3):
        other = tiny_transformer("llama")
        drop_blocks(other, [k])
        (at,) = np.flatnonzero((library.groups[k] == 0) & (library.neurons[k] == 0))
        assert library.loss[k, at] == pytest.approx(divergence(other, model, IDS[:2]), rel=1e-4)


def test_the_choice_is_the_best_of_all(library: Alternatives) -> None:
    budgets: list[po.Budget | str] = [po.Budget("parameters", share=0.7), "kv_cache=0.7"]
    chosen = library.choose(budgets)
    form = library.form(library.limits(budgets))
    values = np.stack(np.meshgrid(*[range(form.n_levels)] * 3, [0], indexing="ij"), -1).reshape(-1, 4)
    best = min(form.objective(x) for x in values if form.violation(x) == 0)
    assert chosen.loss == pytest.approx(best, abs=1e-9)
    assert [b.resource for b in chosen.budgets] == ["parameters", "kv_cache"]
    assert all(b.used <= b.limit for b in chosen.budgets)
    assert max(b.price for b in chosen.budgets) > 0
    assert "used" in said(chosen.budgets[0])


def test_what_cannot_be_met_is_named(library: Alternatives) -> None:
    with pytest.raises(po.SolveError, match=r"in the way: parameters.*nearest feasible request: parameters=3104"):
        library.choose(["parameters=0.01", "kv_cache=0.9"])
    with pytest.raises(ValueError, match="decode_ms"):
        library.choose(["decode_ms=0.5x"])


def test_files(library: Alternatives, tmp_path: Path) -> None:
    library.save(tmp_path / "x")
    again = Alternatives.load(tmp_path / "x")
    assert np.array_equal(again.loss, library.loss)
    assert again.base == library.base
    assert again.choose("parameters=0.7").levels.tolist() == library.choose("parameters=0.7").levels.tolist()
    (tmp_path / "x" / "alternatives.json").write_text("{}")
    with pytest.raises(ValueError, match=r"alternatives\.json"):
        Alternatives.load(tmp_path / "x")


@pytest.mark.parametrize("budget", [["parameters=0.7", "latency_ms=0.9x"], ["parameters=0.5"], ["kv_cache=0.4"]])
def test_a_pruned_model_is_within_its_budgets(
    model: Any, library: Alternatives, budget: list[str], tmp_path: Path
) -> None:
    result = prune_to_budgets(model, IDS, budget, alternatives=library)
    for use in result.options["budgets"]:
        if use["resource"] == "parameters":
            assert sum(p.numel() for p in result.model.parameters()) == use["used"] <= use["limit"]
    result.save(tmp_path / "x")
    again = load(tmp_path / "x")
    assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)
    assert "errors" in verify_folder(tmp_path / "x", model, IDS)


def test_whole_blocks_leave_a_stock_configuration(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = tiny_transformer("llama")
    result = prune_to_budgets(model, IDS, "parameters=0.75", granularity=["blocks"], measuring=FEW)
    assert result.stock
    assert len(result.options["parts"]["blocks"]) == 1
    result.save(tmp_path / "x")
    stock: Any = LlamaForCausalLM.from_pretrained(tmp_path / "x")
    stock.eval()
    assert stock.config.num_hidden_layers == 2
    assert torch.allclose(stock(input_ids=IDS).logits, result.model(input_ids=IDS).logits, atol=1e-5)
    generated = stock.generate(IDS[:1], max_new_tokens=3, do_sample=False)  # the cache knows the blocks' new numbers
    assert generated.shape == (1, 27)


def test_a_killed_measuring_goes_on(model: Any, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(done: int, of: int) -> None:
        seen.append(done)
        if done == 2 and len(seen) == 2:
            raise KeyboardInterrupt

    options = MeasureOptions(widths=(0.5,), windows=1, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        measure_alternatives(model, IDS, options=options, resources=["parameters"], resume_dir=tmp_path)
    again = measure_alternatives(model, IDS, options=options, resources=["parameters"], resume_dir=tmp_path)
    whole = measure_alternatives(model, IDS, options=options, resources=["parameters"])
    assert np.array_equal(again.loss, whole.loss)
    with pytest.raises(ValueError, match=r"changed: windows|changed: .*windows"):
        measure_alternatives(model, IDS, options=FEW, resources=["parameters"], resume_dir=tmp_path)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"granularity": ["head"]}, "granularity must be one of"),
        ({"resources": ["watts"]}, "resources must be one of"),
        ({"options": MeasureOptions(widths=(1.0,))}, "widths must be"),
        ({"options": MeasureOptions(windows=9)}, "windows must be .*, got 9"),
    ],
)
def test_bad_input(model: Any, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure_alternatives(model, IDS, **asked)


def test_empty_projections_are_refused_where_code_cannot_do_without() -> None:
    with pytest.raises(ValueError, match="leave attention and mlp out of the granularity"):
        prune_to_budgets(tiny_transformer("gpt2"), IDS, "kv_cache=0.01", granularity=["attention"], measuring=FEW)


def test_errors_are_recomputed_without_the_parts_that_went(model: Any, tmp_path: Path) -> None:
    budgets: list[po.Budget | str] = ["kv_cache=0.4", "parameters=0.6"]
    result = prune_to_budgets(model, IDS, budgets, granularity=["attention", "ffn"], measuring=FEW)
    assert result.options["parts"]["attention"]
    result.save(tmp_path / "x")
    assert "errors" in verify_folder(tmp_path / "x", model, IDS)

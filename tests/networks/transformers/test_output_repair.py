"""Whole models repaired by gradient after pruning: never worse on windows held out, zeros kept, resumable, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.core.solution import CertificateError  # noqa: E402
from prunopt.networks import PruneOptions, prune_transformer, verify_folder  # noqa: E402
from prunopt.networks.transformers import OutputRepair, repair_outputs  # noqa: E402
from prunopt.networks.transformers.text import held_out_windows, learning_windows, tokens_of  # noqa: E402
from prunopt.networks.transformers.tiny_models import FAMILIES, outputs, tiny_tokens, tiny_transformer  # noqa: E402
from tests.networks.transformers.repairs import KINDS, half_is_zero  # noqa: E402

SHORT = OutputRepair(steps=8, every=4, batch=2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_no_worse_on_windows_held_out_and_zeros_stay(family: str, kind: str, tmp_path: Path) -> None:
    model, ids = tiny_transformer(family), tiny_tokens()
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = prune_transformer(model, ids, **KINDS[kind], repair=SHORT)
    found = result.output_repair
    assert found is not None
    assert found.after < found.before or (found.kept == 0 and found.after == found.before and family == "bert")
    assert found.steps == 8
    assert not result.repairs
    assert result.options["repair"]["kind"] == "outputs"
    assert kind != "2:4" or half_is_zero(result.model)
    assert all(p.grad is None and p.requires_grad for p in result.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())  # the dense one is as it was
    result.save(tmp_path / "out")
    assert verify_folder(tmp_path / "out", model, ids)["errors"].startswith("divergence of the repaired outputs")


def test_a_repaired_model_is_nearer_to_the_dense_one_on_other_text() -> None:
    model, ids, other = tiny_transformer(), tiny_tokens(64), tiny_tokens(16, seed=9)
    plain = prune_transformer(model, ids, pattern="2:4").model
    mended = prune_transformer(model, ids, pattern="2:4", repair=OutputRepair(steps=60, every=20, rate=0.02)).model
    errors = [float((outputs(m, other) - outputs(model, other)).square().mean()) for m in (plain, mended)]
    assert errors[1] < 0.9 * errors[0]


def test_steps_make_it_repeatable_and_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens()
    options: dict[str, Any] = {"pattern": "2:4", "repair": SHORT}
    prune_transformer(model, ids, **options).save(tmp_path / "whole")

    class Killed(Exception):
        pass

    def progress(done: int, of: int, row: Any) -> None:
        if row.name.startswith("repair of outputs, step 4"):
            raise Killed

    with pytest.raises(Killed):
        prune_transformer(model, ids, **options, resume_dir=tmp_path / "work", options=PruneOptions(progress=progress))
    for name in ("resumed", "again"):  # what is finished is not learned a second time
        told: list[str] = []

        def tell(done: int, of: int, row: Any, told: list[str] = told) -> None:
            told.append(row.name)

        result = prune_transformer(
            model, ids, **options, resume_dir=tmp_path / "work", options=PruneOptions(progress=tell)
        )
        assert any("step" in t for t in told) == (name == "resumed")
        result.save(tmp_path / name)
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed", "again")}
    assert len(weights) == 1
    with pytest.raises(ValueError, match="changed: options"):
        prune_transformer(model, ids, pattern="2:4", repair="blocks", resume_dir=tmp_path / "work")


def test_number_formats_are_kept_and_judged(tmp_path: Path) -> None:
    model, ids = tiny_transformer().to(torch.bfloat16), tiny_tokens(8)
    result = prune_transformer(model, ids, sparsity=0.3, repair=SHORT, options=PruneOptions(in_place=True))
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    result.save(tmp_path / "out")
    verify_folder(tmp_path / "out", tiny_transformer().to(torch.bfloat16), ids)


def test_it_learns_from_windows_of_its_own_and_by_itself() -> None:
    model, ids = tiny_transformer(), tiny_tokens(4)
    how = OutputRepair(steps=8, every=4, batch=2, windows=tiny_tokens(32, seed=3))
    result = prune_transformer(model, ids, pattern="2:4", repair=how)
    assert result.options["repair"]["windows"] == 32
    again = prune_transformer(model, ids, pattern="2:4").model
    found = repair_outputs(again, model, ids, how)
    assert result.output_repair is not None
    assert found.after == pytest.approx(result.output_repair.after, rel=1e-6)


def test_verification_finds_a_false_claim(tmp_path: Path) -> None:
    model, ids = tiny_transformer(), tiny_tokens(8)
    prune_transformer(model, ids, pattern="2:4", repair=SHORT).save(tmp_path / "out")
    path = tmp_path / "out" / "prunopt.json"
    manifest = json.loads(path.read_text())
    manifest["output_repair"]["calibration"] *= 0.9
    path.write_text(json.dumps(manifest))
    with pytest.raises(CertificateError, match="the manifest says"):
        verify_folder(tmp_path / "out", model, ids)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"repair": "outputs", "method": "maskllm"}, "repair must be left out with the method maskllm"),
        ({"repair": "outputs", "calibration": 3}, "calibration must be four windows at least for a repair of outputs"),
    ],
)
def test_a_bad_repair_is_named(given: dict[str, Any], named: str) -> None:
    ids = tiny_tokens(given.pop("calibration", 8))
    with pytest.raises(ValueError, match=named):
        prune_transformer(tiny_transformer(), ids, pattern="2:4", **given)


@pytest.mark.parametrize("repair", ["outputs", "blocks"])
def test_without_gradients_it_is_one_line(repair: str) -> None:
    message = r"repair must be left out under torch.inference_mode\(\), got '?" + repair
    with torch.inference_mode(), pytest.raises(ValueError, match=message):
        prune_transformer(tiny_transformer(), tiny_tokens(8), pattern="2:4", repair=repair)


@pytest.mark.parametrize("bad", [{"minutes": 0}, {"rate": -1.0}, {"batch": 0}, {"steps": 0}, {"held_out": 1.5}])
def test_bad_numbers_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        OutputRepair(**bad)


def test_windows_to_learn_from_share_nothing_with_those_that_are_scored(tmp_path: Path) -> None:
    class Words:
        def __call__(self, text: str, **kwargs: Any) -> Any:
            return type("Ids", (), {"input_ids": torch.tensor([[int(word) for word in text.split()]])})()

    file = tmp_path / "text.txt"
    file.write_text(" ".join(map(str, range(4000))))
    asked: dict[str, Any] = {"length": 32, "count": 8, "seed": 0}
    scored = held_out_windows(Words(), [str(file)], **asked)
    learned = learning_windows(Words(), [str(file)], **asked)
    assert scored is not None
    assert not set(scored.flatten().tolist()) & set(learned.flatten().tolist())
    assert len(learned) > 100
    assert len(learning_windows(Words(), [str(file)], **asked, most=10)) == 10
    assert len(tokens_of(Words(), file.read_text())) == 4000

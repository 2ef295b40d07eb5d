"""Tensors on disk: whole or absent, steps tied to one another, refusals by name."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from prunopt.core.tensor_files import Journal, read_tensors, write_tensors  # noqa: E402


def test_tensors_and_texts_come_back(tmp_path: Path) -> None:
    turned = torch.arange(6.0).reshape(2, 3).T
    write_tensors(tmp_path / "a.safetensors", {"x": turned}, {"note": "n"})
    meta, tensors = read_tensors(tmp_path / "a.safetensors")
    assert meta["note"] == "n"
    assert torch.equal(tensors["x"], turned)
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-3])
    with pytest.raises(ValueError, match=r"a\.safetensors: cannot be read .*; remove it"):
        read_tensors(tmp_path / "a.safetensors")


def run(folder: Path, inputs: dict[str, str], steps: int) -> list[str]:
    """Take steps, those of the journal again; return which were new."""
    journal, new = Journal(folder, inputs), []
    for k in range(steps):
        if journal.replay(f"step {k}") is None:
            journal.append(f"step {k}", {"x": torch.tensor([float(k)])}, {"k": k})
            new.append(f"step {k}")
    return new


def test_a_journal_resumes_and_refuses_other_inputs_and_torn_chains(tmp_path: Path) -> None:
    inputs = {"model": "a", "seed": "0"}
    assert run(tmp_path, inputs, 2) == ["step 0", "step 1"]
    assert run(tmp_path, inputs, 3) == ["step 2"]
    with pytest.raises(ValueError, match="must belong to this run, got another; changed: seed; pass the same inputs"):
        Journal(tmp_path, {**inputs, "seed": "1"})
    first, second = tmp_path / "step-0000.safetensors", tmp_path / "step-0001.safetensors"
    whole = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"step-0001.* does not follow from the step before it"):
        run(tmp_path, inputs, 3)
    second.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"step-0001.* cannot be read .*; remove it and what follows it"):
        run(tmp_path, inputs, 3)
    (tmp_path / "journal.json").write_text("{")
    with pytest.raises(ValueError, match=r"must hold a readable journal\.json"):
        Journal(tmp_path, inputs)
    (tmp_path / "journal.json").unlink()
    with pytest.raises(ValueError, match=r"must hold journal\.json beside its steps"):
        Journal(tmp_path, inputs)

"""Devices: what a run makes is where it was asked for, and one that is not there is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from prunopt.networks import prune_transformer
from prunopt.networks.transformers import calibration, device_solve, layerwise, scored
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.device_solve import solve_on_device
from prunopt.networks.transformers.families import blocks
from prunopt.networks.transformers.layer import LayerGoal, solve_layer
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer, write_tiny_model


class Watched(TorchFunctionMode):
    """Fails where prunopt's stream makes a tensor, or moves one, without saying on which device.

    On a machine without a second device that is how one sees that nothing stays behind on the first.
    """

    made = ("empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like")

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in self.made:
            import sys

            frame: Any = sys._getframe(1)
            while frame is not None and "torch/" in frame.f_code.co_filename.replace("\\", "/"):
                frame = frame.f_back
            if frame is not None and frame.f_code.co_filename == calibration.__file__:
                assert "device" in kwargs, f"{name} at line {frame.f_lineno} names no device"
                self.devices.append(kwargs["device"])
        return func(*args, **kwargs)


def test_activations_and_sums_are_made_where_the_block_is() -> None:
    model, tokens = tiny_transformer(), as_calibration(tiny_tokens(4))
    device = next(model.parameters()).device
    with Watched() as watched:
        stream = Activations(model, blocks(model), tokens)
        stream.hessians(blocks(model)[0], ["mlp.down_proj"])
        stream.advance(blocks(model)[0])
    assert len(watched.devices) >= 2  # the store and the sums
    assert all(torch.device(d) == device for d in watched.devices)


def test_rows_of_published_weights_stay_on_the_device() -> None:
    model = tiny_transformer()
    stream = Activations(model, blocks(model), as_calibration(tiny_tokens(4)))
    norms = scored.InputNorms(stream, blocks(model)[0], "mlp.down_proj", 1)
    assert norms.rows.device == next(model.parameters()).device


def test_a_named_device_gives_the_same_model(tmp_path: Path) -> None:
    model = tiny_transformer()
    plain = prune_transformer(model, tiny_tokens(8), sparsity=0.3)
    asked = prune_transformer(model, tiny_tokens(8), sparsity=0.3, device="cpu")
    for a, b in zip(plain.model.parameters(), asked.model.parameters(), strict=True):
        assert torch.equal(a, b)
    write_tiny_model(tmp_path / "tiny")
    prune_transformer(tmp_path / "tiny", tiny_tokens(8), sparsity=0.3, device="cpu", out=tmp_path / "out")


@pytest.mark.parametrize("device", ["nope", "cuda:99", "meta", 3.5])
def test_a_device_that_is_not_there_is_one_line(device: Any) -> None:
    with pytest.raises(
        ValueError, match=r"device must be a device of torch that is there, got .*; such as cpu"
    ) as found:
        prune_transformer(tiny_transformer(), tiny_tokens(4), device=device)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
@pytest.mark.parametrize("goal", [LayerGoal([[k] for k in range(64)], 20, "neuron"),
                                  LayerGoal([[k, k + 1] for k in range(0, 64, 2)], 0, "head group"),
                                  LayerGoal([[k, k + 32] for k in range(32)], 32, "head group")])  # fmt: skip
def test_a_solve_on_a_device_is_that_of_the_form(method: str, goal: LayerGoal) -> None:
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(7, 64)), rng.normal(size=(40, 64)) * rng.random(64)
    hessian = inputs.T @ inputs / 40  # singular: the damping has to go up where there is none
    for damping in (0.1, 0.0):
        options: dict[str, Any] = {"damping": damping, "shrinkage": 0.2 if damping else 0.0}
        value, new, row = solve_layer("x", weight, hessian, method, goal, **options)
        given = torch.device("cpu")
        other, same, told = solve_on_device("x", weight, hessian, method, goal, **options, device=given)
        assert np.array_equal(value, other)
        if damping:  # elsewhere the form factors the whole Hessian, this the part that stays
            assert told.damping_tried == row.damping_tried
            assert np.allclose(new, same, atol=1e-10)
            assert told.error == pytest.approx(row.error, abs=1e-10)
            assert told.objective == pytest.approx(row.objective, abs=1e-10)
        assert (told.kept, told.total, told.gone, told.refit) == (row.kept, row.total, row.gone, row.refit)


def test_layers_are_solved_on_the_device_of_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def noted(*args: Any, device: torch.device, **options: Any) -> Any:
        asked.append(device)
        return solve_on_device(*args, device=device, **options)

    monkeypatch.setattr(layerwise, "solves", lambda device, method, goal: goal.groups is not None)
    monkeypatch.setattr(layerwise, "solve_on_device", noted)
    model = tiny_transformer()
    there = prune_transformer(model, tiny_tokens(8), sparsity=0.3)
    monkeypatch.undo()
    assert asked == [torch.device("cpu")] * len(there.report)
    for a, b in zip(there.model.parameters(), prune_transformer(model, tiny_tokens(8), sparsity=0.3).model.parameters(),
                    strict=True):  # fmt: skip
        assert torch.allclose(a, b, atol=1e-6)
    single = LayerGoal([[0]], 1, "neuron")
    assert device_solve.solves(torch.device("cuda"), "wanda", single)
    assert not device_solve.solves(torch.device("cpu"), "wanda", single)
    assert not device_solve.solves(torch.device("cuda"), "obs-swap", single)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_choice_is_that_of_the_cpu() -> None:
    model = tiny_transformer()
    on_cpu = prune_transformer(model, tiny_tokens(8), sparsity=0.3)
    on_gpu = prune_transformer(model, tiny_tokens(8), sparsity=0.3, device="cuda")
    assert [r.gone for r in on_cpu.report] == [r.gone for r in on_gpu.report]
    for a, b in zip(on_cpu.model.parameters(), on_gpu.model.parameters(), strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-4)

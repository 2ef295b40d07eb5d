"""Alternatives chosen by what the whole model loses, measured by several processes at once."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch

import prunopt as po
from prunopt.networks import prune_to_budgets, prune_transformer
from prunopt.networks.transformers import Alternatives, MeasureOptions, measure_alternatives
from prunopt.networks.transformers.alternative_files import AlternativeFiles
from prunopt.networks.transformers.alternative_search import ChoiceOptions, ExchangedModel, choose_by_model
from prunopt.networks.transformers.text import divergence
from prunopt.networks.transformers.tiny_models import tiny_transformer

IDS = torch.randint(3, 90, (8, 24), generator=torch.Generator().manual_seed(0))
FEW = MeasureOptions(widths=(0.5,), windows=2)
QUICK = ChoiceOptions(evaluations=6)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Alternatives:
    place = tmp_path_factory.mktemp("library")
    measure_alternatives(tiny_transformer("llama"), IDS, options=FEW, resume_dir=place).save(place)
    return Alternatives.load(place)


def test_alternatives_in_place_lose_what_was_measured(library: Alternatives) -> None:
    dense, model = tiny_transformer("llama"), tiny_transformer("llama")
    place, alone = ExchangedModel(model, library), 0
    for k, j in np.argwhere(np.isfinite(library.loss)).tolist():
        a, f = (library.groups[k, j], library.neurons[k, j])
        if 0 < a < library.groups[k, 0] and f < library.neurons[k, 0]:
            continue  # two parts at once: the sum of two measurements
        levels = np.zeros(3, np.int64)
        levels[k] = j
        place.set(levels)
        if a == library.groups[k, 0] or f == library.neurons[k, 0] or a == f == 0:
            assert divergence(model, dense, IDS[:2]) == pytest.approx(library.loss[k, j], rel=1e-3, abs=1e-6)
            alone += 1
    assert alone > 12
    place.close()
    assert torch.equal(model(input_ids=IDS).logits, dense(input_ids=IDS).logits)


def test_the_search_is_no_worse_on_windows_that_took_no_part(library: Alternatives) -> None:
    budgets = ["parameters=0.6", "kv_cache=0.8"]
    found = choose_by_model(tiny_transformer("llama"), IDS, library, budgets, options=QUICK)
    assert found.evaluations == 6
    assert min(found.judged.values()) <= found.judged["sum of losses"]
    assert all(use.used <= use.limit for use in found.chosen.budgets)
    again = choose_by_model(tiny_transformer("llama"), IDS, library, budgets, options=QUICK)
    assert np.array_equal(found.chosen.levels, again.chosen.levels)


@pytest.mark.parametrize(
    ("windows", "options", "why"), [(3, QUICK, "2 windows more"), (8, ChoiceOptions(evaluations=1), "one evaluation")]
)
def test_what_is_not_searched_is_said(library: Alternatives, windows: int, options: ChoiceOptions, why: str) -> None:
    found = choose_by_model(tiny_transformer("llama"), IDS[:windows], library, "parameters=0.6", options=options)
    assert why in found.note
    assert np.array_equal(found.chosen.levels, library.choose("parameters=0.6").levels)


def test_a_restricted_library_removes_nothing_else(library: Alternatives) -> None:
    shallow = library.restricted(["blocks"]).choose("parameters=0.6")
    kept = shallow.groups > 0
    assert not kept.all()
    assert (shallow.groups[kept] == library.groups[kept, 0]).all()
    assert (shallow.neurons[kept] == library.neurons[kept, 0]).all()
    narrow = library.restricted(["heads", "ffn"]).choose("parameters=0.7")
    assert (narrow.groups > 0).all()
    assert (narrow.neurons > 0).all()


def _measure(place: str) -> list[list[float]]:
    torch.set_num_threads(1)
    found = measure_alternatives(tiny_transformer("llama"), IDS, options=FEW, resume_dir=place)
    return [found.loss.tolist(), found.costs["latency_ms"].tolist()]


def test_two_processes_measure_one_library(library: Alternatives, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(_measure, [str(tmp_path)] * 2)
    assert one == other
    assert np.allclose(one[0], library.loss, atol=1e-7)


def test_a_block_that_is_held_is_left_to_its_holder(tmp_path: Path) -> None:
    files = AlternativeFiles(tmp_path, {"what": "x"})
    with files.claimed(0) as first, AlternativeFiles(tmp_path).claimed(0) as second:
        assert (first, second) == (True, False)
    files.write(0, [0.0, 1.5], {"mlp": {2: np.array([[0.0, 1.0, 2.0]]), 0: np.zeros((1, 3))}}, torch.float32)
    with files.claimed(0) as mine:
        assert not mine
    assert files.losses(0) == [0.0, 1.5]
    assert files.projection(0, "mlp", 2, (1, 3)).tolist() == [[0.0, 1.0, 2.0]]
    assert files.projection(0, "mlp", 0, (1, 3)).tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match=r"block-0000\.safetensors: mlp\.3 cannot be read"):
        files.projection(0, "mlp", 3, (1, 3))
    files.path(0).write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"block-0000\.safetensors"):
        files.losses(0)


def test_a_saved_library_keeps_its_projections(library: Alternatives, tmp_path: Path) -> None:
    library.save(tmp_path / "x")
    assert Alternatives.load(tmp_path / "x").files is not None
    (tmp_path / "x" / "block-0001.safetensors").unlink()
    assert Alternatives.load(tmp_path / "x").files is None


def test_prune_transformer_takes_every_budget(library: Alternatives) -> None:
    asked: Any = {"parameters": 0.8, "kv_cache": "0.9x"}
    result = prune_transformer(tiny_transformer("llama"), IDS, budget=asked, units=("heads", "ffn"))
    assert sum(p.numel() for p in result.model.parameters()) <= 0.8 * library.total("parameters")
    assert result.options["units"] == ["heads", "ffn"]
    assert not any(result.options["parts"].values())
    with pytest.raises(ValueError, match=r"repair must be left out with budgets of several resources, got 'blocks'"):
        prune_transformer(tiny_transformer("llama"), IDS, budget=asked, repair="blocks")
    with pytest.raises(ValueError, match="model must be in memory"):
        prune_transformer("folder", IDS, budget=asked)


def test_times_are_measured_on_the_result(library: Alternatives) -> None:
    result = prune_to_budgets(
        tiny_transformer("llama"), IDS, ["parameters=0.8", "latency_ms=90x"], alternatives=library, choosing=QUICK
    )
    assert result.options["measured"]["latency_ms"] > 0
    assert any("measured on the result" in note for note in result.notes)
    assert po.Budget.several(result.options["budget"])[1].share == 90.0


def test_a_killed_run_chooses_the_same(tmp_path: Path) -> None:
    """Times are kept with the losses: timed again they would differ, and layers would not belong to the choice."""

    def stop(done: int, of: int, row: Any) -> None:
        raise KeyboardInterrupt

    from prunopt.networks import PruneOptions

    run: dict[str, Any] = {"measuring": FEW, "choosing": QUICK, "granularity": ["ffn"], "resume_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        prune_to_budgets(
            tiny_transformer("llama"), IDS, "parameters=0.8 latency_ms=90x", options=PruneOptions(progress=stop), **run
        )
    kept = (tmp_path / "alternatives" / "times.json").read_bytes()
    prune_to_budgets(tiny_transformer("llama"), IDS, "parameters=0.8 latency_ms=90x", **run)
    assert (tmp_path / "alternatives" / "times.json").read_bytes() == kept
    shutil.rmtree(tmp_path)

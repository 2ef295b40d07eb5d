"""Puzzletron's libraries: replacements with losses and costs are read, the choice is that of the integer program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunopt.networks.transformers.puzzletron import read_puzzletron


def written(place: Path, change: Any = None) -> tuple[Path, Path]:
    """Write files of two blocks, as the search of Puzzletron does."""
    entries: dict[str, Any] = {}
    for k in range(2):
        for heads, width, loss in ((8, 64, 0.1), (8, 32, 0.2 + k), (4, 64, 0.3), (0, 32, 0.9), (0, 0, 2.0)):
            entries[f"replacement_{len(entries)}"] = {
                "block_config": {
                    "attention": {"no_op": heads == 0, "num_key_value_heads": heads or None},
                    "ffn": {"no_op": width == 0, "intermediate_size": width or None},
                },
                "parent_layer_indices": [k], "metrics": {"kl_div_loss": loss, "one_minus_kl_div_loss": 1 - loss},
                "stats": {"num_params": 10 * heads + width, "memory_mib": heads + width / 64, "runtime_ms": None,
                          "kv_cache_memory_mib": heads / 2, "prefill_runtime_ms": None},
            } | ({"is_teacher": True} if (heads, width) == (8, 64) else {})  # fmt: skip
    entries = dict(reversed(entries.items()))  # the order is not that of the blocks
    if change is not None:
        change(entries["replacement_3"])
    metrics, stats = place / "replacement_metrics_and_stats.json", place / "subblock_stats.json"
    metrics.write_text(json.dumps(entries))
    outside = {"num_params": 100, "memory_mib": 3.0, "runtime_ms": None}
    stats.write_text(json.dumps([{"args": {"batch_size": b}, "non_block": outside, "subblocks": []} for b in (1, 8)]))
    return metrics, stats


def test_a_library_of_puzzletron(tmp_path: Path) -> None:
    metrics, stats = written(tmp_path)
    library = read_puzzletron(metrics, stats, scenario={"batch_size": 8})
    assert list(library.costs) == ["parameters", "memory", "kv_cache"]  # without times, which are missing
    assert library.total("parameters") == 100 + 2 * 144
    assert library.total("memory") == (3 + 2 * 9) * 2**20
    assert (library.groups[:, 0] == 8).all()
    assert (library.loss[:, 0] == 0).all()
    chosen = library.choose(["parameters=320", "kv_cache=0.99"])
    assert sorted(zip(chosen.groups.tolist(), chosen.neurons.tolist(), strict=True)) == [(4, 64), (8, 32)]
    assert chosen.loss == pytest.approx(0.2 + 0.1)
    assert np.array_equal(read_puzzletron(metrics).base["parameters"], 0.0)
    library.save(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.update(parent_layer_indices=[0, 1]), r"replacement_3 must replace one block, got \[0, 1\]"),
        (lambda e: e.pop("stats"), "replacement_3 must have attention and FFN"),
        (lambda e: e["metrics"].clear(), "KeyError: 'kl_div_loss'"),
        (lambda e: e.update(parent_layer_indices=[7]), r"must hold every block, got blocks \[0, 1, 7\]"),
    ],
)
def test_bad_files(tmp_path: Path, change: Any, words: str) -> None:
    metrics, _ = written(tmp_path, change)
    with pytest.raises(ValueError, match=words):
        read_puzzletron(metrics)


def test_a_scenario_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hold one such measurement, got 2; name one of them"):
        read_puzzletron(*written(tmp_path))

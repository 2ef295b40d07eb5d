"""Libraries of alternatives that NVIDIA's Puzzletron measured."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core import validate
from prunopt.core.files import read_json
from prunopt.networks.transformers.alternatives import Alternatives

MIB = 2.0**20
STATS = {  # what a resource is called there, and its unit
    "parameters": ("num_params", 1.0), "memory": ("memory_mib", MIB), "kv_cache": ("kv_cache_memory_mib", MIB),
    "latency_ms": ("prefill_runtime_ms", 1.0), "decode_ms": ("decode_runtime_ms", 1.0),
}  # fmt: skip
LARGEST = 2**30  # bytes of a file


def read_puzzletron(
    metrics: str | os.PathLike[str], stats: str | os.PathLike[str] | None = None, *, metric: str = "kl_div_loss",
    scenario: Mapping[str, Any] | None = None,
) -> Alternatives:  # fmt: skip
    """Read what Puzzletron measured of every replacement of a block.

    Parameters
    ----------
    metrics
        ``replacement_metrics_and_stats.json``, which its search writes: for each replacement ``block_config`` (the
        attention's ``num_key_value_heads``, the FFN's ``intermediate_size``, ``no_op`` for either),
        ``parent_layer_indices``, ``metrics`` and ``stats``. Resources whose numbers are missing are left out; memory is
        as counted there, with the cache of its batch and length, and so is the cache.
    stats
        ``subblock_stats.json``: what is outside of the blocks costs, under ``non_block``. None: nothing.
    metric
        The loss; that of the blocks as they are is taken off.
    scenario
        Entries of ``args`` that name one of the measurements in ``stats``, such as ``{"batch_size": 32}``.

    Raises
    ------
    ValueError
        Naming the file and the entry, if one cannot be read; and if a replacement stands for several blocks.

    References
    ----------
    .. [1] A. Bercovich et al., "Puzzle: distillation-based NAS for inference-optimized LLMs", 2024.
    """
    entries = _mapping(metrics, read_json(metrics, largest=LARGEST))
    rows: dict[int, list[tuple[bool, int, int, float, dict[str, float | None]]]] = defaultdict(list)
    for name, entry in entries.items():
        where = f"{metrics}: {name}"
        try:
            at = [int(k) for k in entry["parent_layer_indices"]]
            config, loss, told = entry["block_config"], float(entry["metrics"][metric]), entry["stats"]
            groups, neurons = (
                0 if config[part].get("no_op") else int(config[part][size])
                for part, size in (("attention", "num_key_value_heads"), ("ffn", "intermediate_size"))
            )
            costs = {r: None if (x := told.get(key)) is None else float(x) * by for r, (key, by) in STATS.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            shown = validate.Shown(f"{type(error).__name__}: {error}")
            must = f"have attention and FFN, parent_layer_indices, {metric} and stats"
            raise validate.invalid(where, must, shown) from None
        validate.require(len(at) == 1, where, "replace one block", at, "leave replacements of several blocks out")
        if math.isfinite(loss):
            rows[at[0]].append((bool(entry.get("is_teacher")), groups, neurons, loss, costs))
    numbers = sorted(rows)
    given = validate.Shown(f"blocks {numbers}")
    validate.require(numbers and numbers == list(range(len(numbers))), str(metrics), "hold every block", given)
    size = max(map(len, rows.values()))
    names = [r for r in STATS if all(row[4][r] is not None for block in rows.values() for row in block)]
    shape = len(numbers), size
    groups_, neurons_ = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    loss_, tables = np.full(shape, np.inf), {r: np.zeros(shape) for r in names}
    for k, block in rows.items():
        block.sort(key=lambda row: not row[0])
        validate.require(block[0][0], f"{metrics}: block {k}", "have the block as it is (is_teacher)", block[0][1:3])
        for j, (_, groups, neurons, loss, costs) in enumerate(block):
            groups_[k, j], neurons_[k, j], loss_[k, j] = groups, neurons, max(0.0, loss - block[0][3])
            for r in names:
                tables[r][k, j] = costs[r]
    base = dict.fromkeys(names, 0.0) if stats is None else _outside(stats, scenario or {}, names)
    kinds = ["blocks", "attention", "mlp", "heads", "ffn"]
    about = {"granularity": kinds, "windows": 0, "metric": metric, "source": "puzzletron", "file": Path(metrics).name}
    return Alternatives(groups_, neurons_, loss_, tables, base, about)


def _mapping(file: Any, found: Any) -> dict[str, Any]:
    validate.require(isinstance(found, dict) and found, str(file), "hold replacements by name", type(found).__name__)
    return dict(found)


def _outside(file: Any, scenario: Mapping[str, Any], names: list[str]) -> dict[str, float]:
    """Return what the embeddings, the head and the rest cost."""
    listed = read_json(file, largest=LARGEST)
    good = isinstance(listed, list) and all(isinstance(one, dict) and "non_block" in one for one in listed)
    given = validate.Shown(type(listed).__name__)
    validate.require(good, str(file), "hold a list of measurements with non_block", given)
    mine = [one for one in listed if all(one.get("args", {}).get(k) == v for k, v in scenario.items())]
    mend = "name one of them with scenario={...}, entries of its args"
    validate.require(len(mine) == 1, str(file), "hold one such measurement", validate.Shown(str(len(mine))), mend)
    rest = mine[0]["non_block"]
    return {r: float(rest.get(STATS[r][0]) or 0.0) * STATS[r][1] for r in names}

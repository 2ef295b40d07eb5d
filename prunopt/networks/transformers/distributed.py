"""Calibration spread over processes: second moments and Grams as sums over the ranks of torch.distributed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, number, require


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and how many there are; (0, 1) where torch.distributed is not set up."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def shard(windows: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of the calibration windows, (n, length): every size-th one.

    Raises
    ------
    ValueError
        If there are fewer windows than ranks.
    """
    rank, size = rank_and_size()
    require(len(windows) >= size, "windows", f"be one at least for each of {size} processes", Shown(f"{len(windows)}"))
    return windows[rank::size]


def summed(sums: Mapping[str, Any], weight: float) -> dict[str, Floats]:
    """Return the weighted mean over ranks of arrays by name, the same on every rank.

    Parameters
    ----------
    sums
        Means over this rank's tokens: Hessians :math:`X X^T / N_r`, Grams, squared norms. The same names and shapes
        on every rank.
    weight
        This rank's number of tokens :math:`N_r`.

    Returns
    -------
    dict
        :math:`\\sum_r N_r A_r / \\sum_r N_r`, added up in double precision.
    """
    number("weight", weight, low=0, open_ends="(", mend="pass this rank's number of tokens")
    arrays = {name: np.asarray(a, np.float64) for name, a in sums.items()}
    _, size = rank_and_size()
    if size == 1:
        return {name: a.copy() for name, a in arrays.items()}
    # Objects would travel as pickles; a digest of the names and shapes is enough to compare.
    signature = json.dumps([[name, list(arrays[name].shape)] for name in sorted(arrays)])
    mine = torch.tensor(list(hashlib.sha256(signature.encode()).digest()), dtype=torch.int64)
    low, high = mine.clone(), mine.clone()
    dist.all_reduce(low, op=dist.ReduceOp.MIN)
    dist.all_reduce(high, op=dist.ReduceOp.MAX)
    other, mend = Shown("others on some rank"), "prune the same model on all of them"
    require(torch.equal(low, high), "sums", "have the same names and shapes on all ranks", other, mend)
    total = torch.tensor([float(weight)], dtype=torch.float64)
    dist.all_reduce(total)
    found: dict[str, Floats] = {}
    for name in sorted(arrays):
        part = torch.from_numpy(arrays[name] * float(weight))
        dist.all_reduce(part)
        found[name] = (part / total).numpy()
    return found


def hessians(stream: Any, block: Any, layers: Any) -> dict[str, Floats]:
    """Return `Activations.hessians` of a block over the tokens of all ranks.

    Parameters
    ----------
    stream
        This rank's activations, made from its `shard` of the calibration.
    block, layers
        As for `Activations.hessians`.
    """
    return summed(stream.hessians(block, layers), float(stream.calibration.row_weights().sum()))

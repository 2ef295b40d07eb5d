"""Calibration spread over processes: second moments and Grams as sums over the ranks of torch.distributed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, number, require
from prunopt.networks.transformers.calibration import Calibration

PATIENCE = timedelta(hours=12)  # of a rank that waits for the one that solves a layer


def rank_and_size() -> tuple[int, int]:
    """Return this process's rank and how many there are; (0, 1) where torch.distributed is not set up."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def joined_ranks() -> Iterator[int]:
    """Join the other processes that torchrun started, where it did; yield this one's rank, 0 if it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ or dist.is_initialized():
        yield rank_and_size()[0]
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank()
        dist.barrier()  # no rank leaves while another still talks to it
    finally:
        dist.destroy_process_group()


def part_of(calibration: Calibration) -> Calibration:
    """Return this rank's part of a calibration: every size-th window."""
    rank, size = rank_and_size()
    if size == 1:
        return calibration
    shard(calibration.windows)  # enough of them
    return calibration.of(slice(rank, None, size))


def added(numbers: Sequence[float]) -> list[float]:
    """Return the sums over all ranks of a few numbers."""
    if rank_and_size()[1] == 1:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    return [float(x) for x in total]


def from_first(tensors: Mapping[str, torch.Tensor] | None, record: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the tensors and the record (plain JSON) that rank 0 has, on all ranks.

    Layers are solved once, so that machines that round differently keep the same weights.
    """
    rank, size = rank_and_size()
    if size == 1:
        return dict(tensors or {}), record
    head = b""
    if rank == 0:
        about = {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in (tensors or {}).items()}
        head = json.dumps([about, record]).encode()
    length = torch.tensor([len(head)])
    dist.broadcast(length, 0)
    text = torch.tensor(list(head), dtype=torch.uint8) if rank == 0 else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0)
    about, record = json.loads(bytes(text.tolist()))
    out = {}
    for name, (kind, shape) in about.items():
        held = torch.empty(shape, dtype=getattr(torch, kind))
        if rank == 0 and tensors is not None:
            held.copy_(tensors[name])
        if held.numel():
            dist.broadcast(held.reshape(-1).view(torch.uint8), 0)
        out[name] = held
    return out, record


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
    found: dict[str, Floats] = stream.hessians(block, layers)
    if rank_and_size()[1] == 1:
        return found
    out: dict[str, Floats] = {}
    for layer in layers:
        out |= summed({layer: found[layer]}, float(stream.weights_of(block, layer).sum()))
    return out

"""Whole units chosen by scores and the rest re-solved on an accelerator: the default recipe without a trip to NumPy."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, invalid
from prunopt.networks.transformers.layer import HIGHEST_DAMPING, LayerGoal, LayerReport, Method, name_of

SOLVED = ("wanda", "magnitude")


def solves(device: torch.device, method: Method, goal: LayerGoal) -> bool:
    """Whether a layer is solved on its device: by scores of whole units, in double precision."""
    return device.type not in ("cpu", "mps") and name_of(method) in SOLVED and goal.groups is not None


def solve_on_device(
    name: str, weight: Floats, hessian: Floats, method: Method, goal: LayerGoal, *, damping: float, shrinkage: float,
    device: torch.device,
) -> tuple[Any, Floats, LayerReport]:  # fmt: skip
    r"""Return what `prunopt.networks.transformers.layer.solve_layer` does of units, re-solved, to rounding.

    With S the columns that are removed, K the others and H damped and shrunk,
    :math:`W'_K = W_K + W_S H_{SK} H_{KK}^{-1}` by one Cholesky factorization in double precision.
    """
    start, called = time.perf_counter(), name_of(method)
    W, measured = torch.from_numpy(weight).to(device), torch.from_numpy(hessian).to(device)
    H = (1 - shrinkage) * measured
    H.diagonal().copy_(measured.diagonal())
    energies = measured.diagonal() if called == "wanda" else torch.ones_like(measured.diagonal())
    per_column = (W.square() * energies).sum(0).cpu().numpy()
    groups = [np.asarray(g) for g in goal.groups or ()]
    totals = np.array([per_column[g].sum() for g in groups])
    value = np.sort(np.argsort(totals, kind="stable")[: goal.remove])
    gone = np.zeros(len(hessian), np.bool_)
    for k in value:
        gone[groups[k]] = True
    S, K = (torch.from_numpy(np.flatnonzero(x)).to(device) for x in (gone, ~gone))
    ridge, tried = float(H.diagonal().mean()), list[float]()
    while True:
        kept = H[K[:, None], K]
        kept.diagonal().add_(damping * ridge)
        factor, failed = torch.linalg.cholesky_ex(kept)
        if not int(failed):
            break
        higher = max(1e-3, damping * 10)
        if higher > HIGHEST_DAMPING * (1 + 1e-9):
            raise invalid(f"hessian of {name}", "be positive definite", Shown(f"another with damping {damping:g}"))
        tried.append(damping)
        damping = higher
    new = W.clone()
    new[:, S] = 0
    if len(S) and len(K):
        new[:, K] += torch.cholesky_solve((W[:, S] @ H[S[:, None], K]).T, factor).T
    H.diagonal().add_(damping * ridge)
    change, tiny = W - new, float(np.finfo(np.float64).tiny)
    energy = max(float(((W @ H) * W).sum()), tiny)
    error = float(((change @ measured) * change).sum()) / max(float(((W @ measured) * W).sum()), tiny)
    report = LayerReport(
        name, called, goal.unit, len(groups) - len(value), len(groups), error,
        float(((change @ H) * change).sum()) / energy, -math.inf, math.inf, damping, tuple(tried), True,
        time.perf_counter() - start, f"solved on {device}; a heuristic's answer, no bound", tuple(map(int, value)),
    )  # fmt: skip
    return value, new.cpu().numpy(), report

"""Wanda's and magnitude's published weights of a layer from the norms of its inputs: no Hessian, nothing factored."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from prunopt.core.arrays import Floats
from prunopt.networks.transformers import distributed
from prunopt.networks.transformers.calibration import Activations, Calibration
from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.layer import LayerGoal, LayerReport, Method, name_of

BY_NORMS = ("wanda", "magnitude")
SAMPLED = 4096  # tokens that an error is measured on
SAMPLED_SAID = "error on one of every"  # how a report says it


def by_norms(method: Method, refit: bool) -> bool:
    """Whether a method needs no more than the norms of a layer's inputs."""
    return not refit and name_of(method) in BY_NORMS


def step_of(calibration: Calibration) -> int:
    """Return k such that every k-th token of each window is enough to measure errors on."""
    return math.ceil(calibration.mask.numel() / SAMPLED)


class InputNorms:
    r"""What enters a layer: :math:`\sum_t \omega_t x_{tj}^2 / \sum_t \omega_t`, and every k-th token for the error."""

    def __init__(self, stream: Activations, block: Block, layer: str, step: int) -> None:
        weights, sampled = stream.weights_of(block, layer), stream.weights_of(block, layer, step)
        parts: list[torch.Tensor] = []
        sums: list[torch.Tensor] = []

        def take(_: str, window: int, rows: torch.Tensor) -> None:
            squares = rows.float().square().double() * weights[window][:, None].to(rows.device)
            sums[:] = [squares.sum(0) + sums[0]] if sums else [squares.sum(0)]
            scale = sampled[window].sqrt().float().to(rows.device)
            parts.append((rows.float() * scale[:, None])[scale > 0])

        stream.inputs(block, [layer], take)
        whole = float(weights.sum())
        self.energies: Floats = distributed.summed({"x": sums[0].cpu().numpy() / whole}, whole)["x"]
        self.rows = torch.cat(parts)

    def error(self, weight: torch.Tensor, new: torch.Tensor) -> float:
        """Return ||(W - W') X||^2 / ||W X||^2 on the sampled tokens."""
        old = weight.to(self.rows)
        found = [float((self.rows @ m.T).double().square().sum()) for m in (old - new.to(self.rows), old)]
        change, whole = distributed.added(found)
        return change / max(whole, float(np.finfo(np.float64).tiny))


def solve_by_norms(
    name: str, weight: Floats, norms: InputNorms, method: Method, goal: LayerGoal, step: int
) -> tuple[Any, Floats, LayerReport]:
    """Choose by w^2 (times the inputs' energies for wanda) and leave what stays as it is.

    The choice is that of the forms' ``cheapest``, to rounding of the energies.
    """
    start, called = time.perf_counter(), name_of(method)
    scores = weight**2 * (norms.energies if called == "wanda" else 1.0)
    new: Floats = np.array(weight)
    value: Any
    if goal.groups is not None:
        per_column = scores.sum(axis=0)
        totals = np.array([per_column[g].sum() for g in goal.groups])
        value = np.sort(np.argsort(totals, kind="stable")[: goal.remove])
        for k in value:
            new[:, np.asarray(goal.groups[k])] = 0
        total, gone = len(goal.groups), tuple(int(k) for k in value)
        kept = total - len(gone)
    else:
        table = scores.reshape(-1, goal.pattern[1]) if goal.pattern else scores
        removed = goal.pattern[1] - goal.pattern[0] if goal.pattern else round((goal.sparsity or 0.0) * weight.shape[1])
        # The order among those that go is of no interest, but ties go by place: a stable sort.
        order = np.argsort(table, axis=1, kind="stable")[:, :removed]
        value = np.ones(table.shape, np.bool_)
        np.put_along_axis(value, order, False, axis=1)
        value = value.reshape(weight.shape)
        new[~value] = 0
        total, gone, kept = weight.size, (), int(value.sum())
    error = norms.error(torch.from_numpy(weight), torch.from_numpy(new))
    message = "the published weights, not re-solved: no objective of the form, no bound"
    message += f"; {SAMPLED_SAID} {step} tokens" if step > 1 else ""
    return value, new, LayerReport(
        name, called, goal.unit, kept, total, error, math.nan, -math.inf, math.inf, 0.0, (), False,
        time.perf_counter() - start, message, gone,
    )  # fmt: skip

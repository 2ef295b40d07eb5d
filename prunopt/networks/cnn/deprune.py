"""DEPrune: depthwise kernels pruned in tiles of their diagonal form, within a modeled latency [1]_.

References
----------
.. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
   pruning for maximizing GPU parallelism", NeurIPS 2024.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from prunopt.api import solve
from prunopt.core.solution import Solution
from prunopt.networks.cnn.watching import watching
from prunopt.networks.cnn.windowed_conv import depthwise_names
from prunopt.problems.depthwise_conv import DepthwiseConv


def deprune(
    model: nn.Module, example: torch.Tensor, *, budget: float, tile: int = 32, solver: str = "tile-dp", seed: int = 0
) -> tuple[nn.Module, Solution[Any]]:
    """Return a copy whose depthwise kernels are pruned in tiles (`DepthwiseConv`), and the solution.

    Parameters
    ----------
    budget
        The share of the modeled latency of the depthwise layers (in diagonal form, by tiles) that may be used.
        The weights are zeros in the copy: only kernels made for the diagonal form run faster by them.
    """
    task, names = depthwise_task(model, example, budget=budget, tile=tile)
    solution = solve(task, solver, seed=seed)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in zip(names, solution.value, strict=True):
            weight: Any = masked.get_submodule(name).weight
            weight.mul_(torch.from_numpy(mask)[:, None].to(weight.device))
    return masked, solution


def depthwise_task(
    model: nn.Module, example: torch.Tensor, *, budget: float = math.inf, tile: int = 32
) -> tuple[DepthwiseConv, list[str]]:
    """Return the `DepthwiseConv` of a network's depthwise layers with more than one tap, and the layers' names."""
    names, positions = depthwise_names(model), dict[str, int]()

    def note(name: str, _: nn.Module, out: torch.Tensor) -> None:
        positions[name] = int(out.shape[2] * out.shape[3])

    with watching(model, names, note), torch.no_grad():
        model.eval()(example[:1])
    weights = [model.get_submodule(n).weight.detach().cpu().numpy() for n in names]  # type: ignore[operator]
    sizes = [positions[n] for n in names]
    dense = DepthwiseConv(weights, sizes, tile=tile).dense_latency
    return DepthwiseConv(weights, sizes, budget * dense, tile=tile), names

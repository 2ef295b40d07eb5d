"""From a target network to a sub-network of a random one on disk, with its certificate."""

from __future__ import annotations

import copy
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.files import write_atomically, write_json
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Solver
from prunopt.problems.lottery.lottery_ticket import LotteryTicket, Ticket

FORMAT = "prunopt-lottery-1"


def find_ticket(
    target: nn.Sequential,
    epsilon: float,
    *,
    solver: str | Solver[Any] | None = None,
    limits: Limits | None = None,
    radius: float = 1.0,
    **options: Any,
) -> tuple[Ticket, Solution[Any], LotteryTicket]:
    """Return the sub-network, the solution with its proof, and the task; ``options`` are those of `LotteryTicket`."""
    task = LotteryTicket(target, epsilon, **options)
    solution = solve(task, solver, limits=limits)
    return task.ticket(solution.value, radius=radius), solution, task


def inputs_in_ball(
    shape: tuple[int, ...], count: int, *, radius: float = 1.0, nonnegative: bool = False, seed: int = 0
) -> Tensor:
    """Return inputs of Euclidean norm ``radius``, in random directions, half of them sparse; float64.

    Behind every second one only a few coordinates are not 0: those reach directions that dense ones never come near.
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel()
    x = torch.randn(count, size, generator=generator, dtype=torch.float64)
    share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    share[::2] = 1.0
    keep = torch.rand(count, size, generator=generator, dtype=torch.float64) < share
    keep[torch.arange(count), torch.randint(size, (count,), generator=generator)] = True
    x = x.abs() * keep if nonnegative else x * keep
    found: Tensor = (x * (radius / x.norm(dim=1, keepdim=True).clamp_min(1e-300))).reshape(count, *shape)
    return found


def measured_error(
    target: nn.Module, found: nn.Module, inputs: Tensor, *, climbs: int = 0, radius: float = 1.0, sign: bool = False
) -> float:
    """Return the largest Euclidean distance of the two networks' outputs over the inputs, computed in float64.

    Parameters
    ----------
    target, found
        The networks.
    inputs : (n, ...) float
    climbs
        Steps of gradient ascent on the 64 worst inputs, within the ball of that radius.
    radius
        Radius of the ball, for ``climbs``.
    sign
        Whether inputs must stay at or above 0, for ``climbs``.
    """
    a, b = _double(target), _double(found)

    def distance(x: Tensor) -> Tensor:
        far: Tensor = (a(x) - b(x)).flatten(1).norm(dim=1)
        return far

    with torch.no_grad():
        starts = range(0, len(inputs), 1024)
        far = torch.cat([distance(inputs[start : start + 1024].double()) for start in starts])
    worst = float(far.max())
    if climbs:
        x = inputs[far.topk(min(64, len(far))).indices].double().clone()
        shape = (-1, *[1] * (x.dim() - 1))
        for step in range(climbs):
            x.requires_grad_(True)
            value = distance(x)
            worst = max(worst, float(value.detach().max()))
            (slope,) = torch.autograd.grad(value.sum(), x)
            with torch.no_grad():
                size = slope.flatten(1).norm(dim=1).clamp_min(1e-300).view(shape)
                x = x.detach() + radius * 0.5 / (1 + step) ** 0.5 * slope / size
                x = x.clamp_min(0) if sign else x
                x = x * (radius / x.flatten(1).norm(dim=1).clamp_min(1e-300)).clamp_max(1.0).view(shape)
    return worst


def read_network(path: str | os.PathLike[str]) -> nn.Sequential:
    """Read a network of linear and convolution layers with a ReLU between any two from a safetensors file.

    The tensors are ``NAME.weight`` and ``NAME.bias``; layers follow in the natural order of their names.
    Two-dimensional weights are linear layers, four-dimensional ones convolutions of stride 1 that keep the picture's
    size, and a Flatten stands where the former follow the latter.

    Raises
    ------
    ValueError
        If the file is damaged, or its tensors do not make up such a network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    validate.require(file.is_file(), "file", "be there", str(file))
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise validate.invalid("file", "be a safetensors file", str(file), str(error)) from None
    names = sorted({name.rpartition(".")[0] for name in tensors}, key=_natural)
    parts: list[nn.Module] = []
    for name in names:
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        known = {f"{name}.weight", f"{name}.bias"}
        odd = [key for key in tensors if key.rpartition(".")[0] == name and key not in known]
        if odd or weight is None or weight.dim() not in (2, 4) or not weight.is_floating_point():
            what = odd[0] if odd else f"{name}.weight"
            weights = "hold weights and biases of linear layers and convolutions only"
            raise validate.invalid(f"{file}", weights, what)
        if parts:
            parts.append(nn.ReLU())
        if weight.dim() == 2 and any(isinstance(p, nn.Conv2d) for p in parts) and not _flat(parts):
            parts.append(nn.Flatten())
        parts.append(_layer(file, name, weight, bias))
    validate.require(parts, f"{file}", "hold tensors", validate.Shown("none"))
    module = nn.Sequential(*parts)
    return module.eval()


def save_ticket(folder: str | os.PathLike[str], ticket: Ticket, task: LotteryTicket, **more: Any) -> list[str]:
    """Write ``ticket.safetensors`` (the kept draws; everything else is 0) and ``ticket.json``; return their names.

    The latter holds certificate, counts, and how to draw the random network again. Each is written whole or not at all.
    """
    from safetensors.torch import save_file

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in ticket.module.state_dict().items()}
    with write_atomically(target / "ticket.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": FORMAT})
    layers = [str(part) for part in ticket.module]
    report = {
        "format": FORMAT,
        "construction": task.construction,
        "epsilon": task.epsilon,
        "delta": task.delta,
        "seed": int(task.seed),
        "random_network": task.report(),
        "modules": layers,
        "counts": ticket.counts,
        "certificate": asdict(ticket.certificate),
        **more,
    }
    write_json(target / "ticket.json", report)
    return ["ticket.safetensors", "ticket.json"]


def _double(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double().eval()


def _flat(parts: list[nn.Module]) -> bool:
    return any(isinstance(part, nn.Flatten) for part in parts)


def _natural(name: str) -> list[Any]:
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.findall(r"\d+|\D+", name)]


def _layer(file: Path, name: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer: nn.Linear | nn.Conv2d
    if bias is not None:
        fits, shape = bias.shape == weight.shape[:1], validate.Shown(f"shape {tuple(bias.shape)}")
        validate.require(fits, f"{name}.bias in {file}", f"have shape ({weight.shape[0]},)", shape)
    if weight.dim() == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        height, width = weight.shape[2:]
        odd, size = height % 2 and width % 2, validate.Shown(f"{height} x {width}")
        validate.require(odd, f"{name}.weight in {file}", "have a kernel of odd sizes", size)
        layer = nn.Conv2d(
            weight.shape[1], weight.shape[0], (height, width), padding=(height // 2, width // 2), bias=bias is not None
        )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer

"""Convolutional networks made smaller under a budget of multiply-adds, parameters or measured milliseconds."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution
from prunopt.networks.cnn.channel_groups import ChannelGroups
from prunopt.networks.cnn.importance import IMPORTANCES, Ranking
from prunopt.networks.cnn.kernel_windows import costs_with_windows
from prunopt.networks.cnn.latency import LatencyTable, network_milliseconds
from prunopt.networks.cnn.profile import LOSSES, CnnProfile, profile_cnn
from prunopt.networks.cnn.repair import divergence, logits, reestimated, repair
from prunopt.networks.cnn.surgery import remove_channels
from prunopt.networks.cnn.windowed_conv import with_windows
from prunopt.problems.channel_widths import ChannelWidths

Progress = Callable[[str], None]
JUDGES = 64  # pictures that decide whether batch norms estimated anew are better
BUDGETS = ("macs", "parameters", "latency_ms")


@dataclass(frozen=True, eq=False)
class CnnResult:
    """A smaller network, and how it came about.

    Parameters
    ----------
    model
        The network without the removed channels.
    keep : (channels,) bool
        What stays, in the numbering of ``groups``.
    solution
        The widths chosen, with bound and gap.
    report
        A row for every group: name, channels before and after, loss; and for every window of taps on offer.
    resource, used, limit, total
        The budget: what the answer, the budget and the dense network come to, in the cost model's own numbers.
    measured
        Milliseconds of the dense and of the smaller network, where the budget is in milliseconds.
    notes
        Everything that was done beside the cut.
    """

    model: nn.Module
    groups: ChannelGroups
    keep: Bools
    solution: Solution[Any]
    report: list[dict[str, Any]]
    resource: str
    used: float
    limit: float
    total: float
    measured: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    dense_name: str | None = None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights and ``prunopt.json`` (see `prunopt.networks.cnn.checkpoints.save_cnn`)."""
        from prunopt.networks.cnn.checkpoints import save_cnn

        save_cnn(self.model, folder, dense=self.dense_name, report=self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the network, for JSON."""
        return {
            "resource": self.resource, "used": self.used, "limit": self.limit, "total": self.total,
            "measured": self.measured, "status": self.solution.status.name, "objective": self.solution.objective,
            "bound": _finite(self.solution.bound), "gap": _finite(self.solution.gap), "solver": self.solution.solver,
            "message": self.solution.message, "groups": self.report, "notes": list(self.notes),
            "seconds": self.seconds,
        }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def parse_budget(text: str) -> tuple[str, float, bool]:
    """Read ``macs=0.5``, ``latency_ms=0.6x`` or ``latency_ms=12``: resource, number, whether a share of the dense one.

    Multiply-adds and parameters up to 1 are shares; milliseconds are shares when they end in x.
    """
    name, _, number = text.partition("=")
    name, number = name.strip(), number.strip()
    if name not in BUDGETS or not number:
        raise ValueError(f"budget={text!r}: give {', '.join(f'{b}=NUMBER' for b in BUDGETS)}, as in latency_ms=0.6x")
    times = number.endswith("x")
    try:
        value = float(number.removesuffix("x"))
    except ValueError:
        raise ValueError(f"budget={text!r}: {number!r} is no number") from None
    if not 0 < value < math.inf:
        raise ValueError(f"budget={text!r}: give a number > 0")
    return name, value, times or (name != "latency_ms" and value <= 1)


def prune_cnn(
    model: nn.Module, calibration: torch.Tensor | None, *, budget: str = "macs=0.5", importance: str = "obs",
    loss: str = "layers", solver: str | None = None, levels: int = 8, round_to: int = 8, least: float = 0.125,
    groups: ChannelGroups | None = None, only: Iterable[int] | None = None, table: LatencyTable | None = None,
    runtime: str = "torch", example: torch.Tensor | None = None, refit: bool = True, batch_norm: str = "best",
    probe: int = 48, windows: bool = False, profile: CnnProfile | None = None, name: str | None = None, seed: int = 0,
    progress: Progress | None = None,
) -> CnnResult:  # fmt: skip
    r"""Choose a width for every group of channels under a budget, remove the rest, re-solve what is left.

    The widths solve `ChannelWidths`: the channels of a group go in the order of their importance, the loss of a width
    comes from the same ranking, and costs are those of layers with both of their widths. Where the groups form a
    forest (chains, trees, residual stages) the choice is proven optimal for these numbers; they stay a model of the
    network's true loss.

    Parameters
    ----------
    calibration : (n, channels, height, width), optional
        Pictures without labels. None needs ``importance="magnitude"``, ``loss="layers"`` and ``refit=False``.
    budget
        See `parse_budget`.
    importance
        ``"obs"``, ``"fisher"``, ``"taylor"`` or ``"magnitude"``: see `rank_channels`.
    loss
        ``"layers"`` takes the error of the layers that read a group; ``"measured"`` scales it, group by group, to the
        divergence of the whole network's predictions with a quarter, half and three quarters of that group removed.
    solver
        Of `CoupledKnapsack`; None takes ``coupled-dp`` on forests and ``pulp`` elsewhere.
    levels, round_to, least
        Widths on offer: so many at most, multiples of ``round_to``, no less than this share of the group.
    only
        The groups to be pruned; None takes all.
    table, runtime, example
        For a budget in milliseconds: the table, or the runtime of a new one, and the input to be timed
        (one picture of the calibration).
    refit
        Re-solve the layers that lost inputs, and those behind them (`repair`).
    batch_norm
        ``"keep"``, ``"reestimate"``, or ``"best"``: whichever predicts more like the dense network on the calibration.
    profile
        What `profile_cnn` found for the same network and pictures: then everything from ``importance`` to ``only``, and
        ``windows``, is its. Several budgets need one profile.
    windows
        Offer rectangular windows of taps for depthwise layers, too, in the same knapsack (`window_options`).
    probe
        Pictures on which ``loss="measured"`` is measured.
    """
    start = time.perf_counter()
    resource, number, share = parse_budget(budget)
    if profile is None:
        _check(calibration, importance, loss, refit, batch_norm, levels, round_to, least)
        profile = profile_cnn(
            model, calibration, importance=importance, loss=loss, levels=levels, round_to=round_to, least=least,
            groups=groups, only=only, example=example, probe=probe, windows=windows, seed=seed,
            progress=progress,
        )  # fmt: skip
    one = example if example is not None or calibration is None else calibration[:1]
    tell = progress or (lambda _: None)
    found, chosen, ranked = profile.groups, profile.chosen, profile.rankings
    taps = profile.windows
    widths = [*profile.widths, *(list(range(len(o.windows))) for o in taps)]
    losses = [*profile.losses, *(list(o.losses) for o in taps)]
    notes: list[str] = []
    if resource == "latency_ms" and table is None:
        table = LatencyTable(runtime)
    layers = costs_with_windows(
        model, found, chosen, profile.widths, taps, resource=resource, table=table, example=one, progress=progress
    )  # fmt: skip
    total = _total(layers, widths)
    scale = 1.0
    measured: dict[str, float] = {}
    if resource == "latency_ms":
        assert table is not None
        assert one is not None
        whole = network_milliseconds({"": model}, one, table.runtime, repeats=table.repeats, threads=table.threads)[""]
        measured["dense_ms"], scale = whole, whole / total
        notes.append(f"the layers add up to {total:.4g} ms, the network takes {whole:.4g} ms: scaled by {scale:.3g}")
    limit = number * total if share else number / scale
    task = _task(widths, losses, layers, limit, total, budget)
    tell("choosing widths")
    solution = _solve(task, solver, seed)
    keep = _kept(found, ranked, chosen, np.asarray(solution.value)[: len(chosen)])
    placed = {o.name: o.windows[int(k)] for o, k in zip(taps, solution.value[len(chosen) :], strict=True)}
    smaller = with_windows(remove_channels(model, found, keep), placed)
    if refit:
        assert calibration is not None
        done = repair(model, smaller, found, keep, calibration, every=True, seed=seed, progress=progress)
        notes.append(f"{done} layers re-solved on {len(calibration)} pictures")
    smaller = _normed(model, smaller, calibration, batch_norm, notes)
    if resource == "latency_ms":
        assert table is not None
        assert one is not None
        both = network_milliseconds(
            {"dense_ms": model, "ms": smaller}, one, table.runtime, repeats=table.repeats, threads=table.threads
        )
        measured.update(both)  # in turns, so the prediction is judged by the dense network of the same minute
        measured["predicted_ms"] = task.used(solution.value) / total * both["dense_ms"]
    report = _report(found, chosen, profile, np.asarray(solution.value))
    return CnnResult(
        smaller, found, keep, solution, report, resource, task.used(solution.value) * scale, limit * scale,
        total * scale, measured, tuple(notes), time.perf_counter() - start, name,
    )  # fmt: skip


def _check(
    calibration: Any, importance: str, loss: str, refit: bool, batch_norm: str, levels: int, round_to: int, least: float
) -> None:
    if importance not in IMPORTANCES:
        raise ValueError(f"importance={importance!r}: give one of {', '.join(IMPORTANCES)}")
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: give one of {', '.join(LOSSES)}")
    if batch_norm not in ("keep", "reestimate", "best"):
        raise ValueError(f"batch_norm={batch_norm!r}: give 'keep', 'reestimate' or 'best'")
    if levels < 2 or round_to < 1 or not 0 <= least <= 1:
        raise ValueError(f"levels={levels}, round_to={round_to}, least={least}: at least 2, at least 1, 0 to 1")
    if calibration is None and (importance != "magnitude" or loss != "layers" or refit or batch_norm != "keep"):
        raise ValueError(
            "calibration=None: without pictures, importance='magnitude', loss='layers', refit=False and "
            "batch_norm='keep' are possible"
        )


def _task(widths: Any, losses: Any, layers: Any, limit: float, total: float, budget: str) -> ChannelWidths:
    least = ChannelWidths(widths, losses, layers, max(total, limit)).form.least_cost
    if limit < least:
        resource = budget.partition("=")[0].strip()
        share = f"{math.ceil(1e3 * least / total) / 1e3:g}" + ("x" if resource == "latency_ms" else "")
        raise ValueError(
            f"budget={budget!r}: below the least that these widths allow, {least / total:.1%} of the dense network; "
            f"give {resource}={share} or more, or offer smaller widths (least=, round_to=)"
        )
    return ChannelWidths(widths, losses, layers, limit)


def _total(layers: Sequence[Any], widths: Sequence[Sequence[int]]) -> float:
    """The cost at full widths: option 0 everywhere."""
    return math.fsum(float(np.asarray(layer.table)[0, 0]) for layer in layers)


def _solve(task: ChannelWidths, solver: str | None, seed: int) -> Solution[Any]:
    from prunopt.api import solve

    if solver is not None:
        return solve(task, solver, seed=seed)
    return solve(task, "coupled-dp" if task.form.is_forest else "pulp", seed=seed)


def _kept(groups: ChannelGroups, ranked: Sequence[Ranking], chosen: Sequence[int], widths: Any) -> Bools:
    keep = np.ones(groups.n_channels, np.bool_)
    for r, g, w in zip(ranked, chosen, widths.tolist(), strict=True):
        keep[r.order[: len(groups.members(g)) - w]] = False
    return keep


def _normed(dense: nn.Module, smaller: nn.Module, images: Any, batch_norm: str, notes: list[str]) -> nn.Module:
    if batch_norm == "keep" or images is None:
        return smaller
    fresh = reestimated(smaller, images)
    if batch_norm == "best":
        judges = images[:JUDGES]
        wanted = logits(dense, judges)
        old, new = divergence(wanted, smaller, judges), divergence(wanted, fresh, judges)
        notes.append(f"divergence from the dense network {old:.4g}, with batch norms estimated anew {new:.4g}")
        return fresh if new < old else smaller
    notes.append(f"batch norms estimated anew on {len(images)} pictures")
    return fresh


def _report(groups: ChannelGroups, chosen: Sequence[int], profile: CnnProfile, value: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for g, offered, lost, w in zip(chosen, profile.widths, profile.losses, value.tolist(), strict=False):
        at = list(offered).index(w)
        rows.append({"group": groups.name_of(g), "before": int(offered[0]), "after": int(w), "loss": float(lost[at])})
    for o, k in zip(profile.windows, value[len(chosen) :].tolist(), strict=True):
        before, after = ("x".join(map(str, o.windows[i].shape)) for i in (0, k))
        rows.append({"group": f"taps of {o.name}", "before": before, "after": after, "loss": float(o.losses[k])})
    return rows


def deprune(
    model: nn.Module, example: torch.Tensor, *, budget: float, tile: int = 32, solver: str = "tile-dp", seed: int = 0
) -> tuple[nn.Module, Solution[Any]]:
    """Return a copy whose depthwise kernels are pruned in tiles (`DepthwiseConv`), and the solution.

    Parameters
    ----------
    budget
        The share of the modelled latency of the depthwise layers (in diagonal form, by tiles) that may be used.
        The weights are zeros in the copy: only kernels made for the diagonal form run faster by them.
    """
    from prunopt.api import solve

    task, names = depthwise_task(model, example, budget=budget, tile=tile)
    solution = solve(task, solver, seed=seed)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in zip(names, solution.value, strict=True):
            weight: Any = masked.get_submodule(name).weight
            weight.mul_(torch.from_numpy(mask)[:, None].to(weight.device))
    return masked, solution


def depthwise_task(model: nn.Module, example: torch.Tensor, *, budget: float = math.inf, tile: int = 32) -> Any:
    """Return the `DepthwiseConv` of a network's depthwise layers with more than one tap, and the layers' names."""
    from prunopt.networks.cnn.windowed_conv import depthwise_names
    from prunopt.problems.depthwise_conv import DepthwiseConv

    names = depthwise_names(model)
    if not names:
        raise ValueError(f"model: {type(model).__name__} has no depthwise convolution of more than one tap")
    positions: dict[str, int] = {}
    hooks = []
    for name in names:

        def note(_m: Any, _i: Any, out: torch.Tensor, name: str = name) -> None:
            positions[name] = int(out.shape[2] * out.shape[3])

        hooks.append(model.get_submodule(name).register_forward_hook(note))
    with torch.no_grad():
        model.eval()(example[:1])
    for hook in hooks:
        hook.remove()
    weights = [model.get_submodule(n).weight.detach().cpu().numpy() for n in names]  # type: ignore[operator]
    sizes = [positions[n] for n in names]
    dense = DepthwiseConv(weights, sizes, tile=tile).dense_latency
    return DepthwiseConv(weights, sizes, budget * dense, tile=tile), names

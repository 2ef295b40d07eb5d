"""Convolutional networks made smaller under a budget of multiply-adds, parameters or measured milliseconds."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Bools
from prunopt.core.budget import Budget, Budgets, BudgetUse
from prunopt.core.deprecation import moved_arguments, renamed_arguments
from prunopt.core.solution import Solution
from prunopt.networks.cnn._old_keywords import old_keywords
from prunopt.networks.cnn._old_keywords import parse_budget as parse_budget
from prunopt.networks.cnn.channel_groups import ChannelGroups
from prunopt.networks.cnn.checkpoints import save_cnn
from prunopt.networks.cnn.cut_check import refuse_wrong
from prunopt.networks.cnn.fine_tuning import FineTuning, fine_tune
from prunopt.networks.cnn.importances import Importance
from prunopt.networks.cnn.importances.ranking import Progress
from prunopt.networks.cnn.inputs import Inputs, batch_of
from prunopt.networks.cnn.kernel_windows import costs_with_windows
from prunopt.networks.cnn.latency import LatencyTable, network_milliseconds
from prunopt.networks.cnn.output_matching import OutputMatching, match_outputs
from prunopt.networks.cnn.profile import CnnProfile, Widths, profile_cnn
from prunopt.networks.cnn.repair import Repair, divergence, outputs_of, reestimated
from prunopt.networks.cnn.repair import repair as refit
from prunopt.networks.cnn.several_budgets import price_of, widths_within
from prunopt.networks.cnn.surgery import remove_channels
from prunopt.networks.cnn.watching import mode_kept, silent
from prunopt.networks.cnn.weights import with_plain_weights
from prunopt.networks.cnn.windowed_conv import with_windows
from prunopt.problems.channel_widths import ChannelWidths, LayerCost

JUDGES = 64  # pictures that decide whether re-estimated batch norms are better
RESOURCES = ("macs", "parameters", "memory", "latency_ms")


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
        The first budget: what the answer, the budget and the dense network come to, in the cost model's own numbers.
    budgets
        Every budget, with its price in units of the loss.
    measured
        Milliseconds of the dense and of the smaller network, where the budget is in milliseconds.
    notes
        Everything that was done beside the cut.
    dense
        The name of the dense network, where `read_cnn` knows it.
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
    budgets: tuple[BudgetUse, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    dense: str | None = None

    def save(self, folder: str | os.PathLike[str], dense: str | None = None) -> None:
        """Write weights and ``prunopt.json``; ``dense`` names the network, where `read_cnn` knows it (`save_cnn`)."""
        save_cnn(self.model, folder, dense=dense or self.dense, report=self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the network, for JSON."""
        of_budget = {name: getattr(self, name) for name in ("resource", "used", "limit", "total", "measured")}
        answer = {name: getattr(self.solution, name) for name in ("objective", "bound", "gap", "solver", "message")}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in answer.items()}
        of_budget["budgets"] = [asdict(use) for use in self.budgets]
        rest = {"groups": self.report, "notes": list(self.notes), "seconds": self.seconds}
        return {**of_budget, "status": self.solution.status.name, **finite, **rest}


@old_keywords
@renamed_arguments(profile="widths")
@moved_arguments(widths=Widths, repair=Repair)
@mode_kept
def prune_cnn(
    model: nn.Module,
    example: Any,
    *,
    budget: Budgets = "macs=0.5",
    importance: str | Importance = "obs",
    widths: Widths | CnnProfile = Widths(),
    repair: Repair | None = Repair(),
    training: FineTuning | OutputMatching | None = None,
    table: LatencyTable | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CnnResult:
    r"""Choose a width for every group of channels under a budget, remove the rest, re-solve what is left.

    The widths solve `ChannelWidths`: the channels of a group go in the order of their importance, the loss of a width
    comes from the same ranking, and costs are those of layers with both of their widths. Where the groups form a
    forest (chains, trees, residual stages) the choice is proven optimal for these numbers; they stay a model of the
    network's true loss.

    Parameters
    ----------
    example : (n, channels, height, width), or a tuple or dict of such
        Pictures without labels: importance, repair and training look at them. With ``importance="magnitude"`` and
        ``repair=None`` one of any content is enough. A tuple is given to the network as its arguments, a dict as one.
    budget
        Of ``macs``, ``parameters``, ``memory`` (bytes of parameters) or ``latency_ms``: a `Budget`, or its text such as
        ``"latency_ms=0.7x"``; several (``{"parameters": 0.6, "macs": 0.5}``) are met at once (`widths_within`).
    importance
        A name of `IMPORTANCES` (``"obs"``, ``"fisher"``, ``"taylor"``, ``"magnitude"``), or an object such as
        ``Fisher(damping=1e-2)``.
    widths
        The widths on offer, or what `profile_cnn` found for the same network and pictures: then the importance is the
        profile's. Several budgets need one profile.
    repair
        What is done after the cut; None: nothing.
    training
        A training with the dense network as the teacher, the last step: so many epochs (`fine_tune`), or for some time
        and never worse than before on held-out pictures (`match_outputs`); None: none.
    table
        For a budget in milliseconds: those of layers; None measures them in torch.

    Examples
    --------
    >>> from prunopt import Budget
    >>> prune_cnn(model, pictures, budget=Budget("macs", share=0.5), importance="taylor",
    ...           repair=Repair(batch_norm="reestimate"), training=FineTuning(epochs=2))  # doctest: +SKIP
    """
    start, tell = time.perf_counter(), progress or silent
    example = batch_of(example)
    model, computed = with_plain_weights(model)
    wanted = Budget.several(budget, RESOURCES)
    if isinstance(widths, Widths):
        profile = profile_cnn(model, example, importance=importance, widths=widths, seed=seed, progress=progress)
    else:
        profile = widths
    found, taps, notes = profile.groups, profile.windows, [computed] if computed else list[str]()
    if found.pinned:
        notes.append(f"channels left whole at {', '.join(found.pinned)}")
    measured: dict[str, float] = {}
    timed = any(b.resource == "latency_ms" for b in wanted)
    table = table or (LatencyTable() if timed else None)
    one = example[:1] if table is None or table.example is None else table.example
    layers: dict[str, list[LayerCost]] = {}
    scale, total, limits = dict.fromkeys(RESOURCES, 1.0), dict[str, float](), dict[str, float]()
    for asked in wanted:
        name = asked.resource
        if name not in layers:
            layers[name] = costs_with_windows(
                model, found, profile.chosen, profile.widths, taps, resource=name, table=table, example=one,
                progress=progress,
            )  # fmt: skip
            # option 0: full width
            total[name] = math.fsum(float(np.asarray(layer.table)[0, 0]) for layer in layers[name])
        if name == "latency_ms" and "dense_ms" not in measured and table is not None:
            whole = _milliseconds({"dense_ms": model}, one, table)["dense_ms"]
            measured["dense_ms"], scale[name] = whole, whole / total[name]
            notes.append(
                f"the layers add up to {total[name]:.4g} ms, the network takes {whole:.4g} ms: "
                f"scaled by {scale[name]:.3g}"
            )
        limit = asked.share * total[name] if asked.share is not None else asked.allowed() / scale[name]
        limits[name] = min(limit, limits.get(name, math.inf))
    tasks = {b.resource: _task(profile, layers[b.resource], limits[b.resource], total[b.resource], b) for b in wanted}
    tell("choosing widths")
    solution, used, prices = _chosen(tasks, profile.solver, seed)
    budgets = tuple(
        BudgetUse(r, limits[r] * scale[r], total[r] * scale[r], used[r] * scale[r], prices[r] / scale[r]) for r in tasks
    )
    value = np.asarray(solution.value)
    keep = _kept(profile, value)
    placed = {o.name: o.windows[int(k)] for o, k in zip(taps, value[len(profile.chosen) :], strict=True)}
    smaller = remove_channels(model, found, keep)
    refuse_wrong(model, smaller, found, keep, example[:2])
    smaller = with_windows(smaller, placed)
    if repair is not None:
        # what judges a distillation is not fitted before it, or nothing would look better afterwards
        some = example[training.split(len(example), seed)[0]] if isinstance(training, OutputMatching) else example
        smaller = _repaired(model, smaller, some, found, keep, repair, seed, notes, progress)
    if isinstance(training, OutputMatching):
        done = match_outputs(smaller, model, example, training, seed=seed, progress=progress)
        notes.append(
            f"distilled for {done.seconds:.0f} s, {done.steps} steps: divergence on held-out pictures "
            f"{done.before:.4g} before, {done.after:.4g} after"
        )
    elif training is not None:
        losses = fine_tune(smaller, model, example, training=training, seed=seed, progress=progress)
        notes.append(f"trained for {len(losses)} epochs with the dense network as the teacher")
    if timed:
        # in turns, so the prediction is judged by the dense network of the same minute
        measured |= _milliseconds({"dense_ms": model, "ms": smaller}, one, table)
        measured["predicted_ms"] = used["latency_ms"] / total["latency_ms"] * measured["dense_ms"]
    return CnnResult(
        smaller,
        found,
        keep,
        solution,
        _report(profile, value),
        budgets[0].resource,
        budgets[0].used,
        budgets[0].limit,
        budgets[0].total,
        budgets,
        measured,
        tuple(notes),
        time.perf_counter() - start,
    )


def _milliseconds(models: dict[str, nn.Module], one: Inputs, table: Any) -> dict[str, float]:
    return network_milliseconds(models, one, table.runtime, repeats=table.repeats, threads=table.threads)


def _chosen(
    tasks: dict[str, ChannelWidths], solver: Any, seed: int
) -> tuple[Solution[Any], dict[str, float], dict[str, float]]:
    """Return the choice of widths, what it uses of each resource, and the price of each."""
    if len(tasks) > 1:
        first = next(iter(tasks.values()))
        costs, limits = {r: t.layers for r, t in tasks.items()}, {r: t.budget for r, t in tasks.items()}
        within = widths_within(first.widths, first.loss, costs, limits, solver=solver, seed=seed)
        return within.solution, within.used, within.prices
    ((name, task),) = tasks.items()
    solution = solve(task, solver or ("coupled-dp" if task.form.is_forest else "pulp"), seed=seed)
    return solution, {name: task.used(solution.value)}, {name: price_of(task, solution)}


def _task(profile: CnnProfile, layers: Any, limit: float, total: float, budget: Budget) -> ChannelWidths:
    widths = [*profile.widths, *(list(range(len(o.windows))) for o in profile.windows)]
    losses = [*profile.losses, *(list(o.losses) for o in profile.windows)]
    least = ChannelWidths(widths, losses, layers, max(total, limit)).form.least_cost
    if limit < least:
        share = Budget(budget.resource, share=math.ceil(1e3 * least / total) / 1e3)
        raise validate.invalid(
            "budget",
            f"be at least {least / total:.1%} of the dense network, the least that these widths allow",
            str(budget),
            f"pass {share} or more, or offer smaller widths: Widths(least=..., round_to=...)",
        )
    return ChannelWidths(widths, losses, layers, limit)


def _kept(profile: CnnProfile, value: Any) -> Bools:
    keep = np.ones(profile.groups.n_channels, np.bool_)
    for r, g, w in zip(profile.rankings, profile.chosen, value.tolist(), strict=False):
        keep[r.order[: len(profile.groups.members(g)) - w]] = False
    return keep


def _repaired(
    dense: nn.Module,
    smaller: nn.Module,
    images: Inputs,
    groups: ChannelGroups,
    keep: Bools,
    how: Repair,
    seed: int,
    notes: list[str],
    progress: Progress | None,
) -> nn.Module:
    if how.refit:
        done = refit(
            dense, smaller, groups, keep, images, damping=how.damping, every=True, seed=seed, progress=progress
        )
        notes.append(f"{done} layers re-solved on {len(images)} pictures")
    if how.batch_norm == "keep":
        return smaller
    fresh = reestimated(smaller, images)
    if how.batch_norm == "best":
        judges = images[:JUDGES]
        wanted = outputs_of(dense, judges)
        old, new = divergence(wanted, smaller, judges), divergence(wanted, fresh, judges)
        notes.append(f"divergence from the dense network {old:.4g}, with batch norms re-estimated {new:.4g}")
        return fresh if new < old else smaller
    notes.append(f"batch norms re-estimated on {len(images)} pictures")
    return fresh


def _report(profile: CnnProfile, value: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for g, offered, lost, w in zip(profile.chosen, profile.widths, profile.losses, value.tolist(), strict=False):
        at = list(offered).index(w)
        rows.append(
            {"group": profile.groups.name_of(g), "before": int(offered[0]), "after": int(w), "loss": float(lost[at])}
        )
    for o, k in zip(profile.windows, value[len(profile.chosen) :].tolist(), strict=True):
        before, after = ("x".join(map(str, o.windows[i].shape)) for i in (0, k))
        rows.append({"group": f"taps of {o.name}", "before": before, "after": after, "loss": float(o.losses[k])})
    return rows

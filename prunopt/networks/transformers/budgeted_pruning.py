"""A transformer pruned within several budgets at once: blocks, attentions, heads and neurons in one program."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.budget import Budget, Budgets, BudgetUse
from prunopt.networks.io.journal import Journal, model_digest
from prunopt.networks.transformers.alternative_measuring import MeasureOptions, fastest, measure_alternatives
from prunopt.networks.transformers.alternative_search import ChoiceOptions, choose_by_model
from prunopt.networks.transformers.alternatives import GRANULARITY, RESOURCES, Alternatives, Chosen
from prunopt.networks.transformers.before_after import compared, measure
from prunopt.networks.transformers.block_removal import remove_parts
from prunopt.networks.transformers.calibration import as_calibration
from prunopt.networks.transformers.families import Block, blocks
from prunopt.networks.transformers.layerwise import LayerwisePruning
from prunopt.networks.transformers.number_formats import restore, to_single
from prunopt.networks.transformers.parameter_budget import Plan
from prunopt.networks.transformers.recipes import WHOLE_UNITS, PruneOptions, shrinkage_of
from prunopt.networks.transformers.result import PruneResult
from prunopt.networks.transformers.stock_configs import write_config
from prunopt.networks.transformers.surgery import parameters_of

COUNTED = ("parameters", "memory", "kv_cache")  # always known


@torch.no_grad()
def prune_to_budgets(
    model: nn.Module,
    calibration: Any,
    budget: Budgets,
    *,
    granularity: Sequence[str] = GRANULARITY,
    alternatives: Alternatives | None = None,
    measuring: MeasureOptions | None = None,
    choosing: ChoiceOptions | None = None,
    options: PruneOptions | None = None,
    resume_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> PruneResult:
    """Remove blocks, attentions, MLPs, heads and neurons so that the model is within several budgets.

    What every block may become is measured (`measure_alternatives`), the best alternatives within the budgets are
    chosen with proof (`MultipleChoiceKnapsack`) by weights under which the whole model loses least
    (`choose_by_model`), then parts go and layers are re-solved one after another, as `prune_transformer` does.

    Parameters
    ----------
    model, calibration
        As of `prune_transformer`.
    budget
        ``po.Budget("memory", share=0.6)``, ``"latency_ms=0.7x"`` or several, of parameters, memory (bytes of weights in
        the checkpoint's number format), kv_cache (bytes per token), latency_ms and decode_ms, of the whole model.
    granularity
        What may be removed: blocks, attention, mlp, heads, ffn.
    alternatives
        Measured before; what removes anything else than ``granularity`` is left out. None: they are measured.
    measuring, choosing, options
        Details of measuring, of choosing, and of re-solving.
    resume_dir
        A folder in which a killed run goes on.
    seed
        Same seed, same answer.

    Raises
    ------
    SolveError
        If no choice is within the budgets; names the resource in the way, and the nearest feasible request.
    """
    options, tokens = options or PruneOptions(), as_calibration(calibration)
    asked, folder = Budget.several(budget, RESOURCES), None if resume_dir is None else Path(resume_dir)
    fits = options.free_shapes is not False
    validate.require(fits, "options.free_shapes", "be left out with several budgets", options.free_shapes)
    work = model if options.in_place else copy.deepcopy(model)
    work.eval()
    digests = {"calibration": tokens.digest(), "model": model_digest(work)}
    formats = to_single(work)
    if alternatives is not None:
        fits = alternatives.about.get("model") == digests["model"]
        given = validate.Shown("those of another model")
        validate.require(fits, "alternatives", "be those of the model", given, "measure them again")
        alternatives = alternatives.restricted(granularity)
    before = measure(work, options.evaluation or {})
    names = [r for r in RESOURCES if r in COUNTED or any(b.resource == r for b in asked)]
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder / "alternatives") as place:
        if alternatives is None:
            alternatives = measure_alternatives(
                work, tokens, granularity=granularity, resources=names, options=measuring, resume_dir=place
            )
        choice = choose_by_model(work, tokens, alternatives, asked, options=choosing, seed=seed)
    chosen, found = choice.chosen, blocks(work)
    total = _linear(found)
    parts = parts_of(chosen, found)
    plan = _plan(chosen, found, parts)
    damping = WHOLE_UNITS.damping if options.damping is None else options.damping
    rho = shrinkage_of(options.shrinkage, WHOLE_UNITS.method, options.refit)
    options = replace(options, damping=float(damping), shrinkage=rho)
    plain = {
        "units": list(granularity), "sparsity": None, "budget": [str(b) for b in asked], "pattern": None,
        "method": WHOLE_UNITS.method, "allocation": "budgets", "parts": parts, "seed": seed,
        "groups": chosen.groups.tolist(), "neurons": chosen.neurons.tolist(), "refit": options.refit,
        "damping": options.damping, "shrinkage": options.shrinkage, "budgets": [asdict(b) for b in chosen.budgets],
        "predicted": {"loss": chosen.loss, "bound": chosen.bound, "gap": chosen.gap}, "judged": choice.judged,
    }  # fmt: skip
    remove_parts(work, parts)
    digests["options"] = json.dumps({k: v for k, v in plain.items() if k not in ("budgets", "predicted", "judged")})
    journal = None if folder is None else Journal(folder / "layers", digests)
    walk = LayerwisePruning(work, tokens, WHOLE_UNITS.method, options, seed, journal)
    try:
        walk.structured(plan)
        figures = compared(before, measure(work, options.evaluation or {}))
    finally:
        walk.close()
    removed = total - _linear(blocks(work))
    stock = write_config(work, blocks(work))
    restore(work, formats)
    timed = measured_times(work, tokens.windows[:1], [b.resource for b in chosen.budgets])
    plain["measured"] = timed
    gap = f"proven gap of the choice: {chosen.gap:.1e}"
    notes = (*(said(use, timed.get(use.resource)) for use in chosen.budgets), _dropped(parts), choice.note, gap)
    return PruneResult(work, tuple(walk.report), removed, removed, total, stock, plain, notes, digests, figures)


def parts_of(chosen: Chosen, found: Sequence[Block]) -> dict[str, list[int]]:
    """Return the numbers of blocks that go, and of those that lose their attention or their MLP."""
    parts: dict[str, list[int]] = {"blocks": [], "attention": [], "mlp": []}
    for k, (a, f, block) in enumerate(zip(chosen.groups.tolist(), chosen.neurons.tolist(), found, strict=True)):
        if a == f == 0:
            parts["blocks"].append(k)
        elif a == 0 and block.attention is not None:
            parts["attention"].append(k)
        elif f == 0 and block.feed_forward is not None:
            parts["mlp"].append(k)
    return parts


def measured_times(model: nn.Module, window: torch.Tensor, resources: Sequence[str]) -> dict[str, float]:
    """Return the milliseconds of a model's pass over a window, and over one token, as far as they are asked for."""
    ids = {"latency_ms": window, "decode_ms": window[:, :1]}
    calls = {name: partial(model, input_ids=ids[name], use_cache=False) for name in ids if name in resources}
    return {name: fastest(call) for name, call in calls.items()}


def said(use: BudgetUse, measured: float | None = None) -> str:
    """Return a budget in words: used and limit, what was measured afterwards, and its price."""
    if use.resource == "memory":
        unit, by, digits = "MB", 1e6, 2
    elif use.resource.endswith("_ms"):
        unit, by, digits = "ms", 1.0, 2
    elif use.resource == "kv_cache":
        unit, by, digits = "bytes per token", 1.0, 0
    else:
        unit, by, digits = "million", 1e6, 3
    price = f"one more {unit} would save {use.price * by:.3g} nats per token" if use.price > 0 else "not in the way"
    return (
        f"{use.resource}: {use.used / by:.{digits}f} of {use.limit / by:.{digits}f} {unit} used "
        f"(before: {use.total / by:.{digits}f}); "
        + ("" if measured is None else f"measured on the result: {measured / by:.{digits}f}; ")
        + price
    )


def _dropped(parts: dict[str, list[int]]) -> str:
    named = ", ".join(f"{what}: {' '.join(map(str, at))}" for what, at in parts.items() if at)
    return f"whole parts removed, by number of block: {named or 'none'}"


def _linear(found: Sequence[Block]) -> int:
    return sum(parameters_of(b)["attention"] + parameters_of(b)["feed_forward"] for b in found)


def _plan(chosen: Chosen, found: Sequence[Block], parts: dict[str, list[int]]) -> Plan:
    """Return what is removed from the blocks that stay, besides whole parts."""
    groups, neurons = [], []
    for k, block in enumerate(found):
        if k in parts["blocks"]:
            continue
        have = 0 if block.attention is None else block.attention.n_groups
        width = 0 if block.feed_forward is None else block.feed_forward.width
        groups.append(0 if k in parts["attention"] else have - int(chosen.groups[k]))
        neurons.append(0 if k in parts["mlp"] else width - int(chosen.neurons[k]))
    return Plan(tuple(groups), tuple(neurons), 0, 0, _linear(found), int(np.sum(groups) + np.sum(neurons) > 0))

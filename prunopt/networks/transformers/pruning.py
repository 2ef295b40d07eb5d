"""`prune_transformer`: what is asked for, made complete, handed to the pass over the blocks or to learned masks."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.core.budget import Budget, Budgets
from prunopt.core.deprecation import moved_arguments
from prunopt.core.solver import Solver
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.forms.layer.nm_patterns import check_pattern
from prunopt.networks.io.journal import Journal, model_digest
from prunopt.networks.transformers import distributed
from prunopt.networks.transformers.alternatives import GRANULARITY, RESOURCES
from prunopt.networks.transformers.before_after import compared, measure, sizes
from prunopt.networks.transformers.block_allocation import BY_SIZE, Allocation, block_sparsities, resolved
from prunopt.networks.transformers.budgeted_pruning import prune_to_budgets
from prunopt.networks.transformers.calibration import Calibration, as_calibration, completed, rare_share
from prunopt.networks.transformers.calibration_inputs import TOKENS, for_model
from prunopt.networks.transformers.devices import device_of
from prunopt.networks.transformers.families import Block, blocks, weight_of
from prunopt.networks.transformers.layer import Method, name_of
from prunopt.networks.transformers.layerwise import LayerwisePruning
from prunopt.networks.transformers.learned_masks import MaskTaskOptions, as_result, learn_masks
from prunopt.networks.transformers.number_formats import restore, rounded, to_single
from prunopt.networks.transformers.one_shape import one_shape_plan
from prunopt.networks.transformers.output_repair import (
    OutputRepair,
    OutputRepairReport,
    check_repair,
    repair_of,
    repaired_once,
)
from prunopt.networks.transformers.parameter_budget import (
    Plan,
    check_sparsity,
    expert_plan,
    parameters_to_remove,
    structured_plan,
)
from prunopt.networks.transformers.recipes import WORK, PruneOptions, Recipe, recipe_for, refuse_removed, shrinkage_of
from prunopt.networks.transformers.repair import BlockRepair
from prunopt.networks.transformers.result import PruneResult, written
from prunopt.networks.transformers.stock_configs import as_configured, write_config
from prunopt.networks.transformers.streaming import StreamedModel, check_in_memory, check_streamed, open_streamed
from prunopt.networks.transformers.surgery import parameters_of
from prunopt.solvers.relaxed.maskllm import MaskLLM

Pattern = str | tuple[int, int]


class Run(TypedDict, total=False):
    """Where and how a run is done: keywords of `prune_transformer`."""

    resume_dir: str | os.PathLike[str] | None
    device: str | None
    seed: int
    out: str | os.PathLike[str] | None
    repair: str | BlockRepair | OutputRepair | None


@moved_arguments(options=PruneOptions)
@torch.no_grad()
def prune_transformer(
    model: nn.Module | str | os.PathLike[str],
    calibration: Any,
    *,
    sparsity: float | None = None,
    budget: Budgets | None = None,
    units: Sequence[str] | None = None,
    method: Method | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    options: PruneOptions | None = None,
    **run: Unpack[Run],
) -> PruneResult:
    r"""Remove neurons and heads, or single weights, of every block, re-solving what stays.

    Block by block and layer by layer, each y = W x is pruned on what its inputs are once everything before it is
    pruned, X:

    .. math:: \min_{S} \min_{W'_S = 0} \|W X - W' X\|^2 + \lambda \|W - W'\|^2

    What is left out is the recipe that measured best (`prunopt.networks.transformers.recipes`): neurons chosen by
    wanda's scores, or heads alone by obs-branch-and-bound as far as it ends in seconds, one shape in all blocks as far
    as the model's configuration can state it (else, and with ``free_shapes``, sparsities that rise with the logarithm
    of a block's number); for single weights obc's masks, for N:M sparsegpt's, the same sparsity in all blocks. Weights
    are computed in single precision and come back in the number format of the model, or of the checkpoint that it was
    read from.

    Memory beyond the model and its copy: one block's activations, 4 n length width bytes (in files with
    ``activations_dir``), and at most six arrays of 8 d^2 bytes for the Hessian of one layer, its factors and what is
    solved for, d being the layer's number of inputs (measured in `benchmarks.language_model_cost`), and five more where
    its shrinkage is chosen. A repair holds activations twice, and a block four more times.

    Parameters
    ----------
    model
        A transformer of a known family (see `prunopt.networks.blocks`). Or the Hugging Face folder of one: then blocks
        are read from it one at a time, pruned, and written to the folder ``out``; beside a block and its Hessians
        no more than the embedding and the activations is in memory.
    calibration
        Token ids (n, length), what a tokenizer returns, or sources with weights; pictures (n, channels, height, width)
        or features (n, bands, frames) where the model takes those; for models with an encoder and a decoder with
        ``labels``, what the decoder should say (see `as_calibration`).
    sparsity
        Fraction removed of the parameters of all blocks' linear layers, met to 0.005 by one shape in all blocks, to one
        unit by shapes that differ; None: 0.2, or what the pattern N:M comes to.
    budget
        In its place: ``po.Budget("parameters", share=0.8)``, ``"parameters=80M"`` or several; a mapping
        ``{"parameters": 0.8, "memory": "200MB"}``. Counted are all parameters of the model, embeddings among them; what
        is left is within it. Where other resources are named (memory, kv_cache, latency_ms, decode_ms), alternatives of
        blocks are measured and chosen by `prune_to_budgets`, which has more options; ``units`` then says what may go,
        blocks, attention and mlp too.
    units
        What is removed: ``"ffn"`` (neurons, those inside each expert too), ``"heads"`` (whole key-value groups, of
        attentions to an encoder too), or both; or ``"experts"`` (whole ones). Not with ``pattern``.
    method
        A solver, by name or as an instance with options of its own. For units wanda, obs-swap, obs-greedy, slimgpt,
        magnitude or obs-branch-and-bound; for patterns obc, sparsegpt, mask-descent, mask-enumeration, wanda or
        magnitude; tile-flow, for N:M masks of which the transpose is N:M too; and maskllm, which learns N:M masks by
        the model's own loss.
    allocation
        The sparsity of each block: a rule (uniform, log, owl, atp, als, als-row, or mckp, an exact knapsack on measured
        curves), a JSON file, a number for each block, or a callable rule.
    pattern
        ``"unstructured"``, or N:M such as ``"2:4"``: single weights become 0, shapes stay.
    options
        Details: see `PruneOptions`.
    **run
        ``resume_dir``: a folder for finished layers; a killed run with the same inputs goes on there and ends with the
        same bytes. ``device``: where blocks run and their inputs' products are summed (None: where the model is).
        ``seed``: same seed, same answer. ``out``: where the result is written, with a folder for a model.
        ``repair``: ``"outputs"`` trains what stays of the whole model, once it is pruned, towards the dense model's
        predictions, an `OutputRepair` says how; ``"blocks"`` trains each block towards what the dense
        block puts out, see `BlockRepair`; None: not at all.

    Returns
    -------
    PruneResult
        The model, a report of every layer, figures before and after, and what it takes to save them. Of a folder, the
        model is a skeleton on torch's meta device, and ``folder`` is where it was written.

    Notes
    -----
    In processes that torchrun started each takes a part of the calibration; all end with the same weights.

    References
    ----------
    .. [1] M. Sun et al., "Wanda", ICLR 2024.
    .. [2] G. Ling et al., "SlimGPT", NeurIPS 2024.
    .. [3] E. Frantar, D. Alistarh, "SparseGPT", ICML 2023.
    """
    refuse_removed(cast("dict[str, Any]", run))
    for name in run.keys() - Run.__annotations__.keys():
        raise TypeError(f"prune_transformer() got an unexpected keyword argument {name!r}")
    if not isinstance(options, PruneOptions | None):
        raise TypeError(f"options must be PruneOptions or None, got {type(options).__name__}; pass PruneOptions(...)")
    asked_of = [] if budget is None else Budget.several(budget, RESOURCES)
    if any(b.resource != "parameters" for b in asked_of):
        others = {"sparsity": sparsity, "method": method, "allocation": allocation, "pattern": pattern}
        return _within_budgets(model, calibration, asked_of, units, options, others, run)
    recipe, options, tokens = recipe_for(pattern, units), options or PruneOptions(), as_calibration(calibration)
    device = device_of(run.get("device"))
    source = None
    if not isinstance(model, nn.Module):
        source = open_streamed(model, device, run.get("out"))
        model = source.model
    else:
        check_in_memory(model, run.get("out"))
    found, shape = blocks(model), None if pattern in (None, "unstructured") else check_pattern(pattern)
    digests = {"calibration": tokens.digest()}
    tokens, said = completed(tokens, model)
    method = _method(_default(recipe, found) if method is None else method, recipe)
    units = _units(units, pattern, recipe)
    if allocation is None and pattern is not None:
        allocation = "uniform" if shape is not None else recipe.allocation
    allocation = None if allocation is None else resolved(allocation)
    if shape is not None:
        same = isinstance(allocation, str) and allocation == "uniform"
        validate.require(
            same, "allocation", f"be 'uniform' with pattern {pattern}", allocation, "it removes as much everywhere"
        )
    if name_of(method) == "tile-flow":
        validate.require(
            shape is not None, "pattern", "be N:M with the method tile-flow", pattern, "pass one such as 2:4"
        )
    sparsity, least = _goal(model, found, sparsity, asked_of, shape, pattern, recipe)
    plan, why = None, tuple[str, ...]()
    if pattern is not None:
        mend = "zeros keep the shapes"
        validate.require(not options.free_shapes, "free_shapes", f"be left out with pattern {pattern}", True, mend)
    else:
        plan, why = _one_shape(model, found, allocation, sparsity, least, units, options.free_shapes)
        allocation = "uniform" if plan is not None else recipe.allocation if allocation is None else allocation
    repair, seed = repair_of(run.get("repair")), int(run.get("seed", 0))
    alone = distributed.rank_and_size()[1] == 1
    if repair is not None:
        check_repair(repair, tokens, method=name_of(method), streamed=source is not None, alone=alone, seed=seed)
    texts = options.evaluation or {}
    if tokens.takes != TOKENS or tokens.target is not None:
        _check_general(name_of(method), allocation, source)
        texts = {
            name: for_model(as_calibration(w), model)[0] for name, w in texts.items()
        }  # targets of the dense model
    if source is not None:
        check_streamed(name_of(method), allocation)
    if name_of(method) == "maskllm":
        validate.require(
            alone, "method", "be one of layers in several processes", "maskllm", "start it without torchrun"
        )
        original = measure(model, texts)
        result = _learned(model, tokens, shape, method, pattern, run)
        return replace(result, evaluation=compared(original, measure(result.model, texts)))
    damping = recipe.damping if options.damping is None else options.damping
    rho = shrinkage_of(options.shrinkage, name_of(method), options.refit, recipe.shrinkage)
    options = replace(options, damping=float(damping), shrinkage=rho)
    digests["model"] = model_digest(model) if source is None else source.digest()
    whole = repair if isinstance(repair, OutputRepair) else None
    dense = copy.deepcopy(model) if whole is not None and options.in_place else model
    if whole is not None and whole.windows is not None:
        digests["repair"] = as_calibration(whole.windows).digest()
    work = model if options.in_place or source is not None else copy.deepcopy(model)
    work.eval()
    if device is not None and source is None:
        work.to(device)
    stored = sizes(work)[1] if source is None else 0
    formats = to_single(work)
    numbers, notes = block_sparsities(allocation, work, tokens, sparsity, units=units, damping=options.damping or 0.0)
    options = replace(options, free_shapes=None if pattern is not None else plan is None)
    if plan is None and pattern is None:
        plan = _free_plan(blocks(work), numbers, sparsity, least, units)
    asked = _asked(units, sparsity, asked_of, method, allocation, numbers, pattern, shape, options, run)
    asked |= dict(zip(("windows", "length"), tokens.windows.shape[: 2 if tokens.takes == TOKENS else 1], strict=False))
    digests["options"] = json.dumps(asked)
    folder = run.get("resume_dir")
    first = distributed.rank_and_size()[0] == 0
    journal = Journal(folder, digests) if folder is not None and first else None
    before = measure(work, texts) if source is None else None
    if options.dtype is not None:
        mend = "its files keep their number format"
        validate.require(source is None, "dtype", "be left out for a model that is streamed", options.dtype, mend)
        formats = rounded(work, options.dtype)
    by_block = repair if isinstance(repair, BlockRepair) else None
    walk = LayerwisePruning(work, tokens, method, options, seed, journal, source, by_block)
    with nullcontext() if source is None or not first else written(source) as finish:
        try:
            if plan is not None:
                walk.structured(plan)
                removed, target, total = plan.removed, plan.target, plan.total
            else:
                walk.patterned(shape, numbers)
                removed, total = sum(r.total - r.kept for r in walk.report), sum(r.total for r in walk.report)
                target = round(sparsity * total) if shape is None else removed
            outputs = None if whole is None else repaired_once(work, dense, tokens, whole, walk, formats)
            pair = (before, measure(work, texts)) if before is not None else walk.measured()
        finally:
            walk.close()
        stock = as_configured(work) if pattern is not None else write_config(work, blocks(work))
        restore(work, formats)
        if source is None:  # scored in single precision, stored in the formats that came
            pair = replace(pair[0], bytes=stored), replace(pair[1], bytes=sizes(work)[1])
        result = PruneResult(
            work, tuple(walk.report), removed, target, total, stock, asked,
            (*why, *notes, *said, *_notes(walk, tokens, rho, outputs)), digests, compared(*pair),
            repairs=tuple(walk.repairs), output_repair=outputs,
        )  # fmt: skip
        return result if finish is None else finish(result)


def _within_budgets(
    model: Any, calibration: Any, budgets: list[Budget], units: Sequence[str] | None, options: PruneOptions | None,
    others: dict[str, Any], run: Run,
) -> PruneResult:  # fmt: skip
    """Hand a request for several resources to `prune_to_budgets`; what goes with single layers alone is refused."""
    here = isinstance(model, nn.Module)
    mend = "budgets of several resources choose among alternatives of blocks, which are measured on the whole model"
    given = validate.Shown(str(model))
    validate.require(here, "model", "be in memory with budgets of several resources", given, "pass read_model(...)[0]")
    others |= {name: run.get(name) for name in ("device", "out", "repair")}
    for name, value in others.items():
        validate.require(value is None, name, "be left out with budgets of several resources", value, mend)
    kinds = GRANULARITY if units is None else (units,) if isinstance(units, str) else tuple(units)
    return prune_to_budgets(
        model, calibration, budgets, granularity=kinds, options=options, resume_dir=run.get("resume_dir"),
        seed=int(run.get("seed", 0)),
    )  # fmt: skip


def _default(recipe: Recipe, found: list[Block]) -> Method:
    """Return the recipe's solver; a search for heads ends within seconds, by a count that is the same anywhere."""
    if recipe.method != "obs-branch-and-bound":
        return recipe.method
    from prunopt.solvers.layer.obs_branch_and_bound import ObsBranchAndBound

    widest = max((weight_of(b.attention.projection).shape[1] for b in found if b.attention is not None), default=1)
    return ObsBranchAndBound(nodes=min(max(int(WORK / max(widest, 1) ** 2), 16), 2000))


def _method(method: Method, recipe: Recipe) -> Method:
    """Return the solver, checked: one of the recipe's kind."""
    if name_of(method) == "maskllm":
        validate.require(not recipe.units, "pattern", "be N:M with the method maskllm", None, "pass one such as 2:4")
    elif isinstance(method, Solver):
        form = QuadraticSubset if recipe.units else MaskBlocks
        kind = validate.Shown(type(method).__name__)
        validate.require(issubclass(form, method.form), "method", f"be a solver of {form.__name__}", kind)
    else:
        validate.one_of("method", method, recipe.methods)
    if method == "obc":
        from prunopt.solvers.layer.obc import Obc  # compiled code, of no use to other methods

        return Obc(proof=0)  # a bound for every layer takes longer than its mask
    return method


def _check_general(method: str, allocation: Any, source: StreamedModel | None) -> None:
    """Refuse what needs next-token losses of windows of tokens."""
    other = "for a model of other inputs than one text"
    validate.require(method != "maskllm", "method", f"be one that solves layers {other}", method)
    rule = validate.Shown(repr(allocation) if isinstance(allocation, str) else "a rule")
    by_size = not callable(allocation) and (not isinstance(allocation, str) or allocation in BY_SIZE)
    validate.require(by_size, "allocation", f"be {', '.join(BY_SIZE)}, a file or numbers {other}", rule)
    validate.require(
        source is None, "model", f"be in memory {other}", validate.Shown("streamed"), "leave streaming out"
    )


def _units(units: Sequence[str] | None, pattern: Any, recipe: Recipe) -> tuple[str, ...]:
    if pattern is not None:
        validate.require(units is None, "units", f"be left out with pattern {pattern}", units)
        return ()
    return recipe.units if units is None else (units,) if isinstance(units, str) else tuple(units)


def _goal(
    model: nn.Module, found: list[Block], sparsity: float | None, budget: Sequence[Budget],
    shape: tuple[int, int] | None, pattern: Any, recipe: Recipe,
) -> tuple[float, int | None]:  # fmt: skip
    """Return the sparsity of the blocks' linear layers, and what a budget asks to remove at least."""
    if budget:
        validate.require(sparsity is None, "sparsity", "be left out where a budget is given", sparsity)
        whole, written = "zeros keep their places; pass a sparsity", ", ".join(map(str, budget))
        validate.require(pattern is None, "budget", f"be left out with pattern {pattern}", written, whole)
        total, linear = sum(p.numel() for p in model.parameters()), _linear(found)
        least = parameters_to_remove(budget, total)
        has = validate.Shown(f"{written} for a model of {total:,}")
        validate.require(least > 0, "budget", "leave something to remove", has, "ask for less")
        validate.require(
            least < linear, "budget", f"be met by the {linear:,} parameters of blocks", has, "ask for more"
        )
        return least / linear, least
    if shape is not None:
        fixed = 1 - shape[0] / shape[1]
        meant = sparsity is None or abs(sparsity - fixed) < 1e-9
        mend = f"pattern {pattern} sets it; leave it out"
        validate.require(meant, "sparsity", f"be {fixed:g}", sparsity, mend)
        return fixed, None
    value = check_sparsity(recipe.sparsity if sparsity is None else sparsity)
    validate.require(value > 0, "sparsity", "be above 0", value, "nothing would be removed")
    return value, None


def _linear(found: list[Block]) -> int:
    return sum(sum(parameters_of(b)[part] for part in ("attention", "feed_forward")) for b in found)


def _one_shape(
    model: nn.Module, found: list[Block], allocation: Any, sparsity: float, least: int | None, units: tuple[str, ...],
    free: bool | None,
) -> tuple[Plan | None, tuple[str, ...]]:  # fmt: skip
    """Return the plan of one shape in all blocks, or None where shapes are to differ, and a note that says why."""
    flat = allocation is None or (isinstance(allocation, str) and allocation == "uniform")
    if free or (free is None and not flat):
        return None, ()
    mend = "pass free_shapes=True"
    given = allocation if isinstance(allocation, str) else validate.Shown("sparsities that differ")
    validate.require(flat, "allocation", "be 'uniform' for one shape in all blocks", given, mend)
    target = round(sparsity * _linear(found)) if least is None else least
    if "experts" in units:
        validate.require(len(units) == 1, "units", "be 'experts' alone, or without it", tuple(units))
        return expert_plan(found, target, at_least=least is not None), ()
    insist, at_least = free is False, least is not None
    plan, why = one_shape_plan(model, found, target, units=units, at_least=at_least, insist=insist)
    if plan is None and insist:
        raise validate.invalid("free_shapes", "be True or left out here", False, why)
    return plan, () if plan is not None else (f"blocks end in shapes of their own: {why}",)


def _free_plan(found: list[Block], numbers: Floats, sparsity: float, least: int | None, units: tuple[str, ...]) -> Plan:
    target = round(sparsity * _linear(found)) if least is None else least
    plan = structured_plan(found, numbers, target, units=units, at_least=least is not None)
    mend = f"ask for {plan.unit / plan.total:.2g} or more"
    validate.require(plan.removed, "sparsity", "remove a unit at least", validate.Shown(f"{sparsity:g}"), mend)
    return plan


def _learned(
    model: nn.Module, tokens: Calibration, shape: tuple[int, int] | None, method: Method, pattern: Any, run: Run
) -> PruneResult:
    """Masks by the model's own loss; checkpoints go to the folder to resume from."""
    if shape is None:
        raise validate.invalid("pattern", "be N:M with the method maskllm", pattern, "pass one such as 2:4")
    solver = method if isinstance(method, MaskLLM) else MaskLLM()
    folder = run.get("resume_dir")
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        solver = replace(solver, folder=str(folder), every=max(1, min(100, solver.steps // 10)))
    try:
        with torch.enable_grad():
            found = learn_masks(
                model, tokens.windows, pattern=shape, solver=solver, seed=int(run.get("seed", 0)),
                task=MaskTaskOptions(device=run.get("device") or "cpu"),
            )  # fmt: skip
        return as_result(found)
    except ValueError:
        if folder is not None and not any(Path(folder).iterdir()):  # a request that cannot be met: nothing to resume
            Path(folder).rmdir()
        raise


def _asked(
    units: tuple[str, ...], sparsity: float, budget: Any, method: Method, allocation: Any, numbers: Floats,
    pattern: Any, shape: tuple[int, int] | None, options: PruneOptions, run: Run,
) -> dict[str, Any]:  # fmt: skip
    """Return what was asked for, as plain values."""
    own: dict[str, Any] = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    return {
        "units": list(units), "sparsity": sparsity,
        "budget": [*map(str, budget)] or None,
        "method": name_of(method), "method_options": own,
        "allocation": allocation if isinstance(allocation, str) else "given",
        "sparsities": [float(s) for s in numbers],
        "pattern": pattern if shape is None else f"{shape[0]}:{shape[1]}",
        "refit": options.refit, "damping": options.damping, "free_shapes": options.free_shapes,
        "shrinkage": options.shrinkage, "seed": int(run.get("seed", 0)),
    } | ({} if (repair := repair_of(run.get("repair"))) is None else {"repair": repair.to_dict()}) | (
        {} if options.dtype is None else {"dtype": options.dtype}
    )  # fmt: skip


def _notes(
    walk: LayerwisePruning, tokens: Calibration, rho: float | str, outputs: OutputRepairReport | None
) -> list[str]:
    if tokens.takes == TOKENS:
        rare = f"{rare_share(tokens.windows):.1%} of kinds seen fewer than 5 times"
        notes = [f"calibrated on {tokens.n_tokens} tokens, {rare}"]
    else:
        notes = [f"calibrated on {len(tokens.windows)} {tokens.takes}, {tokens.n_tokens} places in all"]
    missing = [b.missing for b in walk.blocks if b.missing]
    routed = [b for b in walk.blocks if b.experts is not None]
    if routed and not any("expert" in row.unit for row in walk.report):
        notes.append(f"the experts of {len(routed)} of {len(walk.blocks)} blocks stay as they are")
    if missing:
        notes.append(f"left as they are in {len(missing)} of {len(walk.blocks)} blocks: {missing[0]}")
    if rho:
        found = [r.shrinkage for r in walk.report] or [0.0]
        said = f"{min(found):g} to {max(found):g}, layer by layer" if isinstance(rho, str) else f"{rho:g}"
        notes.append(
            f"Hessians shrunk towards their diagonals by {said} (shrinkage=0: as measured): "
            "objectives and bounds are of these, errors of the Hessians as measured"
        )
    if walk.repairs:
        before, after = (sum(getattr(r, n) for r in walk.repairs) / len(walk.repairs) for n in ("before", "after"))
        better = sum(r.kept > 0 for r in walk.repairs)
        notes.append(
            f"repair: {better} of {len(walk.repairs)} blocks better, error of their outputs on windows held out "
            f"{before:.4g} -> {after:.4g}; errors of layers are those before it"
        )
    if outputs is not None:
        notes.append(
            f"repair of outputs: {outputs.before:.4g} -> {outputs.after:.4g} from the dense model on windows held out, "
            f"{outputs.tokens:,} tokens in {outputs.seconds:.0f} s; errors of layers are those before it"
        )
    raised = [r for r in walk.report if r.damping_tried]
    if raised:
        notes.append(f"damping went up in {len(raised)} layers, to {max(r.damping for r in raised):g} at most")
    return notes

"""Measuring a library of alternatives: exchange a part of one block, and see what the whole model loses and saves."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.forms import QuadraticSubset
from prunopt.networks.io.journal import model_digest
from prunopt.networks.transformers.alternative_files import PARTS, AlternativeFiles
from prunopt.networks.transformers.alternatives import GRANULARITY, RESOURCES, TIMES, Alternatives
from prunopt.networks.transformers.block_arguments import BlockArguments
from prunopt.networks.transformers.block_removal import only
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import Block, blocks, replace_weight, weight_of
from prunopt.networks.transformers.layer import shrunk
from prunopt.networks.transformers.number_formats import stored_dtype
from prunopt.networks.transformers.recipes import SHRINKAGE, WHOLE_UNITS
from prunopt.networks.transformers.surgery import group_columns, parameters_of, remove_groups, remove_neurons
from prunopt.networks.transformers.text import logits_of

WIDTHS = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)  # of neurons, that may stay
RUNS = 7  # of a timed pass; the fastest counts


@dataclass(frozen=True)
class MeasureOptions:
    """Details of `measure_alternatives`.

    Parameters
    ----------
    widths
        Shares of neurons that may stay, in (0, 1).
    windows
        Windows of the calibration on which divergences are measured.
    damping
        Of the Hessians with which weights that stay are re-solved.
    progress
        Called with the number of blocks done, and of all.
    """

    widths: tuple[float, ...] = WIDTHS
    windows: int = 2
    damping: float = WHOLE_UNITS.damping
    progress: Callable[[int, int], Any] | None = None


@torch.no_grad()
def measure_alternatives(
    model: nn.Module,
    calibration: Any,
    *,
    granularity: Sequence[str] = GRANULARITY,
    resources: Sequence[str] = RESOURCES,
    options: MeasureOptions | None = None,
    resume_dir: str | os.PathLike[str] | None = None,
) -> Alternatives:
    r"""Measure what each block of a transformer may become.

    A block keeps some key-value groups, some neurons, none of either, or goes. For each number of groups, and of
    neurons, that part alone is exchanged: units of least Wanda score go, the projection is re-solved on the
    calibration, and :math:`KL(p_{dense} \| p)` of the whole model is measured. Where both parts of a block are smaller
    their losses add up; that of a dropped block is measured. Blocks before the exchanged one are not run again.

    Parameters
    ----------
    model, calibration
        As of `prune_transformer`.
    granularity
        What may be removed: ``"blocks"``, ``"attention"``, ``"mlp"`` (whole), ``"heads"`` (key-value groups), ``"ffn"``
        (neurons).
    resources
        Costs to find: ``"parameters"``, ``"memory"``, ``"kv_cache"`` are counted, ``"latency_ms"`` (a pass over a
        window of the calibration's length) and ``"decode_ms"`` (over one token, no cache) are timed on this machine.
    options
        Details.
    resume_dir
        A folder for finished blocks and the projections that were re-solved: a killed run goes on from there, and
        other processes that are given the same folder measure other blocks meanwhile (the layout: `AlternativeFiles`).
        All return the same library, times included.

    References
    ----------
    .. [1] A. Bercovich et al., "Puzzle: distillation-based NAS for inference-optimized LLMs", 2024.
    """
    options = options or MeasureOptions()
    for name in granularity:
        validate.one_of("granularity", name, GRANULARITY)
    for name in resources:
        validate.one_of("resources", name, RESOURCES)
    validate.require(granularity, "granularity", f"name some of {', '.join(GRANULARITY)}", tuple(granularity))
    for share in options.widths:
        validate.number("widths", share, low=0, high=1, open_ends="()")
    tokens, found = as_calibration(calibration), blocks(model)
    validate.whole_number("windows", options.windows, low=1, high=len(tokens.windows))
    choices = [_choices(b, granularity, options.widths) for b in found]
    size = max(len(c) for c in choices)
    groups, neurons = (np.full((len(found), size), -1, np.int64) for _ in range(2))
    for k, row in enumerate(choices):
        groups[k, : len(row)], neurons[k, : len(row)] = np.array(row).T
    about = {
        "granularity": list(granularity), "widths": list(options.widths), "windows": options.windows,
        "tokens": int(options.windows * tokens.windows.shape[1]), "damping": options.damping,
        "length": int(tokens.windows.shape[1]), "threads": torch.get_num_threads(), "model": model_digest(model),
        "calibration": tokens.digest(),
    }  # fmt: skip
    about["whole passes"] = not _tails_agree(model, found, tokens.windows[:1])
    inputs = {name: json.dumps(value) for name, value in about.items() if name != "threads"}
    files = None if resume_dir is None else AlternativeFiles(resume_dir, inputs)
    loss = _losses(model, found, tokens, choices, options, files, bool(about["whole passes"]))
    costs, base = _counted(model, found, groups, neurons)
    if set(resources) & set(TIMES):

        def take() -> list[Any]:
            tables, others = _timed(model, found, tokens.windows[:1], groups, neurons)
            return [{name: table.tolist() for name, table in tables.items()}, others]

        timed, rest = take() if files is None else files.once("times.json", take)
        costs, base = costs | {name: np.array(table) for name, table in timed.items()}, base | rest
    return Alternatives(
        groups, neurons, loss, {r: costs[r] for r in resources}, {r: base[r] for r in resources}, about, files
    )


def _choices(block: Block, granularity: Sequence[str], widths: Sequence[float]) -> list[tuple[int, int]]:
    """Return (groups, neurons) that may stay, the block as it is first."""
    attention, mlp = block.attention, block.feed_forward
    n, width = 0 if attention is None else attention.n_groups, 0 if mlp is None else mlp.width
    heads, inner = {n}, {width}
    if attention is not None and not attention.fixed:
        heads |= set(range(1, n)) if "heads" in granularity else set()
        heads |= {0} if "attention" in granularity else set()
    inner |= {max(1, round(w * width)) for w in widths} if "ffn" in granularity and width else set()
    inner |= {0} if "mlp" in granularity else set()
    out = [(a, f) for a in sorted(heads, reverse=True) for f in sorted(inner, reverse=True)]
    whole = "blocks" in granularity and (0, 0) not in out
    return [c for c in out if c != (0, 0) or "blocks" in granularity] + [(0, 0)] * whole


def _losses(
    model: nn.Module, found: list[Block], tokens: Any, choices: Sequence[Sequence[tuple[int, int]]],
    options: MeasureOptions, files: AlternativeFiles | None, whole: bool,
) -> Floats:  # fmt: skip
    """Measure the blocks that no other process has finished or is at; go round until all are there."""
    rows: dict[int, Sequence[float]] = {}
    windows = tokens.windows[: options.windows]
    dense = [logits_of(model, w[None])[0].float().log_softmax(-1) for w in windows]

    def known(k: int, row: Sequence[float] | None = None) -> None:
        if row is not None or (files is not None and files.has(k)):
            rows[k] = files.losses(k) if row is None and files is not None else row or ()
            if options.progress is not None:
                options.progress(len(rows), len(found))

    while len(rows) < len(found):
        missing = [k for k in range(len(found)) if k not in rows]
        stream = Activations(model, found, tokens)
        for k in range(missing[-1] + 1):
            if k in missing:
                with nullcontext(True) if files is None else files.claimed(k) as mine:
                    if mine:
                        known(k, _measured(model, found, k, choices[k], stream, dense, options, files, whole))
                if k not in rows:
                    known(k)
            stream.advance(found[k])
        stream.close()
        missing = [k for k in missing if k not in rows]
        if missing and files is not None:
            files.wait(missing)
            for k in missing:
                known(k)
    loss = np.full((len(found), max(len(c) for c in choices)), np.inf)
    for k, row in rows.items():
        loss[k, : len(row)] = row
    return loss


def _measured(
    model: nn.Module, found: list[Block], k: int, choices: Sequence[tuple[int, int]], stream: Activations,
    dense: Sequence[torch.Tensor], options: MeasureOptions, files: AlternativeFiles | None, whole: bool,
) -> list[float]:  # fmt: skip
    """Measure the alternatives of a block, and write them down."""
    windows = stream.calibration.windows[: len(dense)]
    entering = [stream.window(i).clone() for i in range(len(windows))]

    def measured() -> float:
        return _divergence(model, found, 0 if whole else k, entering, dense, windows)

    row, solved = _block_losses(found[k], choices, stream, measured, options.damping)
    if files is not None:
        layer = found[k].attention or found[k].feed_forward
        declared = getattr(getattr(model, "config", None), "dtype", None)
        kind = torch.float32 if layer is None else stored_dtype(weight_of(layer.projection).detach(), declared)
        files.write(k, row, solved, kind)
    return row


def _block_losses(
    block: Block, choices: Sequence[tuple[int, int]], stream: Activations, measured: Callable[[], float], damping: float
) -> tuple[list[float], dict[str, dict[int, Floats]]]:
    """Return the loss of each alternative of a block, and the projections of each size of its parts."""
    attention, mlp = block.attention, block.feed_forward
    parts: dict[str, dict[int, Floats]] = {}
    alone: list[dict[int, float]] = []
    for at, owner in enumerate((attention, mlp)):
        sizes = sorted({c[at] for c in choices if c != (0, 0)}, reverse=True)
        found, weights = {sizes[0]: 0.0}, {}
        if owner is not None and len(sizes) > 1:
            name = block.stages[1 if at == 0 else -1][0]
            units = group_columns(attention) if attention is not None and at == 0 else np.arange(sizes[0])[:, None]
            weights = _resolved(owner.projection, stream.hessians(block, [name])[name], units, sizes[1:], damping)
            for size, new in weights.items():
                with _exchanged([(owner.projection, new)]):
                    found[size] = max(0.0, measured())
            parts[PARTS[at]] = weights
        alone.append(found)
    out = [alone[0].get(a, np.inf) + alone[1].get(f, np.inf) for a, f in choices]
    if (0, 0) in choices:
        empty = [(o.projection, np.zeros(weight_of(o.projection).shape)) for o in (attention, mlp) if o is not None]
        with _exchanged(empty, biases=True):
            out[list(choices).index((0, 0))] = max(0.0, measured())
    return [float(x) for x in out], parts


def _resolved(layer: nn.Module, hessian: Floats, units: Any, sizes: Sequence[int], damping: float) -> dict[int, Floats]:
    """Return the projection's weights when only so many units stay, the others 0."""
    weight = weight_of(layer).detach().double().cpu().numpy()
    form = QuadraticSubset(weight, shrunk(hessian, SHRINKAGE), units, 0, damping=damping)
    columns = (weight**2).sum(axis=0) * np.diagonal(hessian)
    order = np.argsort([columns[u].sum() for u in units], kind="stable")
    return {s: form.lift(order[: len(units) - s]) if s else np.zeros(weight.shape) for s in sizes}


@contextmanager
def _exchanged(new: Sequence[tuple[nn.Module, Floats]], biases: bool = False) -> Iterator[None]:
    """Have layers other weights for a while; with ``biases`` theirs are 0."""
    kept = [(layer, weight_of(layer).detach().clone(), getattr(layer, "bias", None)) for layer, _ in new]
    held = [None if b is None else b.detach().clone() for _, _, b in kept]
    try:
        for layer, changed in new:
            bias: Any = layer.bias
            zero = None if bias is None or not biases else torch.zeros_like(bias)
            replace_weight(layer, torch.from_numpy(np.asarray(changed)), zero)
        yield
    finally:
        for (layer, weight, _), before in zip(kept, held, strict=True):
            replace_weight(layer, weight, before)


def _tails_agree(model: nn.Module, found: Sequence[Block], windows: torch.Tensor) -> bool:
    """Whether the model begun at a later block puts out what it does as a whole."""
    first, seen = len(found) // 2, []
    hook = found[first].module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"])[0].clone()), with_kwargs=True
    )
    try:
        whole = logits_of(model, windows)
    finally:
        hook.remove()
    with only(model, found, range(first, len(found)), seen[0]):
        tail = logits_of(model, windows)
    return torch.allclose(whole, tail, atol=1e-4 * float(whole.abs().max()))


def _divergence(
    model: nn.Module, found: Sequence[Block], first: int, hidden: Sequence[torch.Tensor],
    dense: Sequence[torch.Tensor], windows: torch.Tensor,
) -> float:  # fmt: skip
    total = 0.0
    for entering, theirs, window in zip(hidden, dense, windows, strict=True):
        if first:
            with only(model, found, range(first, len(found)), entering.to(next(model.parameters()).dtype)):
                logits = logits_of(model, window[None])[0]
        else:
            logits = logits_of(model, window[None])[0]
        total += float((theirs.exp() * (theirs - logits.float().log_softmax(-1))).sum(-1).mean())
    return total / len(windows)


def _counted(
    model: nn.Module, found: Sequence[Block], groups: Any, neurons: Any
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return parameters, bytes of weights, and bytes of the cache a token."""
    config: Any = getattr(model, "config", None)
    dtype = getattr(config, "dtype", None)
    size = dtype.itemsize if isinstance(dtype, torch.dtype) else next(model.parameters()).element_size()
    parameters, cache = np.zeros(groups.shape), np.zeros(groups.shape)
    for k, block in enumerate(found):
        sizes, attention = parameters_of(block), block.attention
        whole = sum(p.numel() for p in block.module.parameters())
        n = 0 if attention is None else attention.n_groups
        width = 0 if block.feed_forward is None else block.feed_forward.width
        gone = (n - groups[k]) * sizes["group"] + (width - neurons[k]) * sizes["neuron"]
        parameters[k] = np.where((groups[k] == 0) & (neurons[k] == 0), 0, whole - gone)
        cache[k] = 0 if attention is None else 2 * groups[k] * attention.head_dim * size
    there = groups >= 0
    parameters, cache = np.where(there, parameters, 0.0), np.where(there, cache, 0.0)
    rest = float(sum(p.numel() for p in model.parameters()) - parameters[:, 0].sum())
    costs = {"parameters": parameters, "memory": parameters * size, "kv_cache": cache}
    return costs, {"parameters": rest, "memory": rest * size, "kv_cache": 0.0}


def _timed(
    model: nn.Module, found: list[Block], window: torch.Tensor, groups: Any, neurons: Any
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Time every shape of block once: a pass over a window, and over one token; what is left is the rest's."""
    costs, base = {}, {}
    for name, ids in (("latency_ms", window), ("decode_ms", window[:, :1])):
        arguments, table = BlockArguments(found), np.zeros(groups.shape)
        hidden = arguments.capture(model, {"input_ids": ids})
        known: dict[Any, float] = {}
        for k, block in enumerate(found):
            shape = tuple(tuple(weight_of(block.module.get_submodule(n)).shape) for n in block.layers)
            for level, (a, f) in enumerate(zip(groups[k].tolist(), neurons[k].tolist(), strict=True)):
                if a < 0 or (a, f) == (0, 0):
                    continue
                if (shape, a, f) not in known:
                    smaller = copy.deepcopy(block)
                    if smaller.attention is not None and a < smaller.attention.n_groups:
                        remove_groups(smaller.attention, np.arange(a, smaller.attention.n_groups))
                    if smaller.feed_forward is not None and f < smaller.feed_forward.width:
                        remove_neurons(smaller.feed_forward, np.arange(f, smaller.feed_forward.width))
                    rest, named = arguments.of(block)[0]
                    known[shape, a, f] = fastest(partial(smaller.module, hidden, *rest, **named))
                table[k, level] = known[shape, a, f]
        whole = fastest(partial(model, input_ids=ids, use_cache=False))
        costs[name], base[name] = table, max(0.0, whole - float(table[:, 0].sum()))
    return costs, base


def fastest(call: Callable[[], Any]) -> float:
    """Milliseconds of the fastest of a few calls, after one that does not count."""
    call()
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken)

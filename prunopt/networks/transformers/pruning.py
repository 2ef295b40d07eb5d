"""Pruning a transformer block by block: calibrate a layer, solve it, carry the answer back, and go on from there."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.forms.layer.nm_patterns import check_pattern
from prunopt.networks.io.journal import Journal, model_digest
from prunopt.networks.transformers.calibration import (
    Activations,
    Calibration,
    as_calibration,
    rare_share,
    rarity_weights,
)
from prunopt.networks.transformers.correction import Correction, check_added
from prunopt.networks.transformers.families import Block, blocks, replace_weight, weight_of
from prunopt.networks.transformers.layer import LayerReport, check_method, check_shrinkage, report_from, solve_layer
from prunopt.networks.transformers.parameter_budget import UNITS, Plan, check_sparsity, shares_of, structured_plan
from prunopt.networks.transformers.sensitivity import best_shares, neuron_sensitivity
from prunopt.networks.transformers.surgery import (
    group_columns,
    note_shapes,
    parameters_of,
    remove_groups,
    remove_neurons,
    without_inputs,
    write_config,
)

DAMPING = {"units": 0.1, "pattern": 0.01}  # of the mean diagonal; what serves the whole model, see benchmarks


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned transformer.

    Parameters
    ----------
    model
        The smaller model, in evaluation mode.
    report
        One row for each layer: objective, bound, gap, kept, damping, seconds.
    removed, target, total
        Parameters (or single weights) removed, asked for, and those of all blocks' linear layers.
    stock
        Whether stock transformers code can load what `save` writes.
    options
        What was asked for, as plain values.
    notes
        What a person should know: dampings that went up, shares of rare tokens, budgets met by other means.
    """

    model: nn.Module
    report: tuple[LayerReport, ...]
    removed: int
    target: int
    total: int
    stock: bool
    options: dict[str, Any]
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Fraction removed of the parameters of the blocks' linear layers."""
        return self.removed / self.total

    def save(self, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
        """Write the model, its configuration and ``prunopt.json`` to a folder; `prunopt.networks.load` reads it."""
        from prunopt.networks.transformers.checkpoints import save

        save(self, folder, tokenizer=tokenizer)


@torch.no_grad()
def prune_transformer(
    model: nn.Module,
    calibration: Any,
    *,
    units: Sequence[str] = UNITS,
    sparsity: float = 0.2,
    method: str | None = None,
    allocation: Any = "uniform",
    pattern: str | tuple[int, int] | None = None,
    refit: bool = True,
    damping: float | None = None,
    uniform: bool = False,
    rarity: float = 0.0,
    correction: float = 0.0,
    shrinkage: float | None = None,
    resume_dir: str | os.PathLike[str] | None = None,
    activations_dir: str | None = None,
    device: str | None = None,
    seed: int = 0,
    in_place: bool = False,
    progress: Callable[[int, int, LayerReport], Any] | None = None,
) -> PruneResult:
    r"""Remove heads and neurons, or single weights, of every block, re-solving what stays.

    Block by block and layer by layer, each y = W x is pruned on what its inputs are once everything before it is
    pruned, X:

    .. math:: \min_{S} \min_{W'_S = 0} \|W X - W' X\|^2 + \lambda \|W - W'\|^2

    Memory beyond the model and its copy: one block's activations, 4 n length width bytes (in files with
    ``activations_dir``), and at most six arrays of 8 d^2 bytes for the Hessian of one layer, its factors and what is
    solved for, d being the layer's number of inputs (measured in `benchmarks.language_model_cost`).

    Parameters
    ----------
    model
        A transformer of a known family (see `prunopt.networks.blocks`).
    calibration
        Token ids (n, length), what a tokenizer returns, or sources with weights (see `as_calibration`).
    units
        What leaves: ``"heads"`` (whole key-value groups) and ``"ffn"`` (neurons). Not used with ``pattern``.
    sparsity
        Fraction removed of the parameters of all blocks' linear layers, met to one unit.
    method
        For units obs-swap (default), obs-greedy, slimgpt, wanda, magnitude or obs-branch-and-bound; for patterns
        sparsegpt (default), mask-descent, mask-enumeration, wanda or magnitude.
    allocation
        Shares of blocks: ``"uniform"``, ``"log"``, numbers, one for each block, or ``"mckp"``: measured curves of
        blocks, weighted by what pruning each alone does to the model's output (see `sensitivity`).
    pattern
        ``"unstructured"``, or N:M such as ``"2:4"``: single weights become 0, shapes stay.
    refit
        Re-solve the kept weights together. False: wanda, magnitude and sparsegpt end with their published weights.
    damping
        :math:`\lambda` as a multiple of the mean diagonal; None: 0.1 for units, 0.01 for patterns. It goes up tenfold
        where the Hessian cannot be factored, and the report says so.
    uniform
        The same shape in all blocks, widths multiples of 64 or 8, so that stock code loads the result.
    rarity
        Tokens weigh as count^-rarity in the Hessians, count being how often their kind is in the calibration: columns
        that serve rare tokens are then not given away for the sake of frequent ones. 0: all alike.
    correction
        How far the last layer of each block also takes back what earlier blocks have changed, from 0 (not) to 1 (all
        that a ridge regression can): see `prunopt.networks.transformers.correction.Correction`.
    shrinkage
        :math:`\rho` from 0 to 1: the Hessians' off-diagonal entries count :math:`1 - \rho`, see
        `prunopt.networks.transformers.layer.shrunk`. It helps outside the calibration's domain most. None: 0.2 where
        weights are re-solved, but 0 for slimgpt, which is as published, and magnitude.
    resume_dir
        A folder for finished layers. A killed run with the same inputs goes on there and ends with the same bytes.
    activations_dir
        A folder for memory-mapped activations; None: they are in memory.
    device
        Where blocks run; None: where the model is.
    in_place
        Change the given model instead of a copy.
    progress
        Called with the number of layers done, of all layers, and the report of each.

    References
    ----------
    .. [1] G. Ling et al., "SlimGPT", NeurIPS 2024.
    .. [2] E. Frantar, D. Alistarh, "SparseGPT", ICML 2023.
    """
    named = allocation if isinstance(allocation, str) else "given"
    sparsity, tokens, found = check_sparsity(sparsity), as_calibration(calibration), blocks(model)
    if not 0 <= rarity <= 1:
        raise ValueError(f"rarity={rarity!r}: give a power from 0 (all tokens alike) to 1 (all kinds of tokens alike)")
    if not 0 <= correction <= 1:
        raise ValueError(f"correction={correction!r}: give a strength from 0 (none) to 1")
    if rarity:
        tokens = replace(tokens, token_weight=rarity_weights(tokens.windows, rarity))
    single = pattern is not None
    method = check_method(method or ("sparsegpt" if single else "obs-swap"), structured=not single)
    shape = None if pattern in (None, "unstructured") else check_pattern(pattern)
    if damping is None:
        damping = DAMPING["pattern" if single else "units"]
    shrinkage = check_shrinkage(shrinkage, method, refit)
    measured: list[str] = []
    if isinstance(allocation, str) and allocation == "mckp":
        if single or tuple(units) != ("ffn",):
            raise ValueError("allocation='mckp': measured for neurons; give units=('ffn',), or shares of your own")
        # Neurons leave until the blocks' parameters meet the budget: their mean share is larger than the sparsity.
        sizes = [parameters_of(b) for b in found]
        neurons = sum(s["feed_forward"] for s in sizes)
        everything = neurons + sum(s["attention"] for s in sizes)
        sensitivity = neuron_sensitivity(model, tokens, sparsity * everything / neurons, damping=damping)
        allocation, gap = best_shares(sensitivity, model, sparsity)
        measured.append(
            f"shares chosen by a knapsack on measured curves, gap {gap:.1e} (of the sum of blocks' effects)"
        )
    shares = shares_of(allocation, len(found), sparsity)
    plan = None if single else structured_plan(found, sparsity, units=units, shares=shares, uniform=uniform)
    options = {
        "units": list(units), "sparsity": sparsity, "method": method, "allocation": named,
        "shares": [float(s) for s in shares],
        "pattern": None if pattern is None else pattern if shape is None else f"{shape[0]}:{shape[1]}",
        "refit": bool(refit), "damping": float(damping), "uniform": bool(uniform), "rarity": float(rarity),
        "correction": float(correction), "shrinkage": float(shrinkage), "seed": int(seed),
    }  # fmt: skip
    digests = {"calibration": tokens.digest(), "model": model_digest(model), "options": json.dumps(options)}
    journal = None if resume_dir is None else Journal(resume_dir, digests)
    pruned = model if in_place else copy.deepcopy(model)
    pruned.eval()
    if device is not None:
        pruned.to(device)
    found = blocks(pruned)
    walk = _Walk(pruned, found, tokens, journal, options, activations_dir, progress)
    dense = sum(weight_of(b.module.get_submodule(n)).numel() for b in found for n in b.layers)
    try:
        if plan is not None:
            walk.structured(plan)
        else:
            walk.patterned(shape, [float(s) for s in shares])
    finally:
        walk.close()
    if plan is not None:
        removed, target, total = plan.removed, plan.target, plan.total
    else:
        removed = sum(r.total - r.kept for r in walk.report)
        target, total = round(sparsity * dense) if shape is None else removed, dense
    stock = single or write_config(pruned, blocks(pruned))
    return PruneResult(
        pruned, tuple(walk.report), removed, target, total, stock, options, (*measured, *_notes(walk, tokens)), digests
    )


class _Walk:
    """A pass over the blocks, with what came of it so far."""

    def __init__(
        self, model: nn.Module, found: list[Block], tokens: Calibration, journal: Journal | None,
        options: dict[str, Any], folder: str | None, progress: Callable[[int, int, LayerReport], Any] | None,
    ) -> None:  # fmt: skip
        self.blocks, self.journal, self.options, self.progress = found, journal, options, progress
        self.report: list[LayerReport] = []
        self.stream = Activations(model, found, tokens, folder)
        self.n_layers = 0
        self.correction: Correction | None = None
        if options["correction"]:
            check_added(found[0], found[0].stages[-1][0], self.stream)
            self.correction = Correction(self.stream.twin(), options["correction"])

    def close(self) -> None:
        """Let go of the activations."""
        self.stream.close()
        if self.correction is not None:
            self.correction.close()

    def _layer(self, block: Block, layer: str) -> tuple[Floats, Floats]:
        """Return the weights that a layer should have before it is pruned, and its Hessian."""
        weight = weight_of(block.module.get_submodule(layer)).detach().double().cpu().numpy()
        if self.correction is None or layer != block.stages[-1][0]:
            return weight, self.stream.hessians(block, [layer])[layer]
        hessian, cross = self.correction.moments(self.stream, block, layer)
        return self.correction.corrected(weight, hessian, cross, self.options["damping"]), hessian

    def structured(self, plan: Plan) -> None:
        """Remove head groups, then neurons, of each block."""
        self.n_layers = sum(g > 0 for g in plan.groups) + sum(n > 0 for n in plan.neurons)
        for block, groups, neurons in zip(self.blocks, plan.groups, plan.neurons, strict=True):
            if self.correction is not None:
                self.correction.enter(block)
            if groups and block.attention is not None:
                columns = group_columns(block.attention)
                self._remove(block, block.stages[1][0], columns, groups, "head group")
            if neurons and block.feed_forward is not None:
                single = np.arange(block.feed_forward.width)[:, None]
                self._remove(block, block.stages[-1][0], list(single), neurons, "neuron")
            self.stream.advance(block)

    def _remove(self, block: Block, layer: str, groups: list[Any], remove: int, unit: str) -> None:
        name = f"{block.name}.{layer}"
        before = {n: tuple(weight_of(block.module.get_submodule(n)).shape) for n in block.layers}
        if self._replayed(block, name):
            return
        projection = block.module.get_submodule(layer)
        weight, hessian = self._layer(block, layer)
        value, new, row = solve_layer(
            name, weight, hessian, self.options["method"], groups=groups, remove=remove, unit=unit,
            damping=self.options["damping"], shrinkage=self.options["shrinkage"], refit=self.options["refit"],
            seed=self.options["seed"],
        )  # fmt: skip
        replace_weight(projection, torch.from_numpy(new))
        if unit == "head group" and block.attention is not None:
            remove_groups(block.attention, value)
        elif block.feed_forward is not None:
            remove_neurons(block.feed_forward, value)
        changed = [n for n in block.layers if tuple(weight_of(block.module.get_submodule(n)).shape) != before[n]]
        self._done(block, name, changed, row)

    def patterned(self, pattern: tuple[int, int] | None, shares: list[float]) -> None:
        """Set single weights of each block's layers to 0, in the order in which the block uses them."""
        self.n_layers = sum(len(b.layers) for b in self.blocks)
        for block, share in zip(self.blocks, shares, strict=True):
            if self.correction is not None:
                self.correction.enter(block)
            for stage in block.stages:
                self._stage(block, stage, pattern, share)
            self.stream.advance(block)

    def _stage(self, block: Block, stage: tuple[str, ...], pattern: tuple[int, int] | None, share: float) -> None:
        hessian: Any = None
        for layer in stage:
            name = f"{block.name}.{layer}"
            if self._replayed(block, name):
                continue
            linear = block.module.get_submodule(layer)
            if hessian is None:  # the layers of a stage have the same input
                weight, hessian = self._layer(block, layer)
            else:
                weight = weight_of(linear).detach().double().cpu().numpy()
            if pattern is not None and weight.shape[1] % pattern[1]:
                raise ValueError(f"{name}: {weight.shape[1]} inputs, which is no multiple of {pattern[1]}")
            _, new, row = solve_layer(
                name, weight, hessian, self.options["method"], pattern=pattern, sparsity=None if pattern else share,
                damping=self.options["damping"], shrinkage=self.options["shrinkage"], refit=self.options["refit"],
                seed=self.options["seed"],
            )  # fmt: skip
            replace_weight(linear, torch.from_numpy(new))
            self._done(block, name, [layer], row)

    def _done(self, block: Block, name: str, changed: list[str], row: LayerReport) -> None:
        self.report.append(row)
        if self.journal is not None:
            tensors = {}
            for layer in changed:
                linear: Any = block.module.get_submodule(layer)
                tensors[f"{layer}.weight"] = weight_of(linear).detach().cpu()
                if linear.bias is not None:
                    tensors[f"{layer}.bias"] = linear.bias.detach().cpu()
            self.journal.append(name, tensors, row.to_dict())
        if self.progress is not None:
            self.progress(len(self.report), self.n_layers, row)

    def _replayed(self, block: Block, name: str) -> bool:
        step = None if self.journal is None else self.journal.replay(name)
        if step is None:
            return False
        tensors, row = step
        for key, tensor in tensors.items():
            layer, what = key.rsplit(".", 1)
            if what == "weight":
                replace_weight(block.module.get_submodule(layer), tensor, tensors.get(f"{layer}.bias"))
        attention = block.attention
        if attention is not None:
            without_inputs(attention)
            width = weight_of(attention.projection).shape[1]
            note_shapes(attention.module, width // attention.head_dim, attention.head_dim)
        self.report.append(report_from(row))
        if self.progress is not None:
            self.progress(len(self.report), self.n_layers, self.report[-1])
        return True


def _notes(walk: _Walk, tokens: Calibration) -> list[str]:
    notes = [
        f"calibrated on {tokens.n_tokens} tokens, {rare_share(tokens.windows):.1%} of kinds seen fewer than 5 times"
    ]
    if walk.options["shrinkage"]:
        notes.append(
            f"Hessians shrunk towards their diagonals by {walk.options['shrinkage']:g} (shrinkage=0: as measured): "
            "objectives and bounds are of these, errors of the Hessians as measured"
        )
    raised = [r for r in walk.report if r.damping_tried]
    if raised:
        notes.append(f"damping went up in {len(raised)} layers, to {max(r.damping for r in raised):g} at most")
    return notes

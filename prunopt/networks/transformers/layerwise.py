"""Pruning a transformer block by block: calibrate a layer, solve it, carry the answer back, go on from there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.networks.io.journal import Journal
from prunopt.networks.transformers.calibration import Activations, Calibration
from prunopt.networks.transformers.families import Block, blocks, replace_weight, weight_of
from prunopt.networks.transformers.layer import (
    LayerGoal,
    LayerReport,
    Method,
    relative_error,
    report_from,
    solve_layer,
)
from prunopt.networks.transformers.number_formats import stored_dtype
from prunopt.networks.transformers.parameter_budget import Plan
from prunopt.networks.transformers.recipes import PruneOptions
from prunopt.networks.transformers.surgery import fit_attention, group_columns, remove_groups, remove_neurons


class LayerwisePruning:
    """A pass over the blocks of a model, which it changes, with what came of it so far.

    Parameters
    ----------
    model
        In single precision.
    tokens
        What it is calibrated on.
    method
        A solver of layers, by name or as an instance.
    options
        With damping and shrinkage as numbers.
    seed
        Of the solvers.
    journal
        Keeps finished layers.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Calibration,
        method: Method,
        options: PruneOptions,
        seed: int,
        journal: Journal | None = None,
    ) -> None:
        self.blocks, self.journal, self.options, self.seed, self.method = blocks(model), journal, options, seed, method
        self.report: list[LayerReport] = []
        self.n_layers = 0
        self._declared = getattr(getattr(model, "config", None), "dtype", None)
        self.stream = Activations(model, self.blocks, tokens, options.activations_dir)

    def structured(self, plan: Plan) -> None:
        """Remove head groups, then neurons, of each block."""
        self.n_layers = sum(g > 0 for g in plan.groups) + sum(n > 0 for n in plan.neurons)
        for block, groups, neurons in zip(self.blocks, plan.groups, plan.neurons, strict=True):
            if groups and block.attention is not None:
                goal = LayerGoal(group_columns(block.attention), groups, "head group")
                self._remove(block, block.layer_of(block.attention), goal)
            if neurons and block.feed_forward is not None:
                single = list(np.arange(block.feed_forward.width)[:, None])
                self._remove(block, block.layer_of(block.feed_forward), LayerGoal(single, neurons, "neuron"))
            self.stream.advance(block)

    def patterned(self, pattern: tuple[int, int] | None, allocation: Floats) -> None:
        """Set single weights of each block's layers to 0, in the order in which the block uses them."""
        self.n_layers = sum(len(b.layers) for b in self.blocks)
        for block, sparsity in zip(self.blocks, allocation, strict=True):
            goal = LayerGoal(pattern=pattern, sparsity=None if pattern else float(sparsity))
            for stage in block.stages:
                self._stage(block, stage, goal)
            self.stream.advance(block)

    def close(self) -> None:
        """Let go of the activations."""
        self.stream.close()

    def _remove(self, block: Block, layer: str, goal: LayerGoal) -> None:
        name = f"{block.name}.{layer}"
        before = {n: tuple(weight_of(block.module.get_submodule(n)).shape) for n in block.layers}
        if self._replayed(block, name):
            return
        hessian = self.stream.hessians(block, [layer])[layer]
        value, row = self._solved(block, layer, hessian, goal)
        if goal.unit == "head group" and block.attention is not None:
            remove_groups(block.attention, value)
        elif block.feed_forward is not None:
            remove_neurons(block.feed_forward, value)
        changed = [n for n in block.layers if tuple(weight_of(block.module.get_submodule(n)).shape) != before[n]]
        self._done(block, name, changed, row)

    def _stage(self, block: Block, stage: tuple[str, ...], goal: LayerGoal) -> None:
        hessian: Any = None
        for layer in stage:
            name = f"{block.name}.{layer}"
            if self._replayed(block, name):
                continue
            if hessian is None:  # the layers of a stage have the same input
                hessian = self.stream.hessians(block, [layer])[layer]
            inputs = weight_of(block.module.get_submodule(layer)).shape[1]
            if goal.pattern is not None:
                multiple = inputs % goal.pattern[1] == 0
                validate.require(multiple, f"inputs of {name}", f"be a multiple of {goal.pattern[1]}", inputs)
            _, row = self._solved(block, layer, hessian, goal)
            self._done(block, name, [layer], row)

    def _solved(self, block: Block, layer: str, hessian: Floats, goal: LayerGoal) -> tuple[Any, LayerReport]:
        """Solve a layer and give it its new weights, as they will be stored; return the value and the report."""
        linear, options = block.module.get_submodule(layer), self.options
        old = weight_of(linear).detach()
        weight = old.double().cpu().numpy()
        value, new, row = solve_layer(
            f"{block.name}.{layer}", weight, hessian, self.method, goal, damping=float(options.damping or 0.0),
            shrinkage=float(options.shrinkage or 0.0), refit=options.refit, seed=self.seed,
        )  # fmt: skip
        tensor, dtype = torch.from_numpy(new), stored_dtype(old, self._declared)
        if dtype != old.dtype:
            tensor = tensor.to(dtype).double()
            row = replace(row, error=relative_error(weight, tensor.numpy(), hessian))
        replace_weight(linear, tensor)
        return value, row

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
        self._tell(row)

    def _replayed(self, block: Block, name: str) -> bool:
        step = None if self.journal is None else self.journal.replay(name)
        if step is None:
            return False
        tensors, row = step
        for key, tensor in tensors.items():
            layer, what = key.rsplit(".", 1)
            if what == "weight":
                replace_weight(block.module.get_submodule(layer), tensor, tensors.get(f"{layer}.bias"))
        fit_attention(block, row["gone"] if row["unit"] == "head group" else ())
        self.report.append(report_from(row))
        self._tell(self.report[-1])
        return True

    def _tell(self, row: LayerReport) -> None:
        if self.options.progress is not None:
            self.options.progress(len(self.report), self.n_layers, row)

"""Pruning a transformer block by block: calibrate a layer, solve it, carry the answer back, go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.networks.io.journal import Journal
from prunopt.networks.transformers import distributed
from prunopt.networks.transformers.before_after import Measured
from prunopt.networks.transformers.calibration import Activations, Calibration
from prunopt.networks.transformers.device_solve import solve_on_device, solves
from prunopt.networks.transformers.expert_pruning import remove_expert_neurons, remove_whole_experts
from prunopt.networks.transformers.expert_surgery import restore_experts
from prunopt.networks.transformers.families import Block, Experts, blocks, replace_weight, weight_of
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
from prunopt.networks.transformers.repair import BlockRepair, DenseStream, RepairReport, copy_of, repair_block
from prunopt.networks.transformers.scored import InputNorms, by_norms, solve_by_norms, step_of
from prunopt.networks.transformers.shrinkage import AUTO, Folds, chosen_shrinkage, fold_hessians, folds_of, mean_of
from prunopt.networks.transformers.streamed_texts import StreamedTexts
from prunopt.networks.transformers.streaming import StreamedModel
from prunopt.networks.transformers.surgery import fit_attention, group_columns, remove_groups, remove_neurons

EXPERTS = "experts"  # what the journal calls a step of them


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
        Keeps finished layers; of several processes, the first one's alone.
    source
        Where the blocks are, if they are not in memory.
    repair
        How each block is repaired once it is pruned; None: not at all.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Calibration,
        method: Method,
        options: PruneOptions,
        seed: int,
        journal: Journal | None = None,
        source: StreamedModel | None = None,
        repair: BlockRepair | None = None,
    ) -> None:
        self.blocks, self.journal, self.options, self.seed, self.method = blocks(model), journal, options, seed, method
        self.source, self.step = source, step_of(tokens)
        self.report: list[LayerReport] = []
        self.n_layers = 0
        self._declared = getattr(getattr(model, "config", None), "dtype", None)
        self.repair, self.repairs, self._weights = repair, list[RepairReport](), tokens.row_weights()
        fitted = distributed.part_of(tokens if repair is None else repair.fitted(tokens, seed))
        self._folds = {t: distributed.shard(folds_of(tokens.row_weights(target=t))) for t in (False, True)}
        with nullcontext() if source is None else source.around():
            self.stream = Activations(model, self.blocks, fitted, options.activations_dir)
        self._dense = None if repair is None else DenseStream(self.stream)
        self.texts = None if source is None else StreamedTexts(source, options.evaluation or {})

    def structured(self, plan: Plan) -> None:
        """Remove head groups, then neurons, of each block."""
        attentions = sum(len(b.attentions) for b, g in zip(self.blocks, plan.groups, strict=True) if g > 0)
        self.n_layers = attentions + sum(n > 0 for n in plan.experts)
        for block, neurons in zip(self.blocks, plan.neurons, strict=True):
            routed = 0 if block.experts is None else block.experts.count + (block.experts.shared is not None)
            self.n_layers += (routed or 1) if neurons else 0
        fewer = plan.experts or (0,) * len(self.blocks)
        for block, groups, neurons, experts in zip(self.blocks, plan.groups, plan.neurons, fewer, strict=True):
            dense = None if self._dense is None else copy_of(block)
            with self._in_memory(block):
                for attention in block.attentions if groups else ():
                    goal = LayerGoal(group_columns(attention), groups, "head group")
                    self._remove(block, block.layer_of(attention), goal)
                if neurons and block.feed_forward is not None:
                    single = list(np.arange(block.feed_forward.width)[:, None])
                    self._remove(block, block.layer_of(block.feed_forward), LayerGoal(single, neurons, "neuron"))
                if block.experts is not None and (experts or neurons):
                    self._experts(
                        block,
                        block.experts,
                        remove_whole_experts if experts else remove_expert_neurons,
                        experts or neurons,
                    )
                self._repaired(block, dense)
                self.stream.advance(block)

    def patterned(self, pattern: tuple[int, int] | None, allocation: Floats) -> None:
        """Set single weights of each block's layers to 0, in the order in which the block uses them."""
        self.n_layers = sum(len(b.layers) for b in self.blocks)
        for block, sparsity in zip(self.blocks, allocation, strict=True):
            goal = LayerGoal(pattern=pattern, sparsity=None if pattern else float(sparsity))
            dense = None if self._dense is None else copy_of(block)
            with self._in_memory(block):
                for stage in block.stages:
                    self._stage(block, stage, goal)
                self._repaired(block, dense)
                self.stream.advance(block)

    def measured(self) -> tuple[Measured, Measured]:
        """Return a streamed model's figures before and after."""
        assert self.texts is not None
        return self.texts.measured()

    def close(self) -> None:
        """Let go of the activations."""
        self.stream.close()
        if self._dense is not None:
            self._dense.close()

    @contextmanager
    def _in_memory(self, block: Block) -> Iterator[None]:
        if self.source is None or self.texts is None:
            yield
            return
        with self.source.block(block):
            self.texts.before(block)
            yield
            self.texts.after(block)

    def _inputs(self, block: Block, layer: str) -> Folds | InputNorms:
        """Return the norms or the Hessian of a layer's inputs, in folds where its shrinkage is chosen by them."""
        if by_norms(self.method, self.options.refit):
            return InputNorms(self.stream, block, layer, self.step)
        if self.options.shrinkage == AUTO:
            target = block.target and layer not in block.crossing
            return fold_hessians(self.stream, block, layer, self._folds[target])
        return [(1.0, distributed.hessians(self.stream, block, [layer])[layer])]

    def _remove(self, block: Block, layer: str, goal: LayerGoal) -> None:
        name = f"{block.name}.{layer}"
        before = {n: tuple(weight_of(block.module.get_submodule(n)).shape) for n in block.layers}
        if self._replayed(block, name):
            return
        value, row = self._solved(block, layer, self._inputs(block, layer), goal)
        if goal.unit == "head group":
            remove_groups(block.attention_before(layer), value)
        elif block.feed_forward is not None:
            remove_neurons(block.feed_forward, value)
        changed = [n for n in block.layers if tuple(weight_of(block.module.get_submodule(n)).shape) != before[n]]
        self._done(block, name, changed, row)

    def _stage(self, block: Block, stage: tuple[str, ...], goal: LayerGoal) -> None:
        inputs: Any = None
        for layer in stage:
            name = f"{block.name}.{layer}"
            if self._replayed(block, name):
                continue
            width = weight_of(block.module.get_submodule(layer)).shape[1]
            if goal.pattern is not None:
                multiple = width % goal.pattern[1] == 0
                validate.require(multiple, f"inputs of {name}", f"be a multiple of {goal.pattern[1]}", width)
            if inputs is None:  # the layers of a stage have the same input
                inputs = self._inputs(block, layer)
            _, row = self._solved(block, layer, inputs, goal)
            self._done(block, name, [layer], row)

    def _experts(self, block: Block, experts: Experts, remove: Callable[..., list[LayerReport]], count: int) -> None:
        """Make the experts of a block smaller or fewer."""
        name = f"{block.name}.{experts.name}.experts"
        if self._restored(block, name) is not None:
            return
        alone = distributed.rank_and_size()[1] == 1
        kind = validate.Shown("several, for a model with experts")
        validate.require(alone, "processes", "be one", kind, "start it without torchrun")
        validate.require(
            self.options.shrinkage != AUTO, "shrinkage", "be a number for experts", AUTO, "leave it out: 0.2 is taken"
        )

        def solve(layer: str, weight: torch.Tensor, hessian: Floats, goal: LayerGoal) -> Any:
            tensors, row = self._solution(layer, weight, [(1.0, hessian)], goal)
            return tensors["value"].numpy(), tensors["new"].numpy(), row

        rows = remove(self.stream, block, experts, count, solve)
        self.report += rows
        if self.journal is not None:
            held = {f"{experts.name}.{n}": t.detach().cpu() for n, t in experts.owner.state_dict().items()}
            self.journal.append(name, held, {"unit": EXPERTS, "rows": [row.to_dict() for row in rows]})
        self._tell(rows[-1])

    def _solved(self, block: Block, layer: str, inputs: Folds | InputNorms, goal: LayerGoal) -> tuple[Any, LayerReport]:
        """Solve a layer and give it its new weights, as they will be stored; return the value and the report."""
        linear = block.module.get_submodule(layer)
        tensors, row = self._solution(f"{block.name}.{layer}", weight_of(linear).detach(), inputs, goal)
        replace_weight(linear, tensors["new"])
        return tensors["value"].numpy(), row

    def _solution(
        self, name: str, old: torch.Tensor, inputs: Folds | InputNorms, goal: LayerGoal
    ) -> tuple[dict[str, torch.Tensor], LayerReport]:
        """Return the value and the new weights of a layer, as they will be stored, and the report."""
        options = self.options
        weight = old.double().cpu().numpy()
        dtype = stored_dtype(old, self._declared)
        solved: Any = None
        if isinstance(inputs, InputNorms):
            solved = solve_by_norms(name, weight, inputs, self.method, goal, self.step)
        elif distributed.rank_and_size()[0] == 0:
            hessian, damping = mean_of(inputs), float(options.damping or 0.0)
            rho = options.shrinkage or 0.0
            if rho == AUTO:
                rho = chosen_shrinkage(weight, inputs, goal, damping, seed=self.seed)
            given: dict[str, float] = {"damping": damping, "shrinkage": float(rho)}
            if options.refit and solves(old.device, self.method, goal):
                solved = solve_on_device(name, weight, hessian, self.method, goal, **given, device=old.device)
            else:
                solved = solve_layer(
                    name, weight, hessian, self.method, goal, **given, refit=options.refit, seed=self.seed
                )
            value, new, row = solved
            if dtype != old.dtype:
                new = torch.from_numpy(new).to(dtype).double().numpy()
                row = replace(row, error=relative_error(weight, new, hessian))
            solved = value, new, row
        tensors, record = None, None
        if solved is not None:
            tensors = {"value": torch.from_numpy(np.asarray(solved[0])), "new": torch.from_numpy(solved[1])}
            record = solved[2].to_dict()
        tensors, record = distributed.from_first(tensors, record)
        return tensors, report_from(record)

    def _done(self, block: Block, name: str, changed: list[str], row: LayerReport) -> None:
        self.report.append(row)
        self._keep(block, name, changed, row.to_dict())
        self._tell(row)

    def _repaired(self, block: Block, dense: Block | None) -> None:
        """Repair a block that is pruned; ``dense`` is the block as it was."""
        if self._dense is None or self.repair is None or dense is None:
            return
        self._dense.advance(dense)
        name = f"{block.name}.repair"
        row = self._restored(block, name)
        if row is None:
            found = repair_block(
                block, self.stream, self._dense, self._weights, self.repair, seed=self.seed, declared=self._declared
            )
            self._keep(block, name, list(block.layers), found.to_dict())
            self.repairs.append(found)
        else:
            self.repairs.append(RepairReport(**row))

    def _keep(self, block: Block, name: str, changed: Sequence[str], row: dict[str, Any]) -> None:
        """Write a step to the journal: the layers that it changed, and its record."""
        if self.journal is None:
            return
        tensors = {}
        for layer in changed:
            linear: Any = block.module.get_submodule(layer)
            tensors[f"{layer}.weight"] = weight_of(linear).detach().cpu()
            if linear.bias is not None:
                tensors[f"{layer}.bias"] = linear.bias.detach().cpu()
        self.journal.append(name, tensors, row)

    def _restored(self, block: Block, name: str) -> dict[str, Any] | None:
        """Give a block what a step of the journal made of it, and return its record; None where it is still to do."""
        step = None if self.journal is None else self.journal.replay(name)
        tensors, row = distributed.from_first(*(step or (None, None)))
        if row is None:
            return None
        if row.get("unit") == EXPERTS and block.experts is not None:
            restore_experts(block.experts, {n.removeprefix(f"{block.experts.name}."): t for n, t in tensors.items()})
            self.report += [report_from(r) for r in row["rows"]]
            self._tell(self.report[-1])
            return dict(row)
        for key, tensor in tensors.items():
            layer, what = key.rsplit(".", 1)
            if what == "weight":
                replace_weight(block.module.get_submodule(layer), tensor, tensors.get(f"{layer}.bias"))
        for attention in block.attentions:
            whose = name == f"{block.name}.{block.layer_of(attention)}"
            fit_attention(attention, row["gone"] if whose and row.get("unit") == "head group" else ())
        found: dict[str, Any] = row
        return found

    def _replayed(self, block: Block, name: str) -> bool:
        row = self._restored(block, name)
        if row is None:
            return False
        self.report.append(report_from(row))
        self._tell(self.report[-1])
        return True

    def _tell(self, row: LayerReport) -> None:
        if self.options.progress is not None:
            self.options.progress(len(self.report), self.n_layers, row)

"""Errors of pruned layers, computed again from the model before, the model after, and the calibration."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.core.solution import CertificateError
from prunopt.networks.transformers.calibration import Activations, Calibration
from prunopt.networks.transformers.families import Block, blocks, replace_weight, weight_of
from prunopt.networks.transformers.output_repair import output_divergence
from prunopt.networks.transformers.repair import BlockRepair
from prunopt.networks.transformers.scored import SAMPLED_SAID, step_of
from prunopt.networks.transformers.surgery import group_columns, remove_groups


def recomputed_errors(
    original: nn.Module, pruned: nn.Module, tokens: Calibration, manifest: dict[str, Any]
) -> Iterator[tuple[str, float, float]]:
    r"""Yield the name of each pruned layer, :math:`\|(W - W') X\|^2 / \|W X\|^2`, and what the manifest says of it.

    X are the inputs of the layer in the model whose earlier layers are pruned, as when it was solved; of W', columns
    that were removed are 0.
    """
    rows = {row["name"]: row for row in manifest["report"]}
    # published weights come with errors on some of the tokens: their rows say so
    some = any(SAMPLED_SAID in row["message"] for row in manifest["report"])
    stream = Activations(pruned, blocks(pruned), tokens)
    step = step_of(stream.calibration) if some else 1
    for dense, block in zip(blocks(original), blocks(pruned), strict=True):
        work = copy.deepcopy(dense)  # becomes the pruned block, layer by layer
        for stage in work.stages:
            if not any(f"{block.name}.{layer}" in rows for layer in stage):
                continue
            hessian = stream.hessians(work, stage[:1], step)[stage[0]]
            for layer in stage:
                row = rows.get(f"{block.name}.{layer}")
                if row is None:
                    continue
                before = _weight(work, layer)
                after = _after(work, block, layer, row, before.shape)
                change = before - after
                yield row["name"], _energy(change, hessian) / _energy(before, hessian), row["error"]
            for layer in stage:
                _carry(work, block, layer, rows.get(f"{block.name}.{layer}"))
        stream.advance(block)


def recomputed_repairs(
    original: nn.Module, pruned: nn.Module, tokens: Calibration, manifest: dict[str, Any]
) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each repaired block, the relative error of its outputs, and what the manifest says of it."""
    options, claims = manifest["options"], {row["name"]: row["after"] for row in manifest["repair"]}
    try:
        held = BlockRepair(**options["repair"]).windows_held_out(len(tokens.windows), int(options["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CertificateError(f"the manifest does not say how blocks were repaired ({error})") from None
    weights = tokens.row_weights()
    before, after = Activations(original, blocks(original), tokens), Activations(pruned, blocks(pruned), tokens)
    for dense, block in zip(blocks(original), blocks(pruned), strict=True):
        before.advance(dense)
        after.advance(block)
        if block.name not in claims:
            raise CertificateError(f"{block.name}: the manifest claims no repair of it")
        total = 0.0
        for k in held:
            out, target = after.window(k).double(), before.window(k).double()
            total += float(((out - target).square().sum(-1) / target.square().sum(-1) * weights[k]).sum())
        yield block.name, total / float(weights[held].sum()), claims[block.name]


def recomputed_outputs(
    original: nn.Module, pruned: nn.Module, tokens: Calibration, manifest: dict[str, Any]
) -> Iterator[tuple[str, float, float]]:
    """Yield how far the repaired model's outputs are from the original's, and what the manifest says of it."""
    yield "outputs", output_divergence(pruned, original, tokens), manifest["output_repair"]["calibration"]


def _energy(weight: Floats, hessian: Floats) -> float:
    return float(np.vdot(weight @ hessian, weight))


def _weight(block: Block, layer: str) -> Floats:
    weight: Floats = weight_of(block.module.get_submodule(layer)).detach().double().cpu().numpy()
    return weight


def _after(work: Block, block: Block, layer: str, row: dict[str, Any], shape: tuple[int, ...]) -> Floats:
    """Return the pruned weights in the shape of the dense ones, removed columns 0."""
    new = _weight(block, layer)
    if row["unit"] == "weight":
        return new
    units = _columns(work, layer, row)
    gone = np.concatenate([units[k] for k in row["gone"]]) if row["gone"] else np.zeros(0, np.int64)
    kept = np.setdiff1d(np.arange(shape[1]), gone)
    if len(kept) != new.shape[1]:
        raise CertificateError(f"{row['name']}: {len(kept)} columns stay by the manifest, {new.shape[1]} are there")
    out = np.zeros(shape)
    out[:, kept] = new
    return out


def _columns(work: Block, layer: str, row: dict[str, Any]) -> list[NDArray[np.int64]]:
    if row["unit"] == "neuron":
        assert work.feed_forward is not None
        return list(np.arange(work.feed_forward.width)[:, None])
    return group_columns(work.attention_before(layer))


def _carry(work: Block, block: Block, layer: str, row: dict[str, Any] | None) -> None:
    """Bring the pruned layer into the working block."""
    if row is None or row["unit"] == "neuron":  # neurons go last: nothing of the block comes after them
        return
    if row["unit"] == "head group":
        remove_groups(work.attention_before(layer), row["gone"])
    replace_weight(work.module.get_submodule(layer), torch.from_numpy(_weight(block, layer)))

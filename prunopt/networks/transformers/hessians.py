"""Second moments of the inputs of a transformer's linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import blocks


@torch.no_grad()
def calibrate(model: nn.Module, calibration: Any, *, layers: Sequence[str] | None = None) -> dict[str, Floats]:
    r"""Return :math:`H = E[x x^T]` over the tokens entering each linear layer of a transformer's blocks.

    One pass over the blocks, whose activations are held one block at a time; products in single precision, sums in
    double; padding does not count. A Hessian makes a problem of a layer: ``LayerReconstruction(weight, hessian, ...)``.

    Parameters
    ----------
    model, calibration
        As of `prune_transformer`; the model is not changed.
    layers
        Names of modules, such as ``"model.layers.3.mlp.down_proj"``. None: all of them, d x d numbers each.

    Returns
    -------
    dict
        (in, in) arrays by name. Layers of the same input (query, key and value; gate and up) share one array.

    Raises
    ------
    ValueError
        If a name is not a linear layer of a block, the calibration is empty, or activations are not finite.
    """
    tokens, found = as_calibration(calibration), blocks(model)
    known = {f"{b.name}.{n}" for b in found for n in b.layers}
    wanted = known if layers is None else set(layers)
    for name in sorted(wanted - known):
        validate.refuse("layers", "name linear layers of blocks", name, f"such as {', '.join(sorted(known)[:7])}")
    asked_of = [k for k, b in enumerate(found) if any(f"{b.name}.{n}" in wanted for n in b.layers)]
    found = found[: max(asked_of, default=0) + 1]
    out: dict[str, Floats] = {}
    stream = Activations(model, found, tokens)
    try:
        for block in found:
            for stage in block.stages:
                asked = [n for n in stage if f"{block.name}.{n}" in wanted]
                if asked:
                    moment = stream.hessians(block, asked[:1])[asked[0]]
                    out |= {f"{block.name}.{n}": moment for n in asked}
            if len(out) == len(wanted):
                break
            stream.advance(block)
    finally:
        stream.close()
    return out

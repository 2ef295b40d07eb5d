"""Removing heads for good, re-solving what is left, and saving the result."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from prunopt.core import validate
from prunopt.core.arrays import Bools, Floats
from prunopt.core.files import write_atomically
from prunopt.networks.cnn.watching import set_module
from prunopt.networks.heads.gates import as_kept
from prunopt.networks.heads.layers import HeadLayer, head_layers
from prunopt.networks.heads.losses import Batch
from prunopt.networks.heads.multihead import SeparateAttention
from prunopt.networks.io.journal import model_digest
from prunopt.networks.transformers.families import Attention, blocks, replace_weight, weight_of
from prunopt.networks.transformers.layer import LayerReport
from prunopt.networks.transformers.result import PruneResult
from prunopt.networks.transformers.stock_configs import write_config
from prunopt.networks.transformers.surgery import note_shapes, remove_groups


class _Stop(Exception):
    """Leaves a pass whose rest is of no interest."""


def remove_heads(model: nn.Module, kept: ArrayLike) -> None:
    """Remove heads from a model, in place: query, key, value and output shrink, layers may differ and lose all heads.

    A `torch.nn.MultiheadAttention` becomes a `SeparateAttention`.

    Parameters
    ----------
    kept : (heads,) bool
        Layer after layer. Query heads that share a key-value head go together, else ValueError.
    """
    for k, (layer, mine) in enumerate(_split(model, kept)):
        removed = _removed_groups(layer, mine, k)
        _cut(model, layer, removed)


def _split(model: nn.Module, kept: ArrayLike) -> list[tuple[HeadLayer, Bools]]:
    layers = head_layers(model)
    flags = as_kept(kept, [layer.n_heads for layer in layers])
    ends = np.cumsum([layer.n_heads for layer in layers])
    return [(layer, flags[end - layer.n_heads : end]) for layer, end in zip(layers, ends, strict=True)]


def _removed_groups(layer: HeadLayer, mine: Bools, k: int) -> list[int]:
    groups = mine.reshape(layer.n_groups, -1) if layer.n_groups else mine.reshape(0, 1)
    split = np.flatnonzero(groups.any(axis=1) != groups.all(axis=1))
    together = f"keep or remove all {layer.heads_per_group} query heads that share a key-value head"
    part = validate.Shown(f"a part of group {split[0]} of layer {k}" if len(split) else "")
    validate.require(not len(split), "kept", together, part)
    return [int(g) for g in np.flatnonzero(~groups.any(axis=1))]


def _cut(model: nn.Module, layer: HeadLayer, removed: list[int]) -> None:
    if layer.attention is not None:
        if removed:
            remove_groups(layer.attention, removed)
        return
    module = _separated(model, layer)
    keep = [h for h in range(layer.n_heads) if h not in removed]
    rows = torch.tensor([h * layer.head_dim + i for h in keep for i in range(layer.head_dim)], dtype=torch.long)
    with torch.no_grad():
        for linear in (module.query, module.key, module.value):
            linear.weight = nn.Parameter(linear.weight[rows].clone())
            if linear.bias is not None:
                linear.bias = nn.Parameter(linear.bias[rows].clone())
            linear.out_features = len(rows)
        module.output.weight = nn.Parameter(module.output.weight[:, rows].clone())
    module.output.in_features, module.num_heads = len(rows), len(keep)


def _separated(model: nn.Module, layer: HeadLayer) -> SeparateAttention:
    """Return the layer's attention with its projections apart, put into the model where it is not there yet."""
    current = model.get_submodule(layer.name) if layer.name else model
    if isinstance(current, SeparateAttention):
        return current
    if not isinstance(current, nn.MultiheadAttention):
        raise validate.invalid(layer.name, "still be a MultiheadAttention", validate.Shown(type(current).__name__))
    validate.require(layer.name, "model", "hold its MultiheadAttention inside another module", current, "wrap it")
    new = SeparateAttention.of(current)
    set_module(model, layer.name, new)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return new


def prune_heads(
    model: nn.Module,
    kept: ArrayLike,
    *,
    batches: Sequence[Batch] | None = None,
    repair: bool = False,
    damping: float = 1e-3,
    in_place: bool = False,
    objective: float = float("nan"),
    method: str = "",
    seed: int = 0,
) -> PruneResult:
    r"""Remove heads for good, and (with ``repair``) re-solve each output projection for what is left.

    The repair goes through the layers in order. With X the heads' outputs of a layer, all heads there, on the inputs
    it has once the layers before it are pruned and repaired, and S the columns that stay,

    .. math:: \min_{W', b'} \sum_x \|W x + b - W' x_S - b'\|^2 + \lambda \|W' - W_S\|^2

    Without a bias the model's own form is kept: b' is left out.

    Parameters
    ----------
    model
        See `head_gates`.
    kept : (heads,) bool
        Layer after layer.
    batches
        What the repair looks at; needed for it.
    damping
        :math:`\lambda` as a multiple of the mean square of X's entries times the number of tokens.
    in_place
        Change the given model instead of a copy.
    objective, method
        Of the selection, for the report.

    Returns
    -------
    PruneResult
        ``save(folder)`` and `prunopt.networks.load` for transformers models. For others: a state dict, loaded into a
        model of the original shape after `remove_heads`. ``notes`` say
        what the repair did.
    """
    validate.require(batches or not repair, "batches", "hold at least one Batch for the repair", batches)
    validate.number("damping", damping, low=0)
    digests = {"model": model_digest(model), "calibration": ""}
    total = _parameters(model)
    pruned = model if in_place else copy.deepcopy(model)
    pruned.eval()
    flags = as_kept(kept, [layer.n_heads for layer in head_layers(pruned)])
    parts = _split(pruned, flags)
    rows, notes = [], []
    for k, (layer, mine) in enumerate(parts):
        removed = _removed_groups(layer, mine, k)
        error = float("nan")
        if repair and removed and batches:
            before, error = _repaired(pruned, layer, mine, batches, damping)
            notes.append(f"{layer.name}: error {before:.4f} without, {error:.4f} with the repair")
        _cut(pruned, layer, removed)
        rows.append(
            LayerReport(
                layer.name,
                method,
                "heads",
                int(mine.sum()),
                layer.n_heads,
                error,
                objective,
                -np.inf,
                np.inf,
                damping if repair else 0.0,
                (),
                repair,
                0.0,
                "",
            )
        )
    known = any(layer.attention is not None for layer, _ in parts)
    stock = known and write_config(pruned, blocks(pruned))
    left = _parameters(pruned)
    options = {
        "pattern": None,
        "units": ["heads"],
        "kept": flags.tolist(),
        "repair": repair,
        "damping": damping,
        "method": method,
        "seed": seed,
    }
    return PruneResult(pruned, tuple(rows), total - left, total - left, total, stock, options, tuple(notes), digests)


def _parameters(model: nn.Module) -> int:
    """Parameters of the blocks' linear layers; of the attention alone in models that have no known blocks."""
    layers = head_layers(model)
    if any(layer.attention is not None for layer in layers):
        found = blocks(model)
        listed = [b.module.get_submodule(n) for b in found for n in b.layers]
        if listed:
            return sum(p.numel() for module in listed for p in module.parameters())
    return sum(p.numel() for layer in layers for p in layer.module.parameters())


@torch.no_grad()
def _repaired(
    model: nn.Module, layer: HeadLayer, mine: Bools, batches: Sequence[Batch], damping: float
) -> tuple[float, float]:
    """Re-solve the output projection in place: the columns of removed heads become 0.

    Returns ||Y - Y'||^2 / ||Y - mean Y||^2 of the layer's outputs with heads removed, before and after the repair, on
    its inputs in the model whose earlier layers are pruned and repaired.
    """
    total, cross, count = _moments(model, layer, batches)
    width = total.shape[0] - 1
    keep = np.repeat(mine, layer.head_dim)
    projection = _separated(model, layer).output if layer.attention is None else layer.attention.projection
    weight = weight_of(projection).double().cpu().numpy()
    bias: Any = projection.bias
    columns = np.flatnonzero(np.append(keep, bias is not None))
    whole = np.hstack([weight, np.zeros((len(weight), 1))])
    # Outputs relative to the bias: W x, to be met by W' x_S + (b' - b).
    target = whole @ total
    ridge = damping * float(np.trace(total[:width, :width])) / max(1, width)
    normal = total[columns[:, None], columns].copy()
    prior = target[:, columns].copy()
    inner = columns < width
    normal[inner, inner] += ridge
    prior[:, inner] += ridge * whole[:, columns[inner]]
    new = np.zeros_like(whole)
    if len(columns):
        new[:, columns] = np.linalg.lstsq(normal, prior.T, rcond=None)[0].T
    masked = whole * np.append(keep, False)
    mean = cross / max(1, count)
    energy = float(np.einsum("ij,jk,ik->", whole, total, whole) - count * (weight @ mean) @ (weight @ mean))

    def error(w: Floats) -> float:
        change = whole - w
        return float(np.einsum("ij,jk,ik->", change, total, change)) / max(energy, 1e-300)

    stored: Any = projection.weight
    solved = torch.from_numpy(new[:, :width])
    stored.copy_((solved if isinstance(projection, nn.Linear) else solved.T).to(stored))
    if bias is not None:
        bias.add_(torch.from_numpy(new[:, width]).to(bias))
    return error(masked), error(new)


def _moments(model: nn.Module, layer: HeadLayer, batches: Sequence[Batch]) -> tuple[Floats, Floats, int]:
    """Sums over tokens of (x, 1)(x, 1)^T and of x, the inputs of the output projection; padding is left out."""
    width = layer.n_heads * layer.head_dim
    total, count = np.zeros((width + 1, width + 1)), 0
    mask: Tensor | None = None

    def take(context: Tensor) -> Tensor:
        nonlocal count
        flat = context.detach().reshape(-1, width)
        if mask is not None and mask.shape == context.shape[:-1]:
            flat = flat[mask.reshape(-1).bool()]
        rows = np.hstack([flat.double().cpu().numpy(), np.ones((len(flat), 1))])
        total[...] += rows.T @ rows
        count += len(rows)
        raise _Stop

    undo = layer.attach(take)
    try:
        for batch in batches:
            mask = batch.inputs.get("attention_mask") if hasattr(batch.inputs, "get") else None
            try:
                batch.run(model)
            except _Stop:
                continue
            raise validate.invalid(layer.name, "be used by the model's pass", validate.Shown("a pass without it"))
    finally:
        undo()
    return total, total[:width, width].copy(), count


def attention_parameters(model: nn.Module) -> Floats:
    """Return the parameters that go with each head, (heads,); of a key-value head, each of its heads has its share."""
    out = []
    for layer in head_layers(model):
        if layer.attention is not None:
            sizes = _per_group(layer.attention)
        else:
            module: Any = layer.module
            inputs = (
                (module.embed_dim, module.kdim, module.vdim)
                if hasattr(module, "kdim")
                else (module.query.in_features, module.key.in_features, module.value.in_features)
            )
            biased = module.out_proj.bias is not None if hasattr(module, "out_proj") else module.output.bias is not None
            outputs = module.embed_dim if hasattr(module, "embed_dim") else module.output.out_features
            sizes = layer.head_dim * (sum(inputs) + 3 * int(biased) + outputs)
        out += [sizes / layer.heads_per_group] * layer.n_heads
    return np.array(out, np.float64)


def _per_group(attention: Attention) -> float:
    names = dict.fromkeys((attention.query, attention.key, attention.value))
    total = weight_of(attention.projection).numel()
    for name in names:
        total += sum(p.numel() for p in attention.module.get_submodule(name).parameters())
    return total / max(1, attention.n_groups)


class _Plain(nn.Module):
    """A model with positional tensors in and one tensor out, for exporters."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        out = self.model(**dict(zip(self.names, tensors, strict=True))) if self.names else self.model(*tensors)
        if isinstance(out, Tensor):
            return out
        found = out.logits if getattr(out, "logits", None) is not None else out.last_hidden_state
        return cast("Tensor", found)


def export_onnx(model: nn.Module, batch: Batch, path: str | os.PathLike[str]) -> None:
    """Write a model as an ONNX file whose batch and length are free, for ONNX Runtime and others.

    A layer without heads has one head (group) of zeros in the file, since ONNX Runtime has no products over nothing.

    Parameters
    ----------
    batch
        An example of inputs; its mapping's names become those of the file's inputs.
    """
    names = list(batch.inputs) if hasattr(batch.inputs, "keys") else []
    tensors = tuple(batch.inputs[n] for n in names) if names else (batch.inputs,)
    axes = {n: {0: "batch", 1: "length"} for n in names or ["input"]} | {"output": {0: "batch"}}
    if not names:
        axes["input"] = {0: "batch"}
    # The exporter puts back the mode that the wrapper had: were that training, the model would drop out afterwards.
    plain = _Plain(_with_idle_heads(model.eval()), names).eval()
    with write_atomically(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter's notes about itself and about shapes
        torch.onnx.export(
            plain,
            tensors,
            str(temporary),
            input_names=names or ["input"],
            output_names=["output"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def _with_idle_heads(model: nn.Module) -> nn.Module:
    """Return the model, or a copy in which layers without heads have one whose weights are 0."""
    if all(layer.n_heads for layer in head_layers(model)):
        return model
    out = copy.deepcopy(model)
    for layer in head_layers(out):
        if layer.n_heads:
            continue
        module: Any = layer.module
        groups = int(getattr(module, "num_key_value_groups", 1)) if layer.attention is not None else 1
        width = layer.head_dim
        if layer.attention is None:
            query, key, value, projection = module.projections
            fused, module.num_heads = False, 1
        else:
            names = layer.attention.query, layer.attention.key, layer.attention.value
            query, key, value = (module.get_submodule(n) for n in names)
            projection, fused = layer.attention.projection, layer.attention.fused
            note_shapes(module, groups, width, 1)
        for linear, rows in ((query, 3 * width),) if fused else ((query, groups * width), (key, width), (value, width)):
            bias: Any = linear.bias
            empty = weight_of(linear)
            replace_weight(
                linear, empty.new_zeros(rows, empty.shape[1]), None if bias is None else bias.new_zeros(rows)
            )
        old = weight_of(projection)
        replace_weight(projection, old.new_zeros(old.shape[0], groups * width))
    return out

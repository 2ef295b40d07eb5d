"""Pruned models on disk: safetensors, the model's configuration, and ``prunopt.json`` with what was done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from prunopt.core.files import digest, read_json, write_json
from prunopt.networks.io.folders import FORMAT, MANIFEST, WEIGHTS, read_manifest, versions, whole_folder
from prunopt.networks.transformers._hugging_face import model_class, require_transformers
from prunopt.networks.transformers.families import blocks, is_linear, replace_weight, weight_of
from prunopt.networks.transformers.surgery import note_shapes, without_inputs

if TYPE_CHECKING:
    from prunopt.networks.transformers.pruning import PruneResult

CONFIG = "config.json"
LARGEST_MODEL, GROWTH = 2**30, 50  # bytes a configuration may ask for: so many, and so many times those of its weights


def save(result: PruneResult, folder: str | os.PathLike[str], *, tokenizer: Any = None) -> None:
    """Write a pruned transformer: all files, or none.

    ``config.json`` and ``model.safetensors`` are those of transformers; where all blocks have one shape, stock
    ``from_pretrained`` reads the folder. ``prunopt.json`` holds shapes, budget, the report of every layer, notes,
    versions, and the digests of weights, calibration and the model before.

    Raises
    ------
    ValueError
        If the folder exists and is not one that prunopt wrote.
    """
    model: Any = result.model
    with whole_folder(folder) as place:
        write_model(model, place)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
        manifest = {
            "format": FORMAT, "kind": "transformer", "stock": result.stock, "shapes": linear_shapes(model),
            "removed": result.removed, "target": result.target, "total": result.total,
            "sparsity": result.sparsity, "options": result.options, "notes": list(result.notes),
            "report": [row.to_dict() for row in result.report], "weights": digest(place / WEIGHTS),
            "before": {k: v for k, v in result.digests.items() if k != "options"}, "versions": versions(),
        }  # fmt: skip
        write_json(place / MANIFEST, manifest)


def write_model(model: nn.Module, folder: Path) -> None:
    """Write weights, tied ones once, and the configuration."""
    from safetensors.torch import save_file

    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue  # tied to one that is there already
        seen.add(place)
        state[name] = tensor.detach().cpu().contiguous()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"model: {type(model).__name__} has no config; only transformers models can be saved whole")
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def linear_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return (out, in) of every linear layer in the blocks."""
    out = {}
    for block in blocks(model):
        for name in block.layers:
            out[f"{block.name}.{name}"] = list(weight_of(block.module.get_submodule(name)).shape)
    return out


def load(folder: str | os.PathLike[str], dense: nn.Module | None = None) -> nn.Module:
    """Return a saved model: the same outputs as before saving.

    Parameters
    ----------
    folder
        Written by ``result.save``.
    dense
        For convolutional networks that prunopt has no name for: the network as it was before pruning.

    Raises
    ------
    ValueError
        If the folder was not written by `save`, or a file in it is missing, cut short or changed.
    """
    place, manifest = Path(folder), read_manifest(folder)
    if manifest.get("kind") == "cnn":
        from prunopt.networks.cnn.checkpoints import load_cnn

        return load_cnn(folder, dense)
    for name in (WEIGHTS, CONFIG):
        if not (place / name).is_file():
            raise ValueError(f"{place}: {name} is missing; the checkpoint is not whole")
    if digest(place / WEIGHTS) != manifest.get("weights"):
        raise ValueError(f"{place / WEIGHTS}: not the file that {MANIFEST} describes; cut short or changed")
    transformers = require_transformers()
    raw = read_json(place / CONFIG)
    try:
        _check_depth(raw, place / WEIGHTS)
        config = transformers.AutoConfig.for_model(**raw)
        with torch.device("meta"):  # its size is known before memory is asked for
            size = 4 * sum(p.numel() for p in model_class(raw)(config).parameters())
        if size > LARGEST_MODEL + GROWTH * (place / WEIGHTS).stat().st_size:
            raise ValueError(f"it asks for {size} bytes, {WEIGHTS} has {(place / WEIGHTS).stat().st_size}")
        model = model_class(raw)(config)
    except OSError:
        raise
    except Exception as error:  # a configuration decides what transformers does: it may raise anything
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{place / CONFIG}: no configuration of a model ({type(error).__name__}: {reason})") from None
    _give_shapes(model, manifest.get("shapes"), place / MANIFEST)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(place / WEIGHTS)
        absent, unknown = model.load_state_dict(state, strict=False)
        model.tie_weights()
        there = {t.data_ptr() for n, t in model.state_dict().items() if n in state}
        untied = [n for n in absent if model.state_dict()[n].data_ptr() not in there]
        if unknown or untied:
            raise RuntimeError(f"missing {untied[:3]}, unexpected {unknown[:3]}")
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{place / WEIGHTS}: does not fit the model: {str(error).splitlines()[0]}") from None
    return cast("nn.Module", model.eval())


def _check_depth(raw: Any, weights: Path) -> None:
    """Refuse a configuration with more layers than there are tensors: it would be built layer by layer."""
    with open(weights, "rb") as file:
        head = file.read(8)
    if len(head) < 8 or not 2 <= int.from_bytes(head, "little") <= weights.stat().st_size - 8:
        raise ValueError(f"{weights.name} is cut short")
    if not isinstance(raw, dict):
        raise ValueError("an object is needed")
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        # a tensor takes dozens of bytes of the header, so its length bounds their number
        if isinstance(raw.get(name), int | float) and raw[name] > int.from_bytes(head, "little") / 16:
            raise ValueError(f"{name}={raw[name]}, more than {weights.name} has tensors")


def _give_shapes(model: nn.Module, shapes: Any, path: Path) -> None:
    """Cut the linear layers down to the manifest's shapes; none may grow."""
    known = linear_shapes(model)
    if not isinstance(shapes, dict) or set(shapes) != set(known):
        raise ValueError(f"{path}: its shapes are not those of the model's linear layers")
    for block in blocks(model):
        for name in block.layers:
            place, layer = f"{block.name}.{name}", block.module.get_submodule(name)
            given, dense = shapes[place], known[place]
            fits = isinstance(given, list) and len(given) == 2 and all(type(n) is int for n in given)
            if not fits or any(not 0 <= n <= m for n, m in zip(given, dense, strict=True)):
                raise ValueError(f"{path}: shape {given!r} of {place}; two numbers up to {dense} are needed")
            if not is_linear(layer) or given == dense:
                continue
            bias: Any = layer.bias
            replace_weight(layer, torch.zeros(given), None if bias is None else torch.zeros(given[0]))
        if block.attention is not None:
            without_inputs(block.attention)
            width = weight_of(block.attention.projection).shape[1]
            note_shapes(block.attention.module, width // block.attention.head_dim, block.attention.head_dim)

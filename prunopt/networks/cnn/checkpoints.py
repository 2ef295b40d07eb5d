"""Pruned convolutional networks on disk: safetensors, and ``prunopt.json`` with the shapes to be rebuilt."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.files import digest, write_json
from prunopt.networks.cnn._tracing import is_layer_norm
from prunopt.networks.cnn.dropped_branches import description, from_description
from prunopt.networks.cnn.models import read_cnn
from prunopt.networks.cnn.surgery import norm_width, resize_norm
from prunopt.networks.cnn.watching import CARRIERS, CONVOLUTIONS, set_module
from prunopt.networks.cnn.weights import with_plain_weights
from prunopt.networks.cnn.windowed_conv import Window, WindowedConv2d
from prunopt.networks.io.folders import MANIFEST, WEIGHTS, read_manifest, versions, whole_folder


def save_cnn(
    model: nn.Module, folder: str | os.PathLike[str], *, dense: str | None = None, report: dict[str, Any] | None = None
) -> None:
    """Write a pruned network: all files, or none.

    Parameters
    ----------
    dense
        Name of the network that was pruned, if `read_cnn` knows it: then `load_cnn` needs nothing else.
    report
        What was done, as JSON.
    """
    from safetensors.torch import save_file

    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    layers = {name: _shape(m) for name, m in model.named_modules() if _has_shape(m)}
    with whole_folder(folder) as place:
        save_file(state, place / WEIGHTS, metadata={"format": "pt"})
        manifest = {
            "format": 1,
            "kind": "cnn",
            "dense": dense,
            "layers": layers,
            "report": report or {},
            "weights": digest(place / WEIGHTS),
            "versions": versions(),
        }
        write_json(place / MANIFEST, manifest)


def load_cnn(folder: str | os.PathLike[str], dense: nn.Module | None = None) -> nn.Module:
    """Return a saved network: the same outputs as before saving.

    Parameters
    ----------
    dense
        The network as it was before pruning (its weights do not matter); None where it is one that `read_cnn` knows.

    Raises
    ------
    ValueError
        If the folder was not written by `save_cnn`, a file was changed, or ``dense`` is another network.
    """
    from safetensors.torch import load_file

    place, manifest = Path(folder), read_manifest(folder)
    kind = validate.Shown(f"a {manifest.get('kind')} in {folder}")
    validate.require(manifest.get("kind") == "cnn", "folder", "hold a convolutional network", kind)
    whole = (place / WEIGHTS).is_file() and digest(place / WEIGHTS) == manifest.get("weights")
    validate.require(whole, f"{place / WEIGHTS}", f"be the file that {MANIFEST} describes", validate.Shown("another"))
    named = dense is not None or manifest.get("dense") is not None
    validate.require(named, "dense", "be the network as it was before pruning, for it was saved without a name", None)
    model = read_cnn(str(manifest["dense"])) if dense is None else copy.deepcopy(with_plain_weights(dense)[0])
    state = load_file(place / WEIGHTS)
    modules = dict(model.named_modules())
    for name, shape in manifest["layers"].items():
        fits = name in modules and _has_shape(modules[name])
        validate.require(fits, "dense", "be the network that was pruned", validate.Shown(f"one without {name}"))
        _reshape(model, name, shape)
    _resized(model, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise validate.invalid("dense", "be the network that was pruned", str(error).splitlines()[0]) from None
    return model.eval()


def _has_shape(module: nn.Module) -> bool:
    known = isinstance(module, (*CONVOLUTIONS, nn.Linear, *CARRIERS)) or is_layer_norm(module)
    return known or description(module) is not None


def _shape(module: Any) -> dict[str, Any]:
    dropped = description(module)
    if dropped is not None:
        return dropped
    if isinstance(module, CONVOLUTIONS):
        shape: dict[str, Any] = {
            "in": module.in_channels,
            "out": module.out_channels,
            "groups": module.groups,
            "bias": module.bias is not None,
        }
        if isinstance(module, WindowedConv2d):
            w = module.window
            shape["window"] = [w.top, w.bottom, w.left, w.right]
        return shape
    if isinstance(module, nn.Linear):
        return {"in": module.in_features, "out": module.out_features, "bias": module.bias is not None}
    return {"features": norm_width(module)}


def _reshape(model: nn.Module, name: str, shape: dict[str, Any]) -> None:
    module: Any = model.get_submodule(name)
    if "dropped" in shape:
        set_module(model, name, from_description(shape))
        return
    if "window" in shape and not isinstance(module, WindowedConv2d):
        module = WindowedConv2d(module, Window(*map(int, shape["window"])))
        set_module(model, name, module)
    if isinstance(module, CONVOLUTIONS):
        module.in_channels, module.out_channels, module.groups = shape["in"], shape["out"], shape["groups"]
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = shape["in"], shape["out"]
    else:
        resize_norm(module, int(shape["features"]))
    if shape.get("bias") and module.bias is None:
        module.bias = nn.Parameter(torch.zeros(shape["out"]))


def _resized(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give parameters and buffers the shapes that were saved; what is shared stays shared."""
    done: dict[int, tuple[Any, Any]] = {}
    for name, saved in state.items():
        where, _, part = name.rpartition(".")
        try:
            module = model.get_submodule(where)
        except AttributeError:  # load_state_dict says so
            continue
        old = getattr(module, part, None)
        if not isinstance(old, torch.Tensor) or old.shape == saved.shape:
            continue
        if id(old) not in done:
            new = saved.clone().to(old.dtype)
            done[id(old)] = old, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        setattr(module, part, done[id(old)][1])

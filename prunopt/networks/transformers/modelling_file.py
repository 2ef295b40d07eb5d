"""A modeling file beside a model whose blocks differ in shape, so that transformers loads it without prunopt."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunopt.core.files import read_json, write_json, write_text
from prunopt.core.solution import CertificateError
from prunopt.networks.transformers._hugging_face import require_transformers

FILE, KEY = "modeling_pruned.py", "pruned_shapes"  # the file, and where the configuration has the shapes
AUTO = (  # how names of classes end, and what loads such a class
    (("ForCausalLM", "LMHeadModel"), "AutoModelForCausalLM"),
    (("ForMaskedLM",), "AutoModelForMaskedLM"),
    (("ForSequenceClassification",), "AutoModelForSequenceClassification"),
    (("ForImageTextToText", "ForConditionalGeneration"), "AutoModelForImageTextToText"),
)
TEXT = '''\
"""{base} with blocks of differing shapes. It needs torch and transformers; the shapes are in config.json."""

import copy

from torch import nn
from transformers import {base}


class Pruned{base}({base}):
    """{base}, cut to the shapes that its configuration lists under ``{key}``."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        shapes = config.{key}
        for path, (inputs, outputs, bias) in shapes["layers"].items():
            owner, _, name = path.rpartition(".")
            setattr(self.get_submodule(owner), name, nn.Linear(inputs, outputs, bias=bias))
        for path, shape in shapes["parameters"].items():
            owner, _, name = path.rpartition(".")
            module = self.get_submodule(owner)
            old = getattr(module, name)
            part = old.detach()[tuple(slice(n) for n in shape)].clone()
            setattr(module, name, nn.Parameter(part, requires_grad=old.requires_grad))
        for path, values in shapes["attributes"].items():
            module = self.get_submodule(path)
            for name, value in values.items():
                if name == "config":
                    module.config = copy.copy(module.config)
                    for key, number in value.items():
                        setattr(module.config, key, number)
                else:
                    setattr(module, name, value)
'''


def modelling_text(base: str) -> str:
    """Return the file for a class of transformers."""
    return TEXT.format(base=base, key=KEY)


def auto_class(base: str) -> str:
    """Return the automatic class of transformers that loads such a class."""
    return next((auto for ends, auto in AUTO if base.endswith(ends)), "AutoModel")


def is_stock_class(model: nn.Module) -> bool:
    """Whether the class of a model is one of transformers, so that a file can import it."""
    kind = type(model)
    return getattr(require_transformers(), kind.__name__, None) is kind and hasattr(model, "config")


def shapes_of(model: Any) -> dict[str, dict[str, Any]]:
    """Return in what a model differs from the one that its class builds from its configuration.

    Returns
    -------
    dict
        ``parameters``: shapes by name, each a leading part of the stock one; ``attributes``: numbers that modules hold,
        and of configurations of their own; ``layers``: linear layers in the place of other ones, (inputs, outputs,
        bias).
    """
    with torch.device("meta"):
        stock: Any = type(model)(copy.deepcopy(model.config))
    layers: dict[str, list[Any]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    theirs = dict(stock.named_modules())
    for path, module in model.named_modules():
        other = theirs[path]
        if type(other) is not type(module):
            layers[path] = [module.in_features, module.out_features, module.bias is not None]
            continue
        found = _changed(vars(module), vars(other))
        config = getattr(module, "config", None)
        if path and config is not None and config is not model.config:
            inner = _changed(vars(config), vars(other.config))
            found |= {"config": inner} if inner else {}
        if found:
            attributes[path] = found
    before, parameters = {name: p.shape for name, p in stock.named_parameters(remove_duplicate=False)}, {}
    for name, p in model.named_parameters():
        if name.rpartition(".")[0] not in layers and p.shape != before[name]:
            parameters[name] = list(p.shape)
    return {"parameters": parameters, "attributes": attributes, "layers": layers}


def _changed(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return public numbers, and lists of numbers, that differ."""
    out = {}
    for name, value in mine.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        plain = not name.startswith("_") and name != "training" and all(type(n) is int for n in numbers)
        if plain and name in other and value != other[name]:
            out[name] = list(numbers) if isinstance(value, list | tuple) else value
    return out


def write_modelling_file(model: nn.Module, folder: Path) -> bool:
    """Complete a saved folder for ``trust_remote_code``; False where the model's class is not one of transformers."""
    if not is_stock_class(model):
        return False
    base, path = type(model).__name__, folder / "config.json"
    name = f"{Path(FILE).stem}.Pruned{base}"
    config = read_json(path)
    config["architectures"] = [f"Pruned{base}"]
    config["auto_map"] = {auto_class(base): name}
    config[KEY] = {"class": base} | shapes_of(model)
    write_json(path, config)
    write_text(folder / FILE, modelling_text(base))
    return True


def without_modelling_file(config: Any) -> Any:
    """Return a configuration as it was before the modeling file was named in it."""
    if not isinstance(config, dict) or not isinstance(config.get(KEY), dict):
        return config
    rest = {name: value for name, value in config.items() if name not in (KEY, "auto_map")}
    return rest | {"architectures": [config[KEY].get("class")]}


def check_modelling_file(folder: str | os.PathLike[str], model: nn.Module) -> str | None:
    """Compare a folder's modeling file, if there is one, with what prunopt writes; CertificateError if they differ."""
    place = Path(folder)
    config = read_json(place / "config.json")
    if KEY not in config and not (place / FILE).is_file():
        return None
    base = type(model).__name__
    if not (place / FILE).is_file() or (place / FILE).read_text("utf-8") != modelling_text(base):
        raise CertificateError(f"{FILE} is not the file that prunopt writes for {base}")
    listed = {k: v for k, v in config.get(KEY, {}).items() if k != "class"}
    if listed != json.loads(json.dumps(shapes_of(model))):
        raise CertificateError(f"{KEY} of config.json are not the shapes of the weights")
    return f"{FILE} is as prunopt writes it, with the shapes of the weights"

"""Pruned models on disk: safetensors, the model's configuration, and ``prunopt.json`` with what was done."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.files import read_json
from prunopt.networks.io.folders import MANIFEST, WEIGHTS, read_manifest
from prunopt.networks.io.shards import TensorFiles, digests, weight_files, write_index
from prunopt.networks.transformers._hugging_face import model_class, require_transformers
from prunopt.networks.transformers.expert_surgery import keep_experts, keep_neurons
from prunopt.networks.transformers.families import blocks, is_linear, replace_weight, weight_of
from prunopt.networks.transformers.modelling_file import without_modelling_file
from prunopt.networks.transformers.number_formats import as_dtype, most_common, stored_dtype
from prunopt.networks.transformers.surgery import fit_attention

CONFIG, GENERATION = "config.json", "generation_config.json"
FORMATS = ("float32", "bfloat16", "float16", "float64")  # that a manifest may name
LARGEST_MODEL, GROWTH = 2**30, 50  # bytes a configuration may ask for: so many, and so many times those of its weights


def write_model(model: nn.Module, folder: Path, like: str | os.PathLike[str] | None = None) -> None:
    """Write weights, tied ones once, and the configurations; each tensor in the format of its checkpoint.

    ``like`` is a folder in whose files, by their names, the tensors of these names are; one file where there is none.
    """
    from safetensors.torch import save_file

    if not hasattr(model, "config"):
        kind = validate.Shown(type(model).__name__)
        raise validate.invalid("model", "have a config, as models of transformers do, to be saved whole", kind)
    config: Any = model.config
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue  # tied to one that is there already
        seen.add(place)
        state[name] = tensor.detach().cpu().to(stored_dtype(tensor, config.dtype)).contiguous()
    known = {} if like is None else {name: file.name for name, file in TensorFiles(like).files.items()}
    last = max(known.values(), default=WEIGHTS)  # of a tensor that has another name there
    files = {name: known.get(name, last) if len(set(known.values())) > 1 else WEIGHTS for name in state}
    for file in sorted(set(files.values())):
        part = {name: tensor for name, tensor in state.items() if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    write_index(folder, files, sum(t.numel() * t.itemsize for t in state.values()))
    write_configs(model, folder, most_common(state))


def write_configs(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write the configuration of a model, with the number format of its weights, and that of its generation."""
    config: Any = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], dtype
    config.save_pretrained(folder)
    generation: Any = getattr(model, "generation_config", None)
    if generation is not None:
        generation.to_json_file(folder / GENERATION)  # as it came: what `save_pretrained` would refuse, others read


def linear_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return (out, in) of every linear layer in the blocks; of experts, how many and their neurons."""
    out = {}
    for block in blocks(model):
        for name in block.layers:
            out[f"{block.name}.{name}"] = list(weight_of(block.module.get_submodule(name)).shape)
        if block.experts is not None:
            out[f"{block.name}.{block.experts.name}.experts"] = [block.experts.count, block.experts.width]
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
    files = weight_files(place)
    validate.require((place / CONFIG).is_file(), str(place), f"hold {CONFIG}", validate.Shown("none"))
    same, changed = digests(place) == manifest.get("weights"), validate.Shown("one cut short or changed")
    validate.require(same, str(files[0]), f"be the file that {MANIFEST} describes", changed)
    kind = validate.one_of(f"dtype of {place / MANIFEST}", manifest.get("dtype", "float32"), (*FORMATS, None))
    transformers = require_transformers()
    raw = without_modelling_file(read_json(place / CONFIG))
    try:
        _check_depth(raw, files)
        config = transformers.AutoConfig.for_model(**raw)
        with torch.device("meta"):  # its size is known before memory is asked for
            size = 4 * sum(p.numel() for p in model_class(raw)(config).parameters())
        if size > LARGEST_MODEL + GROWTH * sum(f.stat().st_size for f in files):
            validate.refuse("size", "be about that of its weights", validate.Shown(f"{size:,} bytes"))
        model = model_class(raw)(config)
        if (place / GENERATION).is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(place, local_files_only=True)
    except OSError:
        raise
    except Exception as error:  # a configuration decides what transformers does: it may raise anything
        reason = " ".join(str(error).split())[:300]
        what = validate.Shown(type(error).__name__)
        raise validate.invalid(str(place / CONFIG), "be the configuration of a model", what, reason) from None
    _give_shapes(model, manifest.get("shapes"), place / MANIFEST)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = {name: tensor for file in files for name, tensor in load_file(file).items()}
        for name, weight in model.named_parameters():
            weight.data = weight.data.to(as_dtype(kind) or state[name].dtype if name in state else weight.dtype)
        absent, unknown = model.load_state_dict(state, strict=False)
        model.tie_weights()
        there = {t.data_ptr() for n, t in model.state_dict().items() if n in state}
        untied = [n for n in absent if model.state_dict()[n].data_ptr() not in there]
        if unknown or untied:
            raise RuntimeError(f"missing {untied[:3]}, unexpected {unknown[:3]}")
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise validate.invalid(str(files[0]), "fit the model", validate.Shown("others"), reason) from None
    return cast("nn.Module", model.eval())


def _check_depth(raw: Any, files: list[Path]) -> None:
    """Refuse a configuration with more layers than there are tensors: it would be built layer by layer."""
    headers = 0
    for weights in files:
        with open(weights, "rb") as file:
            head = file.read(8)
        whole = len(head) == 8 and 2 <= int.from_bytes(head, "little") <= weights.stat().st_size - 8
        validate.require(whole, weights.name, "be whole", validate.Shown("one cut short"))
        headers += int.from_bytes(head, "little")
    validate.require(isinstance(raw, dict), CONFIG, "hold an object", raw)
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        # a tensor takes dozens of bytes of the header, so its length bounds their number
        if isinstance(raw.get(name), int | float):
            fits = raw[name] <= headers / 16
            validate.require(fits, name, f"be at most the tensors of {files[0].name}", raw[name])


def _given(shapes: dict[str, Any], known: dict[str, list[int]], place: str, path: Path) -> list[int]:
    given, dense = shapes[place], known[place]
    fits = isinstance(given, list) and len(given) == 2 and all(type(n) is int for n in given)
    fits = fits and all(0 <= n <= m for n, m in zip(given, dense, strict=True))
    validate.require(fits, f"shape of {place} in {path}", f"be two numbers up to {dense}", given)
    found: list[int] = given
    return found


def _give_shapes(model: nn.Module, shapes: Any, path: Path) -> None:
    """Cut the linear layers down to the manifest's shapes; none may grow."""
    known = linear_shapes(model)
    whole = isinstance(shapes, dict) and set(shapes) == set(known)
    validate.require(whole, f"shapes of {path}", "be those of the model's linear layers", validate.Shown("others"))
    for block in blocks(model):
        if block.experts is not None:
            count, width = _given(shapes, known, f"{block.name}.{block.experts.name}.experts", path)
            keep_neurons(block.experts, torch.arange(width).expand(block.experts.count, -1))
            keep_experts(block.experts, torch.arange(count))
        for name in block.layers:
            place, layer = f"{block.name}.{name}", block.module.get_submodule(name)
            given, dense = _given(shapes, known, place, path), known[place]
            if not is_linear(layer) or given == dense:
                continue
            bias: Any = layer.bias
            replace_weight(layer, torch.zeros(given), None if bias is None else torch.zeros(given[0]))
        for attention in block.attentions:
            fit_attention(attention)

"""A model that stays in its folder: its blocks are in memory one at a time, read from the shards and written back."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from prunopt.core.validate import Shown, invalid, require
from prunopt.networks.io.folders import WEIGHTS, check_target
from prunopt.networks.io.shards import GrowingFiles, TensorFiles
from prunopt.networks.transformers._hugging_face import folder_of, model_class, require_transformers
from prunopt.networks.transformers.block_allocation import BY_SIZE
from prunopt.networks.transformers.calibration_inputs import TOKENS, two_sided
from prunopt.networks.transformers.families import Block, blocks
from prunopt.networks.transformers.number_formats import as_dtype, stored_dtype

META = torch.device("meta")
MEND = "leave streaming out: read_model(folder) reads it whole"


class StreamedModel:
    """A transformer's modules without their weights (on torch's meta device), and the folder that these come from.

    Parameters
    ----------
    folder
        A Hugging Face folder with safetensors, in one file or several.
    out
        The folder that blocks are written to, by `prunopt.networks.transformers.result.written`.
    device
        Where a block is while it is in memory.

    Raises
    ------
    ValueError
        If the folder holds no such model, or its tensors have other names than the model's.
    """

    def __init__(self, folder: Path, out: Path, device: torch.device | None = None) -> None:
        self.folder, self.out, self.device = folder, out, torch.device("cpu") if device is None else device
        self.tensors = TensorFiles(folder)
        self.model = _without_weights(self.folder)
        one = getattr(self.model, "main_input_name", TOKENS) == TOKENS and not two_sided(self.model)
        require(one, "model", "take one text to be streamed", Shown(type(self.model).__name__), MEND)
        self.blocks = blocks(self.model)
        self._sources = self._located()
        self._files: GrowingFiles | None = None
        self._leaves: Callable[[torch.Tensor], Any] | None = None
        self.last: torch.Tensor | None = None  # what the last block hands on, in place of what enters it

    def _located(self) -> dict[str, str]:
        """Return under which name the folder holds each tensor of the model."""
        prefix = f"{getattr(self.model, 'base_model_prefix', '')}."
        alias: dict[int, list[str]] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            alias.setdefault(id(p), []).append(name)
        tied = {name: names for names in alias.values() for name in names}
        out, missing = {}, []
        for name in self.model.state_dict():
            forms = [f for n in (name, *tied.get(name, ())) for f in (n, n.removeprefix(prefix), prefix + n)]
            found = next((f for f in forms if f in self.tensors), None)
            if found is None:
                missing.append(name)
            else:
                out[name] = found
        has = Shown(f"none named {', '.join(missing[:2])}")
        require(not missing, str(self.folder), "hold its model's tensors by their names to be streamed", has, MEND)
        return out

    def digest(self) -> str:
        """Return what `prunopt.networks.io.journal.model_digest` does of the model in single precision."""
        whole = hashlib.sha256(type(self.model).__name__.encode())
        for name, source in self._sources.items():
            for _, tensor in self.tensors.read({name: source}, torch.float32):
                whole.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                whole.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return whole.hexdigest()

    def write_to(self, folder: Path) -> None:
        """Write what leaves from now on to a folder, each tensor to a file of the name that it came from."""
        files = {name: self.tensors.files[source].name for name, source in self._sources.items()}
        alone = len(set(files.values())) == 1
        self._files = GrowingFiles(folder, lambda name: WEIGHTS if alone else files[name])

    @contextmanager
    def block(self, block: Block) -> Iterator[None]:
        """Have the weights of a block in memory; after that they are written, in their checkpoint's number format."""
        self._load(block.module, f"{block.name}.")
        yield
        if self._files is not None:
            self._write(block.module.state_dict(), f"{block.name}.")
        release(*block.module.modules())

    @contextmanager
    def around(self) -> Iterator[None]:
        """Have what is not a block in memory; blocks hand on what enters them, so that the model can be run."""
        inside = tuple(f"{b.name}." for b in self.blocks)
        names = [n for n in self._sources if not n.startswith(inside)]
        self._fill(self.model, {n: self._sources[n] for n in names})
        if self._leaves is None:
            self._leaves = self._form_of_outputs()
        before = [(b.module, b.module.forward) for b in self.blocks]
        try:
            for module, forward in before:
                module.forward = self._handing_on(forward, module is self.blocks[-1].module)
            yield
        finally:
            for module, _ in before:
                del module.forward
            release(*(self.model.get_submodule(name.rpartition(".")[0]) for name in names))

    def finish(self) -> torch.dtype:
        """Write what is not a block and the headers; return the format of most of the numbers."""
        assert self._files is not None
        inside, seen = tuple(f"{b.name}." for b in self.blocks), set[str]()
        for name, source in self._sources.items():
            if name.startswith(inside) or source in seen:
                continue  # the latter tied to one that is there already
            seen.add(source)
            for _, tensor in self.tensors.read({name: source}, torch.float32):
                self._write({name: tensor}, "")
        self._files.finish()
        return max(self._files.dtypes, key=self._files.dtypes.__getitem__)

    def close(self) -> None:
        """Remove files that are not finished."""
        if self._files is not None:
            self._files.close()

    def _form_of_outputs(self) -> Callable[[torch.Tensor], Any]:
        """Return what makes a block's output of hidden states: run the first block by itself once."""
        first = self.blocks[0].module
        caught: list[tuple[Any, Any]] = []

        class Caught(Exception):
            pass

        def catch(_: nn.Module, args: Any, kwargs: Any) -> None:
            caught.append((args, kwargs))
            raise Caught

        handle = first.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=self.device))
        except Caught:
            pass
        finally:
            handle.remove()
        require(caught, "model", "run its first block", Shown(type(self.model).__name__), MEND)
        self._load(first, f"{self.blocks[0].name}.")
        out = first(*caught[0][0], **caught[0][1])
        release(*first.modules())
        if isinstance(out, torch.Tensor):
            return lambda hidden: hidden
        rest = tuple(out[1:])
        plain = isinstance(out, tuple) and all(r is None for r in rest)
        kind = Shown(f"{type(self.model).__name__}, whose blocks hand on more")
        require(plain, "model", "have blocks that put out hidden states alone to be streamed", kind, MEND)
        return lambda hidden: (hidden, *rest)

    def _handing_on(self, forward: Callable[..., Any], is_last: bool) -> Callable[..., Any]:
        """Return a forward pass of the same signature that hands its hidden states on."""
        first = next(iter(inspect.signature(forward).parameters), "")

        @functools.wraps(forward)
        def hand_on(*args: Any, **kwargs: Any) -> Any:
            assert self._leaves is not None
            hidden = args[0] if args else kwargs[first]
            return self._leaves(self.last if is_last and self.last is not None else hidden)

        return hand_on

    def _load(self, module: nn.Module, prefix: str) -> None:
        names = {n: self._sources[f"{prefix}{n}"] for n in module.state_dict()}
        self._fill(module, names)
        for _, buffer in module.named_buffers():
            buffer.data = buffer.data.to(self.device)

    def _fill(self, module: nn.Module, names: dict[str, str]) -> None:
        """Give tensors of a module their values, in single precision."""
        placed: dict[str, nn.Parameter] = {}
        by_source: dict[str, list[str]] = {}
        for name, source in names.items():
            by_source.setdefault(source, []).append(name)
        for source, tensor in self.tensors.read({s: s for s in by_source}, torch.float32):
            for name in by_source[source]:
                owner, leaf = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
                old = getattr(owner, leaf)
                require(old.shape == tensor.shape, name, f"have shape {tuple(old.shape)}", Shown(tuple(tensor.shape)))
                if isinstance(old, nn.Parameter):
                    new = placed.setdefault(source, nn.Parameter(tensor.to(self.device), requires_grad=False))
                    setattr(owner, leaf, new)
                else:
                    setattr(owner, leaf, tensor.to(self.device))

    def _write(self, tensors: dict[str, torch.Tensor], prefix: str) -> None:
        assert self._files is not None
        declared: Any = getattr(self.model, "config", None)
        for name, tensor in tensors.items():
            self._files.add(f"{prefix}{name}", tensor.to(stored_dtype(tensor, declared.dtype)))


def open_streamed(folder: str | os.PathLike[str], device: torch.device | None, out: Any) -> StreamedModel:
    """Return the model of a folder for a run that writes to another one."""
    require(out is not None, "out", "name a folder", out, "a model that is streamed is written as it is read")
    place = folder_of(folder)
    require(place.absolute() != Path(out).absolute(), "out", "be another folder than the model's", str(out))
    check_target(out)
    return StreamedModel(place, Path(out), device)


def check_in_memory(model: nn.Module, out: Any) -> None:
    """Refuse a model whose weights are elsewhere, as accelerate's offloaded ones are, and a folder beside one."""
    away = sum(p.is_meta for p in model.parameters())
    has = Shown(f"{type(model).__name__} with {away} tensors on the meta device")
    require(not away, "model", "have its weights in memory", has, "pass its folder, and out, to stream it from there")
    mend = "it is for a folder that is streamed; save this model by result.save"
    require(out is None, "out", "be left out with a model in memory", str(out), mend)


def check_streamed(method: str, allocation: Any) -> None:
    """Refuse what needs the whole model in memory."""
    require(method != "maskllm", "method", "be one that prunes block by block to be streamed", method, MEND)
    by_size = not callable(allocation) and (not isinstance(allocation, str) or allocation in BY_SIZE)
    what = f"be {', '.join(BY_SIZE)}, a file or numbers for a model that is streamed"
    require(by_size, "allocation", what, allocation, "other rules measure the whole model in memory")


def release(*modules: nn.Module) -> None:
    """Let go of the weights of modules; their shapes stay, and tied ones stay tied."""
    empty: dict[nn.Parameter, nn.Parameter] = {}  # by what is held here: a number of a freed one may come again
    for module in modules:
        for name, p in list(module.named_parameters(recurse=False)):
            if p.device != META:
                new = nn.Parameter(torch.empty_like(p, device=META), requires_grad=False)
                setattr(module, name, empty.setdefault(p, new))


def _without_weights(folder: Path) -> nn.Module:
    """Build a folder's model with all parameters on the meta device, in evaluation mode; buffers have their values."""
    transformers = require_transformers()
    require((folder / "config.json").is_file(), "model", "be a folder with config.json", str(folder))

    def empty(_: nn.Module, name: str, p: nn.Parameter | None) -> nn.Parameter | None:
        return None if p is None or p.device == META else nn.Parameter(p.to(META), requires_grad=False)

    try:
        raw = json.loads((folder / "config.json").read_text("utf-8"))
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = model_class(raw)
        config.dtype = torch.float32
        handle = register_module_parameter_registration_hook(cast("Any", empty))
        try:
            model = kind(config) if kind is not transformers.AutoModelForCausalLM else kind.from_config(config)
        finally:
            handle.remove()
        model.tie_weights()
        model.config.dtype = as_dtype(raw.get("dtype", raw.get("torch_dtype"))) or torch.float32
        if (folder / "generation_config.json").is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise invalid("model", "be a folder that can be read", str(folder), reason) from None
    return cast("nn.Module", model.eval())

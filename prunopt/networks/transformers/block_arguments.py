"""What a model passes to its blocks beside the hidden states, captured from its own forward passes."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prunopt.core.validate import Shown, invalid, require
from prunopt.networks.transformers.families import Block

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
MEND = "teach prunopt the model's blocks with register_family, or report the model"


class Stop(Exception):
    """Leaves a forward pass whose rest is of no interest."""


class BlockArguments:
    """The arguments of each block at each window, beside its hidden states: a mask, positions, rotary embeddings.

    Every block keeps its own, since families such as Gemma 3 alternate masks and rotary embeddings. Equal tensors are
    kept once, whatever their blocks and windows. Caches are left out: they would grow with every pass over a window.

    Parameters
    ----------
    found
        The blocks of a model, first to last; passes stop after the last one.
    """

    def __init__(self, found: Sequence[Block]) -> None:
        self._found = tuple(found)
        self._arguments: dict[str, list[Arguments]] = {block.name: [] for block in self._found}
        self._known: dict[Any, torch.Tensor] = {}

    def of(self, block: Block) -> list[Arguments]:
        """Return a block's positional and named arguments, window by window; blocks go by their names."""
        mend = "its arguments were not captured; pass all blocks of the model"
        require(block.name in self._arguments, "block", "be one of those given before", block.name, mend)
        return self._arguments[block.name]

    @torch.no_grad()
    def capture(self, model: nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the model on one window, up to its last block; return what enters the first."""
        same: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # blocks mostly get the very same objects
        entering: list[torch.Tensor] = []
        order: list[str] = []

        def enter(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, rest, named = split_call(block, args, kwargs)
            order.append(block.name)
            if not entering:
                entering.append(hidden.clone())  # a block may work in place
            self._arguments[block.name].append((self._kept(rest, same), self._kept(named, same)))
            if block is self._found[-1]:
                raise Stop

        self._pass(model, given, enter)
        ran = Shown(f"{type(model).__name__}, which runs {', '.join(order) or 'none of them'}")
        require(order == list(self._arguments), "model", "run each of its blocks once, in their order", ran, MEND)
        return entering[0]

    def check(self, model: nn.Module, given: Mapping[str, torch.Tensor]) -> None:
        """Raise unless every block, run by itself with the first window's arguments, does what it does in the model.

        The model runs twice: first with other hidden states, which shows arguments that depend on what earlier blocks
        compute; then as it is, which shows a block that remembers. In training mode nothing is checked: dropout
        differs from call to call. Blocks without weights (of a model that is streamed) hand on what enters them; of
        these the arguments alone are compared.
        """
        if any(block.module.training for block in self._found):
            return
        if any(p.is_meta for block in self._found for p in block.module.parameters()):
            self._compare_arguments(model, given)
            return
        for shifted in (True, False):
            self._compare(model, given, shifted)

    @torch.no_grad()
    def _compare_arguments(self, model: nn.Module, given: Mapping[str, torch.Tensor]) -> None:
        """Raise where other hidden states in the first block give a later one other arguments."""
        same: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def enter(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden, rest, named = split_call(block, args, kwargs)
            again = self._kept(rest, same), self._kept(named, same)
            why = Shown("others: they depend on what earlier blocks compute")
            of_one = _identical(again, self._arguments[block.name][0])
            require(of_one, f"arguments of {block.name}", "be those of the tokens alone to be streamed", why, MEND)
            if block is self._found[-1]:
                raise Stop
            return ((hidden + hidden.roll(1, dims=-1), *rest), named) if block is self._found[0] else None

        self._pass(model, given, enter)

    @torch.no_grad()
    def _compare(self, model: nn.Module, given: Mapping[str, torch.Tensor], shifted: bool) -> None:
        hidden = before = torch.empty(0)
        inside = False  # a block that runs by itself is not looked at

        def enter(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal hidden
            if inside:
                return None
            hidden, rest, named = split_call(block, args, kwargs)
            first = block is self._found[0]
            if first and shifted:
                hidden = hidden + hidden.roll(1, dims=-1)
            elif not first:
                enters = "be given what the block before it puts out"
                require(_agree(hidden, before), block.name, enters, Shown("other hidden states"), MEND)
            hidden = hidden.clone()
            return ((hidden.clone(), *rest), named) if first and shifted else None

        def leave(block: Block, out: Any) -> None:
            nonlocal before, inside
            if inside:
                return
            before, inside = output_of(out).clone(), True
            args, kwargs = self._arguments[block.name][0]
            try:
                again = output_of(block.module(hidden.clone(), *args, **kwargs))
            except Exception as error:  # a block is the user's code: it may raise anything
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise invalid(block.name, "run by itself", Shown(reason), MEND) from error
            finally:
                inside = False
            why = Shown("others: its arguments depend on earlier blocks, or it remembers earlier calls")
            require(_agree(again, before), block.name, "put out by itself the values of the model", why, MEND)
            if block is self._found[-1]:
                raise Stop

        self._pass(model, given, enter, leave)

    def _pass(
        self, model: nn.Module, given: Mapping[str, torch.Tensor], enter: Callable[..., Any],
        leave: Callable[..., None] | None = None,
    ) -> None:  # fmt: skip
        """Run the model with hooks on its blocks until one of them raises Stop."""
        handles = []
        for block in self._found:

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], block: Block = block) -> Any:
                return enter(block, args, kwargs)

            handles.append(block.module.register_forward_pre_hook(before, with_kwargs=True))
            if leave is not None:

                def after(_: nn.Module, args: tuple[Any, ...], out: Any, block: Block = block) -> None:
                    leave(block, out)

                handles.append(block.module.register_forward_hook(after))
        try:
            with without_caching(model) as asked:
                model(**given, **asked)
        except Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _kept(self, value: Any, same: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """Return the value with known tensors in place of equal ones, and None in place of caches."""
        if isinstance(value, torch.Tensor):
            if id(value) not in same:
                same[id(value)] = value, self._once(value)
            return same[id(value)][1]
        if is_cache(value):
            return None
        if type(value) in (tuple, list):
            return type(value)(self._kept(part, same) for part in value)
        if isinstance(value, Mapping):  # a copy: through a shared one, blocks would pass on states of other passes
            return {name: self._kept(part, same) for name, part in value.items()}
        return value

    def _once(self, value: torch.Tensor) -> torch.Tensor:
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()
        about = (value.shape, value.stride(), value.dtype, value.device, hashlib.sha256(content).digest())
        return self._known.setdefault(about, value)


def is_cache(value: Any) -> bool:
    """Whether a value is a key-value cache of transformers; none is where transformers was never imported."""
    module = sys.modules.get("transformers.cache_utils")
    return module is not None and isinstance(value, module.Cache)


@contextmanager
def without_caching(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield what to pass to a model so that it makes no cache; where only its configuration says so, it is lent."""
    config: Any = getattr(model, "config", None)
    if "use_cache" in inspect.signature(model.forward).parameters:
        yield {"use_cache": False}
    elif getattr(config, "use_cache", False):
        config.use_cache = False
        try:
            yield {}
        finally:
            config.use_cache = True
    else:
        yield {}


def split_call(
    block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.Tensor, tuple[Any, ...], Any]:
    """Return the hidden states, which are the first parameter of a block's forward, and the other arguments."""
    name = next(iter(inspect.signature(block.module.forward).parameters), "")
    hidden = args[0] if args else kwargs.get(name)
    if not isinstance(hidden, torch.Tensor) or hidden.shape[:1] != (1,):
        what = tuple(hidden.shape) if isinstance(hidden, torch.Tensor) else type(hidden).__name__
        first = f"first argument of {block.name}"
        raise invalid(first, "be hidden states (1, length, width)", Shown(str(what)), MEND)
    return hidden, args[1:], {n: v for n, v in kwargs.items() if args or n != name}


def output_of(out: Any) -> torch.Tensor:
    """Return the hidden states that a block puts out, alone or first of several values."""
    found: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _identical(a: Any, b: Any) -> bool:
    """Whether two arguments hold the same objects; equal tensors are one object once they are kept."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_identical, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_identical(a[name], b[name]) for name in a)
    return bool(a is b or a == b)


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same up to kernels that round differently from call to call."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    scale = float(torch.nan_to_num(b, nan=0.0, posinf=0.0, neginf=0.0).abs().max())
    return torch.allclose(a, b, rtol=0.0, atol=torch.finfo(b.dtype).eps ** 0.75 * scale, equal_nan=True)

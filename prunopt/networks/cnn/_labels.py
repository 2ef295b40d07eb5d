"""Labels of channels, one for every number of a tensor, and what the operations that carry them are called."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ELEMENTWISE = _words(
    "add iadd sub isub mul imul truediv div itruediv pow maximum minimum max min where lerp addcmul rsub add_ "
    "sub_ mul_ div_ multiply subtract divide true_divide atan2 hypot fmax fmin masked_fill lt gt le ge eq ne"
)
RESHAPES = _words("view reshape unflatten expand")
MOVES = RESHAPES | _words(
    "flatten permute transpose swapaxes movedim moveaxis squeeze unsqueeze cat concat concatenate stack chunk "
    "split tensor_split unbind getitem repeat narrow index_select contiguous clone detach float half double to "
    "t expand_as view_as reshape_as pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "getattr type_as cpu"
)
REDUCTIONS = _words("mean sum amax amin max min std var norm logsumexp prod argmax any all median var_mean")


def name_of(n: torch.fx.Node) -> str:
    """Return the plain name of a node's operation."""
    return n.target if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))


def spread(row: torch.Tensor, axis: int, shape: Any) -> torch.Tensor:
    """Return labels of an axis for a tensor of some shape."""
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return row.reshape(sizes).expand(tuple(shape))


def varying(labels: torch.Tensor) -> list[int]:
    """Return the axes along which labels differ."""
    small = compact(labels)
    return [d for d in range(small.ndim) if small.shape[d] > 1 and not bool((small == small.narrow(d, 0, 1)).all())]


def compact(labels: torch.Tensor) -> torch.Tensor:
    """Return labels without the axes that only repeat them in memory."""
    for d in range(labels.ndim):
        if labels.stride(d) == 0 and labels.shape[d] > 1:
            labels = labels.narrow(d, 0, 1)
    return labels


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True))


def argument(n: torch.fx.Node, place: int, name: str, default: Any = None) -> Any:
    """Return an argument of a node, given by its place or its name."""
    return n.args[place] if len(n.args) > place else n.kwargs.get(name, default)


def follows(n: torch.fx.Node, name: str, axis: int, env: dict[torch.fx.Node, Any]) -> bool:
    """Whether the size of an axis of a reshaped tensor comes from another tensor, or from what is left over."""
    sizes: Any = n.args[1:] if name != "unflatten" else None
    if name == "unflatten":
        given: Any = argument(n, 2, "sizes")
        inside = axis - int(argument(n, 1, "dim"))
        return not 0 <= inside < len(given) or isinstance(given[inside], torch.fx.Node) or given[inside] == -1
    if not sizes:
        sizes = (n.kwargs.get("shape", n.kwargs.get("size")),)
    if len(sizes) == 1 and not isinstance(sizes[0], int | torch.fx.Node):
        sizes = sizes[0]
    if len(sizes) == 1 and isinstance(sizes[0], torch.fx.Node) and not isinstance(env[sizes[0]], int):
        return True  # the shape of another tensor
    return axis < len(sizes) and (isinstance(sizes[axis], torch.fx.Node) or bool(sizes[axis] == -1))

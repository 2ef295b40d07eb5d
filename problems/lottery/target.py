"""Target networks of lottery tickets: a torch.nn.Sequential of linear, convolution and ReLU layers, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.core import extras
from prunopt.core.arrays import Floats, Ints
from prunopt.core.validate import Shown, floats, invalid, require

if TYPE_CHECKING:
    from torch import nn

FLATTEN = "is a Flatten missing?"
SUPPORTED = "Linear, Conv2d, ReLU and Flatten (in a Sequential)"


@dataclass(frozen=True, eq=False)
class TargetLayer:
    """One linear map of the target, with the numbers that a random pair of layers has to imitate.

    Parameters
    ----------
    name
        Where it stands: ``"layer 2 (Conv2d)"``.
    weights : (out, taps) float
        The weights of each output; a tap is an input channel and a place in the kernel, the last tap is the bias if
        there is one.
    kernel : (inputs of a group, height, width)
        What the other taps are; (in_features, 1, 1) for a linear layer.
    groups
        Groups of a convolution, 1 for a linear layer.
    signed
        Whether inputs may be negative: then each weight is needed on both halves of the ReLU.
    has_bias
        Whether the last tap is a bias.
    overlap
        In how many patches of the convolution an input value takes part at most (1 for a linear layer).
    places
        Number of output positions of each channel (1 for a linear layer).
    options
        stride, padding, dilation and padding_mode of a convolution; empty for a linear layer.
    """

    name: str
    weights: Floats
    kernel: tuple[int, int, int]
    groups: int
    signed: bool
    has_bias: bool
    overlap: int
    places: int
    options: dict[str, Any]

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution."""
        return bool(self.options)

    @property
    def n_outputs(self) -> int:
        """Number of output channels or features."""
        return len(self.weights)

    @property
    def n_inputs(self) -> int:
        """Number of input channels or features."""
        return self.groups * self.kernel[0]

    @property
    def n_pools(self) -> int:
        """Number of pools of random neurons: one an input, and one for the bias of each group."""
        return self.groups * (self.kernel[0] + self.has_bias)

    @property
    def pool_of(self) -> Ints:
        """The pool that each weight draws from, shape (out, taps)."""
        inputs, height, width = self.kernel
        group = np.arange(self.n_outputs) // (self.n_outputs // self.groups)
        tap = np.repeat(np.arange(inputs), height * width)
        if self.has_bias:
            tap = np.r_[tap, inputs]
        return (group[:, None] * (inputs + self.has_bias) + tap).astype(np.int64)

    @property
    def input_of_pool(self) -> Ints:
        """The input channel of each pool, -1 for the pool of a bias, shape (n_pools,)."""
        inputs = self.kernel[0]
        rows = np.arange(self.groups)[:, None] * inputs + np.arange(inputs)
        if self.has_bias:
            rows = np.c_[rows, np.full(self.groups, -1)]
        return rows.ravel().astype(np.int64)

    def place(self, output: int, tap: int) -> str:
        """Return the name of a weight."""
        if self.has_bias and tap == self.weights.shape[1] - 1:
            return f"{self.name}.bias[{output}]"
        channel, rest = divmod(tap, self.kernel[1] * self.kernel[2])
        where = f", {', '.join(map(str, divmod(rest, self.kernel[2])))}" if self.is_conv else ""
        return f"{self.name}.weight[{output}, {channel}{where}]"


@dataclass(frozen=True, eq=False)
class Target:
    """A network: its linear maps, and the order in which they, ReLUs and flattenings follow one another.

    ``steps`` holds the number of a layer, ``"relu"``, or ``("flatten", start, end)``.
    """

    layers: tuple[TargetLayer, ...]
    steps: tuple[Any, ...]
    input_shape: tuple[int, ...]

    @property
    def n_weights(self) -> int:
        """Number of weights and biases."""
        return sum(layer.weights.size for layer in self.layers)


def read_target(module: nn.Module, *, input_shape: tuple[int, ...] | None, nonnegative_input: bool) -> Target:
    """Read a network; whatever is not supported is refused by name.

    Parameters
    ----------
    module
        A ``torch.nn.Sequential`` (they may be nested) of Linear, Conv2d, ReLU and Flatten.
    input_shape
        Shape of one input without the batch; may be None where the first layer is a Linear.
    nonnegative_input
        Whether no input value is ever negative.
    """
    nn = extras.require("torch").nn
    if not isinstance(module, nn.Sequential):
        raise TypeError(
            f"target_module must be a torch.nn.Sequential, got {type(module).__name__}; put its layers in one"
        )
    parts = list(_parts(module))
    shape = _input_shape(parts, input_shape)
    first = shape
    layers: list[TargetLayer] = []
    steps: list[Any] = []
    signed = not nonnegative_input
    for place, part in parts:
        name = f"layer {place} ({type(part).__name__})"
        if isinstance(part, nn.ReLU):
            steps.append("relu")
            signed = False
        elif isinstance(part, nn.Flatten):
            whole = part.start_dim == 1 and part.end_dim in (-1, len(shape))
            require(whole, name, "flatten all but the batch", part)
            steps.append(("flatten", 1, -1))
            shape = (math.prod(shape),)
        elif type(part) is nn.Linear or type(part) is nn.Conv2d:
            layer, shape = (
                _linear(name, part, shape, signed) if type(part) is nn.Linear else _conv(name, part, shape, signed)
            )
            steps.append(len(layers))
            layers.append(layer)
            signed = True
        else:
            fold = "; fold it into the layer before it" if "BatchNorm" in type(part).__name__ else ""
            raise invalid(f"target_module's {name}", f"be one of {SUPPORTED}", Shown(f"{type(part).__name__}{fold}"))
    require(layers, "target_module", "have a Linear or Conv2d to imitate", module)
    return Target(tuple(layers), tuple(steps), first)


def _parts(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    nn = extras.require("torch").nn
    for key, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _parts(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", child


def _input_shape(parts: list[tuple[str, Any]], given: tuple[int, ...] | None) -> tuple[int, ...]:
    nn = extras.require("torch").nn
    if given is not None:
        shape = tuple(int(n) for n in given)
        require(shape and min(shape) >= 1, "input_shape", "hold the sizes >= 1 of one input, without the batch", given)
        return shape
    flat = not any(isinstance(part, nn.Conv2d) for _, part in parts)
    require(flat, "input_shape", "be (channels, height, width) for a network with Conv2d layers", None)
    first = next((part for _, part in parts if isinstance(part, nn.Linear)), None)
    return (int(first.in_features),) if first is not None else (1,)


def _linear(name: str, part: Any, shape: tuple[int, ...], signed: bool) -> tuple[TargetLayer, tuple[int, ...]]:
    require(shape == (part.in_features,), f"inputs of {name}", f"have shape ({part.in_features},)", shape, FLATTEN)
    weights = _array(name, "weight", part.weight)
    if part.bias is not None:
        weights = np.c_[weights, _array(name, "bias", part.bias)]
    layer = TargetLayer(name, weights, (part.in_features, 1, 1), 1, signed, part.bias is not None, 1, 1, {})
    return layer, (part.out_features,)


def _conv(name: str, part: Any, shape: tuple[int, ...], signed: bool) -> tuple[TargetLayer, tuple[int, ...]]:
    fits = len(shape) == 3 and shape[0] == part.in_channels
    require(fits, f"inputs of {name}", f"have shape ({part.in_channels}, height, width)", shape)
    zeros = part.padding_mode == "zeros" and not isinstance(part.padding, str)
    require(zeros, f"padding of {name}", "be whole numbers of zeros", (part.padding, part.padding_mode))
    kernel = tuple(part.kernel_size)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(shape[1:], part.padding, part.dilation, kernel, part.stride, strict=True)
    ]
    require(min(out) >= 1, f"inputs of {name}", f"be as large as its kernel {kernel}", shape[1:])
    weights = _array(name, "weight", part.weight).reshape(part.out_channels, -1)
    if part.bias is not None:
        # The bias is a weight on a constant channel, which reads zeros outside of the picture: some tap must always be
        # inside.
        sides = zip(part.padding, part.dilation, kernel, strict=True)
        inside = all(-(-p // d) * d <= d * (k - 1) - p for p, d, k in sides)
        require(inside, f"padding of {name}", f"be within half of the kernel {kernel} with a bias", part.padding)
        weights = np.c_[weights, _array(name, "bias", part.bias)]
    overlap = math.prod(
        -(-k // (s // math.gcd(s, d))) for k, s, d in zip(kernel, part.stride, part.dilation, strict=True)
    )
    options = {key: getattr(part, key) for key in ("stride", "padding", "dilation", "padding_mode")}
    inputs = part.in_channels // part.groups
    taps = (inputs, int(kernel[0]), int(kernel[1]))
    has_bias = part.bias is not None
    layer = TargetLayer(name, weights, taps, part.groups, signed, has_bias, overlap, math.prod(out), options)
    return layer, (part.out_channels, *out)


def _array(name: str, what: str, tensor: Any) -> Floats:
    if not tensor.is_floating_point():
        raise TypeError(f"{name}.{what} must hold real numbers, got {tensor.dtype}")
    return floats(f"{name}.{what}", tensor.detach().double().cpu().numpy().copy())

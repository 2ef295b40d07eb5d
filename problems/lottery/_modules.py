"""Random networks as torch modules: pruned to a mask, or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.core import extras
from prunopt.core.arrays import Bools, Floats
from prunopt.problems.lottery.sampling import RandomPair
from prunopt.problems.lottery.target import Target

if TYPE_CHECKING:
    from torch import nn


def network(
    target: Target, pairs: tuple[RandomPair, ...], masks: tuple[Bools, ...] | None, *, compact: bool, seed: int
) -> nn.Sequential:
    """Return the random network: two layers with a ReLU between them for every layer of the target.

    Parameters
    ----------
    masks
        Which second weights stay, each (out, taps, M); None: nothing is pruned, and the weights that no mask of the
        construction may use are drawn as well.
    compact
        Leave out neurons that nothing of the mask uses (not in grouped convolutions).
    """
    torch = extras.require("torch")
    steps: list[Any] = []
    for step in target.steps:
        if step == "relu":
            steps.append(torch.nn.ReLU())
        elif isinstance(step, tuple):
            steps.append(torch.nn.Flatten())
        else:
            mask = None if masks is None else masks[step]
            rng = np.random.default_rng([seed, step, 2])
            first, bias, second = _dense(pairs[step], mask, rng)
            if compact and mask is not None and pairs[step].layer.groups == 1:
                used = mask_of_neurons(pairs[step], mask).ravel()
                first, second = first[used], second[:, used]
                bias = None if bias is None else bias[used]
            steps += _modules(pairs[step], first, bias, second)
    module: nn.Sequential = torch.nn.Sequential(*steps)
    return module


def mask_of_neurons(pair: RandomPair, mask: Bools) -> Bools:
    """Return which neurons some output uses, shape (n_pools, M)."""
    used = np.zeros(pair.first.shape, np.bool_)
    np.logical_or.at(used, pair.layer.pool_of, mask)
    return used


def _dense(pair: RandomPair, mask: Bools | None, rng: np.random.Generator) -> tuple[Floats, Floats | None, Floats]:
    """First weights (neurons, inputs), their biases, and second weights (out, neurons of a group, height, width)."""
    layer, m = pair.layer, pair.width
    neurons, kept = pair.first.size, pair.first
    second_kept = pair.second
    inputs, height, width = layer.kernel
    if mask is not None:
        kept = kept * mask_of_neurons(pair, mask)
        second_kept = second_kept * mask

    def start(*shape: int) -> Floats:
        return pair.draw(shape, rng) if mask is None else np.zeros(shape)

    first = start(neurons, layer.n_inputs)
    bias = start(neurons) if layer.has_bias else None
    for pool, channel in enumerate(layer.input_of_pool):
        rows = slice(pool * m, (pool + 1) * m)
        if channel >= 0:
            first[rows, channel] = kept[pool]
        elif bias is not None:
            bias[rows] = kept[pool]
    channels = neurons // layer.groups
    second = start(layer.n_outputs, channels // m, m, height, width)
    taps = inputs * height * width
    own = second_kept[:, :taps].reshape(layer.n_outputs, inputs, height, width, m)
    second[:, :inputs] = own.transpose(0, 1, 4, 2, 3)
    if layer.has_bias:
        padding, dilation = layer.options.get("padding", (0, 0)), layer.options.get("dilation", (1, 1))
        row, column = (-(-p // d) for p, d in zip(padding, dilation, strict=True))
        second[:, inputs, :, row, column] = second_kept[:, taps]
    return first, bias, second.reshape(layer.n_outputs, channels, height, width)


def _modules(pair: RandomPair, first: Floats, bias: Floats | None, second: Floats) -> list[Any]:
    torch = extras.require("torch")
    nn, layer = torch.nn, pair.layer
    neurons = len(first)
    a: Any
    b: Any
    if layer.is_conv:
        a = nn.Conv2d(layer.n_inputs, neurons, 1, bias=bias is not None)
        b = nn.Conv2d(neurons, layer.n_outputs, layer.kernel[1:], groups=layer.groups, bias=False, **layer.options)
        weights = (first[:, :, None, None], second)
    else:
        a = nn.Linear(layer.n_inputs, neurons, bias=bias is not None)
        b = nn.Linear(neurons, layer.n_outputs, bias=False)
        weights = (first, second[:, :, 0, 0])
    with torch.no_grad():
        a.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights[0])))
        b.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights[1])))
        if bias is not None:
            a.bias.copy_(torch.from_numpy(bias))
    return [a, nn.ReLU(), b]

"""How far the output of a network can move when its weights do: a bound that is propagated layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.problems.lottery.target import Target, TargetLayer


@dataclass(frozen=True)
class Certificate:
    r"""What is proven about a sub-network.

    Let the target be :math:`h_i = \sigma (W_i h_{i-1} + b_i)` with a 1-Lipschitz :math:`\sigma`, :math:`\sigma(0) =
    0`, and let the sub-network compute the same with the errors :math:`E_i` and :math:`d_i` of weights and biases.
    With a_i a bound on :math:`\|h_i\|` and e_i on the distance of the two,

    .. math:: e_i = \|W_i\|_2 e_{i-1} + \|E_i\|_2 (a_{i-1} + e_{i-1}) + \|d_i\|, \qquad
              a_i = \|W_i\|_2 a_{i-1} + \|b_i\|, \qquad a_0 = \text{radius}, \; e_0 = 0.

    Where inputs may be negative, the two halves of the ReLU have errors :math:`E^+, E^-` of their own, and
    :math:`\|[E^+, E^-]\|_2` takes the place of :math:`\|E_i\|_2`: the positive and the negative part of x together
    have the norm of x. Arithmetic is taken as exact.

    Parameters
    ----------
    largest_weight_error
        :math:`\max |\hat w - w|`.
    error_bound
        :math:`\|f(x) - \hat f(x)\|_2 \le` this for all :math:`\|x\|_2 \le` radius, from the weights found.
    a_priori_bound
        The same before anything is solved: every weight off by epsilon.
    radius
        Radius of the ball of inputs.
    layers
        Of each layer: name, norms of weights and errors.
    """

    largest_weight_error: float
    error_bound: float
    a_priori_bound: float
    radius: float
    layers: tuple[dict[str, Any], ...]


def operator_norm(layer: TargetLayer, kernels: Floats) -> float:
    r"""Return an upper bound of the spectral norm of the map with these weights, exact for a linear layer.

    For a convolution, an input value takes part in at most p patches, so :math:`\|K * x\|^2 \le \|K\|_2^2 \, p
    \|x\|^2` with the kernel as a matrix of outputs by taps; or, the sum over places of the kernel of the norms of
    their matrices.

    Parameters
    ----------
    kernels : (out, c, height * width) float
        The weights on c input channels of the output's group.
    """
    outputs = len(kernels) // layer.groups
    norms = []
    for group in range(layer.groups):
        part = kernels[group * outputs : (group + 1) * outputs]
        flat = float(np.linalg.norm(part.reshape(outputs, -1), 2)) * math.sqrt(layer.overlap)
        if part.shape[2] > 1:
            flat = min(flat, sum(float(np.linalg.norm(part[:, :, t], 2)) for t in range(part.shape[2])))
        norms.append(flat)
    return max(norms)


def layer_norms(layer: TargetLayer, errors: tuple[Floats, ...]) -> dict[str, float]:
    """Return the norms of a layer's weights, bias, and their errors; ``errors`` are those of one half or of both."""
    weights, bias = _split(layer, layer.weights)
    halves = [_split(layer, error) for error in errors]
    moved = np.concatenate([half[0] for half in halves], axis=1)
    root = math.sqrt(layer.places)
    return {
        "norm": operator_norm(layer, weights),
        "bias_norm": root * float(np.linalg.norm(bias)),
        "error_norm": operator_norm(layer, moved),
        "bias_error_norm": root * float(np.linalg.norm(halves[0][1])),
    }


def a_priori_norms(layer: TargetLayer, epsilon: float) -> tuple[float, float]:
    """Return bounds of the norms of the errors of weights and bias, all of them off by epsilon."""
    entries = layer.n_outputs // layer.groups * math.prod(layer.kernel) * (1 + layer.signed)
    bias = layer.n_outputs * layer.places if layer.has_bias else 0
    return epsilon * math.sqrt(entries * layer.overlap), epsilon * math.sqrt(bias)


def propagate(norms: list[dict[str, float]], radius: float) -> float:
    """Return the bound e of the last layer."""
    reach, error = radius, 0.0
    for n in norms:
        error = n["norm"] * error + n["error_norm"] * (reach + error) + n["bias_error_norm"]
        reach = n["norm"] * reach + n["bias_norm"]
    return error


def a_priori(target: Target, epsilon: float, radius: float, norms: list[dict[str, float]] | None = None) -> float:
    """Return the bound on the output error that holds when every weight is within epsilon."""
    if norms is None:
        norms = target_norms(target)
    moved = [a_priori_norms(layer, epsilon) for layer in target.layers]
    return propagate(
        [{**n, "error_norm": e, "bias_error_norm": d} for n, (e, d) in zip(norms, moved, strict=True)], radius
    )


def target_norms(target: Target) -> list[dict[str, float]]:
    """Return the norms of the layers of a target; their errors are 0."""
    return [layer_norms(layer, (np.zeros_like(layer.weights),)) for layer in target.layers]


def certify(target: Target, errors: list[tuple[Floats, ...]], epsilon: float, radius: float) -> Certificate:
    """Return the certificate of weights that are off by ``errors``: of each layer one half, or both.

    The second half of a layer with a bias has a column of zeros in the bias's place.
    """
    norms = [layer_norms(layer, halves) for layer, halves in zip(target.layers, errors, strict=True)]
    rows = [{"layer": layer.name, **n} for layer, n in zip(target.layers, norms, strict=True)]
    return Certificate(
        largest_weight_error=max(float(np.abs(half).max()) for halves in errors for half in halves),
        error_bound=propagate(norms, radius),
        a_priori_bound=a_priori(target, epsilon, radius, norms),
        radius=radius,
        layers=tuple(rows),
    )


def _split(layer: TargetLayer, values: Floats) -> tuple[Floats, Floats]:
    """The kernels, (out, channels, places in the kernel), and the bias (of zeros where there is none)."""
    inputs, height, width = layer.kernel
    taps = inputs * height * width
    bias = values[:, taps] if layer.has_bias else np.zeros(layer.n_outputs)
    return values[:, :taps].reshape(layer.n_outputs, inputs, height * width), bias

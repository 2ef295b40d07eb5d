"""What pruned blocks have drifted by, taken back by the last linear layer of each block."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.networks.transformers.calibration import Activations
from prunopt.networks.transformers.families import Block, weight_of


class Correction:
    r"""Moves the target of a block's last layer toward what the dense model computes.

    Let the layer's outputs be added to the block's outputs, o, on inputs x of the pruned model, and let d be what the
    block puts out in the dense model. The layer W is replaced, before it is pruned, by

    .. math:: W + \alpha \, E[(d - o) x^T] (E[x x^T] + \lambda I)^{-1}

    which, for :math:`\alpha = 1`, is the ridge regression that best brings the block's outputs back to d: also what
    earlier blocks have changed in the residual stream. A solver then prunes it as any other layer.

    Parameters
    ----------
    dense
        The dense model's activations, before its first block; kept beside the pruned model's, as large again.
    strength
        :math:`\alpha`, above 0 and at most 1.

    References
    ----------
    .. [1] The same idea for quantization: Y. Li et al., "GPTAQ: asymmetric calibration", ICML 2025.
    """

    def __init__(self, dense: Activations, strength: float) -> None:
        self.dense, self.strength = dense, strength

    def enter(self, block: Block) -> None:
        """Compute what the dense block puts out; call before the block is changed."""
        self.dense.advance(block)

    @torch.no_grad()
    def moments(self, stream: Activations, block: Block, layer: str) -> tuple[Floats, Floats]:
        """Return E[x x^T] (in, in) of the layer, and E[(d - o) x^T] (out, in), in one pass of the block."""
        weights = stream.calibration.row_weights()
        seen: list[torch.Tensor] = []

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[0].reshape(-1, args[0].shape[-1]))

        handle = block.module.get_submodule(layer).register_forward_pre_hook(hook)
        second: Any = 0.0
        cross: Any = 0.0
        try:
            for k, out in stream.run(block):
                x, o = seen.pop().float(), out.reshape(-1, out.shape[-1]).float()
                if not bool(torch.isfinite(x).all()):
                    raise ValueError(f"calibration: NaN or infinite inputs of {block.name}.{layer} at window {k}")
                root = weights[k].sqrt().float()[:, None]
                x, drift = x * root, (self.dense.window(k).to(o.device) - o) * root
                second = second + (x.T @ x).double()
                cross = cross + (drift.T @ x).double()
        finally:
            handle.remove()
        whole = float(weights.sum())
        return ((second + second.T) / (2 * whole)).cpu().numpy(), (cross / whole).cpu().numpy()

    def corrected(self, weight: Floats, hessian: Floats, cross: Floats, damping: float) -> Floats:
        """Return the layer's weights (out, in), moved."""
        ridge = max(damping, 1e-3) * float(np.diagonal(hessian).mean())
        factor = scipy.linalg.cho_factor(hessian + ridge * np.eye(len(hessian)))
        out: Floats = weight + self.strength * scipy.linalg.cho_solve(factor, cross.T).T
        return out

    def close(self) -> None:
        """Remove the memory-mapped files, if there are any."""
        self.dense.close()


def check_added(block: Block, layer: str, stream: Activations) -> None:
    """Raise unless the layer's outputs are added to the block's outputs as they are (no norm after them)."""
    module = block.module.get_submodule(layer)
    change = torch.linspace(-1.0, 1.0, weight_of(module).shape[0])
    with torch.no_grad():
        before = next(iter(stream.run(block)))[1].clone()
        handle = module.register_forward_hook(lambda m, a, out: out + change.to(out))
        try:
            after = next(iter(stream.run(block)))[1]
        finally:
            handle.remove()
    scale = float(after.abs().max()) + 1.0
    if float((after - before - change.to(after)).abs().max()) > 1e-3 * scale:
        raise ValueError(
            f"correction: {block.name}.{layer} is followed by a norm, so its outputs are not added to the block's; "
            "use correction=0 with this family"
        )

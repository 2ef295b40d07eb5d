"""What the removal of a head costs: three estimates that share a name elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.networks.heads.gates import as_kept, head_gates
from prunopt.networks.heads.losses import Batch, LossOf

PER = {"example-abs": "example", "token-abs": "token", "batch-abs": "batch"}


def head_importance(
    model: nn.Module,
    batches: Sequence[Batch],
    loss: LossOf,
    *,
    estimator: str = "example-abs",
    normalise: bool = False,
    kept: ArrayLike | None = None,
) -> Floats:
    r"""Return the sensitivity of the loss to every head's gate.

    With :math:`L_b` the loss of example b of N, :math:`\xi_{b,t,h}` the gate of head h on token t:

    .. math::
        \text{example-abs:}\; I_h = \tfrac1N \sum_b \Big|\sum_t \frac{\partial L_b}{\partial \xi_{b,t,h}}\Big| \qquad
        \text{token-abs:}\; \tfrac1N \sum_b \sum_t \Big|\frac{\partial L_b}{\partial \xi_{b,t,h}}\Big| \qquad
        \text{batch-abs:}\; \tfrac1N \sum_B \Big|\sum_{b \in B} \sum_t
        \frac{\partial L_b}{\partial \xi_{b,t,h}}\Big|

    example-abs is the paper's formula [1]_, token-abs what its authors' code computes, batch-abs what the scripts of
    the transformers library do; batch-abs <= example-abs <= token-abs, and batch-abs is example-abs at batches of one.

    Parameters
    ----------
    model, batches, loss
        As for `HeadLoss`.
    estimator
        ``"example-abs"``, ``"token-abs"`` or ``"batch-abs"``.
    normalise
        Divide each layer's scores by their l2 norm, as the paper does. It takes away what tells layers apart.
    kept : (heads,) bool, optional
        The selection at which the gates' slopes are taken; None: all heads.

    Returns
    -------
    (heads,) float
        Layer after layer.

    References
    ----------
    .. [1] P. Michel, O. Levy, G. Neubig, "Are sixteen heads really better than one?", NeurIPS 2019, section 4.1.
    """
    validate.one_of("estimator", estimator, PER)
    validate.require(batches, "batches", "hold at least one Batch", batches)
    model.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    examples = 0
    try:
        for p in trained:
            p.requires_grad_(False)
        with torch.enable_grad(), head_gates(model) as gates:
            at = None if kept is None else as_kept(kept, gates.n_heads)
            totals = [np.zeros(n) for n in gates.n_heads]
            for batch in batches:
                gates.probe(at, per=PER[estimator])
                values = loss(batch.run(model), batch.target)
                examples += len(values)
                slopes = torch.autograd.grad(values.sum(), gates.values, allow_unused=True)
                for total, slope in zip(totals, slopes, strict=True):
                    if slope is not None:
                        size = slope.detach().abs().double()
                        total += size.reshape(-1, len(total)).sum(0).cpu().numpy() if len(total) else 0.0
    finally:
        for p in trained:
            p.requires_grad_(True)
    scores = [total / examples for total in totals]
    if normalise:
        scores = [s / max(float(np.linalg.norm(s)), 1e-20) for s in scores]
    return np.concatenate(scores)

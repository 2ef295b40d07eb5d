"""Importance by optimal brain surgeon: the error of the layers that read a channel, those layers re-solved [1]_.

References
----------
.. [1] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning: optimal brain surgeon", NeurIPS 1992.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prunopt.core.arrays import Floats, Ints
from prunopt.networks.cnn.channel_groups import ChannelGroups, Slot
from prunopt.networks.cnn.importances.ranking import BATCH, Candidates, Ranking, free_channels
from prunopt.networks.cnn.patches import hessians
from prunopt.networks.cnn.watching import TRANSPOSED
from prunopt.solvers.layer._obs_kernel import Elimination

STEP = 8  # channels removed between two downdates


@dataclass(frozen=True)
class Obs:
    r"""The error of the layers that read a channel, those layers re-solved.

    Channels are removed greedily by :math:`\sum_f \min_{W'} \|W X - W' X\|^2 / \|W X\|^2` over the layers f that read
    the group, with the pictures' own activations X.

    Parameters
    ----------
    damping
        Added to the Hessian of every layer, relative to its mean diagonal.
    """

    damping: float = 1e-3

    def rank(self, at: Candidates) -> list[Ranking]:
        """Rank the free channels of groups."""
        return by_layer_error(at, self.damping)


def by_layer_error(at: Candidates, damping: float, slopes: dict[str, Floats] | None = None) -> list[Ranking]:
    """Rank by the error of the layers that read a group; with ``slopes``, each output's error is weighted by them."""
    readers = {g: [s for s in at.groups.consumers(g) if s.kind != "grouped"] for g in at.chosen}
    wanted = {s.name: s for slots in readers.values() for s in slots}
    tables = hessians(at.model, list(wanted.values()), at.pictures, batch=BATCH, seed=at.seed)
    layers: dict[str, tuple[Floats, Floats, float]] = {}
    for name, H in tables.items():
        module: Any = at.model.get_submodule(name)
        W = by_place(module, wanted[name].kind).double().cpu().numpy()
        if slopes is not None:
            rows = np.tile(slopes[name], len(W) // len(slopes[name]))
            W = np.sqrt(rows / 2)[:, None] * W
        energy = max(float(np.vdot(W @ H, W)), 1e-300) if slopes is None else 1.0
        damped = H + damping * max(float(np.diagonal(H).mean()), 1e-300) * np.eye(len(H))
        layers[name] = (W, np.asarray(np.linalg.inv(damped), np.float64), energy)
    out = []
    for number, g in enumerate(at.chosen):
        out.append(_eliminate(at.groups, g, readers[g], layers))
        at.progress(f"{number + 1} of {len(at.chosen)} groups ranked")
    return out


def by_place(module: Any, kind: str) -> Any:
    """Return a layer's weight as rows that multiply what `hessians` looks at, taps outermost where inputs alone are."""
    weight = module.weight.detach()
    if isinstance(module, nn.Conv2d | nn.Linear):
        return weight.flatten(1)
    turned = weight if isinstance(module, TRANSPOSED) else weight.transpose(0, 1)  # (in, out, taps)
    return turned.flatten(2).permute(2, 1, 0).flatten(0, 1)


def _eliminate(groups: ChannelGroups, g: int, readers: list[Slot], layers: Any) -> Ranking:
    free = free_channels(groups, g)
    if not readers:
        return Ranking(g, free, np.zeros(len(free) + 1))
    parts: list[tuple[Elimination, dict[int, Ints], float]] = []
    for slot in readers:
        W, inverse, energy = layers[slot.name]
        taps = W.shape[1] // len(slot.ins)
        columns: dict[int, Ints] = {}
        for channel in free.tolist():
            at = np.flatnonzero(slot.ins == channel)
            columns[channel] = (at[:, None] * taps + np.arange(taps)).ravel()
        parts.append((Elimination(W, inverse), columns, energy))
    left, order, error = free.tolist(), list[int](), [0.0]
    while left:
        costs = np.zeros(len(left))
        for layer, columns, energy in parts:
            present = [i for i, c in enumerate(left) if len(columns[c])]
            costs[present] += layer.costs([columns[left[i]] for i in present]) / energy
        step = min(STEP, max(1, len(left) // 32), len(left))
        gone = [left[i] for i in np.argsort(costs, kind="stable")[:step]]
        spent = 0.0
        for layer, columns, energy in parts:
            at = np.concatenate([columns[c] for c in gone])
            spent += layer.remove(at) / energy if len(at) else 0.0
        error += [error[-1] + spent * (k + 1) / len(gone) for k in range(len(gone))]
        order += gone
        left = [c for c in left if c not in set(gone)]
    return Ranking(g, np.array(order, np.int64), np.array(error))

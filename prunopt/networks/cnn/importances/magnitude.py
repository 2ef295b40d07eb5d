"""Importance by magnitude: the squared weights that write and read a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.networks.cnn.channel_groups import modules_of
from prunopt.networks.cnn.importances.ranking import Candidates, Ranking, by_score
from prunopt.networks.cnn.watching import TRANSPOSED


@dataclass(frozen=True)
class Magnitude:
    """The squared weights that write and read a channel, each layer's as a share of all that it has."""

    def rank(self, at: Candidates) -> list[Ranking]:
        """Rank the free channels of groups; the pictures are not looked at."""
        scores, modules = np.zeros(at.groups.n_channels), modules_of(at.model, at.groups)
        for slot in at.groups.slots:
            if not slot.consumes:
                continue
            module: Any = modules[slot.name]
            squares = (module.weight.detach().double() ** 2).flatten(2) if module.weight.ndim > 2 else None
            table = (module.weight.detach().double() ** 2 if squares is None else squares.sum(2)).cpu().numpy()
            if isinstance(module, TRANSPOSED):
                table = table.T
            np.add.at(scores, slot.outs, table.sum(1) / max(table.sum(), 1e-300))
            if slot.kind != "grouped":
                np.add.at(scores, slot.ins, table.sum(0) / max(table.sum(), 1e-300))
        return by_score(at, scores)

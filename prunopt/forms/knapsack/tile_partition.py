"""Which channels share a tile: a balanced assignment that lets every tile keep its largest vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Ints

if TYPE_CHECKING:
    import pulp

STATES = 1_000_000  # sets of channels that a proof looks at


@dataclass(frozen=True, eq=False)
class TilePartition:
    r"""Deal channels out to tiles so that the largest K vectors of every tile hold the most energy.

    .. math::
        \min_{\pi} \; \sum_{g} \Bigl( \sum_{c \in \pi^{-1}(g)} \sum_i e_{ci}
        - \operatorname{top}_K \{ e_{ci} : \pi(c) = g \} \Bigr), \qquad |\pi^{-1}(g)| \le T

    The channels of a depthwise convolution may be renumbered freely, together with the rows and columns of the
    pointwise convolutions around it, so the assignment costs nothing at inference.

    Parameters
    ----------
    energy : (C, n) float
        The energies >= 0 of each channel's vectors.
    tile : int
        Channels of a tile, T; there are ceil(C / T) tiles.
    keep : int
        Vectors that every tile keeps, K.

    Notes
    -----
    The value is an int array of shape (C,): the tile of every channel.
    """

    energy: Any
    tile: int
    keep: int
    violation_unit: ClassVar[float] = 1.0  # violations count channels

    def __post_init__(self) -> None:
        energy = np.array(self.energy, np.float64)
        if energy.ndim != 2 or not np.all(np.isfinite(energy)) or np.any(energy < 0):
            raise ValueError(
                f"energy: shape {energy.shape}; finite numbers >= 0 of shape (channels, vectors) are needed"
            )
        if int(self.tile) < 1:
            raise ValueError(f"tile={self.tile!r}: give a number of channels >= 1")
        if int(self.keep) < 0:
            raise ValueError(f"keep={self.keep!r}: give a number of vectors >= 0")
        energy.setflags(write=False)
        object.__setattr__(self, "energy", energy)
        object.__setattr__(self, "tile", int(self.tile))
        object.__setattr__(self, "keep", int(self.keep))

    @property
    def n_channels(self) -> int:
        """Number of channels C."""
        return len(self.energy)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return -(-self.n_channels // self.tile)

    @cached_property
    def total(self) -> float:
        """All energy."""
        return math.fsum(self.energy.ravel())

    @cached_property
    def objective_unit(self) -> float:
        """All energy: what gaps are relative to where that is less than 1."""
        return self.total

    def lost(self, channels: ArrayLike) -> float:
        """Return the energy that one tile of these channels loses."""
        vectors = np.sort(self.energy[np.asarray(channels, np.int64)].ravel())
        return float(vectors[: max(0, len(vectors) - self.keep)].sum())

    def objective(self, x: ArrayLike, /) -> float:
        """Return the energy lost in all tiles."""
        of = self._as_value(x)
        return math.fsum(self.lost(np.flatnonzero(of == g)) for g in range(self.n_tiles))

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how many channels the fullest tile is too full."""
        of = self._as_value(x)
        if np.any(of < 0) or np.any(of >= self.n_tiles):
            return math.inf
        return float(max(0, int(np.bincount(of, minlength=1).max(initial=0)) - self.tile))

    def _as_value(self, x: ArrayLike) -> Ints:
        of = np.asarray(x)
        if of.shape != (self.n_channels,) or of.dtype.kind not in "iu":
            raise ValueError(f"x: {of.dtype} {of.shape} given, {self.n_channels} integers are needed")
        return of.astype(np.int64)

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return what is lost if the tiles could share their places: all but the largest vectors of the layer.

        Where ``duals["enumerated"]`` asks for it, and there are no more than `STATES` sets of channels to look at,
        every way to fill the tiles is tried instead, and the bound is the optimum.
        """
        vectors = np.sort(self.energy.ravel())
        shared = float(vectors[: max(0, len(vectors) - self.keep * self.n_tiles)].sum())
        return max(shared, self._least()) if duals.get("enumerated") else shared

    def _least(self) -> float:
        """The optimum, tile by tile over the sets of channels still to be placed; -inf if they are too many."""
        lost: dict[tuple[int, ...], float] = {}
        layer = {tuple(range(self.n_channels)): 0.0}
        looked = 0
        for tile in range(self.n_tiles):
            places = (self.n_tiles - tile - 1) * self.tile
            found: dict[tuple[int, ...], float] = {}
            for rest, so_far in layer.items():
                first, others = rest[:1], rest[1:]
                for size in range(max(0, len(others) - places), min(self.tile - 1, len(others)) + 1):
                    looked += math.comb(len(others), size)
                    if looked > STATES:
                        return -math.inf
                    for company in itertools.combinations(others, size):
                        mine = first + company
                        if mine not in lost:
                            lost[mine] = self.lost(mine)
                        left = tuple(c for c in others if c not in company)
                        found[left] = min(found.get(left, math.inf), so_far + lost[mine])
            layer = found
        return layer.get((), -math.inf) if self.n_channels else 0.0

    def to_pulp(self) -> pulp.LpProblem:
        """Return a PuLP model: channels in tiles (binary), vectors kept in the tile of their channel."""
        import pulp

        model = pulp.LpProblem("tile_partition", pulp.LpMinimize)
        c, n, g = self.n_channels, self.energy.shape[1], self.n_tiles
        x = [[model.add_variable(f"x_{i}_{t}", 0, 1, pulp.LpBinary) for t in range(g)] for i in range(c)]
        y = {
            (i, v, t): model.add_variable(f"y_{i}_{v}_{t}", 0, 1) for i in range(c) for v in range(n) for t in range(g)
        }
        kept = [(var, -float(self.energy[i, v])) for (i, v, _), var in y.items()]
        model.setObjective(pulp.LpAffineExpression(kept, constant=self.total))
        for i in range(c):
            model.addConstraint(pulp.lpSum(x[i]) == 1, f"channel_{i}")
        for (i, v, t), var in y.items():
            model.addConstraint(var - x[i][t] <= 0, f"vector_{i}_{v}_{t}")
        for t in range(g):
            model.addConstraint(pulp.lpSum(x[i][t] for i in range(c)) <= self.tile, f"room_{t}")
            places = pulp.lpSum(y[i, v, t] for i in range(c) for v in range(n))
            model.addConstraint(places <= self.keep, f"keep_{t}")
        return model

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the tiles held by the variables of a solved `to_pulp` model."""
        found, value = model.variablesDict(), np.zeros(self.n_channels, np.int64)
        for i, t in np.ndindex(self.n_channels, self.n_tiles):
            variable = found.get(f"x_{i}_{t}")
            if variable is not None and (variable.varValue or 0.0) > 0.5:
                value[i] = t
        return value

"""Depthwise layers in tiles: how many vectors every small matrix product keeps, under a budget of latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, refuse, require, whole_number
from prunopt.forms.knapsack._lagrangian import Choices, bound, multiplier_of

if TYPE_CHECKING:
    import pulp

ROUNDING = 1e-9  # relative: a sum that meets its limit exactly must not miss it by how decimals are written


@one_line
@dataclass(frozen=True, eq=False)
class TileColumns:
    r"""The least energy lost when layers of small matrix products keep whole tiles of vectors.

    Layer l is computed as :math:`G_l` products (its diagonal blocks); product g holds vectors of energies
    :math:`e_{g1} \ge e_{g2} \ge \dots`. Keeping :math:`k_g` of them loses the rest. The hardware computes in tiles of
    T vectors, and a layer lasts as long as its fullest product, :math:`\tau_l = \lceil \max_{g \in l} k_g / T \rceil`:

    .. math::
        \min_{k} \; \sum_g \sum_{i > k_g} e_{gi}
        \quad \text{s.t.} \quad \sum_l c_l(\tau_l) \le B, \quad \sum_g k_g \le K

    Nothing is lost by equal products (every one of a layer fills its tiles), so an optimum is one number of tiles a
    layer: a multiple-choice knapsack with one resource more where K is given.

    Parameters
    ----------
    energy : (G, n) float
        The energies of each product's vectors, falling along a row, zero beyond its `capacity`.
    layer : (G,) int
        The layer of each product, 0, 1, ..., rising.
    capacity : (G,) int
        How many vectors a product has.
    cost : (L, tiles + 1) float
        The latency c_l of 0, 1, ... tiles; infinite where a number of tiles is not allowed.
    budget : float
        The latency B in the unit of ``cost``; infinity for no limit.
    tile : int
        Vectors of a tile, T.
    max_kept : float
        The most vectors K that may be kept in all; infinity for no limit.

    Notes
    -----
    The value is an int array of shape (G,): the vectors that each product keeps, the largest ones.

    References
    ----------
    .. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
       pruning for maximizing GPU parallelism", NeurIPS 2024.
    """

    energy: Any
    layer: Any
    capacity: Any
    cost: Any
    budget: float
    tile: int = 32
    max_kept: float = math.inf
    violation_unit: ClassVar[float] = 1.0  # violations are shares of the budget

    def __post_init__(self) -> None:
        energy = np.array(floats("energy", self.energy, ("G", "n"), low=0.0))
        cost = np.array(floats("cost", self.cost, ("layers", "tiles + 1"), low=0.0, finite=False))
        layer = ints("layer", self.layer, (len(energy),))
        capacity = ints("capacity", self.capacity, (len(energy),), low=0, high=energy.shape[1])
        whole_number("tile", self.tile, low=1)
        require(
            np.all(np.diff(energy, axis=1) <= 0), "energy", "fall along each row", energy, "sort each row downwards"
        )
        numbers = sorted(set(layer.tolist())) == list(range(len(cost))) and np.all(np.diff(layer) >= 0)
        require(numbers, "layer", f"hold 0 to {len(cost) - 1}, rising, one for each row of cost", layer)
        beyond = np.arange(energy.shape[1]) >= capacity[:, None]
        require(not np.any(energy[beyond]), "energy", "be zero beyond a product's capacity", energy)
        for name in ("budget", "max_kept"):
            limit = getattr(self, name)
            require(float(limit) >= 0, name, "be a number >= 0, or infinity for no limit", limit)
            object.__setattr__(self, name, float(limit))
        for a in np.flatnonzero(np.isinf(cost).all(axis=1)):
            refuse(f"cost[{a}]", "allow a number of tiles", Shown("infinity only"))
        for name, array in (("energy", energy), ("cost", cost), ("layer", layer), ("capacity", capacity)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "tile", int(self.tile))

    @property
    def n_layers(self) -> int:
        """Number of layers L."""
        return len(self.cost)

    @cached_property
    def objective_unit(self) -> float:
        """All energy: what gaps are relative to where that is less than 1."""
        return math.fsum(self.energy.ravel())

    @cached_property
    def tails(self) -> Floats:
        """The energy that each product loses when it keeps 0, 1, ..., n vectors, shape (G, n + 1)."""
        reversed_sums = np.cumsum(self.energy[:, ::-1], axis=1)[:, ::-1]
        return np.concatenate([reversed_sums, np.zeros((len(self.energy), 1))], axis=1)

    @cached_property
    def loss(self) -> Floats:
        """The energy that each layer loses with 0, 1, ... tiles, infinite where they are not allowed; as `cost`."""
        return self._by_layer(np.take_along_axis(self.tails, self._filled, axis=1))

    @cached_property
    def kept(self) -> Floats:
        """The vectors that each layer keeps with 0, 1, ... tiles, infinite where they are not allowed."""
        return self._by_layer(self._filled.astype(np.float64))

    @cached_property
    def _filled(self) -> Ints:
        return np.asarray(np.minimum(np.arange(self.cost.shape[1]) * self.tile, self.capacity[:, None]))

    def _by_layer(self, of_products: Floats) -> Floats:
        out = np.zeros(self.cost.shape)
        np.add.at(out, self.layer, of_products)
        return np.where(np.isfinite(self.cost), out, np.inf)

    def filled(self, tiles: ArrayLike) -> Ints:
        """Return the value in which every product of layer l fills ``tiles[l]`` tiles."""
        return np.asarray(np.minimum(np.asarray(tiles, np.int64)[self.layer] * self.tile, self.capacity))

    def tiles(self, x: ArrayLike) -> Ints:
        """Return how many tiles each layer takes: those of its fullest product, shape (L,)."""
        fullest = np.zeros(self.n_layers, np.int64)
        np.maximum.at(fullest, self.layer, self._as_value(x))
        return -(-fullest // self.tile)

    def latency(self, x: ArrayLike) -> float:
        """Return the latency of all layers; infinite where a number of tiles is not allowed or not in the table."""
        tiles = self.tiles(x)
        if np.any(tiles >= self.cost.shape[1]):
            return math.inf
        return float(math.fsum(self.cost[np.arange(self.n_layers), tiles]))

    def objective(self, x: ArrayLike, /) -> float:
        """Return the energy lost."""
        k = self._as_value(x)
        return float(math.fsum(self.tails[np.arange(len(k)), np.clip(k, 0, self.energy.shape[1])]))

    def violation(self, x: ArrayLike, /) -> float:
        """Return 0 when feasible, else by what share a limit is exceeded; infinite for tiles that are not allowed."""
        k = self._as_value(x)
        if np.any(k < 0) or np.any(k > self.capacity):
            return math.inf
        over = [0.0]
        for used, limit in ((self.latency(k), self.budget), (float(k.sum()), self.max_kept)):
            if math.isinf(used):
                return math.inf
            if used > limit:
                over.append((used - limit) / limit if limit else math.inf)
        return max(over)

    def _as_value(self, x: ArrayLike) -> Ints:
        return ints("x", x, self.layer.shape)

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the Lagrangian bound of the multipliers ``"latency"`` and ``"kept"`` (>= 0, either may be absent).

        .. math:: \sum_l \min_t \bigl( \ell_l(t) + \lambda c_l(t) + \mu k_l(t) \bigr) - \lambda B - \mu K

        A ``"claim"``, that no answer loses less, is checked by listing the numbers of tiles that could still end below.
        """
        limits = (self.budget, self.max_kept)
        choices = Choices(self.loss, (self.cost, self.kept), limits, self.objective_unit, leeway=1e-12)
        multipliers = [multiplier_of(duals, name, 0.0) for name in ("latency", "kept")]
        return bound(choices, multipliers, float(duals.get("claim", -math.inf)))

    def least(self) -> tuple[float, float]:
        """Return the least latency and the fewest vectors that any answer has."""
        return float(math.fsum(self.cost.min(axis=1))), float(self.kept.min(axis=1).sum())

    def is_infeasible_by(self, ray: Any) -> bool:
        """Return whether even the least latency or the fewest vectors are beyond the limits; ``ray`` is not read."""
        latency, kept = self.least()
        return latency > self.budget * (1 + 1e-12) or kept > self.max_kept

    def to_pulp(self) -> pulp.LpProblem:
        """Return the problem as a PuLP model with a binary ``y_l_t`` for every layer and number of tiles."""
        import pulp

        model = pulp.LpProblem("tile_columns", pulp.LpMinimize)
        y = {(int(a), int(t)): model.add_variable(f"y_{a}_{t}", 0, 1, pulp.LpBinary) for a, t in self._allowed}
        model.setObjective(pulp.LpAffineExpression([(v, float(self.loss[key])) for key, v in y.items()]))
        for a in range(self.n_layers):
            model.addConstraint(pulp.lpSum(v for key, v in y.items() if key[0] == a) == 1, f"layer_{a}")
        for name, of, limit in (("latency", self.cost, self.budget), ("kept", self.kept, self.max_kept)):
            if math.isfinite(limit):
                unit = limit or 1.0  # rows in units of the limit: engines have absolute tolerances
                used = pulp.LpAffineExpression([(v, float(of[key]) / unit) for key, v in y.items()])
                model.addConstraint(used <= limit / unit * (1 + ROUNDING), name)
        return model

    @property
    def _allowed(self) -> Ints:
        return np.argwhere(np.isfinite(self.cost))

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the value held by the variables of a solved `to_pulp` model."""
        found, tiles = model.variablesDict(), np.zeros(self.n_layers, np.int64)
        for a, t in self._allowed:
            variable = found.get(f"y_{a}_{t}")
            if variable is not None and (variable.varValue or 0.0) > 0.5:
                tiles[a] = t
        return self.filled(tiles)

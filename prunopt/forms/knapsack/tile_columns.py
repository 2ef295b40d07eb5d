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
from prunopt.core.solution import CertificateError

if TYPE_CHECKING:
    import pulp

ROUNDING = 1e-9  # relative: a sum that meets its limit exactly must not miss it by how decimals are written
STATES = 4_000_000  # numbers of tiles of the first layers that a proof may hold at once


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
        energy, cost = np.array(self.energy, np.float64), np.array(self.cost, np.float64)
        layer, capacity = np.array(self.layer, np.int64), np.array(self.capacity, np.int64)
        if energy.ndim != 2 or layer.shape != (len(energy),) or capacity.shape != layer.shape:
            raise ValueError(
                f"energy: shape {energy.shape}, layer {layer.shape}, capacity {capacity.shape} given; (G, n), (G,) and "
                "(G,) are needed"
            )
        if not np.all(np.isfinite(energy)) or np.any(energy < 0) or np.any(np.diff(energy, axis=1) > 0):
            raise ValueError("energy: rows of finite numbers >= 0 that never rise are needed; sort each row downwards")
        if int(self.tile) < 1:
            raise ValueError(f"tile={self.tile!r}: give a number of vectors >= 1")
        if cost.ndim != 2 or not cost.shape[1] or np.any(np.isnan(cost)) or np.any(cost < 0):
            raise ValueError(f"cost: shape {cost.shape} given; latencies >= 0 of shape (layers, tiles + 1) are needed")
        if np.any(np.diff(layer) < 0) or sorted(set(layer.tolist())) != list(range(len(cost))):
            raise ValueError(f"layer: the numbers 0 to {len(cost) - 1}, rising, are needed, one for each row of cost")
        if np.any(capacity < 0) or np.any(capacity > energy.shape[1]):
            raise ValueError(f"capacity: numbers between 0 and {energy.shape[1]} (columns of energy) are needed")
        if np.any(energy[np.arange(energy.shape[1]) >= capacity[:, None]] != 0):
            raise ValueError("energy: it must be zero beyond a product's capacity")
        for name in ("budget", "max_kept"):
            if not float(getattr(self, name)) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a number >= 0, or infinity for no limit")
        if np.any(np.isinf(cost).all(axis=1)):
            raise ValueError(f"cost: layer {int(np.argmax(np.isinf(cost).all(axis=1)))} allows no number of tiles")
        for name, array in (("energy", energy), ("cost", cost), ("layer", layer), ("capacity", capacity)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "tile", int(self.tile))
        object.__setattr__(self, "budget", float(self.budget))
        object.__setattr__(self, "max_kept", float(self.max_kept))

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
        k = np.asarray(x)
        if k.shape != self.layer.shape or k.dtype.kind not in "iu":
            raise ValueError(f"x: {k.dtype} of shape {k.shape} given, integers of shape {self.layer.shape} are needed")
        return k.astype(np.int64)

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the Lagrangian bound of the multipliers ``"latency"`` and ``"kept"`` (>= 0, either may be absent).

        .. math:: \sum_l \min_t \bigl( \ell_l(t) + \lambda c_l(t) + \mu k_l(t) \bigr) - \lambda B - \mu K

        A ``"claim"``, that no answer loses less, is checked by listing layer by layer all numbers of tiles that could
        still end below it; where more than `STATES` remain, it does not count.
        """
        total, fixed = self.loss, 0.0
        for name, of, limit in (("latency", self.cost, self.budget), ("kept", self.kept, self.max_kept)):
            multiplier = float(duals.get(name, 0.0))
            if not 0 <= multiplier < math.inf:
                raise CertificateError(f"duals[{name!r}]={multiplier}: a finite number >= 0 is needed")
            if multiplier and math.isfinite(limit):
                total = total + multiplier * of
                fixed += multiplier * limit
        least = total.min(axis=1)
        # Lowered by what rounding may add: large multipliers drown the losses.
        slack = 2.0**-50 * (self.objective_unit + float(np.abs(least).sum()) + fixed)
        relaxed = float(math.fsum(least) - fixed) - slack
        claim = float(duals.get("claim", -math.inf))
        return self._least_below(claim, relaxed, total) if relaxed < claim < math.inf else relaxed

    def _least_below(self, claim: float, relaxed: float, total: Floats) -> float:
        """Return the least loss below ``claim``, the claim where there is none, ``relaxed`` with too many states."""
        reduced = total - total.min(axis=1, keepdims=True)
        used = [np.where(np.isfinite(self.loss), of, np.inf) for of in (self.cost, self.kept)]
        ends = (self.budget * (1 + 1e-12), self.max_kept)
        still = [np.append(np.cumsum(of.min(axis=1)[::-1])[::-1], 0.0) for of in used]
        states = np.zeros((4, 1))  # above the relaxation, loss, latency, vectors
        for a in range(self.n_layers):
            levels = np.flatnonzero(reduced[a] < claim - relaxed)
            if states.shape[1] * len(levels) > STATES:
                return relaxed
            steps = np.array([reduced[a, levels], self.loss[a, levels], *(of[a, levels] for of in used)])
            states = (states[:, :, None] + steps[:, None, :]).reshape(4, -1)
            held = states[0] < claim - relaxed
            for k in (0, 1):
                held &= states[2 + k] + still[k][a + 1] <= ends[k] * (1 + 1e-12)
            states = states[:, held]
            if math.isinf(self.max_kept):  # of equal layers, one that neither lasts nor loses more replaces another
                states = states[:, np.lexsort((states[1], states[2]))]
                best = np.minimum.accumulate(np.append(np.inf, states[1][:-1])) if states.size else states[1]
                states = states[:, states[1] < best]
        return float(min(claim, states[1].min(initial=math.inf)))

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

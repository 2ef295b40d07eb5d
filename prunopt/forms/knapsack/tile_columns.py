"""Depthwise layers in tiles: how many vectors every small matrix product keeps, under a budget of latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, refuse, require, whole_number
from prunopt.forms.knapsack._lagrangian import Choices, bound, multiplier_of

if TYPE_CHECKING:
    import pulp

ROUNDING = 1e-9  # relative: a sum that meets its limit exactly must not miss it by how decimals are written


class Options(NamedTuple):
    """What each layer may choose: its tiles (-1: no such option), vectors kept, loss and cost, all (L, O)."""

    tiles: Ints
    kept: Floats
    loss: Floats
    cost: Floats


class Greedy(NamedTuple):
    """Vectors of a layer by falling energy: their products, what these keep at least, loss and tiles after each."""

    product: Ints
    least: Ints
    lost: Floats
    tiles: Ints


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

    Without a limit on vectors nothing is lost by equal products (every one of a layer fills its tiles), so an optimum
    is one number of tiles a layer: a multiple-choice knapsack. Where K binds, a layer may keep any number m of vectors
    in its tiles, the largest of all its products, so the knapsack chooses (tiles, m) and has two resources.

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
        """The energy that each layer loses with 0, 1, ... full tiles, infinite where they cannot be; as `cost`."""
        return self._by_layer(np.take_along_axis(self.tails, self._filled, axis=1))

    @cached_property
    def kept(self) -> Floats:
        """The vectors that each layer keeps with 0, 1, ... full tiles, infinite where they cannot be."""
        return self._by_layer(self._filled.astype(np.float64))

    @cached_property
    def _filled(self) -> Ints:
        return np.asarray(np.minimum(np.arange(self.cost.shape[1]) * self.tile, self.capacity[:, None]))

    @cached_property
    def allowed(self) -> Bools:
        """Which numbers of tiles a layer can take: those of a finite cost that its fullest product reaches."""
        fullest = np.zeros(self.n_layers, np.int64)
        np.maximum.at(fullest, self.layer, self.capacity)
        reached = np.arange(self.cost.shape[1]) <= -(-fullest // self.tile)[:, None]
        return np.asarray(np.isfinite(self.cost) & reached)

    @cached_property
    def limited(self) -> bool:
        """Whether `max_kept` can bind: it is less than all vectors together."""
        return bool(self.max_kept < self.capacity.sum())

    @cached_property
    def options(self) -> Options:
        """What every layer chooses from: all numbers of full tiles, or where K can bind of tiles and vectors."""
        if not self.limited:
            tiles = np.where(self.allowed, np.arange(self.cost.shape[1]), -1)
            return Options(tiles, self.kept, self.loss, np.where(self.allowed, self.cost, np.inf))
        rows = [self._options_of(a) for a in range(self.n_layers)]
        width = max(len(row[0]) for row in rows)
        columns = [
            np.stack([np.append(part, np.full(width - len(part), np.inf)) for part in c])
            for c in zip(*rows, strict=True)
        ]
        tiles = np.where(np.isinf(columns[0]), -1, columns[0]).astype(np.int64)
        return Options(tiles, *columns[1:])

    def _options_of(self, a: int) -> tuple[Floats, Floats, Floats, Floats]:
        """Tiles, vectors, loss and cost of the options of one layer; dominated ones are left out."""
        found: list[tuple[Floats, ...]] = []
        for t in np.flatnonzero(self.allowed[a]).tolist():
            natural = self._greedy(a, t)
            lost, used = natural.lost.copy(), natural.tiles
            if t:
                # Too few vectors reach fewer tiles. Where those cost no more, that other option is the better one.
                other = self.cost[a, used]
                short = (used < t) & (other > self.cost[a, t])
                lost[(used < t) & ~short] = np.inf
                first = (t - 1) * self.tile + 1
                if short.any():
                    lost[short] = np.inf
                    for g in np.flatnonzero((self.layer == a) & (self.capacity >= first)).tolist():
                        forced = self._greedy(a, t, g).lost
                        lost[first:][short[first:]] = np.minimum(lost[first:], forced)[short[first:]]
            kept = np.flatnonzero(np.isfinite(lost)).astype(np.float64)
            found.append(
                (np.full(len(kept), float(t)), kept, lost[np.isfinite(lost)], np.full(len(kept), self.cost[a, t]))
            )
        tiles, kept, loss, cost = (np.concatenate(part) for part in zip(*found, strict=True))
        return tiles, kept, loss, cost

    def _greedy(self, a: int, t: int, first: int = -1) -> Greedy:
        """The largest vectors of layer a within t tiles, one after another; product ``first`` begins its last tile."""
        mine = np.flatnonzero(self.layer == a)
        top = np.minimum(t * self.tile, self.capacity[mine])
        bottom = np.where(mine == first, (t - 1) * self.tile + 1, 0)
        place = np.arange(self.energy.shape[1])
        product, rank = np.nonzero((place >= bottom[:, None]) & (place < top[:, None]))
        energy = self.energy[mine[product], rank]
        order = np.argsort(-energy, kind="stable")
        beyond = math.fsum(self.tails[mine, top])
        lost = beyond + np.append(np.cumsum(energy[order][::-1])[::-1], 0.0)
        fullest = np.maximum.accumulate(np.append(bottom.max(initial=0), rank[order] + 1))
        return Greedy(product[order], bottom, lost, -(-fullest // self.tile))

    def value_of(self, choice: ArrayLike) -> Ints:
        """Return the value in which layer l takes option ``choice[l]`` of `options`."""
        if not self.limited:
            return self.filled(choice)
        value = np.zeros(len(self.layer), np.int64)
        for a, o in enumerate(np.asarray(choice, np.int64).tolist()):
            t, m = int(self.options.tiles[a, o]), int(self.options.kept[a, o])
            mine = np.flatnonzero(self.layer == a)
            chosen = self._greedy(a, t)
            if chosen.tiles[m] < t:  # one product has to begin the last tile
                first = (t - 1) * self.tile + 1
                able = mine[self.capacity[mine] >= first]
                chosen = min((self._greedy(a, t, g) for g in able.tolist()), key=lambda c: c.lost[m - first])
                m -= first
            value[mine] = chosen.least + np.bincount(chosen.product[:m], minlength=len(mine))
        return value

    def _by_layer(self, of_products: Floats) -> Floats:
        out = np.zeros(self.cost.shape)
        np.add.at(out, self.layer, of_products)
        return np.where(self.allowed, out, np.inf)

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

        over the options (t, k) of each layer. A ``"claim"``, that no answer loses less, is checked by listing the
        options that could still end below: first the tiles alone, with :math:`\mu` for each vector (`by_tiles`), and
        where that does not prove it, tiles and vectors.
        """
        latency, kept = (multiplier_of(duals, name, 0.0) for name in ("latency", "kept"))
        claim = float(duals.get("claim", -math.inf))
        fixed = kept * math.floor(self.max_kept) if self.limited else 0.0
        proven = bound(self.by_tiles(kept if self.limited else 0.0), (latency,), claim + fixed) - fixed
        proven -= 2.0**-50 * fixed
        near = 1e-12 * self.objective_unit  # a claim that only rounding is between counts
        if self.limited and near < claim - proven < math.inf:
            proven = max(proven, bound(self.choices, (latency, kept), claim))
        return claim if abs(claim - proven) <= near else proven

    def by_tiles(self, multiplier: float) -> Choices:
        r"""Return the choice of tiles alone, where every vector kept costs the multiplier: K is relaxed."""
        layer, option = np.nonzero(self.options.tiles >= 0)
        loss = np.full(self.cost.shape, np.inf)
        total = self.options.loss[layer, option] + multiplier * self.options.kept[layer, option]
        np.minimum.at(loss, (layer, self.options.tiles[layer, option]), total)
        unit = self.objective_unit + multiplier * float(self.capacity.sum())
        return Choices(loss, (np.where(self.allowed, self.cost, np.inf),), (self.budget,), unit, 1e-12)

    @cached_property
    def choices(self) -> Choices:
        """The problem as a multiple-choice knapsack over `options`."""
        limits = (self.budget, float(math.floor(self.max_kept)) if self.limited else math.inf)
        return Choices(self.options.loss, (self.options.cost, self.options.kept), limits, self.objective_unit, 1e-12)

    def least(self) -> tuple[float, float]:
        """Return the least latency and the fewest vectors that any answer has."""
        tiles = np.arange(self.cost.shape[1])
        fewest = np.where(self.allowed, np.where(tiles > 0, (tiles - 1) * self.tile + 1, 0), np.inf).min(axis=1)
        return float(math.fsum(np.where(self.allowed, self.cost, np.inf).min(axis=1))), float(fewest.sum())

    def is_infeasible_by(self, ray: Any) -> bool:
        """Return whether even the least latency or the fewest vectors are beyond the limits; ``ray`` is not read."""
        latency, kept = self.least()
        return latency > self.budget * (1 + 1e-12) or kept > self.max_kept

    def to_pulp(self) -> pulp.LpProblem:
        """Return the integer model: a binary ``y_l_t`` for every layer and number of tiles.

        Where K can bind, binaries ``x_g_i`` say whether product g keeps its i-th vector, and ``f_g_t`` which product
        begins the last of t tiles.
        """
        import pulp

        model = pulp.LpProblem("tile_columns", pulp.LpMinimize)
        y = {(int(a), int(t)): model.add_variable(f"y_{a}_{t}", 0, 1, pulp.LpBinary) for a, t in self._allowed}
        for a in range(self.n_layers):
            model.addConstraint(pulp.lpSum(v for key, v in y.items() if key[0] == a) == 1, f"layer_{a}")
        if math.isfinite(self.budget):
            unit = self.budget or 1.0  # the row in units of the limit: engines have absolute tolerances
            used = pulp.LpAffineExpression([(v, float(self.cost[key]) / unit) for key, v in y.items()])
            model.addConstraint(used <= self.budget / unit * (1 + ROUNDING), "latency")
        if not self.limited:
            model.setObjective(pulp.LpAffineExpression([(v, float(self.loss[key])) for key, v in y.items()]))
            return model
        x = {
            (g, i): model.add_variable(f"x_{g}_{i}", 0, 1, pulp.LpBinary)
            for g, n in enumerate(self.capacity.tolist())
            for i in range(n)
        }
        for (g, i), v in x.items():
            if i:
                model.addConstraint(v <= x[g, i - 1], f"falls_{g}_{i}")
            if i % self.tile == 0:
                room = pulp.lpSum(
                    y.get((int(self.layer[g]), t), 0) for t in range(i // self.tile + 1, self.cost.shape[1])
                )
                model.addConstraint(v <= room, f"within_{g}_{i}")
        for (a, t), v in y.items():
            begins = [x[g, i] for g in np.flatnonzero(self.layer == a).tolist() if (g, i := (t - 1) * self.tile) in x]
            starts = [model.add_variable(f"f_{a}_{t}_{k}", 0, 1, pulp.LpBinary) for k in range(len(begins) if t else 0)]
            for k, (start, begin) in enumerate(zip(starts, begins, strict=bool(t))):
                model.addConstraint(start <= begin, f"begins_{a}_{t}_{k}")
            if t:
                model.addConstraint(pulp.lpSum(starts) >= v, f"reaches_{a}_{t}")
        model.addConstraint(pulp.lpSum(x.values()) <= math.floor(self.max_kept), "kept")
        gained = pulp.LpAffineExpression([(v, -float(self.energy[key])) for key, v in x.items()])
        model.setObjective(gained + self.objective_unit)
        return model

    @property
    def _allowed(self) -> Ints:
        return np.argwhere(self.allowed)

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the binaries x and y of the `to_pulp` model are at a value: a start for an engine."""
        held = np.asarray(x, np.int64)
        tiles = np.zeros(self.n_layers, np.int64)
        np.maximum.at(tiles, self.layer, -(-held // self.tile))
        kept = {f"x_{g}_{i}": float(i < held[g]) for g, n in enumerate(self.capacity.tolist()) for i in range(n)}
        return kept | {f"y_{a}_{t}": float(tiles[a] == t) for a, t in self._allowed}

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the value held by the variables of a solved `to_pulp` model."""
        on = {name for name, variable in model.variablesDict().items() if (variable.varValue or 0.0) > 0.5}
        if self.limited:
            held = [sum(f"x_{g}_{i}" in on for i in range(n)) for g, n in enumerate(self.capacity.tolist())]
            return np.array(held, np.int64)
        tiles = np.zeros(self.n_layers, np.int64)
        for a, t in self._allowed:
            if f"y_{a}_{t}" in on:
                tiles[a] = t
        return self.filled(tiles)

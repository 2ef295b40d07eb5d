"""Depthwise convolutions in diagonal form: which vectors of their small matrix products stay (DEPrune)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.problem import Reduced
from prunopt.core.validate import floats, ints, mask, of_shape, require, whole_number
from prunopt.forms.knapsack.tile_columns import TileColumns

Masks = tuple[Bools, ...]


@one_line
@dataclass(frozen=True, eq=False)
class DepthwiseConv:
    r"""Prune single weights of depthwise convolutions, where that removes whole vectors of a matrix product.

    A depthwise convolution of M channels with kernels of :math:`k_h k_w` weights, refactorized along its diagonal, is
    G = ceil(M / T) products of a (T x T k_h k_w) block-diagonal matrix with the unfolded input. Every column of such a
    matrix has one weight that is not zero, so without that weight the column and a row of the input go. With masks
    :math:`m_l`, energies of each layer scaled to 1, and :math:`\tau_l` the tiles of T vectors in its fullest product,

    .. math::
        \min_m \; \sum_l \frac{\sum_i (1 - m_{li}) w_{li}^2}{\sum_i w_{li}^2}
        \quad \text{s.t.} \quad \sum_l c_l(\tau_l) \le B, \quad \sum_{l, i} m_{li} \le K

    Parameters
    ----------
    weights : sequence of (M, kh, kw) or (M, 1, kh, kw) float
        The kernels of every depthwise layer.
    positions : sequence of int
        Output pixels of every layer: the columns of its unfolded input.
    budget : float
        The latency B: in the unit of ``cost``; infinity for no limit.
    tile : int
        Channels of a product, and vectors of a tile of the hardware, T.
    cost : (layers, tiles + 1) float, optional
        The measured latency of each layer by tiles kept; None models it as G * positions * tiles.
    max_kept : float
        The most weights that stay in all, K; infinity for no limit.

    Notes
    -----
    The value is a tuple of bool arrays of shape (M, kh, kw), True = the weight stays. Where T does not divide M the
    last product is short; it is padded by channels that have no weights. A channel that loses all of its weights still
    gives the constant of its batch norm.

    References
    ----------
    .. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
       pruning for maximizing GPU parallelism", NeurIPS 2024.
    .. [2] Z. Qin, Z. Zhang, D. Li, Y. Zhang, Y. Peng, "Diagonalwise refactorization: an efficient training method for
       depthwise convolutions", IJCNN 2018.
    """

    weights: Any
    positions: Any
    budget: float = math.inf
    tile: int = 32
    cost: Any = None
    max_kept: float = math.inf
    forms: ClassVar[tuple[type, ...]] = (TileColumns,)
    violation_unit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        weights = tuple(_kernel(i, w) for i, w in enumerate(self.weights))
        require(weights, "weights", "hold a depthwise layer", weights)
        positions = np.array(ints("positions", self.positions, (len(weights),), low=1))
        whole_number("tile", self.tile, low=1)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "tile", int(self.tile))
        modelled = self.modelled_cost()
        cost = modelled if self.cost is None else np.array(of_shape("cost", self.cost, modelled.shape))
        object.__setattr__(self, "cost", cost)
        _ = self.form

    @property
    def products(self) -> Ints:
        """Number of matrix products G of every layer."""
        return np.array([-(-len(w) // self.tile) for w in self.weights])

    def modelled_cost(self) -> Floats:
        """Return G * positions * tiles for every layer and number of tiles; infinite beyond the layer's own tiles."""
        tiles = np.array([w[0].size for w in self.weights])  # a full product: T channels of so many weights
        t = np.arange(tiles.max() + 1)
        cost = (self.products * self.positions)[:, None] * t.astype(np.float64)
        return np.where(t <= tiles[:, None], cost, np.inf)

    @property
    def dense_latency(self) -> float:
        """The latency of the layers as they are."""
        rows = np.arange(len(self.weights))
        return math.fsum(self.cost[rows, [w[0].size for w in self.weights]])

    @cached_property
    def _order(self) -> list[Ints]:
        """For every product the flat places of its weights in their layer, the largest first."""
        out = []
        for w in self.weights:
            flat, size = (w**2).ravel(), self.tile * w[0].size
            for start in range(0, len(flat), size):
                out.append(start + np.argsort(-flat[start : start + size], kind="stable"))
        return out

    @cached_property
    def form(self) -> TileColumns:
        """The task as numbers of vectors in products."""
        layer = np.repeat(np.arange(len(self.weights)), self.products)
        energy = np.zeros((len(layer), max(len(o) for o in self._order)))
        for row, (order, a) in enumerate(zip(self._order, layer, strict=True)):
            w = self.weights[a]
            energy[row, : len(order)] = (w.ravel()[order] ** 2) / math.fsum((w**2).ravel())
        capacity = [len(order) for order in self._order]
        return TileColumns(energy, layer, capacity, self.cost, self.budget, self.tile, self.max_kept)

    def counts(self, x: Sequence[ArrayLike]) -> Ints:
        """Return how many vectors each product keeps."""
        masks = self._as_value(x)
        layer = self.form.layer
        rows = zip(self._order, layer, strict=True)
        return np.array([np.count_nonzero(masks[a].ravel()[order]) for order, a in rows], np.int64)

    def objective(self, x: Sequence[ArrayLike], /) -> float:
        """Return the shares of the layers' energies that are lost, summed."""
        masks = self._as_value(x)
        lost = (math.fsum((w**2)[~m]) / math.fsum((w**2).ravel()) for w, m in zip(self.weights, masks, strict=True))
        return math.fsum(lost)

    def violation(self, x: Sequence[ArrayLike], /) -> float:
        """Return 0 within the limits, else by what share one is exceeded."""
        return self.form.violation(self.counts(x))

    def latency(self, x: Sequence[ArrayLike]) -> float:
        """Return the latency of the masked layers by the table."""
        return self.form.latency(self.counts(x))

    def masks(self, counts: ArrayLike) -> Masks:
        """Return the masks in which every product keeps its ``counts`` largest weights."""
        out = tuple(np.zeros(w.size, np.bool_) for w in self.weights)
        for order, a, k in zip(self._order, self.form.layer, np.asarray(counts), strict=True):
            out[a][order[:k]] = True
        return tuple(m.reshape(w.shape) for m, w in zip(out, self.weights, strict=True))

    def reduce(self, to: type | None = None) -> Reduced[Masks]:
        """Return the task as a `TileColumns`; within a product the largest weights stay, whatever their number."""
        require(to is None or issubclass(TileColumns, to), "to", "be TileColumns", to)
        return Reduced(self.form, self.masks, slack=1e-12)

    def _as_value(self, x: Sequence[ArrayLike]) -> Masks:
        require(len(x) == len(self.weights), "x", f"hold {len(self.weights)} masks", len(x))
        return tuple(mask(f"x[{i}]", m, w.shape) for i, (m, w) in enumerate(zip(x, self.weights, strict=True)))


def _kernel(i: int, w: Any) -> Floats:
    array = np.array(w, np.float64)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    floats(f"weights[{i}]", array, ("channels", "kh", "kw"))
    require(np.any(array), f"weights[{i}]", "hold a weight that is not zero", array, "leave the layer out")
    return array

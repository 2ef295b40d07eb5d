"""Budget pruning of forests on data that outgrow memory: rows come in chunks, requirements go to disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints, Ints32, Singles
from prunopt.core.deprecation import renamed_arguments, renamed_attributes
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, ints, invalid, require, whole_number
from prunopt.forms.closure.closure_on_disk import ClosureOnDisk, ClosureWriter
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import node_errors
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

Rows = tuple[Singles, AnyArray, Floats]
GRID = 46  # profits that are not integers are rounded so that they add up to 2^46 to 2^47


@renamed_attributes(price="penalty", prices="feature_costs", at_price="at_penalty")
@dataclass(frozen=True, eq=False)
class StreamedForestBudget:
    r"""`ForestBudget` with the rows read chunk by chunk: memory for the forest and one chunk, however many rows.

    .. math::
        \min_{\text{prunings}} \; \frac1T \sum_{t,h} \frac{e_h}{N} z_h + \lambda \sum_{i,c} \frac{s_i}{N} p_{ic} w_{ic}

    over the prunings of `ForestBudget`, every tree judged on every row (``errors="holdout"``). It reduces to a
    `ClosureOnDisk`, which `StreamedPrimalDual` solves with a certified gap. Components that the same nodes need are
    one requirement only within a chunk: larger chunks make fewer edges.

    The value is a bool array over the internal nodes, tree by tree in node-id order: True = stays internal;
    ``prunopt.forests.pruned_forest(forest, value)`` is the pruned forest.

    Parameters
    ----------
    ensemble
        The trees.
    feature_costs
        Features, their groups and costs, the same for all rows.
    penalty
        The multiplier lambda >= 0 of the cost, in units of error for one unit of cost.
    node_error : (n_nodes,) float
        Weighted error e_h of every node, were it a leaf, on all rows.
    total_weight
        Sum N of the sample weights.
    disk
        The requirements, with an open penalty; see `closure`.
    cost_unit
        Cost in the caller's unit of one unit of the closure's costs, times N.
    slack
        How far rounding of the profits may move the objective; 0 where the closure is exact.
    rows
        Yields the chunks again, for `cost` from scratch; None where they came from an iterator that is used up.

    Examples
    --------
    >>> X = np.load("X.npy", mmap_mode="r")                                            # doctest: +SKIP
    >>> task = StreamedForestBudget.build(forest, (X, y), costs, 2e-4, "closure")    # doctest: +SKIP
    >>> found = po.solve(task, limits=po.Limits(seconds=600))                          # doctest: +SKIP
    >>> found.gap, task.cost(found.value)                                              # doctest: +SKIP
    >>> small = prunopt.forests.pruned_forest(forest, found.value)                     # doctest: +SKIP
    """

    forms: ClassVar[tuple[type, ...]] = (ClosureOnDisk,)

    ensemble: TreeEnsemble
    feature_costs: FeatureCosts
    penalty: Fraction
    node_error: Floats
    total_weight: float
    disk: ClosureOnDisk
    cost_unit: Fraction
    slack: float
    rows: Callable[[], Iterator[Rows]] | None = None

    @classmethod
    @renamed_arguments(price="penalty")
    def build(
        cls,
        forest: Any,
        rows: Any,
        feature_costs: Any,
        penalty: float | Fraction,
        folder: str | os.PathLike[str],
        *,
        feature_groups: Any = None,
        known: Any = None,
        loss: str = "misclassification",
        rows_per_chunk: int = 20_000,
    ) -> StreamedForestBudget:
        """Read all rows once, and write the requirements of the forest's nodes to a folder.

        Parameters
        ----------
        forest
            A fitted random forest, extra trees, bagging of trees, or single tree of scikit-learn.
        rows
            ``(X, y)`` or ``(X, y, sample_weight)``, arrays that may be memory-mapped; or an iterable of such tuples,
            one for each chunk; or a function that returns one. What can be read only once (a generator) will do, but
            then costs are re-evaluated from the folder, not from the rows. Weights are whole numbers.
        feature_costs, feature_groups, known
            See `FeatureCosts.of`; costs, and what is known, have to be the same for all rows.
        penalty
            See `ForestBudget.from_forest`.
        folder
            A new folder, or one without a closure in it.
        loss
            See `ForestBudget.from_forest`.
        rows_per_chunk
            Rows that are held at once; a chunk on disk is made of as many.
        """
        size = whole_number("rows_per_chunk", rows_per_chunk, low=1)
        ensemble = TreeEnsemble.from_sklearn(forest)
        costs = FeatureCosts.of(feature_costs, ensemble.n_features, ensemble.feature_names, feature_groups, known)
        mend = "a stream needs the same costs and known features for all rows"
        require(costs.n_rows is None, "feature_costs", "be the same for all rows", Shown("costs per row"), mend)
        name = loss if ensemble.classes is not None else "squared"
        source = _source(rows)
        error, total, unit = np.zeros(ensemble.n_nodes), 0.0, None
        with ClosureWriter(folder, len(ensemble.internal)) as writer:
            for X, y, weight in _regrouped(source(), ensemble, size):
                error += node_errors(ensemble, X, y, weight[None, :], name)[0]
                total += float(weight.sum())
                if weight.any():
                    unit = _add(writer, ensemble, X, costs, weight)
            if unit is None:
                raise invalid("rows", "hold a row of positive weight", Shown("none"))
            profit, scale = _profits(ensemble, error, name, unit)
            whole = scale is None
            of_error = Fraction(1, ensemble.n_trees) if scale is None else unit / scale
            parent = _parents(ensemble)
            disk = writer.finish(profit, parent, penalty=1, unit=of_error / Fraction(total))
        slack = 0.0 if whole else len(profit) * float(disk.unit) / 2 * (1 + 1e-6)
        again = None if isinstance(rows, Iterator) else lambda: _regrouped(source(), ensemble, size)
        task = cls(ensemble, costs, Fraction(0), error, total, disk, unit, slack, again)
        return task.at_penalty(penalty)

    def at_penalty(self, penalty: float | Fraction) -> StreamedForestBudget:
        """Return the same problem at another penalty; the files are shared."""
        other = replace(self, penalty=self._sums.at_penalty(penalty).penalty)
        other.__dict__["_sums"] = self._sums
        return other

    @cached_property
    def _sums(self) -> ForestBudget:
        """The errors of all rows, as a task without rows."""
        none = np.zeros((0, self.ensemble.n_features), np.float32)
        per_tree = np.full(self.ensemble.n_trees, self.total_weight)
        weight = np.array([self.total_weight])
        return ForestBudget(self.ensemble, none, self.feature_costs, self.penalty, weight, self.node_error, per_tree)

    @property
    def closure(self) -> ClosureOnDisk:
        """The closure at this penalty."""
        return self.disk.at_penalty(self.penalty * self.cost_unit / (Fraction(self.total_weight) * self.disk.unit))

    def error(self, kept: ArrayLike) -> float:
        """Return the mean over trees of the (weighted) mean error of the pruned trees."""
        return self._sums.error(kept)

    def cost(self, kept: ArrayLike) -> float:
        """Return the (weighted) mean cost of a row; every row is walked again, where that is possible."""
        if self.rows is None:
            value = np.asarray(kept)
            spent = self.disk.exact_objective(value) / self.disk.unit + int(self.disk.profit[value].sum())
            return float(spent * self.cost_unit / Fraction(self.total_weight))
        cost = 0.0
        for X, _, weight in self.rows():
            if weight.any():
                cost += _of_rows(self.ensemble, X, self.feature_costs, weight).cost(kept) * float(weight.sum())
        return cost / self.total_weight

    def objective(self, kept: ArrayLike, /) -> float:
        """Return the mean error of the trees + penalty * mean cost per row."""
        return self.error(kept) + float(self.penalty) * self.cost(kept)

    def violation(self, kept: ArrayLike, /) -> float:
        """Return how many nodes stay internal although their parent does not."""
        return self._sums.violation(kept)

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the task as a `ClosureOnDisk`."""
        require(to is None or issubclass(ClosureOnDisk, to), "to", "be ClosureOnDisk", to)
        shift = self.error(np.zeros(len(self.ensemble.internal), np.bool_))
        return Reduced(self.closure, lambda x: x, shift=shift, slack=self.slack)


def _source(rows: Any) -> Callable[[], Iterable[Any]]:
    """Where the chunks come from, whatever the caller gave."""
    if callable(rows):
        return rows  # type: ignore[no-any-return]
    if isinstance(rows, tuple) and len(rows) in (2, 3) and hasattr(rows[0], "shape"):
        return lambda: iter([rows])
    if isinstance(rows, Iterable):
        return lambda: rows
    what = "must be (X, y), an iterable of such chunks, or a function that returns one"
    raise TypeError(f"rows {what}, got {type(rows).__name__}")


def _regrouped(chunks: Iterable[Any], ensemble: TreeEnsemble, size: int) -> Iterator[Rows]:
    """Chunks of ``size`` rows out of chunks of any size."""
    held: list[Rows] = []
    count = 0
    for number, chunk in enumerate(chunks):
        if not isinstance(chunk, tuple | list) or len(chunk) not in (2, 3):
            raise TypeError(f"chunk {number} must be (X, y) or (X, y, sample_weight), got {type(chunk).__name__}")
        X, y, weight = (*chunk, None)[:3]
        n, sizes = len(X), {len(y), len(X if weight is None else weight)}
        require(sizes == {n}, f"chunk {number} of rows", f"have {n} targets and weights", Shown(f"{sorted(sizes)}"))
        first = 0
        while first < n:
            last = min(n, first + size - count)
            columns = X.iloc[first:last] if hasattr(X, "iloc") else X[first:last]
            part = ensemble.rows(columns, f"rows: chunk {number}")
            held.append((part, np.asarray(y[first:last]), _weights(weight, first, last, number)))
            count, first = count + last - first, last
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[Rows]) -> Rows:
    if len(held) == 1:
        return held[0]
    X, y, weight = (np.concatenate(column) for column in zip(*held, strict=True))
    return X, y, weight


def _weights(weight: Any, first: int, last: int, number: int) -> Floats:
    if weight is None:
        return np.ones(last - first)
    name = f"sample weights of chunk {number}"
    return ints(name, weight[first:last], low=0, mend="scale and round them").astype(np.float64)


def _of_rows(ensemble: TreeEnsemble, X: Singles, costs: FeatureCosts, weight: Floats) -> ForestBudget:
    """The costs of some rows, as a task whose errors play no part."""
    total = np.full(ensemble.n_trees, weight.sum())
    return ForestBudget(ensemble, X, costs, Fraction(0), weight, np.zeros(ensemble.n_nodes), total)


def _add(writer: ClosureWriter, ensemble: TreeEnsemble, X: Singles, costs: FeatureCosts, weight: Floats) -> Fraction:
    """Write the requirements of some rows as a chunk; return the unit of its costs."""
    part = _of_rows(ensemble, X, costs, weight).path_closure()
    if part.error_slack or part.cost_slack:
        raise invalid("feature_costs", "be whole multiples of one millionth", costs.group_cost)
    writer.add(part.closure.indptr, part.closure.indices, part.closure.cost)
    return 1 / (ensemble.n_trees * part.penalty_unit)


def _profits(ensemble: TreeEnsemble, error: Floats, loss: str, unit: Fraction) -> tuple[Ints, Fraction | None]:
    """What keeping each internal node takes off the error, as integers, and how many of them are one ``unit``.

    Misclassified whole weights are whole: then they are not scaled, and None is returned.
    """
    inner = ensemble.internal
    gain = error[inner] - error[ensemble.left[inner]] - error[ensemble.right[inner]]
    size = float(np.abs(gain).sum())
    if loss == "misclassification":
        require(
            size < 2.0**53, "rows", "have weights that add up to less than 2**53 errors", size, "use smaller weights"
        )
        return gain.astype(np.int64), None
    # A power of two of units of the costs keeps the closure's penalty a simple fraction.
    of_unit = gain / (ensemble.n_trees * float(unit))
    scale = Fraction(2) ** (GRID - int(np.ceil(np.log2(max(float(np.abs(of_unit).sum()), 1e-300)))))
    return np.rint(of_unit * float(scale)).astype(np.int64), scale


def _parents(ensemble: TreeEnsemble) -> Ints32:
    inner = ensemble.internal
    place = np.full(ensemble.n_nodes + 1, -1, np.int32)
    place[inner] = np.arange(len(inner))
    return np.asarray(place[ensemble.parent[inner]])

"""Feature acquisition at prediction time: callbacks, validation of answers, cost per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.deprecation import renamed_attributes
from prunopt.core.jit import njit
from prunopt.core.validate import Shown, invalid, require, whole_number
from prunopt.problems.forest.feature_costs import FeatureCosts

if TYPE_CHECKING:
    import pandas as pd

Acquire = Callable[[Any, int], Any]


@renamed_attributes(price="cost")
class Acquisition(NamedTuple):
    """One acquisition: the row, the group's number and name, and what it added to the cost of the row."""

    row: int
    group: int
    name: str
    cost: float


@renamed_attributes(prices="feature_costs")
@dataclass(frozen=True, eq=False)
class Acquisitions:
    """What every row acquired, in which order, at what cost.

    Parameters
    ----------
    turn : (n, G) int16
        When each group was acquired: 1 = first; 0 = not at all.
    feature_costs : FeatureCosts
        Groups and cost components.
    """

    turn: NDArray[np.int16]
    feature_costs: FeatureCosts

    @cached_property
    def _table(self) -> tuple[Ints, Ints, Floats]:
        """Rows, groups and added costs, row by row in the order of the acquisitions."""
        row, group = np.nonzero(self.turn)
        order = np.lexsort((self.turn[row, group], row))
        row, group = row[order].astype(np.int64), group[order].astype(np.int64)
        added = np.zeros(len(row))
        _marginal(row, group, self.feature_costs.components_of, self.feature_costs.component_cost, added)
        return row, group, added

    def __len__(self) -> int:
        """Return the number of acquisitions."""
        return len(self._table[0])

    def __iter__(self) -> Iterator[Acquisition]:
        """Yield the acquisitions, row by row in their order."""
        names = self.feature_costs.group_names
        for row, group, added in zip(*(a.tolist() for a in self._table), strict=True):
            yield Acquisition(row, group, names[group], added)

    def of(self, row: int) -> list[Acquisition]:
        """Return the acquisitions of one row, in their order."""
        if not -len(self.turn) <= row < len(self.turn):
            raise IndexError(f"row {row}: there are {len(self.turn)}")
        at = row % len(self.turn)
        rows, groups, added = self._table
        first, last = np.searchsorted(rows, [at, at + 1])
        names = self.feature_costs.group_names
        return [Acquisition(at, int(groups[k]), names[groups[k]], float(added[k])) for k in range(first, last)]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one line an acquisition: row, turn, group, cost."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        row, group, added = self._table
        names = np.array(self.feature_costs.group_names, object)
        return pd.DataFrame({"row": row, "turn": self.turn[row, group], "group": names[group], "cost": added})


class _Triple(NamedTuple):
    predictions: NDArray[Any]
    acquired: Bools
    cost: Floats


@renamed_attributes(purchases="acquisitions")
class OnDemand(_Triple):
    """What `predict_on_demand` returns: ``predictions, acquired, cost``, and the single acquisitions as an attribute.

    Parameters
    ----------
    predictions : (n,)
        Labels, or numbers for a regressor.
    acquired : (n, K) bool
        The features that were acquired for each row; with a feature, its whole group.
    cost : (n,) float64
        What they cost, each component once.
    acquisitions : Acquisitions
        Which groups each row acquired, in which order, and the cost of each at that moment.
    """

    acquisitions: Acquisitions

    def __new__(cls, predictions: NDArray[Any], acquired: Bools, cost: Floats, acquisitions: Acquisitions) -> OnDemand:
        self = super().__new__(cls, predictions, acquired, cost)
        self.acquisitions = acquisitions
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickling: the base knows of three
        return (*self, self.acquisitions)

    @classmethod
    def of(cls, predictions: NDArray[Any], turn: NDArray[np.int16], costs: FeatureCosts) -> OnDemand:
        """Return predictions with the cost of what was acquired at which turn."""
        acquired = turn > 0
        return cls(predictions, costs.features(acquired), costs.of_rows(acquired), Acquisitions(turn, costs))


def checked_count(n_rows: Any) -> int:
    """Return the number of rows that a function is asked for."""
    return whole_number("n_rows", n_rows, low=1, mend="a function needs the number of rows")


def checked_rows(n_rows: Any, given: int) -> None:
    """Refuse a number of rows that is not that of the rows given."""
    require(n_rows in (None, given), "n_rows", f"be None or {given}, the rows of X", n_rows, "it is for functions")


def checked_known(known_values: Any, has: Bools) -> None:
    """Refuse to ask a function about rows of which something is known, without its values."""
    mend = "pass the (n, K) array that holds the values of what is known"
    require(known_values is not None or not has.any(), "known_values", "be given with known", known_values, mend)


def by_parts(
    parts: Sequence[tuple[Ints, Callable[..., OnDemand]]], acquire_or_X: Any, costs: FeatureCosts, known_values: Any
) -> OnDemand:
    """Predict rows on demand by several predictors, each of which answers some of them.

    Parameters
    ----------
    parts
        Rows, and ``ask(acquire_or_X, n_rows=, feature_costs=, known_values=)``, which predicts these rows.
    acquire_or_X, costs, known_values
        A function or all rows, and the costs and known values of all rows.
    """
    turn: NDArray[np.int16] | None = None
    answer: NDArray[Any] | None = None
    asks = callable(acquire_or_X)
    for rows, ask in parts:
        source = _renumbered(acquire_or_X, rows) if asks else some_rows(acquire_or_X, rows)
        values = None if known_values is None else np.asarray(known_values)[rows]
        n = len(rows) if asks else None
        found = ask(source, n_rows=n, feature_costs=costs.take(rows), known_values=values)
        if turn is None or answer is None:
            size = sum(len(rows) for rows, _ in parts)
            turn, answer = np.zeros((size, len(costs.group_cost)), np.int16), np.empty(size, found.predictions.dtype)
        turn[rows], answer[rows] = found.acquisitions.turn, found.predictions
    assert turn is not None
    assert answer is not None
    return OnDemand.of(answer, turn, costs)


def _renumbered(acquire: Acquire, rows: Ints) -> Acquire:
    return lambda row, group: acquire(rows[row] if np.ndim(row) else int(rows[row]), group)


def some_rows(X: Any, rows: Ints) -> Any:
    """Return some rows of an array or DataFrame."""
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]


class Supplier:
    """Asks a caller's function for the values of groups, of one row or of many, and checks what it returns.

    Parameters
    ----------
    acquire
        ``acquire(row, group)``, or ``acquire(rows, group)`` with an array of rows where ``batch`` is set.
    costs
        Groups of features.
    names
        Names of the features.
    batch
        Whether the function takes many rows at once.
    dtype
        What the values are compared as; a finite number must remain one in it.
    """

    def __init__(self, acquire: Acquire, costs: FeatureCosts, names: tuple[str, ...], batch: bool, dtype: Any) -> None:
        self.acquire, self.names, self.batch, self.dtype = acquire, names, batch, dtype
        self.members = [np.flatnonzero(costs.group_of == g) for g in range(len(costs.group_cost))]

    def __call__(self, rows: Ints, group: int) -> NDArray[Any]:
        """Return the values (rows, features of the group) for rows that all need the group."""
        if self.batch:
            answer = self.acquire(rows, group)
            return self._table(answer, f"acquire({_listed(rows)}, {group})", self.members[group], len(rows))
        cells = [
            self._row(self.acquire(int(i), group), f"acquire({int(i)}, {group})", self.members[group]) for i in rows
        ]
        return np.stack(cells)

    def _row(self, answer: Any, call: str, members: Ints) -> NDArray[Any]:
        wanted = [self.names[k] for k in members]
        if isinstance(answer, Mapping):
            given = self._named(answer)
            wrong = [key for key in given if key not in wanted] + [name for name in wanted if name not in given]
            fits = not wrong and len(given) == len(answer)
            require(fits, call, f"return one value for each of {', '.join(wanted)}", list(answer))
            cells = [given[name] for name in wanted]
        elif hasattr(answer, "__len__") and not isinstance(answer, str | bytes) and np.ndim(answer) > 0:
            cells = list(answer)
        else:
            cells = [answer]
        what = f"return {len(wanted)} value(s), for {', '.join(wanted)}"
        require(len(cells) == len(wanted), call, what, Shown(f"{len(cells)} value(s)"))
        values = np.empty(len(cells), self.dtype)
        for j, cell in enumerate(cells):
            try:
                if isinstance(cell, str | bytes):
                    raise TypeError
                with np.errstate(over="ignore"):
                    values[j] = float(cell)
            except (TypeError, ValueError):
                raise invalid(call, f"return a number for {wanted[j]!r}", cell, "NaN is unknown") from None
            require(not np.isinf(values[j]), call, f"return a finite {np.dtype(self.dtype)} for {wanted[j]!r}", cell)
        return values

    def _table(self, answer: Any, call: str, members: Ints, n: int) -> NDArray[Any]:
        wanted = [self.names[k] for k in members]
        if isinstance(answer, Mapping) or hasattr(answer, "columns"):
            given = self._named({key: answer[key] for key in answer})
            require(set(given) == set(wanted), call, f"return columns for {', '.join(wanted)}", list(given))
            answer = np.stack([np.asarray(given[name]) for name in wanted], axis=-1)
        try:
            with np.errstate(over="ignore"):
                values = np.asarray(answer).astype(self.dtype)
        except (TypeError, ValueError):
            raise invalid(call, "return an array of numbers", answer, "NaN is unknown") from None
        if values.shape == (n,) and len(members) == 1:
            values = values[:, None]
        fits = values.shape == (n, len(members))
        require(fits, call, f"return ({n}, {len(members)}) values, for {', '.join(wanted)}", values)
        require(not np.any(np.isinf(values)), call, f"return finite {values.dtype} numbers", Shown("an infinite one"))
        return values

    def _named(self, answer: Mapping[Any, Any]) -> dict[Any, Any]:
        """The answer by names, where it may be by indices."""
        names = self.names
        return {
            names[key] if isinstance(key, int | np.integer) and 0 <= key < len(names) else key: v
            for key, v in answer.items()
        }


def _listed(rows: Ints) -> str:
    return f"[{', '.join(map(str, rows[:3].tolist()))}{', ...' if len(rows) > 3 else ''}]"


@njit
def _marginal(row: Ints, group: Ints, components_of: Ints, component_cost: Floats, added: Floats) -> None:
    """Write what each acquisition costs, given those of the same row before it; rows are in order."""
    made = np.full(component_cost.shape[1], -1, np.int64)
    for k in range(len(row)):
        cost = component_cost[row[k] if len(component_cost) > 1 else 0]
        for c in components_of[group[k]]:
            if c >= 0 and made[c] != row[k]:
                made[c] = row[k]
                added[k] += cost[c]

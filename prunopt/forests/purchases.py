"""What is bought on demand: who is asked how, what the answers have to be, and the bill of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.problems.forest.feature_costs import FeaturePrices

if TYPE_CHECKING:
    import pandas as pd

Acquire = Callable[[Any, int], Any]


class Purchase(NamedTuple):
    """One purchase: the row, the group's number and name, and the price paid, less what was paid before."""

    row: int
    group: int
    name: str
    price: float


@dataclass(frozen=True, eq=False)
class Purchases:
    """What every row bought, in which order, and what it paid.

    Parameters
    ----------
    turn : (n, G) int16
        When each group was bought: 1 = first; 0 = not at all.
    prices : FeaturePrices
        Groups and charges.
    """

    turn: NDArray[np.int16]
    prices: FeaturePrices

    @cached_property
    def _table(self) -> tuple[Ints, Ints, Floats]:
        """Rows, groups and prices paid, row by row in the order of the purchases."""
        row, group = np.nonzero(self.turn)
        order = np.lexsort((self.turn[row, group], row))
        row, group = row[order].astype(np.int64), group[order].astype(np.int64)
        paid = np.zeros(len(row))
        _marginal(row, group, self.prices.charges_of, self.prices.charge_cost, paid)
        return row, group, paid

    def __len__(self) -> int:
        """Return the number of purchases."""
        return len(self._table[0])

    def __iter__(self) -> Iterator[Purchase]:
        """Yield the purchases, row by row in their order."""
        names = self.prices.group_names
        for row, group, paid in zip(*(a.tolist() for a in self._table), strict=True):
            yield Purchase(row, group, names[group], paid)

    def of(self, row: int) -> list[Purchase]:
        """Return the purchases of one row, in their order."""
        if not -len(self.turn) <= row < len(self.turn):
            raise IndexError(f"row {row}: there are {len(self.turn)}")
        at = row % len(self.turn)
        rows, groups, paid = self._table
        first, last = np.searchsorted(rows, [at, at + 1])
        names = self.prices.group_names
        return [Purchase(at, int(groups[k]), names[groups[k]], float(paid[k])) for k in range(first, last)]

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one line a purchase: row, turn, group, price."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        row, group, paid = self._table
        names = np.array(self.prices.group_names, object)
        return pd.DataFrame({"row": row, "turn": self.turn[row, group], "group": names[group], "price": paid})


class _Triple(NamedTuple):
    predictions: NDArray[Any]
    acquired: Bools
    cost: Floats


class OnDemand(_Triple):
    """What `predict_on_demand` returns: ``predictions, acquired, cost``, and the single purchases as an attribute.

    Parameters
    ----------
    predictions : (n,)
        Labels, or numbers for a regressor.
    acquired : (n, K) bool
        The features that were bought for each row; with a feature, its whole group.
    cost : (n,) float64
        What they cost, each charge once.
    purchases : Purchases
        Which groups each row bought, in which order, and the price of each at that moment.
    """

    purchases: Purchases

    def __new__(cls, predictions: NDArray[Any], acquired: Bools, cost: Floats, purchases: Purchases) -> OnDemand:
        self = super().__new__(cls, predictions, acquired, cost)
        self.purchases = purchases
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickling: the base knows of three
        return (*self, self.purchases)

    @classmethod
    def of(cls, predictions: NDArray[Any], turn: NDArray[np.int16], prices: FeaturePrices) -> OnDemand:
        """Return predictions with the bill of what was bought at which turn."""
        bought = turn > 0
        return cls(predictions, prices.features(bought), prices.bill(bought), Purchases(turn, prices))


def checked_count(n_rows: Any) -> int:
    """Return the number of rows that a function is asked for."""
    if n_rows is None:
        raise ValueError("n_rows: with a function, the number of rows is needed")
    if isinstance(n_rows, bool) or not isinstance(n_rows, int | np.integer) or n_rows < 1:
        raise ValueError(f"n_rows={n_rows!r}: give a whole number of at least 1")
    return int(n_rows)


class Supplier:
    """Asks a caller's function for the values of groups, of one row or of many, and checks what it returns.

    Parameters
    ----------
    acquire
        ``acquire(row, group)``, or ``acquire(rows, group)`` with an array of rows where ``batch`` is set.
    prices
        Groups of features.
    names
        Names of the features.
    batch
        Whether the function takes many rows at once.
    dtype
        What the values are compared as; a finite number must remain one in it.
    """

    def __init__(
        self, acquire: Acquire, prices: FeaturePrices, names: tuple[str, ...], batch: bool, dtype: Any
    ) -> None:
        self.acquire, self.names, self.batch, self.dtype = acquire, names, batch, dtype
        self.members = [np.flatnonzero(prices.group_of == g) for g in range(len(prices.group_cost))]

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
            if wrong or len(given) != len(answer):
                raise ValueError(
                    f"{call} returned the keys {list(answer)}; return one value for each of {', '.join(wanted)}"
                )
            cells = [given[name] for name in wanted]
        elif hasattr(answer, "__len__") and not isinstance(answer, str | bytes) and np.ndim(answer) > 0:
            cells = list(answer)
        else:
            cells = [answer]
        if len(cells) != len(wanted):
            raise ValueError(f"{call} returned {len(cells)} value(s); return {len(wanted)}, for {', '.join(wanted)}")
        values = np.empty(len(cells), self.dtype)
        for j, cell in enumerate(cells):
            try:
                if isinstance(cell, str | bytes):
                    raise TypeError
                with np.errstate(over="ignore"):
                    values[j] = float(cell)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{call} returned {cell!r} for {wanted[j]!r}; return a number, NaN for unknown"
                ) from None
            if np.isinf(values[j]):
                raise ValueError(
                    f"{call} returned {cell!r} for {wanted[j]!r}; too large for {np.dtype(self.dtype)}, return a "
                    "finite number"
                )
        return values

    def _table(self, answer: Any, call: str, members: Ints, n: int) -> NDArray[Any]:
        wanted = [self.names[k] for k in members]
        if isinstance(answer, Mapping) or hasattr(answer, "columns"):
            given = self._named({key: answer[key] for key in answer})
            if set(given) != set(wanted):
                raise ValueError(
                    f"{call} returned the keys {list(given)}; return one column for each of {', '.join(wanted)}"
                )
            answer = np.stack([np.asarray(given[name]) for name in wanted], axis=-1)
        try:
            with np.errstate(over="ignore"):
                values = np.asarray(answer).astype(self.dtype)
        except (TypeError, ValueError):
            raise ValueError(f"{call} returned no numbers; return an array, NaN for unknown") from None
        if values.shape == (n,) and len(members) == 1:
            values = values[:, None]
        if values.shape != (n, len(members)):
            raise ValueError(
                f"{call} returned the shape {values.shape}; return ({n}, {len(members)}), for {', '.join(wanted)}"
            )
        if np.any(np.isinf(values)):
            raise ValueError(f"{call} returned an infinite number, or one too large; return finite ones")
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
def _marginal(row: Ints, group: Ints, charges_of: Ints, charge_cost: Floats, paid: Floats) -> None:
    """Write what each purchase costs, given those of the same row before it; rows are in order."""
    made = np.full(charge_cost.shape[1], -1, np.int64)
    for k in range(len(row)):
        price = charge_cost[row[k] if len(charge_cost) > 1 else 0]
        for c in charges_of[group[k]]:
            if c >= 0 and made[c] != row[k]:
                made[c] = row[k]
                paid[k] += price[c]

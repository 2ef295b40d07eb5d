"""Prices of features: single features, and groups of features that are bought together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class FeaturePrices:
    """What a purchase is, and what it costs.

    Parameters
    ----------
    group_of : (K,) int64
        The purchase group of each feature; a feature outside every group is a group of its own.
    group_cost : (G,) float64
        The price of each group, paid once for a row however many of its features are used.
    group_names : tuple of str
        One name for each group.
    """

    group_of: NDArray[np.int64]
    group_cost: NDArray[np.float64]
    group_names: tuple[str, ...]

    @property
    def total(self) -> float:
        """The price of everything for one row."""
        return float(self.group_cost.sum())

    def features(self, groups: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which features are known once the ``groups`` (G,) are bought; also for rows of groups (n, G)."""
        return np.asarray(groups[..., self.group_of])

    @classmethod
    def of(
        cls,
        feature_costs: ArrayLike | Mapping[str, float] | None,
        n_features: int,
        feature_names: tuple[str, ...] | None = None,
        feature_groups: Any = None,
    ) -> FeaturePrices:
        """Check and normalise what a user gives as costs and groups.

        Parameters
        ----------
        feature_costs
            One price for each feature (array, or a mapping from names, all of them), or, with ``feature_groups``, one
            price for each group. None = every feature costs 1. The price of a group whose features are priced one by
            one is the sum of their prices: who buys a group buys all of it.
        n_features
            Number of features K.
        feature_names
            Their names; ``x0, x1, ...`` where the forest has none.
        feature_groups
            Features bought together: a mapping from a group's name to its features, a list of lists of features
            (indices or names), or one group label for each feature.

        Raises
        ------
        ValueError
            For costs of the wrong length, negative, NaN or infinite, and for unknown names.
        """
        names = feature_names or tuple(f"x{k}" for k in range(n_features))
        group_of, group_names = _groups(feature_groups, names)
        n_groups, by_group = len(group_names), False
        costs: NDArray[np.float64]
        if feature_costs is None:
            costs = np.ones(n_features)
        elif isinstance(feature_costs, Mapping):
            by_group = feature_groups is not None and set(map(str, feature_costs)) == set(group_names)
            costs = _named(feature_costs, group_names if by_group else names)
        else:
            try:
                costs = np.asarray(feature_costs, np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"feature_costs: numbers are needed, {feature_costs!r} given") from None
            by_group = feature_groups is not None and costs.shape == (n_groups,) and n_groups != n_features
            if costs.shape != (n_groups if by_group else n_features,):
                either = f" or {n_groups} groups" if feature_groups is not None else ""
                raise ValueError(f"feature_costs: shape {costs.shape} given for {n_features} features{either}")
        for k in np.flatnonzero(~np.isfinite(costs) | (costs < 0)):
            what = (group_names if by_group else names)[k]
            raise ValueError(f"feature_costs[{what!r}]={costs[k]}: give a finite price >= 0 (0 = already known)")
        if not by_group:
            costs = np.bincount(group_of, weights=costs, minlength=n_groups).astype(np.float64)
        return cls(group_of, np.asarray(costs, np.float64), group_names)


def _named(costs: Mapping[str, float], names: tuple[str, ...]) -> NDArray[np.float64]:
    given = {str(key): value for key, value in costs.items()}
    for key in given:
        if key not in names:
            raise ValueError(f"feature_costs: unknown name {key!r}; {_nearest(key, names)}")
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"feature_costs: no price for {', '.join(missing[:5])}; give one for each (0 = already known)")
    try:
        return np.array([float(given[name]) for name in names])
    except (TypeError, ValueError) as error:
        raise ValueError(f"feature_costs: numbers are needed ({error})") from None


def _nearest(key: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, names, n=3)
    return (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"the names are {', '.join(names[:8])}" + " ..." * (len(names) > 8)
    )


def _groups(feature_groups: Any, names: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The group of each feature and the groups' names."""
    n = len(names)
    if feature_groups is None:
        return np.arange(n), names
    if isinstance(feature_groups, Mapping):
        listed = [(str(label), members) for label, members in feature_groups.items()]
    else:
        entries = list(feature_groups)
        if len(entries) == n and not any(isinstance(e, list | tuple | set | np.ndarray) for e in entries):
            labels = [str(e) for e in entries]
            order = sorted(set(labels), key=labels.index)
            return np.array([order.index(label) for label in labels], np.int64), tuple(order)
        if any(isinstance(e, str) or not hasattr(e, "__iter__") for e in entries):
            raise ValueError(f"feature_groups: {len(entries)} labels given for {n} features; or give lists of features")
        listed = [("+".join(names[_index(m, names)] for m in members), members) for members in entries]
    group_of = np.full(n, -1, np.int64)
    group_names: list[str] = []
    for label, members in listed:
        if isinstance(members, str):
            raise ValueError(f"feature_groups[{label!r}]={members!r}: give a list of features")
        for member in members:
            k = _index(member, names)
            if group_of[k] >= 0:
                raise ValueError(f"feature_groups: {names[k]!r} is in two groups; a feature is bought in one")
            group_of[k] = len(group_names)
        group_names.append(label)
    for alone in np.flatnonzero(group_of < 0):
        group_of[alone] = len(group_names)
        group_names.append(names[alone])
    return group_of, tuple(group_names)


def _index(member: Any, names: tuple[str, ...]) -> int:
    if isinstance(member, str):
        if member not in names:
            raise ValueError(f"feature_groups: unknown name {member!r}; {_nearest(member, names)}")
        return names.index(member)
    if isinstance(member, int | np.integer) and not isinstance(member, bool) and 0 <= member < len(names):
        return int(member)
    raise ValueError(f"feature_groups: {member!r} is no feature; give a name, or an index from 0 to {len(names) - 1}")

"""What users give as costs, groups and known features, checked and brought to cost components."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.validate import Shown, invalid, number, refuse, require

KNOWN = "0 = already known"


class Part(NamedTuple):
    """Components (1 or n, C), the first of them the groups' own, and those that each group incurs, its own first."""

    cost: Floats
    incurs: list[tuple[int, ...]]
    derived: tuple[tuple[int, tuple[int, ...]], ...] = ()


def plain(given: Any, names: tuple[str, ...], group_of: Ints, group_names: tuple[str, ...], grouped: bool) -> Part:
    """One cost for each group, (1 or n, G)."""
    n_features, n_groups, by_group = len(names), len(group_names), False
    costs: Floats
    given = _by_label(given)
    if given is None:
        costs = np.ones(n_features)
    elif isinstance(given, Mapping):
        given = _with_names(given, names)
        by_group = grouped and set(map(str, given)) == set(group_names)
        costs = _named(given, group_names if by_group else names)
    else:
        costs = _numbers(given)
        by_group = grouped and costs.shape[-1:] == (n_groups,) and n_groups != n_features
        either = f" or {n_groups} groups" if grouped else ""
        fits = costs.ndim in (1, 2) and costs.shape[-1] == (n_groups if by_group else n_features) and costs.size
        require(fits, "feature_costs", f"be given for {n_features} features{either}", Shown(f"shape {costs.shape}"))
    costs = np.atleast_2d(costs)
    labels = group_names if by_group else names
    for i, k in np.argwhere(~np.isfinite(costs) | (costs < 0))[:1]:
        what = repr(labels[k]) if len(costs) == 1 else f"{i}, {k}"
        number(f"feature_costs[{what}]", costs[i, k], low=0, mend=KNOWN)
    if not by_group and grouped:
        costs = np.stack([np.bincount(group_of, weights=row, minlength=n_groups) for row in costs])
    own = np.ascontiguousarray(costs, np.float64)
    return Part(own, [(g,) for g in range(own.shape[1])])


def _by_label(given: Any) -> Any:
    """A pandas Series or DataFrame as a mapping from its labels; a table of rows as one from its columns."""
    if not hasattr(given, "index") or not hasattr(given, "to_numpy"):
        return given
    labels = given.columns if hasattr(given, "columns") else given.index
    if hasattr(given, "columns") and len(given.columns) == 1 and len(given) != 1:  # one column of costs
        given, labels = given.iloc[:, 0], given.index
    require(labels.is_unique, "feature_costs", "hold each label once", Shown(f"{len(labels)} labels"))
    values = given.to_numpy()
    return dict(zip(labels.tolist(), values.T if values.ndim == 2 else values, strict=True))


def _with_names(given: Mapping[Any, Any], names: tuple[str, ...]) -> Mapping[Any, Any]:
    """A mapping whose integer keys, places of columns, are replaced by the columns' names."""
    whole = all(isinstance(key, int | np.integer) and not isinstance(key, bool) for key in given)
    if not whole or any(str(key) in names for key in given):
        return given
    for key in given:
        mend = "integer keys are numbers of columns"
        require(0 <= key < len(names), "feature_costs", f"have keys from 0 to {len(names) - 1}", key, mend)
    return {names[int(key)]: value for key, value in given.items()}


def of_rows(given: Any, X: Any) -> Any:
    """The costs of each row in the order of the rows of ``X``, where both are DataFrames with an index."""
    both = all(hasattr(table, "index") and hasattr(table, "columns") for table in (given, X))
    if not both or len(given) != len(X) or len(given) == 1 or given.shape[1] == 1 or given.index.equals(X.index):
        return given
    same = given.index.is_unique and X.index.is_unique and not len(given.index.difference(X.index))
    mend = "rows are matched by their index; pass costs.loc[X.index], or costs.set_axis(X.index)"
    require(same, "feature_costs", "have the index of X", Shown("other labels"), mend)
    return given.loc[X.index]


def decimal(value: Any, what: str) -> Fraction:
    """The rational that the decimal digits of a cost say: 7.27 - 2.1 is 5.17."""
    return Fraction(repr(number(what, value, low=0, mend=KNOWN)))


def summed(parts: list[tuple[float, Part]]) -> Part:
    """Add up currencies; own components become one where every group incurs just its own of them."""
    G = len(parts[0][1].incurs)
    alike = all({c for c in made if c < G} == {g} for _, part in parts for g, made in enumerate(part.incurs))
    sizes = [len(part.cost) for _, part in parts]
    n = max(sizes)
    require({*sizes} <= {1, n}, "costs", "be given for the same rows in every currency", Shown(f"{sizes} rows"))
    blocks: list[Floats] = []
    incurs: list[list[int]] = [[] for _ in range(G)]
    total = 0
    for weight, part in parts:
        cost = np.broadcast_to(_times(weight, part.cost), (n, part.cost.shape[1])).copy()
        joins = alike and len(blocks) > 0
        if joins:
            blocks[0][:, :G] = _plus(blocks[0][:, :G], cost[:, :G])
            cost, total = cost[:, G:], total - G
        place = [c if joins and c < G else total + c for c in range(part.cost.shape[1])]
        blocks.append(cost)
        total = sum(b.shape[1] for b in blocks)
        for mine, made in zip(incurs, part.incurs, strict=True):
            mine += [place[c] for c in made if place[c] not in mine]
    derived = dict(d for _, part in parts for d in part.derived)
    table = np.ascontiguousarray(np.concatenate(blocks, axis=1))
    return Part(table, [tuple(made) for made in incurs], tuple(derived.items()))


def _times(weight: float, cost: Floats) -> Floats:
    if len(cost) > 1:
        return weight * cost
    share = Fraction(repr(weight))
    return np.array([[float(share * Fraction(repr(float(c)))) for c in cost[0]]])


def _plus(one: Floats, other: Floats) -> Floats:
    if len(one) > 1:
        return one + other
    pairs = zip(one[0], other[0], strict=True)
    return np.array([[float(Fraction(repr(float(a))) + Fraction(repr(float(b)))) for a, b in pairs]])


def known_mask(known: Any, names: tuple[str, ...]) -> Bools | None:
    """Which features are known, (1 or n, K); None where none is."""
    if known is None:
        return None
    mask = np.asarray(known) if not isinstance(known, str) and isinstance(known, Iterable) else None
    if mask is not None and mask.dtype == np.bool_:
        fits = mask.ndim in (1, 2) and mask.shape[-1] == len(names) and mask.size
        require(fits, "known", f"have shape ({len(names)},) or (n, {len(names)})", Shown(f"shape {mask.shape}"))
        return np.ascontiguousarray(np.atleast_2d(mask)) if mask.any() else None
    if mask is not None and mask.shape == (0,):
        return None
    if mask is None or mask.ndim != 1 or mask.dtype.kind not in "iuUO":
        raise invalid("known", "be a bool for each feature, or for each row and feature, or a list of names", known)
    out = np.zeros((1, len(names)), np.bool_)
    for member in mask.tolist():
        out[0, _index(member, names, "known")] = True
    return out


def _named(costs: Mapping[str, float], names: tuple[str, ...]) -> Floats:
    given = {str(key): value for key, value in costs.items()}
    for key in given:
        require(key in names, "feature_costs", "name features", key, nearest(key, names))
    missing = [name for name in names if name not in given]
    mend = f"give {', '.join(missing[:5])} a cost, too ({KNOWN})"
    require(not missing, "feature_costs", f"hold {len(names)} costs", Shown(f"{len(given)}"), mend)
    listed = [given[name] for name in names]
    return _numbers(np.stack(listed, axis=-1) if all(np.ndim(value) == 1 for value in listed) else listed)


def _numbers(given: Any) -> Floats:
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise invalid("feature_costs", "hold numbers", given) from None


def nearest(key: str, names: tuple[str, ...]) -> str:
    """Return a hint at the names that somebody may have meant."""
    close = difflib.get_close_matches(key, names, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    listed = ", ".join(map(repr, names[:12])) + " ..." * (len(names) > 12)
    return f"the names are {listed}" if names else "there are none"


def groups_of(feature_groups: Any, names: tuple[str, ...]) -> tuple[Ints, tuple[str, ...]]:
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
            what = f"hold one label for each of {n} features, or lists of features"
            refuse("feature_groups", what, Shown(f"{len(entries)} labels"))
        listed = [("+".join(names[_index(m, names)] for m in members), members) for members in entries]
    group_of = np.full(n, -1, np.int64)
    group_names: list[str] = []
    for label, members in listed:
        require(not isinstance(members, str), f"feature_groups[{label!r}]", "be a list of features", members)
        for member in members:
            k = _index(member, names)
            require(group_of[k] < 0, "feature_groups", "hold each feature once", names[k], "list it in one group only")
            group_of[k] = len(group_names)
        group_names.append(label)
    for alone in np.flatnonzero(group_of < 0):
        group_of[alone] = len(group_names)
        group_names.append(names[alone])
    return group_of, tuple(group_names)


def _index(member: Any, names: tuple[str, ...], what: str = "feature_groups") -> int:
    if isinstance(member, str):
        require(member in names, what, "name features", member, nearest(member, names))
        return names.index(member)
    if isinstance(member, int | np.integer) and not isinstance(member, bool) and 0 <= member < len(names):
        return int(member)
    raise invalid(what, f"hold names of features, or indices from 0 to {len(names) - 1}", member)

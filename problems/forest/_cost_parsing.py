"""What users give as prices, groups and known features, checked and brought to charges."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.problems.forest.cost_lists import CostSum, Prices


class Part(NamedTuple):
    """Charges (1 or n, C), the first of them the groups' own, and the charges that each group makes, its own first."""

    cost: Floats
    makes: list[tuple[int, ...]]
    derived: tuple[tuple[int, tuple[int, ...]], ...] = ()


def part_of(given: Any, names: tuple[str, ...], group_of: Ints, group_names: tuple[str, ...], grouped: bool) -> Part:
    if isinstance(given, CostSum):
        return _summed(
            [
                (float(given.weights[name]), part_of(costs, names, group_of, group_names, grouped))
                for name, costs in given.costs.items()
            ]
        )
    if isinstance(given, Prices):
        return _listed(given, names, group_of, len(group_names))
    own = _plain(given, names, group_of, group_names, grouped)
    return Part(own, [(g,) for g in range(own.shape[1])])


def _plain(given: Any, names: tuple[str, ...], group_of: Ints, group_names: tuple[str, ...], grouped: bool) -> Floats:
    """One price for each group, (1 or n, G)."""
    n_features, n_groups, by_group = len(names), len(group_names), False
    costs: Floats
    if given is None:
        costs = np.ones(n_features)
    elif isinstance(given, Mapping):
        by_group = grouped and set(map(str, given)) == set(group_names)
        costs = _named(given, group_names if by_group else names)
    else:
        try:
            costs = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"feature_costs: numbers are needed, {given!r} given") from None
        by_group = grouped and costs.shape[-1:] == (n_groups,) and n_groups != n_features
        if costs.ndim not in (1, 2) or costs.shape[-1] != (n_groups if by_group else n_features) or 0 in costs.shape:
            either = f" or {n_groups} groups" if grouped else ""
            raise ValueError(f"feature_costs: shape {costs.shape} given for {n_features} features{either}")
    costs = np.atleast_2d(costs)
    wrong = ~np.isfinite(costs) | (costs < 0)
    if np.any(wrong):
        i, k = (int(a[0]) for a in np.nonzero(wrong))
        what = repr((group_names if by_group else names)[k]) if len(costs) == 1 else f"{i}, {k}"
        raise ValueError(f"feature_costs[{what}]={costs[i, k]}: give a finite price >= 0 (0 = already known)")
    if not by_group and grouped:
        costs = np.stack([np.bincount(group_of, weights=row, minlength=n_groups) for row in costs])
    return np.ascontiguousarray(costs, np.float64)


def _listed(given: Prices, names: tuple[str, ...], group_of: Ints, n_groups: int) -> Part:
    """The charges of a price list: each feature's own part, and what groups have in common."""
    listed = given.feature_names
    if len(listed) != len(names) or (set(listed) != set(names) and names != tuple(f"x{k}" for k in range(len(names)))):
        missing = [name for name in names if name not in listed] or [name for name in listed if name not in names]
        raise ValueError(
            f"feature_costs: a price list of {len(listed)} features for {len(names)} "
            f"({', '.join(missing[:3])}: in one of the two only); give one price for each feature"
        )
    # A forest that was fitted on columns without names has those of the list, in its order.
    place = {name: k for k, name in enumerate(names if set(listed) == set(names) else listed)}
    pairs = zip(listed, given.costs, strict=True)
    full = {name: _decimal(price, f"feature_costs[{name!r}]") for name, price in pairs}
    own, makes = dict(full), {name: {name} for name in listed}
    for group, common in given.common.items():
        shared = _decimal(common, f"common[{group!r}]")
        for name in given.groups[group]:
            own[name] -= shared
            if own[name] < 0:
                raise ValueError(f"common[{group!r}]={common} is more than all of {name!r} costs")
            makes[name].add(f"common part: {group}")
        own[f"common part: {group}"] = shared
    derived = []
    for name, sources in given.derived_from.items():
        bundle = set[str]().union(*(makes[source] for source in sources))
        if sum(own[c] for c in bundle) <= full[name] and name not in bundle:
            makes[name] = bundle
            derived.append((place[name], tuple(place[source] for source in sources)))
    number = {c: n_groups + j for j, c in enumerate(c for c in own if c not in full)}
    cost = np.zeros((1, n_groups + len(number)))
    whole: list[Fraction] = [Fraction(0)] * cost.shape[1]
    groups: list[set[int]] = [{g} for g in range(n_groups)]
    if n_groups < len(names) and given.derived_from:
        raise ValueError("feature_groups: a price list with derived_from prices single features; leave the groups out")
    for name in listed:
        g = int(group_of[place[name]])
        for c in makes[name]:
            at = number.get(c, int(group_of[place[c]]) if c in place else -1)
            groups[g].add(at)
        if name in makes[name]:
            whole[g] += own[name]
    for c, j in number.items():
        whole[j] = own[c]
    cost[0] = [float(c) for c in whole]
    made = [(g, *sorted(c for c in charges if c != g and whole[c] > 0)) for g, charges in enumerate(groups)]
    return Part(cost, made, tuple(derived))


def _decimal(value: Any, what: str) -> Fraction:
    """The rational that the decimal digits of a price say: 7.27 - 2.1 is 5.17."""
    number = float(value)
    if not 0 <= number < np.inf:
        raise ValueError(f"{what}={value}: give a finite price >= 0 (0 = already known)")
    return Fraction(repr(number))


def _summed(parts: list[tuple[float, Part]]) -> Part:
    """Add up currencies; own charges become one where every group makes just its own of them."""
    G = len(parts[0][1].makes)
    alike = all({c for c in made if c < G} == {g} for _, part in parts for g, made in enumerate(part.makes))
    n = max(len(part.cost) for _, part in parts)
    if any(len(part.cost) not in (1, n) for _, part in parts):
        raise ValueError("costs: currencies are priced for different numbers of rows")
    blocks: list[Floats] = []
    makes: list[list[int]] = [[] for _ in range(G)]
    total = 0
    for weight, part in parts:
        cost = np.broadcast_to(_times(weight, part.cost), (n, part.cost.shape[1])).copy()
        joins = alike and len(blocks) > 0
        if joins:
            blocks[0][:, :G] = _plus(blocks[0][:, :G], cost[:, :G])
            cost, total = cost[:, G:], total - G
        number = [c if joins and c < G else total + c for c in range(part.cost.shape[1])]
        blocks.append(cost)
        total = sum(b.shape[1] for b in blocks)
        for mine, made in zip(makes, part.makes, strict=True):
            mine += [number[c] for c in made if number[c] not in mine]
    derived = dict(d for _, part in parts for d in part.derived)
    table = np.ascontiguousarray(np.concatenate(blocks, axis=1))
    return Part(table, [tuple(made) for made in makes], tuple(derived.items()))


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
        if mask.ndim not in (1, 2) or mask.shape[-1] != len(names) or 0 in mask.shape:
            raise ValueError(f"known: shape {mask.shape} given; ({len(names)},) or (n, {len(names)}) is needed")
        return np.ascontiguousarray(np.atleast_2d(mask)) if mask.any() else None
    if mask is None or mask.ndim != 1 or mask.dtype.kind not in "iuUO" or len(mask) == 0:
        if mask is not None and mask.shape == (0,):
            return None
        raise ValueError(f"known={known!r}: give a bool for each feature, for each row and feature, or a list of names")
    out = np.zeros((1, len(names)), np.bool_)
    for member in mask.tolist():
        out[0, _index(member, names, "known")] = True
    return out


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


def groups_of(feature_groups: Any, names: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
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


def _index(member: Any, names: tuple[str, ...], what: str = "feature_groups") -> int:
    if isinstance(member, str):
        if member not in names:
            raise ValueError(f"{what}: unknown name {member!r}; {_nearest(member, names)}")
        return names.index(member)
    if isinstance(member, int | np.integer) and not isinstance(member, bool) and 0 <= member < len(names):
        return int(member)
    raise ValueError(f"{what}: {member!r} is no feature; give a name, or an index from 0 to {len(names) - 1}")

"""Cost lists in JSON files: what features cost, and which of them share a part of their cost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunopt.core.validate import Shown, invalid, number, require, unique
from prunopt.problems.forest._cost_parsing import KNOWN, nearest
from prunopt.problems.forest.cost_lists import CostList, CostSum

CURRENCY_KEYS = ("currencies", "weights")
COST_KEYS = ("costs", "groups", "common", "currency", "derived_from")
REMARK_KEYS = ("source", "licence", "description", "categories")


def read_costs(
    path: str | os.PathLike[str], feature_names: Sequence[str], *, left_out: Sequence[str] = ()
) -> CostList | CostSum:
    """Read a JSON cost list, or several, in different currencies.

    Either ``{"feature": cost, ...}``, or ``{"costs": {"feature": cost, ...}, "groups": {"group": ["feature", ...]},
    "common": {"group": cost}, "currency": "CAD", "derived_from": {"feature": ["feature", ...]}}``, all but ``costs``
    optional (and ``source``, ``licence``, ``description``, ``categories`` as remarks); see `CostList`.
    Several currencies: ``{"currencies": {"CAD": one of the above, "minutes": another}, "weights": {"CAD": 1, "minutes":
    0.5}}``, see `CostSum`.

    Parameters
    ----------
    path
        The file.
    feature_names
        The features, each of which needs a cost (0 = already known).
    left_out
        Columns that are not features: their costs, where the file has some, are not read.

    Raises
    ------
    ValueError
        Naming file and key, for costs that are missing, negative or no numbers, and for unknown names.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            data = json.load(file, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise ValueError(f"{path} must be JSON; {where}: {error.msg}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} must be UTF-8 text; save it as JSON in UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None
    names, where = tuple(feature_names), str(path)
    if left_out and isinstance(data, Mapping):
        data = _without(data, left_out)
    if isinstance(data, Mapping) and isinstance(data.get("currencies"), Mapping):
        _refuse_unknown(data, CURRENCY_KEYS, where)
        lists = {c: parse_costs(part, names, f"{where}: currencies[{c!r}]") for c, part in data["currencies"].items()}
        weights = _mapping(data.get("weights"), f"{where}: weights", '{"currency": weight, ...}')
        try:
            return CostSum(lists, weights)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return parse_costs(data, names, where)


def _without(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The lists without the costs of some columns."""
    kept = {key: value for key, value in data.items() if key not in names}
    for key in ("costs", "currencies"):
        if isinstance(kept.get(key), Mapping):
            parts = kept[key]
            inner = {k: _without(v, names) if isinstance(v, Mapping) else v for k, v in parts.items() if k not in names}
            kept[key] = inner
    return kept


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    for key, _ in pairs if len(found) < len(pairs) else ():
        require([k for k, _ in pairs].count(key) == 1, "a mapping", "hold each key once", key, "remove the duplicate")
    return found


def _refuse_unknown(data: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in data:
        require(key in (*keys, *REMARK_KEYS), where, f"hold the keys {', '.join(keys)}", key, nearest(str(key), keys))


def parse_costs(data: Any, names: tuple[str, ...], where: str) -> CostList:
    """Check what the cost list ``data`` says; ``where`` is its name in error messages."""
    _mapping(data, where, '{"feature": cost, ...}')
    structured = isinstance(data.get("costs"), Mapping)
    if structured:
        _refuse_unknown(data, COST_KEYS, where)
    costs = data["costs"] if structured else data
    for key in costs:
        require(key in names, f"{where}: costs", "name features", key, nearest(key, names))
    absent = [name for name in names if name not in costs]
    mend = f"add {', '.join(map(repr, absent[:5]))} ({KNOWN})"
    require(not absent, f"{where}: costs", "hold a cost for each feature", Shown(f"{len(costs)} costs"), mend)
    values = np.array([number(f"{where}: costs[{name!r}]", costs[name], low=0, mend=KNOWN) for name in names])
    groups = _members(data.get("groups", {}) if structured else {}, names, f"{where}: groups")
    listed = [name for members in groups.values() for name in members]
    unique(f"{where}: groups", listed)
    common = {}
    for group, value in _mapping(data.get("common", {}) if structured else {}, f"{where}: common", "costs").items():
        require(group in groups, f"{where}: common", "name groups", group, nearest(group, tuple(groups)))
        what = f"{where}: common[{group!r}]"
        common[group] = number(what, value, low=0)
        cheapest = min(groups[group], key=lambda name: values[names.index(name)])
        fits = common[group] <= values[names.index(cheapest)]
        require(fits, what, f"be at most what {cheapest!r} costs", common[group])
    currency = data.get("currency", "") if structured else ""
    require(isinstance(currency, str), f"{where}: currency", "be text", currency)
    derived = _members(data.get("derived_from", {}) if structured else {}, names, f"{where}: derived_from")
    for name in derived:
        require(name in names, f"{where}: derived_from", "name features", name, nearest(name, names))
    return CostList(names, values, groups, common, currency, derived)


def _mapping(value: Any, where: str, form: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise invalid(where, f"be an object of {form}", value)
    return value


def _members(value: Any, names: tuple[str, ...], where: str) -> dict[str, tuple[str, ...]]:
    for key, members in _mapping(value, where, "lists of features").items():
        what = f"{where}[{key!r}]"
        require(isinstance(members, list) and members, what, "be a list of features", members)
        for name in members:
            require(name in names, what, "name features", name, nearest(str(name), names))
    return {key: tuple(members) for key, members in value.items()}

"""Price lists: what features cost, which of them share a part of their price, and the JSON files that say so."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunopt.problems.forest.cost_lists import CostSum, Prices

CURRENCY_KEYS = ("currencies", "weights")
PRICE_KEYS = ("costs", "groups", "common", "currency", "derived_from")
REMARK_KEYS = ("source", "licence", "description", "categories")


def read_costs(path: str | os.PathLike[str], feature_names: Sequence[str]) -> Prices | CostSum:
    """Read a JSON price list, or several, in different currencies.

    Either ``{"feature": price, ...}``, or ``{"costs": {"feature": price, ...}, "groups": {"group": ["feature", ...]},
    "common": {"group": price}, "currency": "CAD", "derived_from": {"feature": ["feature", ...]}}``, all but ``costs``
    optional (and ``source``, ``licence``, ``description``, ``categories`` as remarks). See `Prices` for their meaning.
    Several currencies: ``{"currencies": {"CAD": one of the above, "minutes": another}, "weights": {"CAD": 1, "minutes":
    0.5}}``, see `CostSum`.

    Parameters
    ----------
    path
        The file.
    feature_names
        The features, each of which needs a price (0 = already known).

    Raises
    ------
    ValueError
        Naming file and key, for prices that are missing, negative or no numbers, and for unknown names.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            data = json.load(file, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {error.lineno}, column {error.colno}: no JSON ({error.msg})") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 text; save it as JSON in UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None
    names, where = tuple(feature_names), str(path)
    if isinstance(data, Mapping) and isinstance(data.get("currencies"), Mapping):
        for key in data:
            if key not in (*CURRENCY_KEYS, *REMARK_KEYS):
                raise ValueError(f"{where}: unknown key {key!r}; {nearest(key, CURRENCY_KEYS)}")
        lists = {c: parse_prices(part, names, f"{where}: currencies[{c!r}]") for c, part in data["currencies"].items()}
        weights = _mapping(data.get("weights"), f"{where}: weights", '{"currency": weight, ...}')
        try:
            return CostSum(lists, weights)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return parse_prices(data, names, where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is there more than once; leave one")
        found[key] = value
    return found


def parse_prices(data: Any, names: tuple[str, ...], where: str) -> Prices:
    """Check what the price list ``data`` says; ``where`` is its name in error messages."""
    _mapping(data, where, '{"feature": price, ...}')
    structured = isinstance(data.get("costs"), Mapping)
    if structured:
        for key in data:
            if key not in PRICE_KEYS + REMARK_KEYS:
                raise ValueError(f"{where}: unknown key {key!r}; {nearest(key, PRICE_KEYS)}")
    costs = data["costs"] if structured else data
    for key in costs:
        if key not in names:
            raise ValueError(f"{where}: costs: unknown feature {key!r}; {nearest(key, names)}")
    absent = [name for name in names if name not in costs]
    if absent:
        listing = ", ".join(map(repr, absent[:5])) + " ..." * (len(absent) > 5)
        raise ValueError(f"{where}: costs: no price for {listing}; give every feature one (0 = already known)")
    values = np.array([_price(costs[name], f"{where}: costs[{name!r}]") for name in names])
    groups = _members(data.get("groups", {}) if structured else {}, names, f"{where}: groups")
    listed = [name for members in groups.values() for name in members]
    for name in listed:
        if listed.count(name) > 1:
            raise ValueError(f"{where}: groups: {name!r} is listed twice; a feature is in one group")
    common = {}
    for group, value in _mapping(data.get("common", {}) if structured else {}, f"{where}: common", "prices").items():
        if group not in groups:
            raise ValueError(f"{where}: common: unknown group {group!r}; {nearest(group, tuple(groups))}")
        common[group] = _price(value, f"{where}: common[{group!r}]")
        cheapest = min(groups[group], key=lambda name: values[names.index(name)])
        if common[group] > values[names.index(cheapest)]:
            raise ValueError(f"{where}: common[{group!r}]={common[group]} is more than all of {cheapest!r} costs")
    currency = data.get("currency", "") if structured else ""
    if not isinstance(currency, str):
        raise ValueError(f"{where}: currency: {currency!r} given; give a text")
    derived = _members(data.get("derived_from", {}) if structured else {}, names, f"{where}: derived_from")
    for name in derived:
        if name not in names:
            raise ValueError(f"{where}: derived_from: unknown feature {name!r}; {nearest(name, names)}")
    return Prices(names, values, groups, common, currency, derived)


def _mapping(value: Any, where: str, form: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {type(value).__name__} given; an object of {form} is needed")
    return value


def _members(value: Any, names: tuple[str, ...], where: str) -> dict[str, tuple[str, ...]]:
    for key, members in _mapping(value, where, "lists of features").items():
        if not isinstance(members, list) or not members:
            raise ValueError(f"{where}[{key!r}]: {members!r} given; a list of features is needed")
        for name in members:
            if name not in names:
                raise ValueError(f"{where}[{key!r}]: unknown feature {name!r}; {nearest(str(name), names)}")
    return {key: tuple(members) for key, members in value.items()}


def _price(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{where}={value!r}: give a finite price >= 0 (0 = already known)")
    return float(value)


def nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    if not names:
        return "there are none"
    return f"there are {', '.join(map(repr, names[:12]))}" + " ..." * (len(names) > 12)

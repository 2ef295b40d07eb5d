"""Keywords and a function from before the option objects and `Budget`; they go with the next release."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from prunopt.core import validate
from prunopt.core.budget import Budget
from prunopt.core.deprecation import warn
from prunopt.networks.cnn.channel_groups import channel_groups
from prunopt.networks.cnn.latency import LatencyTable

F = TypeVar("F", bound=Callable[..., Any])


def old_keywords(function: F) -> F:
    """Let a function take ``calibration``, a separate ``example``, ``only``, ``runtime`` and ``name``."""
    name = function.__name__

    @wraps(function)
    def call(model: Any, *pictures: Any, **options: Any) -> Any:
        if "calibration" in options:
            warn(f"{name}(calibration=...)", "example=...")
            pictures = (options.pop("calibration"),)
        if pictures and "example" in options:
            warn(f"{name}(model, pictures, example=...)", "LatencyTable(example=...), or the example alone")
            timed = options.pop("example")
            if pictures[0] is None:
                validate.require(
                    options.get("importance") == "magnitude",
                    "calibration",
                    "hold pictures",
                    None,
                    'without pictures pass importance="magnitude" and repair=None',
                )
                pictures = (timed,)
            else:
                options["table"] = copy.copy(options.get("table") or LatencyTable(options.pop("runtime", "torch")))
                options["table"].example = timed
        example: Any = pictures[0] if pictures else options.get("example")
        if "only" in options:
            warn(f"{name}(only=...)", "widths=Widths(groups=channel_groups(...).only(...))")
            only, groups = options.pop("only"), options.get("groups")
            if only is not None:
                options["groups"] = (channel_groups(model, example[:2]) if groups is None else groups).only(only)
        if "runtime" in options:
            warn(f"{name}(runtime=...)", "table=LatencyTable(runtime)")
            options.setdefault("table", LatencyTable(options.pop("runtime")))
        dense = options.pop("name", None)
        found = function(model, *pictures, **options)
        if dense is None:
            return found
        warn(f"{name}(name=...)", "result.save(folder, dense=...)")
        return replace(found, dense=dense)

    return call  # type: ignore[return-value]


def parse_budget(text: str) -> tuple[str, float, bool]:
    """Return resource, number, and whether it is a share of the dense network's; `Budget.parse` in older words."""
    warn("parse_budget(text)", "Budget.parse(text)")
    budget = Budget.parse(text)
    return budget.resource, budget.allowed(1.0), budget.share is not None

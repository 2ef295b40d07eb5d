"""What may be used: a named resource, and a limit or a share of what the unpruned model uses."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from prunopt.core import validate

COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
BYTES = {"": 1.0, "B": 1.0} | {
    f"{prefix}{end}": base**power
    for power, prefix in enumerate("kMGT", 1)
    for end, base in (("B", 1e3), ("iB", 1024.0))
}
TIMES = {"": 1.0, "ms": 1.0, "s": 1e3}
UNITS = {"memory": BYTES, "bytes": BYTES, "kv_cache": BYTES, "latency_ms": TIMES, "decode_ms": TIMES}
MEANT = {  # what else resources are called
    **dict.fromkeys(("ms", "latency", "milliseconds", "time", "seconds"), "latency_ms"),
    **dict.fromkeys(("params", "weights", "size"), "parameters"),
    **dict.fromkeys(("flops", "multiply-adds", "operations"), "macs"),
    **dict.fromkeys(("ram", "mb", "bytes"), "memory"),
}
WRITTEN = re.compile(r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``limit`` of ``resource``, or at most the part ``share`` of what the unpruned model uses.

    Parameters
    ----------
    resource
        What is counted: ``"feature cost"``, ``"parameters"``, ``"macs"``, ``"heads"``, ``"memory"``,
        ``"latency_ms"`` ...
    limit
        How much may be used, in the resource's own unit.
    total
        What the unpruned model uses; None where it is not known.
    share
        In place of ``limit``: the part of the total.

    Examples
    --------
    >>> Budget.parse("parameters=80M").limit
    80000000.0
    >>> print(Budget("latency_ms", share=0.7), Budget("macs", share=0.5))
    latency_ms=0.7x macs=0.5
    >>> Budget("macs", share=0.5).allowed(300.0)
    150.0
    """

    resource: str
    limit: float | None = None
    total: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.limit is None) == (self.share is None):
            given = validate.Shown(f"limit={self.limit}, share={self.share}")
            raise validate.invalid(f"budget of {self.resource}", "have a limit or a share", given, "pass one of them")
        for name in ("limit", "share"):
            if getattr(self, name) is not None:
                validate.number(f"{name} of {self.resource}", getattr(self, name), low=0)
        if self.total is not None:
            validate.number(f"total of {self.resource}", self.total, low=0, open_ends="(", mend="pass None if unknown")

    @classmethod
    def parse(cls, text: str, resources: Collection[str] = ()) -> Budget:
        """Read a budget: ``latency_ms=0.7x``, ``macs=0.5``, ``memory=200MB``, ``parameters=80M``.

        A number that ends in ``x`` is a share of the unpruned model's use. So is a number up to 1 without a unit,
        except for milliseconds: ``latency_ms=0.5`` is half a millisecond. After ``<=`` in place of ``=`` only ``x``
        makes a share.

        Parameters
        ----------
        resources
            Those that may be named; any where none is listed.

        Raises
        ------
        ValueError
            If it cannot be read; the message shows how budgets are written.
        """
        name, sign, rest = (*(part.strip() for part in re.split("(<=|=)", text, maxsplit=1)), "", "")[:3]
        other = "latency_ms" if not resources or "latency_ms" in resources else next(iter(resources))
        example = f"write RESOURCE=NUMBER, as in {next(iter(resources), 'macs')}=0.5 or {other}=0.7x"
        found = WRITTEN.fullmatch(rest)
        if found is None or not name:
            raise validate.invalid("budget", "name a resource and a number above 0", text, example)
        if resources:
            _known(f'resource of budget "{text}"', name, resources)
        value, unit = float(found["number"]), found["unit"]
        validate.number(f'number of budget "{text}"', value, low=0, open_ends="(" if sign == "=" else "", mend=example)
        units = UNITS.get(name, COUNTS)
        if unit == "x" or (sign == "=" and not unit and value <= 1 and units is not TIMES):
            return cls(name, share=value)
        validate.one_of(f'unit of budget "{text}"', unit, ["x", *units])
        return cls(name, limit=value * units[unit])

    @classmethod
    def of(cls, budget: Budget | str, resources: Collection[str] = ()) -> Budget:
        """Return a budget, reading it where it is written; ``resources`` are those that may be named."""
        if isinstance(budget, str):
            return cls.parse(budget, resources)
        if not isinstance(budget, Budget):
            raise TypeError(f'budget must be a Budget or text, got {budget!r}; pass Budget("macs", share=0.5)')
        if resources:
            _known("resource of the budget", budget.resource, resources)
        return budget

    @classmethod
    def several(cls, budgets: Budgets, resources: Collection[str] = ()) -> list[Budget]:
        """Return budgets, reading those that are written; a text may hold several, apart by commas or spaces.

        A mapping has names of resources, and what is written behind ``=``.

        >>> print(*Budget.several("memory=200MB, latency_ms=0.7x"))
        memory=200000000 latency_ms=0.7x
        >>> print(*Budget.several({"parameters": 0.8, "memory": "200MB"}))
        parameters=0.8 memory=200000000
        """
        if isinstance(budgets, Mapping):
            budgets = [f"{name}={value}" for name, value in budgets.items()]
        given = [budgets] if isinstance(budgets, Budget | str) else list(budgets)
        validate.require(given, "budget", "hold a budget", given, 'pass po.Budget("parameters", share=0.8)')
        parts = [
            p for b in given for p in (re.split(r"[,\s]+(?=[A-Za-z_]+\s*(?:<=|=))", b) if isinstance(b, str) else [b])
        ]
        return [cls.of(part, resources) for part in parts]

    def allowed(self, total: float | None = None) -> float:
        """Return how much may be used, where the unpruned model uses ``total`` (None: the one given before)."""
        if self.limit is not None:
            return self.limit
        whole = self.total if total is None else total
        if whole is None or self.share is None:
            raise validate.invalid(f"total of {self.resource}", "be known for a share of it", None, "pass the total")
        return self.share * whole

    @property
    def sparsity(self) -> float:
        """The fraction that has to go: 1 - limit / total."""
        if self.share is not None:
            return max(0.0, 1.0 - self.share)
        if self.total is None or self.limit is None:
            raise validate.invalid(f"total of {self.resource}", "be known for a sparsity", None, "pass the total")
        return max(0.0, 1.0 - self.limit / self.total)

    def violation(self, used: float) -> float:
        """Return by how much ``used`` is over the limit (0 when within it)."""
        return max(0.0, used - self.allowed())

    def describe(self) -> str:
        """Return the budget in words."""
        if self.share is not None and self.total is None:
            return f"at most {self.share:.1%} of the {self.resource}"
        if self.total is None:
            return f"at most {self.allowed():g} {self.resource}"
        return f"at most {self.allowed():g} of {self.total:g} {self.resource} ({1 - self.sparsity:.1%} kept)"

    def __str__(self) -> str:
        """Return what `parse` reads; the total is not a part of it."""
        absolute_ones = UNITS.get(self.resource) is TIMES
        if self.share is not None:
            bare = 0 < self.share <= 1 and not absolute_ones
            return f"{self.resource}={_plain(self.share)}{'' if bare else 'x'}"
        limit = self.allowed()
        sign = "=" if limit > 1 or (absolute_ones and limit > 0) else "<="
        return f"{self.resource}{sign}{_plain(limit)}"


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """A budget, what a choice uses of it, and its price.

    Parameters
    ----------
    resource, limit, total, used
        In the resource's own unit; ``total`` is what the unpruned model uses.
    price
        By how much the loss would fall with one more unit, at the margin (the dual); 0: the budget is not in the way.
    """

    resource: str
    limit: float
    total: float
    used: float
    price: float

    def describe(self, of: str = "") -> str:
        """Return used, limit and price in words; ``of`` is what losses are counted in."""
        unit = (
            "ms" if UNITS.get(self.resource) is TIMES
            else "byte" if self.resource in UNITS
            else self.resource.removesuffix("s")
        )  # fmt: skip
        worth = f"one more {unit} would save {self.price:.3g}{f' {of}' if of else ''}"
        return (
            f"{self.resource}: {self.used:.6g} of {self.limit:.6g} used (before: {self.total:.6g}); "
            f"{worth if self.price > 0 else 'not in the way'}"
        )


Budgets = Budget | str | Sequence[Budget | str] | Mapping[str, float | str]  # one, or several to be met together


def _known(what: str, name: str, resources: Collection[str]) -> None:
    """Refuse a resource that may not be named; by another name than the usual one it is recognized in the message."""
    meant = MEANT.get(name.lower())
    if name not in resources and meant in resources:
        raise validate.invalid(what, f"be one of {', '.join(map(repr, resources))}", name, f'did you mean "{meant}"?')
    validate.one_of(what, name, resources)


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and math.fabs(value) < 1e16 else repr(float(value))

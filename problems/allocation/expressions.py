"""Allocation expressions: their grammar, parser, printer and canonical form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prunopt.core.validate import number, one_of, require
from prunopt.problems.allocation._operators import POST, PRE, REDUCTIONS, TRANSFORMS

STAGES: dict[str, Mapping[str, Any]] = {
    "pre-process": PRE,
    "reduction": REDUCTIONS,
    "transform": TRANSFORMS,
    "post-process": POST,
}
MOST = {"pre-process": 2, "reduction": 1, "transform": 2, "post-process": 2}
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w.]*)|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<mark>[:(),|]))"
)
_ABSORBED = {  # (first, second) -> what the pair is equal to
    ("abs", "abs"): ("abs",),
    ("abs", "abslog"): ("abslog",),
    ("abs", "square"): ("square",),
    ("square", "abs"): ("square",),
    ("abs", "sqrt"): ("sqrt",),
    ("sqrt", "abs"): ("sqrt",),
    ("exp", "abs"): ("exp",),
    ("sigmoid", "abs"): ("sigmoid",),
    ("minmax", "abs"): ("minmax",),
    ("minmax", "minmax"): ("minmax",),
    ("negate", "negate"): (),
    ("rank", "rank"): ("rank",),
    ("standard", "rank"): ("rank",),
    ("minmax", "rank"): ("rank",),
}


@dataclass(frozen=True)
class Expression:
    r"""A formula for an allocation, ``source: (pre, ...) | reduction | (transform, ...) | (post, ...) | spread``.

    The numbers of each layer's ``source`` go through the pre-processing, are reduced to one score a layer, the scores
    are transformed one by one and then post-processed together. Scores, scaled to the range 0 to 1, are spread over
    sparsities :math:`S \pm \mathrm{spread}`: a larger score, a sparser layer.

    ::

        expression = source ":" list "|" reduction "|" list "|" list "|" spread
        list       = "(" [ operator { "," operator } ] ")"        up to two operators

    Parameters
    ----------
    source
        Name of a per-layer statistic.
    pre, reduction, transform, post
        Operators of the four stages.
    spread
        Half of the range of sparsities, 0 to 1.
    """

    source: str
    pre: tuple[str, ...] = ()
    reduction: str = "mean"
    transform: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    spread: float = 0.08

    def __post_init__(self) -> None:
        for stage, names in zip(STAGES, (self.pre, (self.reduction,), self.transform, self.post), strict=True):
            for name in names:
                one_of(f"{stage} operator", name, tuple(STAGES[stage]))
            require(len(names) <= MOST[stage], stage, f"have at most {MOST[stage]} operators", names)
        number("spread", self.spread, low=0, high=1)

    def __str__(self) -> str:
        lists = [f"({', '.join(names)})" for names in (self.pre, self.transform, self.post)]
        return f"{self.source}: {lists[0]} | {self.reduction} | {lists[1]} | {lists[2]} | {self.spread!r}"

    def canonical(self) -> Expression:
        """Return an expression of the same scores without operators that do nothing after their neighbor.

        Expressions that differ here may still give equal allocations; a search compares those as well.
        """
        pre, transform, post = (_shorter(names) for names in (self.pre, self.transform, self.post))
        # The map to the budget scales scores to 0..1 itself.
        while post and post[-1] in ("minmax", "standard"):
            post = post[:-1]
        return replace(self, pre=pre, transform=transform, post=post, spread=float(self.spread))


def _shorter(names: tuple[str, ...]) -> tuple[str, ...]:
    while len(names) == 2 and names in _ABSORBED:
        names = _ABSORBED[names[0], names[1]]
    return names


def parse(text: str, sources: tuple[str, ...] | None = None) -> Expression:
    """Read an expression from its text.

    Parameters
    ----------
    text
        As `Expression` prints it; spaces do not matter.
    sources
        The statistics that there are; None accepts any name.

    Raises
    ------
    ValueError
        Naming what was found at which position (counted from 1), and what would have fitted.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: {type(text).__name__} given; an expression is a text")
    return _Reader(text, sources).read()


class _Reader:
    def __init__(self, text: str, sources: tuple[str, ...] | None) -> None:
        self.text, self.sources, self.at = text, sources, 0

    def read(self) -> Expression:
        source = self.name("source", self.sources)
        self.mark(":")
        pre = self.names("pre-process")
        self.mark("|")
        reduction = self.name("reduction", tuple(REDUCTIONS))
        self.mark("|")
        transform = self.names("transform")
        self.mark("|")
        post = self.names("post-process")
        self.mark("|")
        begin, spread = self.number()
        if not 0 <= spread <= 1:
            raise self.wrong(begin, f"the spread {spread:g}", "a number from 0 to 1")
        begin, kind, word = self.token()
        if kind:
            raise self.wrong(begin, repr(word), "the end")
        return Expression(source, pre, reduction, transform, post, spread)

    def token(self) -> tuple[int, str, str]:
        """Return position, kind and text of the next token, kind "" at the end."""
        rest = self.text[self.at :]
        begin = self.at + len(rest) - len(rest.lstrip())
        if begin == len(self.text):
            return begin, "", ""
        found = _TOKEN.match(self.text, self.at)
        if found is None:
            raise self.wrong(begin, repr(self.text[begin]), "a name, a number or one of : ( ) , |")
        self.at = found.end()
        return begin, str(found.lastgroup), str(found.group(str(found.lastgroup)))

    def wrong(self, begin: int, found: str, wanted: str) -> ValueError:
        return ValueError(f"expression {self.text!r}, position {begin + 1}: {found} found, {wanted} is needed")

    def mark(self, wanted: str) -> None:
        begin, _, word = self.token()
        if word != wanted:
            raise self.wrong(begin, repr(word) if word else "the end", repr(wanted))

    def name(self, what: str, allowed: tuple[str, ...] | None) -> str:
        begin, kind, word = self.token()
        if kind != "name" or (allowed is not None and word not in allowed):
            choices = "a name" if allowed is None else f"a {what} ({', '.join(allowed)})"
            raise self.wrong(begin, repr(word) if word else "the end", choices)
        return word

    def names(self, stage: str) -> tuple[str, ...]:
        self.mark("(")
        found: list[str] = []
        begin, _, word = self.token()
        while word != ")":
            if found:
                if word != ",":
                    raise self.wrong(begin, repr(word) if word else "the end", "',' or ')'")
                begin, _, word = self.token()
            if word not in STAGES[stage]:
                names = ", ".join(STAGES[stage])
                raise self.wrong(begin, repr(word) if word else "the end", f"a {stage} operator ({names})")
            found.append(word)
            if len(found) > MOST[stage]:
                raise self.wrong(begin, repr(word), f"at most {MOST[stage]} {stage} operators")
            begin, _, word = self.token()
        return tuple(found)

    def number(self) -> tuple[int, float]:
        begin, kind, word = self.token()
        if kind != "number" or not math.isfinite(float(word)):
            raise self.wrong(begin, repr(word) if word else "the end", "a number")
        return begin, float(word)

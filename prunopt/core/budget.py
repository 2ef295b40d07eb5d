"""What is spent: a named resource and how much of it may be used."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``limit`` of ``resource``, out of ``total`` that the unpruned model uses.

    Parameters
    ----------
    resource
        What is counted: ``"feature cost"``, ``"parameters"``, ``"macs"``, ``"heads"``, ``"latency_ms"`` ...
    limit
        How much may be used, in the resource's own unit.
    total
        What the unpruned model uses; None when it is not known. With it, `sparsity` is the fraction removed.
    """

    resource: str
    limit: float
    total: float | None = None

    def __post_init__(self) -> None:
        if not self.limit >= 0 or math.isinf(self.limit):
            raise ValueError(f"limit={self.limit!r} of {self.resource}: give a finite number >= 0")
        if self.total is not None and not self.total > 0:
            raise ValueError(f"total={self.total!r} of {self.resource}: give a number > 0, or None")

    @property
    def sparsity(self) -> float:
        """The fraction of ``total`` that has to go: 1 - limit / total."""
        if self.total is None:
            raise ValueError(f"total=None: the sparsity of a {self.resource} budget needs the total")
        return max(0.0, 1.0 - self.limit / self.total)

    def violation(self, used: float) -> float:
        """Return by how much ``used`` is over the limit (0 when within it)."""
        return max(0.0, used - self.limit)

    def __str__(self) -> str:
        if self.total is None:
            return f"at most {self.limit:g} {self.resource}"
        return f"at most {self.limit:g} of {self.total:g} {self.resource} ({self.limit / self.total:.1%} kept)"

"""Random points, none of them twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.forms.blackbox import BlackBox, Gene
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import distributions, known_keys, quiet

TRIES = 50  # draws before a decision that is known is taken after all


@dataclass(frozen=True)
class RandomSearch(SearchSolver):
    """Draw every gene independently and uniformly; a point whose decision is known, or that has none, is drawn again.

    References
    ----------
    .. [1] J. Bergstra, Y. Bengio, "Random search for hyper-parameter optimization", JMLR 13 (2012).
    """

    name: ClassVar[str] = "random-search"
    form: ClassVar[type] = BlackBox
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 60
    requires: ClassVar[tuple[str, ...]] = ("optuna",)
    reference: ClassVar[str] = "Bergstra & Bengio, JMLR 2012"

    def sampler(self, box: BlackBox, study: Any, seed: int, index: int) -> Any:
        """Return a sampler that proposes a fresh random point."""
        rng = np.random.default_rng(seed)

        def propose() -> dict[str, Any]:
            return fresh(box, known_keys(study), lambda: random_point(box, rng))

        return proposing(box, propose)


def random_point(box: BlackBox, rng: np.random.Generator) -> dict[str, Any]:
    """Return a uniform random point."""
    return {g.name: random_value(g, rng) for g in box.genes}


def random_value(gene: Gene, rng: np.random.Generator) -> Any:
    """Return a uniform random value of a gene."""
    if gene.options:
        return gene.options[int(rng.integers(len(gene.options)))]
    return float(rng.uniform(gene.low, gene.high))


def fresh(box: BlackBox, known: set[str], draw: Any, tries: int = TRIES) -> dict[str, Any]:
    """Draw until the point has a decision that is not known; after ``tries``, one that at least has a decision."""
    fallback: dict[str, Any] | None = None
    point: dict[str, Any] = {}
    for _ in range(tries):
        point = draw()
        decision = box.decode(point)
        if decision is None:
            continue
        if box.key(decision) not in known:
            return point
        fallback = fallback or point
    return fallback or point


def proposing(box: BlackBox, propose: Any) -> Any:
    """Return an Optuna sampler whose points are those of ``propose()``."""
    optuna = quiet()

    class Proposing(optuna.samplers.BaseSampler):  # type: ignore[misc,name-defined]
        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return distributions(box)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return propose()  # a queued trial that brings its own point keeps that

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            gene = next(g for g in box.genes if g.name == name)
            return gene.options[0] if gene.options else gene.low

    return Proposing()

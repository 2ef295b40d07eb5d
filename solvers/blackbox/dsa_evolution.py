"""Evolution of expressions, stage by stage, parents drawn from the best decisions so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.validate import number, whole_number
from prunopt.forms.blackbox import BlackBox, Gene
from prunopt.solvers.blackbox._screening import screened
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import known_keys, losses
from prunopt.solvers.blackbox.random_search import fresh, proposing, random_point


@dataclass(frozen=True)
class DsaEvolution(SearchSolver):
    r"""Evolve points of categorical and real genes, in the manner of discovering sparsity allocations (DSA) [1]_.

    The first ``population`` trials are random. Every later one has parents from the ``elites`` best decisions so far
    (each decision counts once), drawn by tournament; points are elites only if they differ in ``distance`` unordered
    genes from every better one, so that one family does not crowd out the rest. With probability ``crossover`` each
    gene (a stage of an expression) comes from either of two parents, else all come from one. Then genes mutate with
    probability ``mutation``, at least one where nothing changed: a categorical gene takes another option (a
    neighboring one, if they are ordered), a real gene moves by a normal step whose width is the elites' spread. With
    probability ``immigrants`` a random point takes the offspring's place. An offspring whose decision is known, or
    that has none, is bred again.

    An offspring costs microseconds and its loss seconds: ``screen`` of them are bred for one that is evaluated, the
    most promising by a Gaussian process over the decisions' numbers (`prunopt.solvers.blackbox._screening`). Where
    decisions are not arrays of numbers, the first is taken.

    The publication does not state the parameters of its evolution, and the code released evolves sparsity vectors;
    the operators here are a reconstruction, and distance, immigrants and screening are additions (``distance=0,
    immigrants=0, screen=1`` does without).

    Parameters
    ----------
    population
        Random trials at the beginning, >= 2.
    elites
        Size of the parents' pool, >= 2.
    tournament
        Parents drawn for one tournament, >= 1.
    crossover, mutation, immigrants
        Probabilities in [0, 1].
    distance
        Unordered genes that an elite differs in from every better one, >= 0; all of them where there are fewer.
    screen
        Offspring bred for one that is evaluated, >= 1.

    References
    ----------
    .. [1] L. Li, P. Dong, Z. Tang, X. Liu, Q. Wang, W. Luo, W. Xue, Q. Liu, X. Chu, Y. Guo, "Discovering sparsity
       allocation for layer-wise pruning of large language models", NeurIPS 2024.
    """

    name: ClassVar[str] = "dsa-evolution"
    form: ClassVar[type] = BlackBox
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    requires: ClassVar[tuple[str, ...]] = ("optuna",)
    reference: ClassVar[str] = "Li et al. (DSA), NeurIPS 2024"

    population: int = 10
    elites: int = 8
    tournament: int = 2
    crossover: float = 0.5
    mutation: float = 0.2
    immigrants: float = 0.5
    distance: int = 3
    screen: int = 16

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("elites", 2), ("tournament", 1), ("distance", 0), ("screen", 1)):
            whole_number(name, getattr(self, name), low=least)
        for name in ("crossover", "mutation", "immigrants"):
            number(name, getattr(self, name), low=0, high=1)

    def sampler(self, box: BlackBox, study: Any, seed: int, index: int) -> Any:
        """Return the genetic sampler of one trial."""
        rng = np.random.default_rng(seed)

        def propose() -> dict[str, Any]:
            known, parents = known_keys(study), self.apart(box, [point for _, point, _ in losses(study)])
            if index < self.population or len(parents) < 2:
                return fresh(box, known, lambda: random_point(box, rng))

            def draw() -> dict[str, Any]:
                if rng.random() < self.immigrants:
                    return random_point(box, rng)
                return self.offspring(box, parents, rng)

            return screened(box, study, known, draw, self.screen)

        return proposing(box, propose)

    def apart(self, box: BlackBox, points: Sequence[Any]) -> list[Any]:
        """Return the elites among points that come best first: those far enough from every better elite."""
        names = [g.name for g in box.genes if g.options and not g.ordered]
        least, found = min(self.distance, len(names)), list[Any]()
        for point in points:
            if all(sum(point[n] != other[n] for n in names) >= least for other in found):
                found.append(point)
            if len(found) == self.elites:
                break
        return found

    def offspring(self, box: BlackBox, parents: list[Any], rng: np.random.Generator) -> dict[str, Any]:
        """Return a child of the parents, which come best first."""

        def winner() -> Any:
            return parents[int(rng.integers(len(parents), size=self.tournament).min())]

        first, second = winner(), winner()
        if rng.random() >= self.crossover:
            second = first
        child = {g.name: (first if rng.random() < 0.5 else second)[g.name] for g in box.genes}
        chosen = rng.random(len(box.genes)) < self.mutation
        if not chosen.any():
            chosen[int(rng.integers(len(box.genes)))] = True
        for gene, mutate in zip(box.genes, chosen, strict=True):
            if mutate:
                child[gene.name] = self.mutant(gene, child[gene.name], parents, rng)
        return child

    @staticmethod
    def mutant(gene: Gene, value: Any, parents: list[Any], rng: np.random.Generator) -> Any:
        """Return another value of a gene."""
        if not gene.options:
            spread = float(np.std([p[gene.name] for p in parents])) + 0.02 * (gene.high - gene.low)
            return float(np.clip(value + spread * rng.normal(), gene.low, gene.high))
        if len(gene.options) == 1:
            return value
        place = gene.options.index(value)
        if gene.ordered and rng.random() < 0.7:
            step = 1 if place == 0 else -1 if place == len(gene.options) - 1 else int(rng.choice((-1, 1)))
            return gene.options[place + step]
        others = [o for o in gene.options if o != value]
        return others[int(rng.integers(len(others)))]

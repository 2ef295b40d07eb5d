"""Evolution of expressions, stage by stage, as an Optuna genetic sampler of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.forms.blackbox import BlackBox, Gene
from prunopt.solvers.kernels.search import SearchSolver
from prunopt.solvers.kernels.trials import distributions, known_keys, losses, quiet
from prunopt.solvers.random_search import fresh, random_point, random_value


@dataclass(frozen=True)
class DsaEvolution(SearchSolver):
    r"""Evolve points of categorical and real genes, in the manner of discovering sparsity allocations (DSA) [1]_.

    The first ``population`` trials are random. Every later one has parents from the ``elites`` best decisions so far
    (each decision counts once), drawn by tournament. With probability ``crossover`` each gene (a stage of an
    expression) comes from either of two parents, else all come from one. Then genes mutate with probability
    ``mutation``, at least one where nothing changed: a categorical gene takes another option (a neighbouring one, if
    they are ordered), a real gene moves by a normal step whose width is the elites' spread. An offspring whose
    decision is known, or that has none, is bred again.

    The publication does not state the parameters of its evolution, and the code released evolves sparsity vectors;
    the operators here are a reconstruction.

    Parameters
    ----------
    population
        Random trials at the beginning, >= 2.
    elites
        Size of the parents' pool, >= 2.
    tournament
        Parents drawn for one tournament, >= 1.
    crossover, mutation
        Probabilities in [0, 1].

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

    population: int = 20
    elites: int = 8
    tournament: int = 2
    crossover: float = 0.5
    mutation: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("elites", 2), ("tournament", 1)):
            if int(getattr(self, name)) != getattr(self, name) or getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a whole number >= {least}")
        for name in ("crossover", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a probability from 0 to 1")

    def sampler(self, box: BlackBox, study: Any, seed: int, index: int) -> Any:
        """Return the genetic sampler of one trial."""
        optuna, rng, solver = quiet(), np.random.default_rng(seed), self

        class Stages(optuna.samplers.BaseGASampler):  # type: ignore[misc,name-defined]
            """Parents are the best decisions so far; there are no generations to wait for."""

            def select_parent(self, study: Any, generation: int) -> Any:
                best = losses(study)[: solver.elites]
                return [point for _, point, _ in best]

            def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
                return distributions(box)

            def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
                if trial.system_attrs.get("fixed_params"):
                    return {}
                known = known_keys(study)
                if index < solver.population:
                    return fresh(box, known, lambda: random_point(box, rng))
                parents = self.select_parent(study, 0)
                if len(parents) < 2:
                    return fresh(box, known, lambda: random_point(box, rng))
                return fresh(box, known, lambda: solver.offspring(box, parents, rng))

            def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
                return random_value(next(g for g in box.genes if g.name == name), rng)

        return Stages(population_size=self.population)

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

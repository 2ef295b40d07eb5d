"""Evolution of categorical and real parameters, screened by a Gaussian process, for ordinary Optuna studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from prunopt.forms.blackbox import BlackBox, Gene
from prunopt.solvers.blackbox.dsa_evolution import DsaEvolution

__all__ = ["DSAEvolutionSampler"]


class DSAEvolutionSampler(optuna.samplers.BaseSampler):
    """Breed every trial from the best ones so far.

    Parameters
    ----------
    search_space
        The distribution of every parameter; the objective suggests the same.
    seed
        Same seed, same trials, with one worker.
    options
        Of `prunopt.solvers.blackbox.dsa_evolution.DsaEvolution`.
    """

    def __init__(self, search_space: Mapping[str, BaseDistribution], seed: int = 0, **options: Any) -> None:
        genes = tuple(_gene(name, kind) for name, kind in search_space.items())
        box = BlackBox(genes, decode=lambda point: dict(point), loss=_told)
        self._sampler = DsaEvolution(**options).optuna_sampler(box, seed)
        self._search_space = dict(search_space)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Return the search space."""
        self._sampler.infer_relative_search_space(study, trial)
        return self._search_space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Return the whole trial."""
        return dict(self._sampler.sample_relative(study, trial, search_space))

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Refuse a parameter that is not in the search space."""
        raise ValueError(f"search_space must hold every parameter, got {param_name!r} in the objective; add it")


def _gene(name: str, kind: BaseDistribution) -> Gene:
    if isinstance(kind, CategoricalDistribution):
        return Gene(name, tuple(kind.choices))
    if isinstance(kind, IntDistribution):
        return Gene(name, tuple(range(kind.low, kind.high + 1, kind.step)), ordered=True)
    if isinstance(kind, FloatDistribution) and not kind.log and kind.step is None:
        return Gene(name, low=kind.low, high=kind.high)
    raise ValueError(f"search_space[{name!r}] must be categorical, whole, or real without log or step, got {kind}")


def _told(decision: Any, fidelity: float) -> float:
    raise NotImplementedError("the study's objective is evaluated by Optuna")

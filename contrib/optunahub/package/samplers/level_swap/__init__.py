"""Swaps of levels within a budget, for ordinary Optuna studies: evolution as in EvoPress."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from prunopt.forms.blackbox import LevelSearch, level_genes
from prunopt.solvers.blackbox.level_swap import LevelSwap

__all__ = ["LevelSwapSampler"]


class LevelSwapSampler(optuna.samplers.BaseSampler):
    """Start from given levels, then swap levels of the best trial, within the budget.

    Parameters
    ----------
    cost : (G, L) int
        What each level of each group costs.
    budget
        The greatest total cost.
    start : (G,) int
        Levels to begin with, within the budget.
    seed
        Same seed, same trials, with one worker.
    swaps
        Most swaps in one trial.

    Notes
    -----
    The objective suggests ``trial.suggest_categorical(f"level_{g}", range(L))`` for every group g; `search_space` has
    the distributions.
    """

    def __init__(self, cost: Any, budget: int, start: Any, seed: int = 0, swaps: int = 3) -> None:
        cost = np.asarray(cost)
        groups, levels = cost.shape
        box = LevelSearch(
            level_genes(groups, levels),
            decode=lambda point: [int(point[f"level_{g}"]) for g in range(groups)],
            loss=_told,
            cost=cost,
            budget=budget,
            start=start,
        )
        self.search_space: dict[str, BaseDistribution] = {
            f"level_{g}": CategoricalDistribution(tuple(range(levels))) for g in range(groups)
        }
        self._sampler = LevelSwap(swaps=swaps).optuna_sampler(box, seed)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Return the levels of all groups."""
        self._sampler.infer_relative_search_space(study, trial)
        return self.search_space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Return the whole trial."""
        return dict(self._sampler.sample_relative(study, trial, search_space))

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Refuse a parameter that is not a level."""
        raise ValueError(f"parameters must be level_0 to level_{len(self.search_space) - 1}, got {param_name!r}")


def _told(decision: Any, fidelity: float) -> float:
    raise NotImplementedError("the study's objective is evaluated by Optuna")

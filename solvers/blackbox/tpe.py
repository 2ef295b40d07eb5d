"""Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from prunopt.core.validate import whole_number
from prunopt.forms.blackbox import BlackBox
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import quiet


@dataclass(frozen=True)
class Tpe(SearchSolver):
    """Draw where the density of good points is high against that of bad ones [1]_, by Optuna's `TPESampler`.

    Parameters
    ----------
    startup
        Random trials at the beginning, >= 1.
    multivariate
        Model genes jointly.

    References
    ----------
    .. [1] J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, "Algorithms for hyper-parameter optimization", NeurIPS 2011.
    """

    name: ClassVar[str] = "tpe"
    form: ClassVar[type] = BlackBox
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 50
    requires: ClassVar[tuple[str, ...]] = ("optuna",)
    reference: ClassVar[str] = "Bergstra, Bardenet, Bengio & Kegl, NeurIPS 2011"

    startup: int = 10
    multivariate: bool = True

    def __post_init__(self) -> None:
        whole_number("startup", self.startup, low=1)

    def sampler(self, box: BlackBox, study: Any, seed: int, index: int) -> Any:
        """Return Optuna's sampler, seeded for this trial."""
        optuna = quiet()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed % 2**32, n_startup_trials=self.startup, multivariate=self.multivariate
            )

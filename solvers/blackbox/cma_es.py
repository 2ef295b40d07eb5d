"""Covariance matrix adaptation over real genes, its state rebuilt from the trials."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.validate import number
from prunopt.forms.blackbox import BlackBox
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import finished, known_keys
from prunopt.solvers.blackbox.random_search import fresh, proposing, random_point, random_value


@dataclass(frozen=True)
class CmaEs(SearchSolver):
    """CMA-ES [1]_ on the real genes, options drawn at random; fewer than two real genes are searched at random.

    Nothing is kept between trials: the distribution is rebuilt by telling a new optimizer the losses of the finished
    trials, generation by generation in the order of their index. So a search can be stopped at any trial, and nothing
    is unpickled from a storage (Optuna's own CMA-ES sampler does that).

    Parameters
    ----------
    sigma
        First step, as a share of each gene's range.

    References
    ----------
    .. [1] N. Hansen, A. Ostermeier, "Completely derandomized self-adaptation in evolution strategies", Evolutionary
       Computation 9 (2001).
    """

    name: ClassVar[str] = "cma-es"
    form: ClassVar[type] = BlackBox
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 55
    requires: ClassVar[tuple[str, ...]] = ("optuna", "cmaes")
    reference: ClassVar[str] = "Hansen & Ostermeier, Evol. Comput. 2001"

    sigma: float = 0.2

    def __post_init__(self) -> None:
        number("sigma", self.sigma, low=0, high=1, open_ends="(")

    def sampler(self, box: BlackBox, study: Any, seed: int, index: int) -> Any:
        """Return a sampler that draws from the distribution of the finished trials."""
        from cmaes import CMA

        rng = np.random.default_rng(seed)
        reals = [g for g in box.genes if not g.options]
        if len(reals) < 2:
            return proposing(box, lambda: fresh(box, known_keys(study), lambda: random_point(box, rng)))
        low, high = np.array([g.low for g in reals]), np.array([g.high for g in reals])
        bounds = np.stack([np.zeros(len(reals)), np.ones(len(reals))], axis=1)
        own = int(rng.integers(2**31))

        def propose() -> dict[str, Any]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                model = CMA(mean=np.full(len(reals), 0.5), sigma=self.sigma, bounds=bounds, seed=own)
                told = in_order(study)
                size = model.population_size
                for start in range(0, len(told) - size + 1, size):
                    batch = told[start : start + size]
                    worst = max((v for v, _ in batch if np.isfinite(v)), default=0.0)
                    points = [(np.array([p[g.name] for g in reals]) - low) / (high - low) for _, p in batch]
                    values = [v if np.isfinite(v) else worst + 1 for v, _ in batch]
                    model.tell(list(zip(points, values, strict=True)))
                x = np.clip(model.ask(), 0, 1) * (high - low) + low
            point = {g.name: float(v) for g, v in zip(reals, x, strict=True)}
            return {g.name: point[g.name] if g.name in point else random_value(g, rng) for g in box.genes}

        return proposing(box, propose)


def in_order(study: Any) -> list[tuple[float, Any]]:
    """Return (loss, point) of the finished trials in the order of their index."""
    return [(float(t.value), t.params) for t in finished(study) if t.value is not None]

"""A stand-in for allocating sparsity to the blocks of a network: convex curves, coupled neighbors, one budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna

try:
    from optunahub.benchmarks import BaseProblem
except ImportError:  # without the hub's package the problem is a plain class with the same methods

    class BaseProblem:  # type: ignore[no-redef]
        """What the hub expects of a problem."""


__all__ = ["Problem"]


class Problem(BaseProblem):
    r"""Minimize what a network loses when its blocks are pruned to a common budget.

    .. math::
        f(u) = \sum_b a_b \, (e^{k_b s_b} - 1) + c \sum_b \sqrt{a_b a_{b+1}} \, s_b s_{b+1}, \qquad
        \sum_b n_b s_b = S \sum_b n_b

    where the sparsities s are u in [0, 1]^B, shifted and cut so that the budget holds exactly.

    Parameters
    ----------
    blocks
        B.
    sparsity
        S, in (0, 1).
    coupling
        c: how much pruning a block hurts its neighbor.
    seed
        Of the sizes n, the weights a (spread over two orders of magnitude) and the rates k.
    """

    def __init__(self, blocks: int = 16, sparsity: float = 0.6, coupling: float = 0.5, seed: int = 0) -> None:
        if blocks < 2 or not 0 < sparsity < 1 or coupling < 0:
            raise ValueError(
                f"blocks >= 2, 0 < sparsity < 1, coupling >= 0 are needed, got {blocks, sparsity, coupling}"
            )
        rng = np.random.default_rng(seed)
        self._sizes = rng.integers(50, 200, blocks).astype(float)
        self._weights, self._rates = 10.0 ** rng.uniform(-1, 1, blocks), rng.uniform(1, 5, blocks)
        self._sparsity, self._coupling = sparsity, coupling

    @property
    def search_space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return one real parameter for each block."""
        return {f"u{b}": optuna.distributions.FloatDistribution(0.0, 1.0) for b in range(len(self._sizes))}

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        """Return that the loss is minimized."""
        return [optuna.study.StudyDirection.MINIMIZE]

    def __call__(self, trial: optuna.Trial) -> float:
        """Suggest all parameters and return their loss."""
        return self.evaluate({name: trial.suggest_float(name, 0.0, 1.0) for name in self.search_space})

    def evaluate(self, params: dict[str, Any]) -> float:
        """Return the loss of a point."""
        s = self.allocation(np.array([params[f"u{b}"] for b in range(len(self._sizes))], np.float64))
        own = float(self._weights @ np.expm1(self._rates * s))
        beside = np.sqrt(self._weights[:-1] * self._weights[1:]) @ (s[:-1] * s[1:])
        return own + self._coupling * float(beside)

    def allocation(self, u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the sparsities that a point stands for: shifted by one number, cut to [0, 1], on the budget."""
        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if self._sizes @ np.clip(u + middle, 0, 1) < self._sparsity * self._sizes.sum():
                low = middle
            else:
                high = middle
        return np.clip(u + high, 0, 1)

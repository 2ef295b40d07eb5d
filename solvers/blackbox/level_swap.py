"""Swaps of levels between groups on the true loss, in the manner of EvoPress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.validate import whole_number
from prunopt.forms.blackbox import LevelSearch
from prunopt.solvers.blackbox._screening import screened
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import known_keys, losses
from prunopt.solvers.blackbox.random_search import proposing


@dataclass(frozen=True)
class LevelSwap(SearchSolver):
    """From the start, or the best choice so far: some groups go up a level, others down, within the budget [1]_.

    The first trial is the start. Every later one takes the best choice yet and makes 1 to ``swaps`` swaps: a group
    goes to the next level in one direction, another one in the other; where that exceeds the budget, other groups go
    to cheaper levels until it does not, and what is then left over is spent again.

    Parameters
    ----------
    swaps
        Most swaps in one trial; their number is drawn so that small ones are the most frequent.
    screen
        Choices bred for one that is evaluated, >= 1. The default follows the publication, which screens none.

    References
    ----------
    .. [1] O. Sieberling, D. Kuznedelev, E. Kurtic, D. Alistarh, "EvoPress: accurate dynamic model compression via
       evolutionary search", ICML 2025.
    """

    name: ClassVar[str] = "level-swap"
    form: ClassVar[type] = LevelSearch
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 30
    requires: ClassVar[tuple[str, ...]] = ("optuna",)
    reference: ClassVar[str] = "Sieberling et al. (EvoPress), ICML 2025"

    swaps: int = 3
    screen: int = 1

    def __post_init__(self) -> None:
        whole_number("swaps", self.swaps, low=1)
        whole_number("screen", self.screen, low=1)

    def sampler(self, box: Any, study: Any, seed: int, index: int) -> Any:
        """Return a sampler that swaps levels of the best choice so far."""
        rng = np.random.default_rng(seed)

        def propose() -> dict[str, Any]:
            done = losses(study)
            if not done:
                return named(box.start)
            best = np.array([done[0][1][g.name] for g in box.genes], np.int64)
            return screened(box, study, known_keys(study), lambda: named(self.swapped(box, best, rng)), self.screen)

        return proposing(box, propose)

    def swapped(self, box: LevelSearch, levels: Ints, rng: np.random.Generator) -> Ints:
        """Return the levels after some swaps, within the budget."""
        x, count = levels.copy(), box.cost.shape[1]
        many = 1 + int(min(rng.integers(self.swaps), rng.integers(self.swaps)))
        for _ in range(many):
            for step in (1, -1):
                able = np.flatnonzero((x + step >= 0) & (x + step < count))
                if len(able):
                    x[able[int(rng.integers(len(able)))]] += step
        return within_budget(box, x, rng)


def within_budget(box: LevelSearch, x: Ints, rng: np.random.Generator) -> Ints:
    """Return the levels with some groups made cheaper until they fit, then others costlier as long as they do."""
    x, groups = x.copy(), np.arange(len(x))
    spent = int(box.cost[groups, x].sum())
    for cheaper in (True, False):
        for g in rng.permutation(len(x)):
            if cheaper and spent <= box.budget:
                break
            near = [j for j in (x[g] - 1, x[g] + 1) if 0 <= j < box.cost.shape[1]]
            change = {int(j): int(box.cost[g, j] - box.cost[g, x[g]]) for j in near}
            fits = [j for j, c in change.items() if (c < 0 if cheaper else 0 < c <= box.budget - spent)]
            if fits:
                spent += change[fits[0]]
                x[g] = fits[0]
    return x


def named(levels: Ints) -> dict[str, Any]:
    """Return the levels as a point."""
    return {f"level_{g}": int(j) for g, j in enumerate(levels)}

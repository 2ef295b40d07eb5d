"""A quadratic model of the loss, solved exactly, tried out, fitted again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import one_of, whole_number
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack
from prunopt.forms.subset.subset_choice import SubsetChoice
from prunopt.solvers.mip.pulp import Pulp
from prunopt.solvers.subset._moves import Tried, answer, cheaper_within_sets, too_many
from prunopt.solvers.subset._quadratic_fit import Fit, fit_quadratic
from prunopt.solvers.subset.greedy import descend
from prunopt.solvers.subset.head_importance import HeadImportance
from prunopt.solvers.subset.quadratic_branch_and_bound import QuadraticBranchAndBound

STARTS, ENGINES = ("greedy", "head-importance", "none"), ("branch-and-bound", "pulp")
BAND = 0.08  # losses of subsets whose cost is this share of all costs off the budget are left out of the fit
NEAR = 3  # a sample near the incumbent differs by so many exchanges at most


@dataclass(frozen=True)
class Surrogate(Solver[SubsetChoice]):
    r"""Fit a quadratic model of the loss at the target density, solve it exactly, try its optimum, fit again.

    Samples are random subsets that use the budget up, half of them near the best one so far. A ridge regression on
    single items and pairs, with the ridge of least leave-one-out error, is the model. Its optimum is a
    `QuadraticKnapsack`, in which all subsets tried so far are forbidden (no-good cuts). Rounds end when the evaluations
    are used up, or after ``patience`` rounds without gain.

    What is proven is the model's optimum, never the loss's: ``stats["surrogate gap"]`` is the model's own gap, and the
    solution has no bound.

    Parameters
    ----------
    start
        Where the first incumbent comes from: ``"greedy"``, ``"head-importance"`` or ``"none"``; the losses that it
        tries near the target enter the fit.
    samples
        Random subsets before the first fit; None: 5 n, 60 at least.
    batch
        Subsets proposed by each fit: its optimum, the next best, and so on.
    evaluations
        Total number of losses tried after the start; None: 2 (samples) + 40.
    patience
        Rounds without gain after which it ends.
    engine
        ``"branch-and-bound"``, or ``"pulp"``: the linearized integer program by CBC or HiGHS.
    nodes, seconds
        Limits for solving one model by branch and bound, or by PuLP.
    screen
        Of `greedy`, for the start.
    """

    name: ClassVar[str] = "surrogate"
    form: ClassVar[type] = SubsetChoice
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "model-based search, quadratic model"

    start: str = "greedy"
    samples: int | None = None
    batch: int = 5
    evaluations: int | None = None
    patience: int = 4
    engine: str = "branch-and-bound"
    nodes: int = 200_000
    seconds: float = 30.0
    screen: int | None = None

    def __post_init__(self) -> None:
        one_of("start", self.start, STARTS)
        one_of("engine", self.engine, ENGINES)
        for name in ("samples", "evaluations", "batch", "patience"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), low=1)

    def solve(self, problem: SubsetChoice, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best subset tried."""
        run = Run(limits)
        tried = Tried(problem, run)
        rng = np.random.default_rng(seed)
        if self.start == "greedy":
            descend(problem, tried, self.screen)
        elif self.start == "head-importance":
            first = HeadImportance().solve(problem, limits, seed)
            tried(first.value)
        begun, least = run.evaluations, tried.least
        samples = self.samples or max(60, 5 * problem.n_items)
        most = begun + (self.evaluations or 2 * samples + 40)
        tries = 0
        while run.evaluations < begun + samples and not run.out_of_time and tries < 20 * samples:
            tried(sample(problem, rng, tried.best if tries % 2 else None))
            tries += 1
        if tried.best is None:
            tried(problem.cheapest)
        stats: dict[str, Any] = {"start": self.start, "after start": least, "after samples": tried.least}
        rounds = idle = proven = 0
        gap, fit, exhausted = math.nan, None, False
        while run.evaluations < most and idle < self.patience and not run.out_of_time and not exhausted:
            before = tried.least
            fit = self._fit(problem, tried)
            for _ in range(self.batch):
                found = self._propose(problem, tried, fit, run, seed + rounds)
                if found.value is None:
                    exhausted = True
                    break
                gap = found.gap
                proven += found.status.name == "OPTIMAL"
                tried(found.value)
                if run.evaluations >= most or run.out_of_time:
                    break
            rounds += 1
            idle = 0 if tried.least < before else idle + 1
        stats |= {"rounds": rounds, "models proven": proven, "surrogate gap": gap, "samples": samples}
        stats["model error"] = math.nan if fit is None else fit.error
        stats["modelled"] = "" if fit is None else "log loss" if fit.log else "loss"
        how = "every subset was tried" if exhausted else "best of the subsets tried"
        return answer(tried, self.name, stats=stats, message=f"{how}; the model's optimum does not bound the loss")

    def _fit(self, problem: SubsetChoice, tried: Tried) -> Fit:
        masks, losses = tried.masks()
        assert tried.best is not None
        spent, whole = masks @ problem.costs, float(problem.costs.sum())
        aim = float(problem.costs[tried.best].sum())
        near = np.isfinite(losses) & (np.abs(spent - aim) <= max(BAND * whole, 1e-9))
        if problem.exactly is not None:
            near &= masks.sum(axis=1) == problem.exactly
        return fit_quadratic(masks[near], losses[near])

    def _propose(self, problem: SubsetChoice, tried: Tried, fit: Fit, run: Run, seed: int) -> Solution[Bools]:
        """The model's optimum among the subsets that have not been tried."""
        known = [x for x in tried.masks()[0] if problem.violation(x) == 0]
        forbidden = np.array(known, np.bool_).reshape(len(known), problem.n_items)
        limits: dict[str, Any] = {"cover": problem.cover, "exactly": problem.exactly, "forbidden": forbidden}
        model = QuadraticKnapsack(fit.linear, fit.pair, problem.costs, problem.budget, constant=fit.constant, **limits)
        left = None if run.limits.seconds is None else max(0.1, run.limits.seconds - run.seconds)
        if self.engine == "pulp":
            seconds = self.seconds if left is None else min(left, self.seconds)
            return Pulp().solve(model, Limits(seconds=seconds), seed)
        return QuadraticBranchAndBound(nodes=self.nodes).solve(model, Limits(seconds=left), seed)


def sample(problem: SubsetChoice, rng: np.random.Generator, near: Bools | None) -> Bools:
    """Return a random subset that uses the budget up, or one some exchanges away from another."""
    if near is not None:
        out = near.copy()
        for _ in range(int(rng.integers(1, NEAR + 1))):
            inside, outside = np.flatnonzero(out), np.flatnonzero(~out)
            if not len(inside) or not len(outside):
                break
            trial = out.copy()
            trial[rng.choice(inside)] = False
            trial[rng.choice(outside)] = True
            if problem.violation(trial) == 0:
                out = trial
        return out
    out = np.zeros(problem.n_items, np.bool_)
    for s in problem.sets:
        out[rng.choice(s)] = True
    out = cheaper_within_sets(problem, out)
    for i in rng.permutation(problem.n_items):
        if not out[i]:
            out[i] = True
            out[i] = not too_many(problem, out)
    return out if problem.violation(out) == 0 else problem.cheapest.copy()

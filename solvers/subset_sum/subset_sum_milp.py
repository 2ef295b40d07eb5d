"""Subset sums as integer programs, one for each target, by any solver that PuLP reaches."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core import engines
from prunopt.core.arrays import Bools, Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import invalid
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.solvers.subset_sum.subset_sum_mitm import greedy_subsets, infeasible

ENGINES = ("HiGHS", "PULP_CBC_CMD", "COIN_CMD")


@dataclass(frozen=True)
class SubsetSumMilp(Solver[SubsetSum]):
    r"""Solve a `SubsetSum` as m separate integer programs.

    .. math:: \min \sum_j x_j \quad \text{s.t.} \quad -1 \le \sum_j (a_j / \varepsilon) x_j - t / \varepsilon \le 1,
              \quad x \in \{0, 1\}^n

    In units of epsilon the engines' absolute tolerances (1e-6 and below) are fractions of it; a subset that uses them
    to go beyond epsilon is forbidden by a cut and the target solved again. Any number of candidates. Sizes that
    enumeration can check (``SubsetSum.provable_size``) are handed to `SubsetSum.bound` as proof; for larger ones the
    bound is the engine's claim, and ``stats["bound"]`` says so.

    The published experiment solved the same programs with the error as the objective [1]_.

    Parameters
    ----------
    engine
        PuLP's name of a solver: ``"HiGHS"``, ``"PULP_CBC_CMD"``, ``"GUROBI"`` ...; None takes the first available of
        HiGHS and CBC.

    References
    ----------
    .. [1] A. Pensia, S. Rajput, A. Nagle, H. Vishwakarma, D. Papailiopoulos, "Optimal lottery tickets via SubsetSum:
       logarithmic over-parameterization is sufficient", NeurIPS 2020.
    """

    name: ClassVar[str] = "subset-sum-milp"
    form: ClassVar[type] = SubsetSum
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 60
    requires: ClassVar[tuple[str, ...]] = ("pulp",)
    reference: ClassVar[str] = "Pensia et al., NeurIPS 2020"

    engine: str | None = None

    def solve(self, problem: SubsetSum, limits: Limits, seed: int) -> Solution[Bools]:
        """Solve target by target; those left open by the limits are answered greedily, where that is near enough."""
        run, m = Run(limits), problem.n_targets
        label = self._label()
        mask = np.zeros((m, problem.n_candidates), np.bool_)
        lower, done = problem.least_reaching(), np.zeros(m, np.bool_)
        impossible: list[int] = []
        failures: list[str] = []
        interrupted, cuts = False, 0
        beyond = np.flatnonzero(lower > problem.n_candidates)
        impossible += beyond.tolist()
        try:
            for i in np.setdiff1d(np.flatnonzero(lower > 0), beyond):
                if run.out_of_time:
                    break
                run.evaluations += 1
                kept, ended, added = self._one(problem, int(i), label, run, seed, failures)
                cuts += added
                if ended and kept is None:
                    impossible.append(int(i))
                elif kept is not None:
                    mask[i], done[i] = kept, True
                    lower[i] = max(lower[i], int(kept.sum()) if ended else 0)
        except KeyboardInterrupt:
            interrupted = True
        done |= lower == 0
        stats = {"engine": label, "integer programs": run.evaluations, "cuts": cuts, "bound": f"claimed by {label}"}
        if impossible:
            return self._infeasible(problem, np.array(sorted(impossible)), label, run, stats)
        rest = np.zeros(m, np.int64)
        if not done.all():
            by_hand, rest = greedy_subsets(problem, np.flatnonzero(~done))
            mask[~done] = by_hand[~done]
            stats["answered greedily"] = int((~done).sum())
        left = np.flatnonzero(rest > problem.fixed.epsilon)
        why = "interrupted" if interrupted else failures[0] if failures else "stopped by its limits"
        if len(left):
            message = f"{why}: {int(done.sum())} of {m} targets are settled, taking what fits misses {len(left)} others"
            return Solution(Status.FAILED, None, trace=run.trace, stats=stats, solver=self.name, message=message)
        objective, bound, duals = problem.objective(mask), float(lower.sum()), {}
        if int(lower.max(initial=0)) <= problem.provable_size + 1:
            duals, stats["bound"] = {"sizes": lower}, "proven by enumeration"
        run.report(objective, bound)
        optimal = objective <= bound
        message = "" if optimal else f"{why}: {int((~done).sum())} of {m} targets answered greedily, valid bound"
        about: dict[str, Any] = {"trace": run.trace, "stats": stats, "solver": self.name, "message": message}
        status = Status.OPTIMAL if optimal else Status.FEASIBLE
        return Solution(status, mask, objective, bound, duals=duals, **about)

    def _label(self) -> str:
        import pulp

        available = pulp.listSolvers(onlyAvailable=True)
        for label in ENGINES if self.engine is None else (self.engine,):
            if label in available:
                return label
        raise invalid("engine", f"be one that PuLP finds here ({', '.join(available) or 'none'})", self.engine)

    def _one(
        self, problem: SubsetSum, i: int, label: str, run: Run, seed: int, failures: list[str]
    ) -> tuple[Bools | None, bool, int]:
        """The mask of one target (None: there is none), whether that is the last word, and how many cuts it took."""
        import pulp

        single = one_target(problem, i)
        model = single.to_pulp()
        for cuts in range(1000):
            engine = _engine(label, run, seed)
            broken = engines.run_pulp(model, engine, label)
            if broken:
                failures.append(f"{label} {broken}")
                return None, False, cuts
            kind = pulp.LpStatus[model.status]
            if kind == "Infeasible":
                return None, True, cuts
            if model.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
                return None, False, cuts
            kept = single.read_pulp(model)[0]
            if single.violation(kept[None, :]) == 0:
                return kept, model.sol_status == pulp.LpSolutionOptimal, cuts
            x = model.variablesDict()
            flips = [x[f"x_0_{j}"] * -1.0 if kept[j] else x[f"x_0_{j}"] * 1.0 for j in range(len(kept))]
            model.addConstraint(pulp.lpSum(flips) >= 1.0 - int(kept.sum()), f"cut_{cuts}")
        return None, False, cuts

    def _infeasible(
        self, problem: SubsetSum, impossible: Ints, label: str, run: Run, stats: dict[str, Any]
    ) -> Solution[Bools]:
        if problem.provable_size < problem.n_candidates:
            named = ", ".join(map(str, impossible[:5]))
            message = f"{label} says that no subset reaches target {named}; {len(impossible)} targets in all"
            stats["infeasible"] = impossible
            beyond = impossible[problem.least_reaching()[impossible] > problem.n_candidates]
            ray = {"ray": beyond[:1]} if len(beyond) else {}
            return Solution(Status.INFEASIBLE, None, duals=ray, stats=stats, solver=self.name, message=message)
        distances = np.array([problem.nearest(int(i)) for i in impossible])
        return infeasible(problem, impossible, distances, self.name, run, stats)


def one_target(problem: SubsetSum, i: int) -> SubsetSum:
    """Return the problem of target i alone."""
    row = problem.candidates if problem.candidates.ndim == 1 else problem.candidates[i]
    return SubsetSum(problem.targets[i : i + 1], row, problem.epsilon)


def _engine(label: str, run: Run, seed: int) -> Any:
    import pulp

    options: dict[str, Any] = {"msg": False, "gapRel": 0.0}
    if run.limits.seconds is not None:
        options["timeLimit"] = max(run.limits.seconds - run.seconds, 0.01)
    if label == "HiGHS":
        tight = {"mip_feasibility_tolerance": 1e-9, "primal_feasibility_tolerance": 1e-9}
        # No number of threads: HiGHS takes only the one that the first engine of the process had.
        options.update({**tight, "random_seed": seed % 2**31, "mip_rel_gap": 0.0, "parallel": "off"})
    else:
        options["threads"] = 1
    if math.isinf(options.get("timeLimit", 0.0)):
        del options["timeLimit"]
    with warnings.catch_warnings():
        # PuLP 3 warns that its bundled CBC leaves with PuLP 4; it is what a plain install has.
        warnings.simplefilter("ignore", DeprecationWarning)
        return pulp.getSolver(label, **options)

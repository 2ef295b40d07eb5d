"""Ours: candidates learned by MaskLLM with everything it sees judged, then exchanged one group at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.relaxed.relaxed_mask import Choices, RelaxedMask
from prunopt.solvers.relaxed.maskllm import MaskLLM


@dataclass(frozen=True)
class LearnedExchange(Solver[RelaxedMask]):
    r"""Learn the choices, then change one group at a time for as long as the loss falls.

    After learning, group after group takes the candidate of least loss, the others as they are, until none changes:

    .. math:: k_g \leftarrow \arg\min_c L(k_1, \dots, c, \dots, k_G)

    A sweep takes :math:`\sum_t G_t (C_t - 1)` objectives, so that this is for problems of some thousand groups at
    most. The end is a minimum among all choices that differ in one group: a heuristic, there is no bound.

    Parameters
    ----------
    learner
        How the start is learned.
    """

    name: ClassVar[str] = "maskllm-exchange"
    form: ClassVar[type] = RelaxedMask
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 60
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    reference: ClassVar[str] = "Fang et al., NeurIPS 2024; one-exchange descent"

    learner: MaskLLM = field(default_factory=lambda: MaskLLM(steps=1000, check=1, check_samples=True))

    def solve(self, problem: RelaxedMask, limits: Limits, seed: int) -> Solution[Choices]:
        """Return learned choices after the exchanges."""
        run = Run(limits)
        found = self.learner.solve(problem, limits, seed)
        if found.value is None:
            return replace(found, solver=self.name)
        run.evaluations = int(found.stats["steps"])
        tables: Choices = tuple(k.copy() for k in found.value)
        least, exchanges, changed = found.objective, 0, True
        while changed and not run.out_of_time:
            changed = False
            for k, table in zip(tables, problem.tables, strict=True):
                for g in range(len(k)):
                    here, best = int(k[g]), int(k[g])
                    for c in range(len(table)):
                        if c == here or run.out_of_time:
                            continue
                        k[g] = c
                        value = problem.objective(tables)
                        run.evaluations += 1
                        if value < least - 1e-12 * max(1.0, abs(least)):
                            least, best = value, c
                    k[g] = best
                    if best != here:
                        exchanges, changed = exchanges + 1, True
                        run.report(least)
        done = f"{found.message}; then {exchanges} exchanges of one group"
        stats = {**found.stats, "exchanges": exchanges, "learned": found.objective}
        stats["one_exchange_minimum"] = not (changed or run.out_of_time)
        status, trace = Status.FEASIBLE if math.isfinite(least) else Status.FAILED, found.trace + run.trace
        return Solution(status, tables, least, solver=self.name, trace=trace, stats=stats, message=done)

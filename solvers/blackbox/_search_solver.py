"""What the solvers of black boxes share: an in-memory search, and the answer that it gives."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.blackbox import BlackBox
from prunopt.solvers.blackbox._trials import REFUSED, kept_study, losses, quiet, run_trial, sampler_of

TRIALS = 200  # evaluations where the limits say nothing


@dataclass(frozen=True)
class SearchSolver(Solver[Any]):
    """A solver of black boxes: it says how trials are drawn, the rest is common."""

    @abstractmethod
    def sampler(self, box: BlackBox, study: Any, seed: int, index: int) -> Any:
        """Return the Optuna sampler that draws trial number ``index``; ``seed`` is the trial's own."""

    def pruner(self, box: BlackBox) -> Any:
        """Return the Optuna pruner: the better half goes on to the next fidelity."""
        optuna = quiet()
        if len(box.fidelities) == 1:
            return optuna.pruners.NopPruner()
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)

    def optuna_sampler(self, box: BlackBox, seed: int) -> Any:
        """Return the sampler of a whole search: a new one for each trial."""
        return sampler_of(lambda study, own, index: self.sampler(box, study, own, index), seed)

    def solve(self, problem: BlackBox, limits: Limits, seed: int) -> Solution[Any]:
        """Search in memory until the limits, or 200 evaluations, are used up; there is no bound."""
        optuna, run = quiet(), Run(limits)
        most = TRIALS if limits.evaluations is None else limits.evaluations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.InMemoryStorage()
            study = kept_study(optuna.create_study(storage=storage).study_name, storage)
            study.sampler, study.pruner = self.optuna_sampler(problem, seed), self.pruner(problem)
            counts = dict.fromkeys(("evaluated", "pruned", "copied", "invalid"), 0)
            idle = 0
            while counts["evaluated"] + counts["pruned"] < most and not run.out_of_time and idle < REFUSED:
                outcome = run_trial(study, problem)
                counts[outcome.state] += 1
                idle = 0 if outcome.state in ("evaluated", "pruned") else idle + 1
                run.evaluations = counts["evaluated"] + counts["pruned"]
                if outcome.state == "evaluated" and math.isfinite(outcome.value):
                    run.report(outcome.value)
        complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
        best = next((row for row in losses(study) if complete), None)
        if best is None:
            why = "no trial was finished" if idle < REFUSED else f"{REFUSED} trials in a row brought nothing new"
            return Solution(Status.FAILED, None, solver=self.name, stats=counts, message=why)
        why = "the best of a search; nothing is proven" + ("; all else was seen before" if idle else "")
        about: dict[str, Any] = {"trace": run.trace, "stats": counts, "solver": self.name, "message": why}
        return Solution(Status.FEASIBLE, dict(best[1]), best[0], **about)

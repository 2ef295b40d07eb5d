"""Any problem that writes itself as a PuLP model, by any solver that PuLP reaches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from prunopt.core import engines
from prunopt.core.problem import Modelled
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.mip_model import Model
from prunopt.solvers.mip.highs import Highs, objective_scale

CBC = ("PULP_CBC_CMD", "COIN_CMD")
EXACT = 1e-12  # violation, relative, above which continuous variables are solved for once more
POLISH = 10.0  # seconds that this may take
TIGHT = 1e-9  # a gap at which an engine's "optimal" counts as such


@dataclass(frozen=True)
class Pulp(Solver[Any]):
    """Write the problem as a linear or integer model and hand it to a solver of PuLP's (CBC comes with PuLP).

    The bound is the engine's claim; ``stats["bound"]`` says so, and `prunopt.verify` holds it against another exact
    solver. At a limit, and at Ctrl-C, HiGHS's bound and best solution are kept; from other engines PuLP hands back no
    bound. A start is handed to HiGHS and CBC as their first solution. ``limits.gap`` is handed on to HiGHS, and to CBC,
    which takes it as a share of the larger of the two numbers; others run to 1e-9, for what they prove at a gap is not
    known.

    Parameters
    ----------
    engine
        PuLP's name of a solver: ``"PULP_CBC_CMD"``, ``"HiGHS"``, ``"GUROBI"``, ``"CPLEX_PY"`` ...; None takes the
        first available of CBC and HiGHS.
    """

    name: ClassVar[str] = "pulp"
    form: ClassVar[type] = Modelled
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 90
    requires: ClassVar[tuple[str, ...]] = ("pulp",)
    reference: ClassVar[str] = "Forrest & Lougee-Heimer, CBC User Guide, 2005"

    engine: str | None = None

    def solve(self, problem: Any, limits: Limits, seed: int) -> Solution[Any]:
        """Solve the model; a time limit returns the engine's best solution, without a bound."""
        import pulp

        run = Run(limits)
        model = problem.to_pulp()
        scale = objective_scale(model.objective.values())
        model.setObjective(model.objective * scale)
        rescaled = _scale_rows(model)
        if limits.start is not None and hasattr(problem, "pulp_values"):
            _begin_with(model, problem.pulp_values(limits.start))
        with engines.interruptible() if find_spec("highspy") else nullcontext() as stop:
            if stop is not None:
                stop.tell = _teller(run, scale, float(model.objective.constant) / scale)
            engine, label = self._engine(limits, self.engine, seed, stop)
            broken = engines.run_pulp(model, engine, label)
            if broken and label in CBC and self.engine is None:
                # Without its preprocessing CBC breaks off at some small infeasible models.
                engine, other = self._engine(limits, "HiGHS", seed, stop)
                label = f"{other} ({label} broke off)"
                broken = engines.run_pulp(model, engine, other)
        if stop is not None and stop.error is not None:
            raise stop.error
        if broken:
            message = f"{label} {broken}; give another engine, such as 'HiGHS' or 'PULP_CBC_CMD'"
            return Solution(Status.FAILED, None, solver=self.name, stats={"engine": label}, message=message)
        kind, found = pulp.LpStatus[model.status], model.sol_status
        stats = {"engine": label, "objective scaled by": scale, "rows scaled": rescaled}
        by_highs = label.startswith("HiGHS")
        if by_highs and found == pulp.LpSolutionIntegerFeasible and not engines.has_value(model):
            found = pulp.LpSolutionNoSolutionFound
        if kind in ("Infeasible", "Unbounded") and not run.out_of_time:
            status = Status.INFEASIBLE if kind == "Infeasible" else Status.UNBOUNDED
            return Solution(status, None, solver=self.name, stats=stats, message=f"{label} says {kind.lower()}")
        if found not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            # Out of time, CBC calls a model infeasible where it has only found nothing yet.
            message = f"{label} stopped with {kind.lower()!r} and no solution; give it more time"
            return Solution(Status.FAILED, None, solver=self.name, stats=stats, message=message)
        value = problem.read_pulp(model)
        if isinstance(problem, Model) and problem.violation(value) > EXACT * problem.violation_unit:
            value = _with_whole_numbers(problem, value, seed)
        objective = problem.objective(value)
        done, bound = found == pulp.LpSolutionOptimal, -math.inf
        slack = float(getattr(problem, "slack", 0.0))  # of a form whose integers stand for rounded numbers
        at_gap = model.isMIP() and limits.gap > TIGHT
        if done and at_gap and label in CBC:
            constant = float(model.objective.constant) / scale  # the engine may count without it
            bound = objective - limits.gap * max(abs(objective), abs(objective - constant)) - slack
        elif done and not (by_highs and at_gap):
            bound = objective - slack
        elif by_highs:
            bound = objective - engines.open_gap(model) / scale - slack
        run.report(objective, bound)
        claimed = bound > -math.inf
        stats["bound"] = f"claimed by {label}" if claimed else "none"
        why = "was interrupted" if stop is not None and (stop.happened or stop.asked) else "ran out of time"
        return Solution(
            Status.OPTIMAL if done else Status.FEASIBLE,
            value,
            objective=objective,
            bound=bound,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message=f"optimal as {label} reports" if done else f"{label} {why}" + "; no bound" * (not claimed),
        )

    def _engine(self, limits: Limits, name: str | None, seed: int, stop: Any) -> tuple[Any, str]:
        import pulp

        available = pulp.listSolvers(onlyAvailable=True)
        wanted = [name] if name is not None else [*CBC, "HiGHS"]
        for label in wanted:
            if label in available:
                options: dict[str, Any] = {"msg": False, "gapRel": min(limits.gap, TIGHT)}
                if label in CBC:  # its integer preprocessing cuts off optima: see tests/trust/test_differential.py
                    options["options"] = ["preprocess off", f"randomCbcSeed {seed % 2**31}"]
                    options.update(gapRel=_share(limits.gap), warmStart=limits.start is not None)
                if label == "HiGHS":
                    options.update(gapRel=limits.gap, random_seed=seed % 2**31, parallel="off")
                    options.update(callbackTuple=(stop, None), callbacksToActivate=stop.callbacks)
                if limits.seconds is not None:
                    options["timeLimit"] = max(float(limits.seconds), 0.01)
                with warnings.catch_warnings():
                    # PuLP 3 warns that its bundled CBC leaves with PuLP 4; it is what a plain install has.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    engine = pulp.getSolver(label, **options)
                if label == "HiGHS" and limits.start is not None:
                    engines.begin_with_values(engine)
                return engine, label
        raise ValueError(f"engine={name!r}: PuLP finds {', '.join(available) or 'no solver'} here")


def _with_whole_numbers(model: Model, value: Any, seed: int) -> Any:
    """Solve for the other variables with the integer ones fixed: an engine leaves them up to 1e-6 beside whole numbers.

    What that gains the others breaks the rows once the whole numbers are in place.
    """
    fixed = replace(
        model,
        lower=np.where(model.integer, value, model.lower),
        upper=np.where(model.integer, value, model.upper),
        integer=np.zeros_like(model.integer),
    )
    reduced = fixed.reduce()
    answer = Highs().solve(reduced.form, Limits(seconds=POLISH), seed)
    better = None if answer.value is None else reduced.back(answer.value)
    return value if better is None or model.violation(better) >= model.violation(value) else better


def _begin_with(model: Any, values: Mapping[str, float]) -> None:
    """Give the variables their values at a start; engines complete what is not named."""
    found = model.variablesDict()
    for name, value in values.items():
        if name in found:
            found[name].setInitialValue(value, check=False)


def _teller(run: Run, scale: float, constant: float) -> Callable[[float, float], bool]:
    """Turn what HiGHS says while it runs, of the scaled objective without its constant, into steps of the trace."""

    def tell(objective: float, bound: float) -> bool:
        least, most = (v / scale + constant if abs(v) < 1e300 else v for v in (bound, objective))
        if abs(objective) < 1e300:  # a step begins with an answer
            run.report(most, min(least, most) if abs(bound) < 1e300 else -math.inf)
        return run.stopped

    return tell


def _share(gap: float) -> float:
    """Return the share g of max(|z|, |b|) that keeps z - b <= gap |z|; |b| is at most |z| / (1 - g)."""
    return gap / (1.0 + gap)


def _scale_rows(model: Any) -> int:
    """Bring rows of very small or large numbers near 1, in place; return how many.

    Engines hold rows to an absolute tolerance near 1e-6, below which a budget of small costs would not bind at all.
    """
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PuLP 4 gives a list where PuLP 3 has a dictionary
        rows = list(model.constraints.values())
    for row in rows:
        largest = max((abs(c) for c in row.values()), default=0.0)
        if largest > 0 and not 1e-3 <= largest <= 1e6:
            factor = math.ldexp(1.0, min(1000, -math.frexp(largest)[1]))
            for variable in list(row.expr):
                row.expr[variable] *= factor
            row.constant *= factor
            count += 1
    return count

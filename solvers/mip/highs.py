"""Linear programs by HiGHS, with duals, rays, and the nearest feasible request."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core import engines
from prunopt.core.problem import Modelled
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import one_of
from prunopt.forms.linear_program import LinearProgram

METHODS = ("choose", "simplex", "ipm", "pdlp")


@dataclass(frozen=True)
class Highs(Solver[LinearProgram]):
    """Solve a `LinearProgram` with HiGHS [1]_, in one thread.

    The bound is recomputed from the row duals; an infeasible program comes with a Farkas ray, and with the rows that
    cannot be met and by how much they would have to give way in all (the least sum of violations).

    Parameters
    ----------
    method
        ``"choose"``, ``"simplex"``, ``"ipm"`` (interior point with crossover to a vertex) or ``"pdlp"``.

    References
    ----------
    .. [1] Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method", Math. Prog. Comp. 10 (2018).
    """

    name: ClassVar[str] = "highs"
    form: ClassVar[type] = LinearProgram
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 20
    requires: ClassVar[tuple[str, ...]] = ("highspy",)
    reference: ClassVar[str] = "Huangfu & Hall, Math. Prog. Comp. 2018"

    method: str = "choose"

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)

    @classmethod
    def instead(cls, problem: Any) -> str | None:
        """Integer models go to HiGHS as such."""
        return "highs-milp" if isinstance(problem, Modelled) else None

    def solve(self, problem: LinearProgram, limits: Limits, seed: int) -> Solution[NDArray[np.float64]]:
        """Solve the program; a time limit returns the best point and bound that HiGHS had, if it had any."""
        import highspy

        run = Run(limits)
        if not len(problem.c):
            return _without_variables(problem)
        kinds = highspy.HighsModelStatus
        try:
            engine = _engine(problem, self.method, limits, seed)
            if limits.start is not None:
                n = len(problem.c)
                engine.setSolution(n, np.arange(n, dtype=np.int32), np.asarray(limits.start, np.float64))
            status = engines.run(engine)
            if status in (kinds.kUnboundedOrInfeasible, kinds.kUnknown):
                other = "ipm" if status == kinds.kUnknown and self.method in ("choose", "simplex") else "simplex"
                engines.set_options(engine, {"presolve": "off", "solver": other})
                status = engines.run(engine)
        except engines.EngineError as error:
            return Solution(Status.FAILED, None, solver=self.name, stats={"method": self.method}, message=str(error))
        stats = {"iterations": int(engine.getInfo().simplex_iteration_count), "method": self.method}
        if status == kinds.kInfeasible:
            return _infeasible(problem, engine, seed)
        if status == kinds.kUnbounded:
            return Solution(Status.UNBOUNDED, None, solver=self.name, message="c'x falls without end; bound x by upper")
        answer = engine.getSolution()
        value = np.clip(np.array(answer.col_value, np.float64), 0.0, problem.upper)
        duals = {"rows": np.maximum(-np.array(answer.row_dual, np.float64), 0.0) / objective_scale(problem.c)}
        usable = len(value) == len(problem.c) and problem.violation(value) <= 1e-6 * max(
            1.0, abs(problem.objective(value))
        )
        if not usable:
            message = "HiGHS stopped before it had a feasible point; give it more time"
            return Solution(Status.FAILED, None, solver=self.name, stats=stats, message=f"{message} ({status.name})")
        bound = problem.bound(duals) if len(duals["rows"]) == len(problem.b) else -math.inf
        run.report(problem.objective(value), bound)
        done = status == kinds.kOptimal
        return Solution(
            Status.OPTIMAL if done else Status.FEASIBLE,
            value,
            objective=run.objective,
            bound=bound,
            duals=duals if bound > -math.inf else {},
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message="" if done else f"stopped early ({status.name})",
        )


def objective_scale(coefficients: Iterable[float]) -> float:
    """Return the factor that makes the least objective coefficient 1, but the greatest at most 1e9; 1 from 1 to 1e9.

    Engines compare reduced costs and objectives with absolute tolerances near 1e-7, within which the objectives of
    pruning tasks (errors per row and tree) would drown.
    """
    sizes = np.abs(np.fromiter(coefficients, np.float64))
    sizes = np.maximum(sizes[sizes > 0], 1e-290)  # the inverse of a denormal number overflows
    if not len(sizes) or (sizes.min() >= 1.0 and sizes.max() <= 1e9):  # an engine's own rules know whole numbers
        return 1.0
    return float(min(1.0 / sizes.min(), 1e9 / sizes.max()))


def _engine(problem: LinearProgram, method: str, limits: Limits, seed: int) -> Any:
    import highspy

    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(problem.c), len(problem.b)
    lp.col_cost_ = problem.c * objective_scale(problem.c)
    lp.col_lower_, lp.col_upper_ = np.zeros(len(problem.c)), problem.upper
    lp.row_lower_, lp.row_upper_ = np.full(len(problem.b), -highspy.kHighsInf), problem.b
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = problem.A.indptr.astype(np.int32)
    lp.a_matrix_.index_ = problem.A.indices.astype(np.int32)
    lp.a_matrix_.value_ = problem.A.data
    # No number of threads: HiGHS refuses to run with another one than the first engine of the process had, ours or not.
    options: dict[str, Any] = {"solver": method, "random_seed": seed % 2**31, "parallel": "off"}
    if limits.seconds is not None:
        options["time_limit"] = float(limits.seconds)
    if limits.evaluations is not None:
        options["simplex_iteration_limit"] = int(limits.evaluations)
    engine = engines.new_engine(options)
    engines.pass_model(engine, lp)
    return engine


def _without_variables(problem: LinearProgram) -> Solution[NDArray[np.float64]]:
    short = np.flatnonzero(problem.b < 0)
    if len(short):
        return Solution(
            Status.INFEASIBLE, None, solver=Highs.name, message=f"row {short[0]} reads 0 <= {problem.b[short[0]]}"
        )
    duals = {"rows": np.zeros(len(problem.b))}
    return Solution(Status.OPTIMAL, np.zeros(0), 0.0, 0.0, duals=duals, solver=Highs.name)


def _infeasible(problem: LinearProgram, engine: Any, seed: int) -> Solution[NDArray[np.float64]]:
    """Name the rows in the way: the least total amount by which right-hand sides must rise."""
    from scipy import sparse

    duals: dict[str, Any] = {}
    has_ray, *rest = _dual_ray(engine)
    if has_ray and rest:
        ray = np.array(rest[0], np.float64)
        for candidate in (ray, -ray):
            if problem.is_infeasible_by(candidate):
                duals["ray"] = np.maximum(candidate, 0.0)
    rows = len(problem.b)
    elastic = LinearProgram(
        np.concatenate([np.zeros(len(problem.c)), np.ones(rows)]),
        sparse.hstack([problem.A, -sparse.eye_array(rows)], format="csr"),
        problem.b,
        np.concatenate([problem.upper, np.full(rows, np.inf)]),
    )
    try:
        helper = _engine(elastic, "choose", Limits(), seed)
        engines.run(helper)
    except engines.EngineError as error:
        message = f"no value meets all rows; the nearest feasible request is not known: {error}"
        return Solution(Status.INFEASIBLE, None, solver=Highs.name, duals=duals, message=message)
    give = np.array(helper.getSolution().col_value)[len(problem.c) :]
    rising = np.flatnonzero(give > 1e-9 * (1 + abs(problem.b)))
    named = ", ".join(f"b[{r}] from {problem.b[r]:g} to {problem.b[r] + give[r]:g}" for r in rising[:5])
    more = f" and {len(rising) - 5} more rows" if len(rising) > 5 else ""
    message = (
        f"rows {', '.join(map(str, rising[:5]))}{more} cannot be met; nearest feasible request: raise {named}{more}"
    )
    return Solution(Status.INFEASIBLE, None, solver=Highs.name, duals=duals, message=message)


def _dual_ray(engine: Any) -> tuple[Any, ...]:
    """Return whether the simplex method finds a ray, and the ray: presolve and interior points have none."""
    try:
        engines.set_options(engine, {"presolve": "off", "solver": "simplex"})
        engines.run(engine)
    except engines.EngineError:
        return (False,)  # without a ray the claim stays the engine's word, which the solution shows by having no dual
    return tuple(engine.getDualRay()[1:])

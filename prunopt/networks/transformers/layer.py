"""One linear layer of a network, pruned by a named method: the form is built, solved, verified and carried back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prunopt.api import solve
from prunopt.core.arrays import Floats
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Solver
from prunopt.forms import MaskBlocks, QuadraticSubset, TransposableMask
from prunopt.solvers.layer.magnitude import magnitude_choice
from prunopt.solvers.layer.sparsegpt import sparsegpt_weights
from prunopt.solvers.layer.wanda import wanda_choice

HIGHEST_DAMPING = 1.0
TRANSPOSABLE = "tile-flow"
Method = str | Solver[Any]


@dataclass(frozen=True)
class LayerReport:
    """What was done to a layer, and how well.

    Parameters
    ----------
    name, method
        The layer and the solver.
    kept, total
        Units (groups, neurons) or single weights.
    error
        ||(W - W') X||^2 / ||W X||^2 of the weights that the layer now has, undamped.
    objective, bound, gap
        Of the damped and shrunk problem of the form, relative to its energy; -inf and infinite where there is no bound.
    damping
        Used, as a multiple of the Hessian's mean diagonal; ``damping_tried`` lists those that failed before it.
    refit
        Whether the weights that stay were re-solved together.
    gone
        The units that were removed, by number; empty for single weights.
    shrinkage
        Of the Hessian towards its diagonal.
    """

    name: str
    method: str
    unit: str
    kept: int
    total: int
    error: float
    objective: float
    bound: float
    gap: float
    damping: float
    damping_tried: tuple[float, ...]
    refit: bool
    seconds: float
    message: str
    gone: tuple[int, ...] = ()
    shrinkage: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text, infinite ones as None."""
        row = asdict(self) | {"damping_tried": list(self.damping_tried), "gone": list(self.gone)}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def report_from(row: dict[str, Any]) -> LayerReport:
    """Return the report that `LayerReport.to_dict` wrote."""
    given = dict(row)
    for name, missing in (("bound", -np.inf), ("gap", np.inf), ("objective", np.nan), ("error", np.nan)):
        given[name] = missing if given[name] is None else given[name]
    lists = {name: tuple(given.get(name, ())) for name in ("damping_tried", "gone")}
    return LayerReport(**given | lists)


@dataclass(frozen=True)
class LayerGoal:
    """What is removed from a layer: groups of columns, or single weights by a pattern or a sparsity.

    Parameters
    ----------
    groups, remove
        Groups of columns, and how many of them are removed.
    unit
        What the report calls a group.
    pattern
        (N, M) of single weights.
    sparsity
        Fraction removed of the single weights of each row.
    """

    groups: Sequence[Any] | None = None
    remove: int = 0
    unit: str = "weight"
    pattern: tuple[int, int] | None = None
    sparsity: float | None = None

    def form(self, weight: Floats, hessian: Floats, damping: float) -> QuadraticSubset | MaskBlocks:
        """Return the problem of a layer."""
        if self.groups is not None:
            return QuadraticSubset(weight, hessian, self.groups, self.remove, damping=damping)
        if self.pattern is not None:
            return MaskBlocks(weight, hessian, pattern=self.pattern, damping=damping)
        return MaskBlocks(weight, hessian, sparsity=self.sparsity, damping=damping)


def solve_layer(
    name: str,
    weight: Floats,
    hessian: Floats,
    method: Method,
    goal: LayerGoal,
    *,
    damping: float = 0.01,
    shrinkage: float = 0.0,
    refit: bool = True,
    seed: int = 0,
) -> tuple[Any, Floats, LayerReport]:
    """Prune one layer; return the form's value, the new weights (out, in) and a report.

    The problem is that of `shrunk`; the error that is reported is of the Hessian as given. If the damped Hessian
    cannot be factored, the damping goes up tenfold, to 1 at most, and the report lists every step.
    """
    start, tried, measured = time.perf_counter(), [], hessian
    hessian, called = shrunk(hessian, shrinkage), name_of(method)
    while True:
        try:
            form = goal.form(weight, hessian, damping)
            break
        except ValueError as error:
            higher = max(1e-3, damping * 10)
            if "positive definite" not in str(error) or higher > HIGHEST_DAMPING * (1 + 1e-9):
                raise ValueError(f"{name}: {error}") from None
            tried.append(damping)
            damping = higher
    new: Floats
    if called == TRANSPOSABLE:
        solution, new = _transposable(name, form, method, refit)
    elif refit or called not in PUBLISHED:
        solution = solve(form, method, seed=seed)
        new = form.lift(solution.value)
    else:  # the form's objective, of re-solved weights, would cost more than the method itself
        value, new = PUBLISHED[called](form)
        message = "the published weights, not re-solved: no objective of the form, no bound"
        solution = Solution(Status.FEASIBLE, value, np.nan, solver=called, message=message)
    energy = max(form.energy, np.finfo(np.float64).tiny)
    if isinstance(form, QuadraticSubset):
        total = form.n_groups
        kept, gone = total - len(solution.value), tuple(int(k) for k in solution.value)
    else:
        kept, total, gone = int(np.asarray(solution.value).sum()), weight.size, ()
    report = LayerReport(
        name, called, goal.unit, kept, total, relative_error(weight, new, measured), solution.objective / energy,
        solution.bound / energy, solution.gap, damping, tuple(tried),
        refit or called in ("slimgpt", "obs-swap", "obs-greedy"), time.perf_counter() - start, solution.message, gone,
        shrinkage,
    )  # fmt: skip
    return solution.value, new, report


def _transposable(name: str, form: Any, method: Method, refit: bool) -> tuple[Solution[Any], Floats]:
    """Return the N:M mask of which the transpose is N:M too and that removes least :math:`w^2 / C_{jj}`."""
    try:
        scores = TransposableMask(form.weight**2 / np.diagonal(form.inverse), form.pattern)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    found = solve(scores, method)
    new = form.lift(found.value) if refit else form.masked(found.value)
    message = "transposable: best by scores of single weights, no bound of the layer's error"
    return Solution(
        Status.FEASIBLE, found.value, form.error(new, damped=True), solver=TRANSPOSABLE, message=message
    ), new


def shrunk(hessian: Floats, shrinkage: float) -> Floats:
    r"""Return :math:`(1 - \rho) H + \rho \operatorname{diag} H`.

    How strong each input is carries over to other texts better than how inputs go together, and the latter is also
    what few tokens tell least about. At 1 the inputs are taken as uncorrelated, as by Wanda's scores.

    References
    ----------
    .. [1] J. Schäfer, K. Strimmer, "A shrinkage approach to large-scale covariance matrix estimation", 2005 (target D).
    """
    if not shrinkage:
        return hessian
    out = (1 - shrinkage) * hessian
    np.fill_diagonal(out, np.diag(hessian))
    return out


def relative_error(weight: Floats, new: Floats, hessian: Floats) -> float:
    """Return ||(W - W') X||^2 / ||W X||^2."""
    change = weight - new
    whole = max(float(np.vdot(weight @ hessian, weight)), float(np.finfo(np.float64).tiny))
    return float(np.vdot(change @ hessian, change)) / whole


def name_of(method: Method) -> str:
    """Return the short name of a solver."""
    return method if isinstance(method, str) else method.name


def _masked(choice: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Floats]]:
    def published(form: Any) -> tuple[Any, Floats]:
        value = choice(form)
        return value, form.masked(value)

    return published


PUBLISHED: dict[str, Callable[[Any], tuple[Any, Floats]]] = {
    "wanda": _masked(wanda_choice),
    "magnitude": _masked(magnitude_choice),
    "sparsegpt": sparsegpt_weights,
}

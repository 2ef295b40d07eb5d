"""Linear and mixed-integer models as solvers' files hold them: any bounds, two-sided rows, either sense."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.display import one_line
from prunopt.core.model_parser import REFUSED
from prunopt.core.problem import Reduced
from prunopt.core.solution import Solution
from prunopt.core.validate import Shown, bools, floats, of_shape, refuse, require
from prunopt.forms.linear_program import LinearProgram

if TYPE_CHECKING:
    import pulp

INFINITE = 1e20  # what model files mean by infinity
ROUNDING = 1e-5  # how far from a whole number an engine may leave an integer variable


@one_line
@dataclass(frozen=True, eq=False)
class Model:
    r"""A mixed-integer linear model in the terms of its file.

    .. math::
        \min_x \text{ or } \max_x \; c^\top x + \mathrm{offset} \quad \text{s.t.} \quad
        \mathrm{row\_lower} \le A x \le \mathrm{row\_upper}, \quad \mathrm{lower} \le x \le \mathrm{upper}, \quad
        x_i \in \mathbb{Z} \; (i \in \mathrm{integer})

    Like every form it is minimized: ``objective`` of a model to be maximized is its negative (`in_file` turns it
    back). A model without integer variables reduces to a `LinearProgram`. Build one by hand with `Model.of`.

    Parameters
    ----------
    c : (n,) float
        Objective.
    A : (r, n) array or sparse array
        Rows; kept as ``scipy.sparse.csr_array``.
    row_lower, row_upper : (r,) float
        Sides of the rows, infinite where there is none.
    lower, upper : (n,) float
        Bounds of the variables, infinite where there are none.
    integer : (n,) bool
        Which variables must be whole numbers.
    offset : float
        Constant of the objective.
    maximise : bool
        The sense of the file.
    names, row_names : tuple of str
        Names of variables and rows; ``x_0, ...`` and ``row_0, ...`` where there are none.
    """

    c: Any
    A: Any
    row_lower: Any
    row_upper: Any
    lower: Any
    upper: Any
    integer: Any
    offset: float = 0.0
    maximise: bool = False
    names: tuple[str, ...] = ()
    row_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from scipy import sparse

        c = np.asarray(self.c, np.float64)
        given: Any = self.A if sparse.issparse(self.A) else np.asarray(self.A, np.float64).reshape(-1, len(c))
        A = sparse.csr_array(given)
        rows, n = A.shape
        require(c.shape == (n,), "c", f"hold {n} numbers, one for each column of A", c)
        columns: dict[str, Any] = {"c": c, "A": A.astype(np.float64)}
        for name, size in (("row_lower", rows), ("row_upper", rows), ("lower", n), ("upper", n)):
            values = floats(name, getattr(self, name), (size,), finite=False)
            columns[name] = np.where(np.abs(values) >= INFINITE, np.copysign(np.inf, values), values)
        columns["integer"] = bools("integer", self.integer, (n,))
        for name, numbers in (("c", c), ("A", A.data), ("offset", self.offset)):
            floats(name, numbers)
        columns["names"] = tuple(self.names) or tuple(f"x_{i}" for i in range(n))
        columns["row_names"] = tuple(self.row_names) or tuple(f"row_{r}" for r in range(rows))
        for name, size in (("names", n), ("row_names", rows)):
            require(len(columns[name]) == size, name, f"hold {size} names", len(columns[name]))
        for name, value in columns.items():
            object.__setattr__(self, name, value)
        self._check_sides(self.names, self.lower, self.upper)
        self._check_sides(self.row_names, self.row_lower, self.row_upper)

    @classmethod
    def of(
        cls,
        c: ArrayLike,
        *,
        A_ub: Any = None,
        b_ub: ArrayLike = (),
        A_eq: Any = None,
        b_eq: ArrayLike = (),
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        integer: ArrayLike = False,
        maximise: bool = False,
    ) -> Model:
        r"""Return :math:`\min c^\top x` or max, s.t. :math:`A_{ub} x \le b_{ub}, A_{eq} x = b_{eq}`, as in scipy.

        Parameters
        ----------
        c : (n,) float
            Objective.
        A_ub, b_ub, A_eq, b_eq
            Inequalities and equalities; the rows of the model are in this order.
        lower, upper : float or (n,) float
            Bounds of the variables: 0 and none by default, ``lower=-inf`` for free ones.
        integer : bool or (n,) bool
            Which variables must be whole numbers.
        maximise : bool
            The sense.
        """
        from scipy import sparse

        costs = np.atleast_1d(np.asarray(c, np.float64))
        n, parts, low, high = len(costs), [], [], []
        for name, rows, side in (("A_ub", A_ub, b_ub), ("A_eq", A_eq, b_eq)):
            b = floats(name.replace("A", "b"), side, ("r",), mend="leave out rows without a limit")
            given: Any = np.zeros((0, n)) if rows is None else rows
            if not sparse.issparse(given):
                given = np.atleast_2d(np.asarray(given, np.float64))
            A: Any = sparse.csr_array(given)
            require(
                A.shape == (len(b), n), name, f"have shape ({len(b)}, {n}), a row for each side", Shown(str(A.shape))
            )
            parts.append(A)
            high.append(b)
            low.append(b if name == "A_eq" else np.full(len(b), -np.inf))
        return cls(
            costs,
            sparse.vstack(parts, format="csr"),
            np.concatenate(low),
            np.concatenate(high),
            np.broadcast_to(np.asarray(lower, np.float64), n),
            np.broadcast_to(np.asarray(upper, np.float64), n),
            np.broadcast_to(np.asarray(integer, np.bool_), n),
            maximise=maximise,
        )

    @classmethod
    def from_pulp(cls, problem: pulp.LpProblem) -> Model:
        """Return a PuLP model; variables and rows keep their names and their order."""
        import pulp
        from scipy import sparse

        require(not (problem.sos1 or problem.sos2), "problem", "have no special ordered sets", Shown(problem.name))
        columns = problem.variables()
        place = {v.name: i for i, v in enumerate(columns)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PuLP 4 gives a list where PuLP 3 has a dictionary
            rows = list(problem.constraints.values())
        entries = [(r, place[v.name], float(k)) for r, row in enumerate(rows) for v, k in row.items()]
        at, of, data = zip(*entries, strict=True) if entries else ((), (), ())
        goal = problem.objective if problem.objective is not None else pulp.LpAffineExpression()

        def sides(values: Any, none: float) -> list[float]:
            return [none if v is None else float(v) for v in values]

        return cls(
            [float(goal.get(v, 0.0)) for v in columns],
            sparse.csr_array((np.array(data, np.float64), (at, of)), shape=(len(rows), len(columns))),
            sides((row.getLb() for row in rows), -np.inf),
            sides((row.getUb() for row in rows), np.inf),
            sides((v.lowBound for v in columns), -np.inf),
            sides((v.upBound for v in columns), np.inf),
            [v.cat == pulp.LpInteger for v in columns],
            offset=float(goal.constant),
            maximise=problem.sense == pulp.LpMaximize,
            names=tuple(v.name for v in columns),
            row_names=tuple(str(row.name or f"row_{r}") for r, row in enumerate(rows)),
        )

    def row_duals(self, solution: Solution[Any]) -> Floats:
        """Return what one unit more on the binding side of each row adds to the optimum, in the sense of the file.

        Parameters
        ----------
        solution
            An answer to this model by a solver of `LinearProgram`, whose multipliers are those of the reduced rows.
        """
        top, bottom = np.isfinite(self.row_upper), np.isfinite(self.row_lower)
        y = np.asarray(solution.duals.get("rows", ()), np.float64)
        need = f"hold {top.sum() + bottom.sum()} multipliers of rows"
        require(y.shape == (top.sum() + bottom.sum(),), "solution", need, Shown(f"{len(y)} by {solution.solver!r}"))
        out = np.zeros(len(self.row_names))
        out[top] -= y[: top.sum()]
        out[bottom] += y[top.sum() :]
        return self.sign * out

    @staticmethod
    def _check_sides(names: tuple[str, ...], low: Floats, high: Floats) -> None:
        for i in np.flatnonzero((low > high) | (low == np.inf) | (high == -np.inf))[:1]:
            refuse(names[i], "have a lower bound below its upper bound", (float(low[i]), float(high[i])))

    @cached_property
    def violation_unit(self) -> float:
        """The size of the largest finite side of a row or bound of a variable, 1 at least."""
        sides = np.concatenate([self.row_lower, self.row_upper, self.lower, self.upper, [1.0]])
        return float(np.abs(sides[np.isfinite(sides)]).max())

    @property
    def sign(self) -> float:
        """-1 for a model to be maximized, else 1."""
        return -1.0 if self.maximise else 1.0

    @property
    def forms(self) -> tuple[type, ...]:
        """What the model can be reduced to."""
        return () if self.integer.any() else (LinearProgram,)

    def in_file(self, objective: float) -> float:
        """Turn an objective or bound of the minimized form into the sense of the file, and back."""
        return self.sign * objective

    def objective(self, x: ArrayLike, /) -> float:
        """Return c'x + offset, negated where the model is to be maximized."""
        return self.sign * (float(self.c @ self._as_value(x)) + self.offset)

    def violation(self, x: ArrayLike, /) -> float:
        """Return the largest amount by which a row, a bound or a whole number is missed."""
        v = self._as_value(x)
        activity = self.A @ v
        misses = (self.lower - v, v - self.upper, self.row_lower - activity, activity - self.row_upper)
        whole = np.abs(v - np.rint(v))[self.integer]
        return float(max(0.0, whole.max(initial=0.0), *(part.max(initial=0.0) for part in misses)))

    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return the model as a `LinearProgram`: variables shifted, mirrored or split, rows made one-sided."""
        if self.integer.any() or (to is not None and not issubclass(LinearProgram, to)):
            refuse("to", "be LinearProgram, for a model without integer variables", to)
        from scipy import sparse

        has_low, has_high = np.isfinite(self.lower), np.isfinite(self.upper)
        base = np.where(has_low, self.lower, np.where(has_high, self.upper, 0.0))
        mirror = np.where(~has_low & has_high, -1.0, 1.0)
        split = np.flatnonzero(~has_low & ~has_high)  # a free variable is a difference of two
        n = len(self.c)
        back = sparse.hstack([sparse.diags_array(mirror), -sparse.eye_array(n, format="csc")[:, split]], format="csr")
        rows = self.A @ back
        level = self.A @ base
        top, bottom = np.isfinite(self.row_upper), np.isfinite(self.row_lower)
        form = LinearProgram(
            self.sign * (back.T @ self.c),
            sparse.vstack([rows[np.flatnonzero(top)], -rows[np.flatnonzero(bottom)]], format="csr"),
            np.concatenate([(self.row_upper - level)[top], (level - self.row_lower)[bottom]]),
            np.concatenate([np.where(has_low, self.upper - base, np.inf), np.full(len(split), np.inf)]),
        )
        shift = self.sign * (float(self.c @ base) + self.offset)
        return Reduced(form, lambda u: np.asarray(base + back @ u), shift=shift)

    def elastic(self) -> Model:
        """Return the model of the nearest feasible request: every row may give way, the total is minimized.

        Its value holds x, then how much is added to each row's activity, then how much is taken from it.
        """
        from scipy import sparse

        rows, n = self.A.shape
        eye = sparse.eye_array(rows, format="csr")
        return replace(
            self,
            c=np.concatenate([np.zeros(n), np.ones(2 * rows)]),
            A=sparse.hstack([self.A, eye, -eye], format="csr"),
            lower=np.concatenate([self.lower, np.zeros(2 * rows)]),
            upper=np.concatenate([self.upper, np.full(2 * rows, np.inf)]),
            integer=np.concatenate([self.integer, np.zeros(2 * rows, np.bool_)]),
            offset=0.0,
            maximise=False,
            names=(),
        )

    def to_pulp(self) -> pulp.LpProblem:
        """Return the model, minimized, as a PuLP model with variables ``x_0, x_1, ...``."""
        import pulp

        model = pulp.LpProblem("model", pulp.LpMinimize)
        x = [
            model.add_variable(f"x_{i}", _side(low), _side(high), "Integer" if whole else "Continuous")
            for i, (low, high, whole) in enumerate(zip(self.lower, self.upper, self.integer, strict=True))
        ]
        terms = [(v, self.sign * float(k)) for v, k in zip(x, self.c, strict=True)]
        model.setObjective(pulp.LpAffineExpression(terms))
        for r, (low, high) in enumerate(zip(self.row_lower, self.row_upper, strict=True)):
            span = slice(self.A.indptr[r], self.A.indptr[r + 1])
            row = [(x[i], float(k)) for i, k in zip(self.A.indices[span], self.A.data[span], strict=True)]
            if low == high:
                model.addConstraint(pulp.LpAffineExpression(row) == float(low), f"row_{r}")
                continue
            if np.isfinite(high):
                model.addConstraint(pulp.LpAffineExpression(row) <= float(high), f"row_{r}_top")
            if np.isfinite(low):
                model.addConstraint(pulp.LpAffineExpression(row) >= float(low), f"row_{r}_bottom")
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at x: a start for an engine."""
        return {f"x_{i}": float(v) for i, v in enumerate(self._as_value(x))}

    def read_pulp(self, model: pulp.LpProblem) -> Floats:
        """Return x from a solved `to_pulp` model; what the engine left beside a whole number is rounded to it."""
        found = model.variablesDict()
        values = [found[f"x_{i}"].varValue if f"x_{i}" in found else None for i in range(len(self.c))]
        nearest = np.clip(0.0, self.lower, self.upper)  # a variable that nothing uses
        x = np.array([near if v is None else v for v, near in zip(values, nearest, strict=True)], np.float64)
        x = np.clip(x, self.lower, self.upper)
        whole = self.integer & (np.abs(x - np.rint(x)) <= ROUNDING)
        return np.where(whole, np.rint(x), x)

    def _as_value(self, x: ArrayLike) -> Floats:
        return of_shape("x", x, self.c.shape)


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read an ``.mps`` or ``.lp`` file.

    Raises
    ------
    ValueError
        If there is no such file, it is not a model, or holds more than a mixed-integer linear model (quadratic terms,
        semi-continuous variables, indicator constraints).

    Notes
    -----
    HiGHS parses the file, in a process of its own: a damaged file can crash its parser.
    """
    file = Path(path)
    require(file.suffix.lower() in (".mps", ".lp"), "path", "end with .mps or .lp", str(path))
    require(file.is_file(), "path", "be a file", Shown(f"{str(path)!r}, " + ("a folder" * file.is_dir() or "missing")))
    with open(file, "rb"):  # the reader would say no more than "parser error"
        pass
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.npz"
        words = [sys.executable, "-c", "from prunopt.core.model_parser import parse; parse()", str(file), str(place)]
        paths = os.pathsep.join(p for p in sys.path if p)
        done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode == REFUSED:
            raise ValueError(said)
        if done.returncode or not place.is_file():
            raise ValueError(f"{file}: cannot be read as a model (its parser broke down, status {done.returncode})")
        with np.load(place, allow_pickle=False) as parts:
            return _whole(file, dict(parts))


def _whole(file: Path, parts: dict[str, Any]) -> Model:
    from scipy import sparse

    names = {key: tuple(parts.pop(key).tolist()) for key in ("names", "row_names")}
    data, indices, indptr = (parts.pop(key) for key in ("data", "indices", "indptr"))
    shape = len(parts["row_lower"]), len(parts["c"])
    kind = sparse.csc_array if parts.pop("by_column") else sparse.csr_array
    A: Any = kind((data, indices, indptr), shape=shape) if len(data) else sparse.csr_array(shape)
    offset, maximise = float(parts.pop("offset")), bool(parts.pop("maximise"))
    try:
        return Model(A=A, offset=offset, maximise=maximise, **parts, **names)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _side(bound: float) -> float | None:
    return float(bound) if np.isfinite(bound) else None

"""Models from files: any bounds, two-sided rows, both senses, integers; nothing lost on the way to a solver."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pulp
import pytest
from scipy import optimize

import prunopt as po
from prunopt.forms.linear_program import LinearProgram
from prunopt.forms.mip_model import Model, read_model

INF = math.inf


def random_model(rng: np.random.Generator, *, integers: bool) -> Model:
    """Bounded by rows around a known point, with bounds of every kind."""
    n, rows = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    inside = rng.integers(-3, 4, n).astype(float)
    kind = rng.integers(0, 4, n)  # both bounds, lower, upper, free
    lower = np.where(kind <= 1, inside - rng.integers(0, 3, n), -INF)
    upper = np.where(kind % 2 == 0, inside + rng.integers(0, 3, n), INF)
    upper = np.where(kind == 3, INF, upper)
    A = np.vstack([rng.integers(-3, 4, (rows, n)), np.eye(n)]).astype(float)
    level = A @ inside
    slack = rng.integers(0, 3, (2, len(level)))
    low, high = level - slack[0], level + slack[1]
    one_sided = rng.random(rows)
    low[:rows][one_sided < 0.3] = -INF
    high[:rows][one_sided > 0.7] = INF
    return Model(
        c=rng.integers(-4, 5, n),
        A=A,
        row_lower=low,
        row_upper=high,
        lower=lower,
        upper=upper,
        integer=rng.random(n) < 0.6 if integers else np.zeros(n, bool),
        offset=float(rng.integers(-5, 6)),
        maximise=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_scipy(seed: int) -> None:
    model = random_model(np.random.default_rng(seed), integers=seed % 2 == 1)
    sol = po.solve(model)
    po.verify(model, sol)
    rows = optimize.LinearConstraint(model.A, model.row_lower, model.row_upper)
    box = optimize.Bounds(model.lower, model.upper)
    other = optimize.milp(model.sign * model.c, integrality=model.integer.astype(int), bounds=box, constraints=rows)
    assert sol.status is po.Status.OPTIMAL
    assert other.fun is not None
    assert sol.objective == pytest.approx(other.fun + model.sign * model.offset, abs=1e-6)
    assert model.in_file(sol.objective) == pytest.approx(float(model.c @ sol.value) + model.offset)
    if not model.integer.any():
        assert po.solve(model, "pulp").objective == pytest.approx(sol.objective, abs=1e-6)


@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_the_linear_program_has_the_same_objective_at_every_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reduced = random_model(rng, integers=False)
    form = reduced.reduce()
    assert isinstance(form.form, LinearProgram)
    u = rng.random(len(form.form.c)) * np.minimum(form.form.upper, 3.0)
    assert form.form.objective(u) + form.shift == pytest.approx(reduced.objective(form.back(u)))
    assert form.form.violation(u) == pytest.approx(reduced.violation(form.back(u)))


def test_violation_counts_rows_bounds_and_whole_numbers() -> None:
    model = Model([1.0, 1.0], [[1.0, 1.0]], [1.0], [2.0], [0.0, -1.0], [5.0, INF], [True, False])
    assert model.violation([1.0, 0.5]) == 0
    assert model.violation([0.5, 0.5]) == pytest.approx(0.5)
    assert model.violation([3.0, 1.0]) == pytest.approx(2.0)
    assert model.violation([0.0, -3.0]) == pytest.approx(4.0)
    assert model.violation([6.0, -4.0]) == pytest.approx(3.0)
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        model.violation([1.0, 1.0, 1.0])


def test_no_linear_form_with_integers() -> None:
    model = Model([1.0], [[1.0]], [0.0], [1.0], [0.0], [1.0], [True])
    assert model.forms == ()
    with pytest.raises(ValueError, match="integer variables"):
        model.reduce()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": [math.nan]}, "c must hold finite numbers"),
        ({"A": [[INF]]}, "A must hold finite numbers"),
        ({"lower": [2.0]}, "x_0 must have a lower bound below its upper bound"),
        ({"row_lower": [3.0]}, "row_0 must have a lower bound below its upper bound"),
        ({"upper": [math.nan]}, "upper"),
        ({"upper": [1.0, 2.0]}, "upper must have shape"),
        ({"names": ("a", "b")}, "names must hold 1 names, got 2"),
    ],
)
def test_bad_models_are_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "c": [1.0],
        "A": [[1.0]],
        "row_lower": [0.0],
        "row_upper": [1.0],
        "lower": [0.0],
        "upper": [1.0],
        "integer": [False],
    }
    Model(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Model(**{**good, **change})  # type: ignore[arg-type]


def test_elastic_finds_the_least_change() -> None:
    model = Model([0.0], [[1.0], [2.0]], [5.0, -INF], [INF, 6.0], [0.0], [INF], [False])
    assert po.solve(model, throw=False).status is po.Status.INFEASIBLE
    assert po.solve(model.elastic()).objective == pytest.approx(2.0)
    with pytest.raises(po.SolveError, match="nearest feasible request: "):
        po.solve(model)


RANGES = """NAME t
OBJSENSE
    MAX
ROWS
 N  COST
 L  LIM
 G  MYG
 E  EQ
COLUMNS
    X1  COST  1.0  LIM  1.0
    X1  MYG   1.0
    X2  COST  2.0  LIM  1.0
    X2  EQ   -1.0
    X3  COST -1.0  MYG  1.0
    X3  EQ    1.0
RHS
    R   LIM   4.0  MYG  1.0
    R   EQ    7.0
RANGES
    G   LIM   2.5
BOUNDS
 UP B   X1    4.0
 LO B   X2   -1.0
 UP B   X2    1.0
ENDATA
"""


def test_an_mps_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mps").write_text(RANGES)
    model = read_model(tmp_path / "a.mps")
    assert capfd.readouterr().out == ""
    assert model.names == ("X1", "X2", "X3")
    assert model.row_names == ("LIM", "MYG", "EQ")
    assert model.maximise
    assert (model.row_lower[0], model.row_upper[0]) == (1.5, 4.0)
    assert (model.row_lower[1], model.row_upper[1]) == (1.0, INF)
    assert model.lower.tolist() == [0.0, -1.0, 0.0]
    assert model.in_file(po.solve(model).objective) == pytest.approx(-3.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mps", b"", "cannot be read"),
        ("a.mps", RANGES.encode()[:200], "cannot be read"),
        ("a.mps", RANGES.encode().replace(b"4.0", b"nan"), "a.mps"),
        ("a.lp", b"hello\n", "cannot be read"),
        ("a.lp", b"Minimize\n obj: [ x ^2 ] / 2\nSubject To\n c: x >= 4\nEnd\n", "quadratic"),
        ("a.lp", b"Maximize\n obj: x\nSubject To\n c: x <= 4\nBounds\n x <= 9\nSemi-continuous\n x\nEnd\n", "semi"),
        ("a.txt", b"", "end with .mps or .lp"),
    ],
)
def test_hostile_files(
    tmp_path: Path, name: str, content: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path / name)
    assert capfd.readouterr().out == ""


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        read_model(tmp_path / "none.lp")
    (tmp_path / "folder.lp").mkdir()
    with pytest.raises(ValueError, match="a folder"):
        read_model(tmp_path / "folder.lp")


@pytest.mark.parametrize("seed", range(20))
def test_models_as_scipy_has_them_with_duals_of_their_own_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    inside, A_ub, A_eq = rng.normal(size=n), rng.normal(size=(3, n)), rng.normal(size=(1, n))
    b_ub, b_eq = A_ub @ inside + rng.random(3), A_eq @ inside
    lower = np.where(rng.random(n) < 0.4, -INF, inside - rng.random(n))
    upper = inside + rng.random(n)
    lower[0] = inside[0] - 1.0
    c = np.abs(rng.normal(size=n)) * np.where(np.isinf(lower), -1, 1)
    model = Model.of(c, A_ub=A_ub, b_ub=b_ub, A_eq=A_eq, b_eq=b_eq, lower=lower, upper=upper)
    solution = po.solve(model)
    po.verify(model, solution)
    other = optimize.linprog(c, A_ub, b_ub, A_eq, b_eq, np.c_[lower, upper])
    assert solution.objective == pytest.approx(other.fun, abs=1e-9)
    marginals = np.concatenate([other.ineqlin.marginals, other.eqlin.marginals])
    assert model.row_duals(solution) == pytest.approx(marginals, abs=1e-9)


def test_the_default_box_is_said_and_the_other_way_is_there() -> None:
    assert po.solve(LinearProgram([-1.0], [[1.0]], [5.0])).objective == -1.0
    assert "1** unless it is given" in (LinearProgram.__doc__ or "")
    assert po.solve(Model.of([-1.0], A_ub=[[1.0]], b_ub=[5.0])).objective == -5.0
    free = Model.of([1.0, 0.0], A_eq=[[1.0, 1.0]], b_eq=[-3.0], lower=[-INF, 0.0])
    assert po.solve(Model.of([1.0], A_ub=[[-1.0]], b_ub=[3.0], lower=-INF)).objective == -3.0
    assert po.solve(free, throw=False).status is po.Status.UNBOUNDED
    knapsack = Model.of([3, 4], A_ub=[[2, 3]], b_ub=[3], upper=1, integer=True, maximise=True)
    assert knapsack.in_file(po.solve(knapsack).objective) == 4.0
    with pytest.raises(ValueError, match=r"A_eq must have shape \(2, 1\)"):
        Model.of([1.0], A_eq=[[1.0]], b_eq=[1.0, 2.0])


def test_files_and_pulp_models_are_tasks(tmp_path: Path) -> None:
    import pulp

    problem = pulp.LpProblem("widths", pulp.LpMaximize)
    x, y = problem.add_variable("x", 0, 4, "Integer"), problem.add_variable("y", None, 2.5)
    problem.setObjective(2 * x + y + 7)
    problem.addConstraint(x + 3 * y <= 6, "budget")
    problem.addConstraint(x - y == 3, "tied")
    model = Model.from_pulp(problem)
    assert model.names == ("x", "y")
    assert model.row_names == ("budget", "tied")
    text = "Maximize\n obj: 2 x + y\nSubject To\n c: x + 3 y <= 6\n d: x - y = 3\nBounds\n x <= 4\nGenerals\n x\nEnd\n"
    (tmp_path / "widths.lp").write_text(text)
    po.save_form(LinearProgram([-1.0], [[1.0]], [0.5]), tmp_path / "form.npz")
    solution = po.solve(problem, limits=10)
    po.verify(problem, solution)
    assert -solution.objective == 2 * 3 + 0 + 7
    assert solution.value == pytest.approx([3, 0])
    assert po.solve(tmp_path / "widths.lp").objective == -6.0
    assert po.solve(str(tmp_path / "form.npz"), limits=2.5).objective == -0.5
    with pytest.raises(ValueError, match=r"limits must be .* seconds"):
        po.solve(problem, limits=-1)
    with pytest.raises(ValueError, match=r"end with \.mps or \.lp"):
        po.solve("nothing.txt")


def test_a_maximization_that_pulp_wrote_as_mps_is_refused(tmp_path: Path) -> None:
    model = pulp.LpProblem("k", pulp.LpMaximize)
    x = model.add_variable("x", 0, 2)
    model.setObjective(x + 10)
    model.writeMPS(tmp_path / "k.mps")
    with pytest.raises(ValueError, match=r"comment of PuLP's alone.*pass the pulp.LpProblem itself"):
        po.solve(tmp_path / "k.mps")
    assert po.solve(model).objective == -12

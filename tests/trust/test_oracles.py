"""The oracles of the forms: each looks at every value that its form allows, by the form's own two functions.

An oracle that enumerates a reduction of the values shares the reduction's error with the solvers that it should catch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import prunopt.testing as suite
from prunopt.forms import BlackBox, ClosureOnDisk, LevelSearch, LinearProgram, RelaxedMask, SubsetSum, TileColumns
from prunopt.testing import choices, layers, searches, subsets
from tests.support.random_problems import GENERATORS, random_instance

Oracle = Callable[[Any], float | None]
OTHER_ORACLES = {LinearProgram, SubsetSum}  # vertices, and sums of single targets: held against values below
SEARCHED = {BlackBox, LevelSearch, RelaxedMask}  # their instances state optima by listing points
DRAWS = 12


def bool_values(shape: tuple[int, ...]) -> Iterator[Any]:
    for bits in itertools.product((False, True), repeat=math.prod(shape)):
        yield np.array(bits, np.bool_).reshape(shape)


def whole_values(sizes: Any) -> Iterator[Any]:
    for numbers in itertools.product(*(range(int(size)) for size in sizes)):
        yield np.array(numbers, np.int64)


def of_sets(problem: Any) -> float | None:
    return subsets.brute_force_subset(problem, problem.n_items)


# For each form: its oracle, and all values that its definition knows, feasible or not.
ORACLES: dict[str, tuple[Oracle, Callable[[Any], Iterator[Any]]]] = {
    "Closure": (suite.brute_force_closure, lambda p: bool_values((p.n_items,))),
    "BudgetedClosure": (suite.brute_force_budget, lambda p: bool_values((p.closure.n_items,))),
    "MultipleChoiceKnapsack": (
        searches.brute_force_choice,
        lambda p: whole_values([p.loss.shape[1] + len(p.spans)] * p.loss.shape[0]),
    ),
    "MultipleChoiceKnapsack of several budgets": (
        searches.brute_force_choice,
        lambda p: whole_values([p.loss.shape[1] + len(p.spans)] * p.loss.shape[0]),
    ),
    "CoupledKnapsack": (choices.brute_force_coupled, lambda p: whole_values([p.loss.shape[1]] * p.n_groups)),
    "TileColumns": (choices.brute_force_tiles, lambda p: whole_values(p.capacity + 1)),
    "EnumerableChoice": (of_sets, lambda p: bool_values((p.n_items,))),
    "QuadraticKnapsack": (
        lambda p: subsets.brute_force_subset(p, len(p.linear)),
        lambda p: bool_values((len(p.linear),)),
    ),
    "QuadraticSubset": (
        layers.brute_force_subset,
        lambda p: (np.array(c, np.int64) for c in itertools.combinations(range(len(p.groups)), p.remove)),
    ),
    "MaskBlocks": (layers.brute_force_mask, lambda p: bool_values(p.shape)),
    "TransposableMask": (layers.brute_force_transposable, lambda p: bool_values(p.shape)),
}


def passed_over(oracle: Oracle, values: Iterator[Any], problem: Any) -> list[Any]:
    """Return the feasible values whose objective an oracle does not look at."""
    seen = set()
    kind = type(problem)
    evaluate = kind.objective

    def objective(self: Any, x: Any, /) -> float:
        seen.add(np.asarray(x).tobytes())
        return float(evaluate(self, x))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "objective", objective)
        oracle(problem)
    return [x for x in values if problem.violation(x) <= 1e-12 and x.tobytes() not in seen]


def whole_tiles_only(problem: TileColumns) -> float | None:
    """The oracle that shared its error with bound, model and dynamic program: it enumerates whole tiles."""
    steps = (sorted({min(k, int(n)) for k in range(0, int(n) + problem.tile, problem.tile)}) for n in problem.capacity)
    values = (np.array(k, np.int64) for k in itertools.product(*steps))
    return min((problem.objective(x) for x in values if problem.violation(x) <= 1e-12), default=None)


def test_every_form_has_an_oracle_of_values() -> None:
    assert set(ORACLES) | {kind.__name__ for kind in OTHER_ORACLES} == set(GENERATORS)
    listed = {kind.__name__ for kind in suite.INSTANCES}
    others = {kind.__name__ for kind in OTHER_ORACLES | SEARCHED | {ClosureOnDisk}}
    assert (
        listed == {name.partition(" ")[0] for name in ORACLES} | others
    )  # closures on disk are written from closures, and take their optima


@pytest.mark.parametrize("form", ORACLES)
def test_oracles_look_at_every_value(form: str) -> None:
    oracle, values = ORACLES[form]
    for k in range(DRAWS):
        problem = random_instance(form, k).problem
        assert not passed_over(oracle, values(problem), problem), f"seed {k}"


def test_an_oracle_of_whole_tiles_is_caught() -> None:
    one = TileColumns([[5.0, 4.0]], [0], [2], [[0.0, 1.0]], 1.0, 2, 1)
    assert [x.tolist() for x in passed_over(whole_tiles_only, whole_values(one.capacity + 1), one)] == [[1]]
    assert whole_tiles_only(one) == 9.0
    assert choices.brute_force_tiles(one) == 4.0


@pytest.mark.parametrize("seed", range(DRAWS))
def test_sums_and_vertices_against_values(seed: int) -> None:
    """Every matrix of a small subset sum, and a grid of points of a linear program."""
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 3)), int(rng.integers(1, 5))
    sums = SubsetSum(rng.integers(-6, 7, m) / 4, rng.integers(-5, 6, (m, n)) / 4, 0.25)
    fit = [sums.objective(x) for x in bool_values((m, n)) if sums.violation(x) == 0]
    assert suite.brute_force_subset_sum(sums) == min(fit, default=None)
    program = random_instance("LinearProgram", seed).problem
    grid = itertools.product(*(np.linspace(0, top, 9) for top in program.upper))
    points = [program.objective(np.array(x)) for x in grid if program.violation(np.array(x)) == 0]
    least = suite.brute_force_linear(program)
    if least is None:
        assert not points
    else:
        assert min(points, default=math.inf) >= least - 1e-9

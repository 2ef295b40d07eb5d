"""Subsets under any loss, and under a quadratic one with its proofs by search tree."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import prunopt as po
from prunopt.core.solution import CertificateError
from prunopt.forms import EnumerableChoice, QuadraticKnapsack, SubsetChoice
from prunopt.testing.subsets import RoughLoss, brute_force_subset, quadratic_knapsacks, subset_choices


@pytest.mark.parametrize("problem", [p for _, p, _ in subset_choices()])
def test_every_choice_is_every_feasible_subset_once(problem: EnumerableChoice) -> None:
    n = problem.n_items
    codes = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.bool_)
    wanted = {c.tobytes() for c in codes if problem.violation(c) == 0}
    found = [x.tobytes() for x in problem.every_choice()]
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_neighbours_share_their_first_items() -> None:
    problem = EnumerableChoice(lambda kept: 0.0, np.ones(8), 5.0)
    masks = np.array(list(problem.every_choice()))
    firsts = [m[:4].tobytes() for m in masks]
    changes = sum(a != b for a, b in itertools.pairwise(firsts))
    assert changes == len(set(firsts)) - 1


def test_violations_add_up() -> None:
    problem = SubsetChoice(lambda kept: 0.0, [1.0, 2.0, 4.0], 4.0, [[0], [1, 2]], 2)
    assert problem.violation(np.array([True, True, True])) == pytest.approx(3.0 + 1)
    assert problem.violation(np.array([False, False, False])) == pytest.approx(2 + 2)
    assert problem.violation(np.array([True, True, False])) == 0
    with pytest.raises(ValueError, match="hold True and False"):
        problem.violation(np.ones(3))


def test_bad_subset_choices() -> None:
    loss = float
    with pytest.raises(ValueError, match=r"be >= 5, got 4\.0; 2 items have to stay"):
        SubsetChoice(loss, [2.0, 3.0, 9.0], 4.0, [[0], [1, 2]])
    with pytest.raises(ValueError, match="share no item"):
        SubsetChoice(loss, [1.0, 1.0], 2.0, [[0], [0, 1]])
    with pytest.raises(ValueError, match=r"got cover\[0\] = 2"):
        SubsetChoice(loss, [1.0, 1.0], 2.0, [[2]])
    with pytest.raises(ValueError, match=r"exactly must be .* got 3"):
        SubsetChoice(loss, [1.0, 1.0], 2.0, exactly=3)
    with pytest.raises(ValueError, match="cost"):
        SubsetChoice(loss, [-1.0], 2.0)
    with pytest.raises(TypeError, match="loss"):
        SubsetChoice(1.0, [1.0], 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="be 65536 at most"):
        EnumerableChoice(loss, np.ones(17), 5.0)
    assert EnumerableChoice(loss, np.ones(20), 20.0, exactly=2).n_raw == 190


def test_quadratic_bounds_are_recomputed_from_the_tree() -> None:
    for _, problem, optimum in quadratic_knapsacks():
        if optimum is None:
            continue
        solution = po.solve(problem, "quadratic-branch-and-bound")
        leaves = solution.duals["leaves"]
        assert problem.bound(solution.duals) == pytest.approx(optimum, abs=1e-8)
        if len(leaves) > 1:
            with pytest.raises(CertificateError, match="do not cover"):
                problem.bound({**solution.duals, "leaves": leaves[:-1]})
            with pytest.raises(CertificateError, match="do not cover"):
                problem.bound({**solution.duals, "leaves": np.vstack([leaves, leaves[-1:]])})
        gaps = leaves.copy()
        gaps[0, :] = -1
        if len(leaves) > 1 and (leaves[0] >= 0).any():
            with pytest.raises(CertificateError):
                problem.bound({**solution.duals, "leaves": gaps})
    assert problem.bound({}) == -np.inf


def test_quadratic_knapsack_on_file_and_in_pulp(tmp_path: Path) -> None:
    for _, problem, optimum in quadratic_knapsacks():
        po.save_form(problem, tmp_path / "q.npz")
        again = po.load_form(tmp_path / "q.npz")
        assert isinstance(again, QuadraticKnapsack)
        if optimum is not None:
            assert po.solve(again, "pulp").objective == pytest.approx(optimum)
    with pytest.raises(TypeError, match="functions"):
        po.save_form(SubsetChoice(float, [1.0], 1.0), tmp_path / "s.npz")


def test_larger_quadratic_knapsack_is_proven_and_interrupted() -> None:
    rng = np.random.default_rng(0)
    n = 26
    problem = QuadraticKnapsack(
        rng.normal(-1, 1, n), np.triu(rng.normal(0, 0.1, (n, n)), 1), np.ones(n), n, exactly=n // 2
    )
    solution = po.solve(problem, "quadratic-branch-and-bound")
    assert solution.status is po.Status.OPTIMAL
    assert po.solve(problem, "pulp").objective == pytest.approx(solution.objective)
    stopped = po.solve(problem, "quadratic-branch-and-bound", limits=po.Limits(evaluations=5))
    assert stopped.bound <= solution.objective <= stopped.objective + 1e-9
    assert stopped.status is po.Status.FEASIBLE


def test_bad_quadratic_knapsacks() -> None:
    ones = np.ones((2, 2))
    with pytest.raises(ValueError, match="on and below the diagonal"):
        QuadraticKnapsack([1.0, 1.0], ones, [1.0, 1.0], 2.0)
    with pytest.raises(ValueError, match="linear"):
        QuadraticKnapsack([np.nan], np.zeros((1, 1)), [1.0], 2.0)
    with pytest.raises(ValueError, match="cost must have shape"):
        QuadraticKnapsack([1.0, 1.0], np.zeros((2, 2)), [1.0, 1.0, 1.0], 2.0)
    with pytest.raises(ValueError, match="forbidden"):
        QuadraticKnapsack([1.0], np.zeros((1, 1)), [1.0], 2.0, forbidden=[[0.5]])


def test_brute_force_has_a_limit() -> None:
    with pytest.raises(ValueError, match="n must be a whole number <= 12, got 13"):
        brute_force_subset(SubsetChoice(RoughLoss(np.random.default_rng(0), 13), np.ones(13), 3.0), 13)

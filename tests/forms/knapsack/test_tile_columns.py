"""Tiles of depthwise layers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prunopt import load_form, save_form, solve, verify
from prunopt.core.solution import CertificateError, SolveError, Status
from prunopt.forms import TileColumns
from prunopt.forms.knapsack.tile_columns import Options
from prunopt.problems import DepthwiseConv
from prunopt.solvers.tiles.dcp import Dcp
from prunopt.solvers.tiles.dcp_b import DcpB
from prunopt.solvers.tiles.hsr import Hsr
from prunopt.testing import check, conformance_cases
from prunopt.testing.choices import brute_force_tiles, random_tiles

ENERGY = np.array([[9.0, 4.0, 2.0, 1.0], [8.0, 7.0, 3.0, 0.5], [6.0, 5.0, 0.0, 0.0]])
COST = np.array([[0.0, 2.0, 4.0], [0.0, 1.0, 2.0]])


def example(**changes: float) -> TileColumns:
    return replace(TileColumns(ENERGY, [0, 0, 1], [4, 4, 2], COST, 3.0, 2), **changes)  # type: ignore[arg-type]


def test_a_layer_lasts_as_long_as_its_fullest_product() -> None:
    form = example()
    assert form.tiles(np.array([3, 1, 2])).tolist() == [2, 1]
    assert form.latency(np.array([3, 1, 2])) == 5.0
    assert form.latency(np.array([2, 1, 2])) == 3.0
    assert form.objective(np.array([2, 1, 2])) == 3.0 + 10.5


def test_the_optimum_fills_its_tiles() -> None:
    answer = solve(example())
    assert answer.solver == "tile-dp"
    assert answer.status is Status.OPTIMAL
    assert answer.value.tolist() == [2, 2, 2]
    assert answer.objective == 3.0 + 3.5
    verify(example(), answer)


@pytest.mark.parametrize("seed", range(15))
def test_dynamic_programming_is_brute_force_is_the_integer_program(seed: int) -> None:
    form = random_tiles(np.random.default_rng(100 + seed))
    best = brute_force_tiles(form)
    ours = solve(form, "tile-dp", throw=False)
    if best is None:
        assert ours.status is Status.INFEASIBLE
        return
    assert ours.objective == pytest.approx(best, abs=1e-12)
    assert solve(form, "pulp").objective == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_every_option_is_the_best_of_its_tiles_and_vectors(seed: int) -> None:
    form = replace(random_tiles(np.random.default_rng(seed)), max_kept=1.0)
    options = form.options
    for a in range(form.n_layers):
        mine = form.layer == a
        best: dict[tuple[int, int], float] = {}
        for counts in itertools.product(*(range(n + 1) for n in form.capacity[mine])):
            x = np.zeros(len(form.layer), np.int64)
            x[mine] = counts
            key = int(form.tiles(x)[a]), sum(counts)
            lost = form.objective(x) - form.tails[~mine, 0].sum()
            best[key] = min(best.get(key, math.inf), lost)
        for o in np.flatnonzero(options.tiles[a] >= 0):
            t, m = int(options.tiles[a, o]), int(options.kept[a, o])
            assert options.loss[a, o] == pytest.approx(best[t, m], abs=1e-12)
            listed = options.tiles >= 0
            choice = listed.argmax(axis=1)
            choice[a] = o
            x = form.value_of(choice)
            assert (int(form.tiles(x)[a]), int(x[mine].sum())) == (t, m)
        for (t, m), lost in best.items():  # what is not listed is no better than something that is
            if t < form.cost.shape[1] and np.isfinite(form.cost[a, t]):
                better = (options.kept[a] <= m) & (options.loss[a] <= lost + 1e-12)
                assert np.any(better & (options.cost[a] <= form.cost[a, t]))


def whole_tiles(form: TileColumns) -> Options:
    """The options that were once thought to be enough."""
    tiles = np.where(form.allowed, np.arange(form.cost.shape[1]), -1)
    return Options(tiles, form.kept, form.loss, np.where(form.allowed, form.cost, np.inf))


def test_that_whole_tiles_alone_are_not_enough_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the limit on vectors binds, whole tiles were called optimal, or nothing feasible."""
    cases = [c for c in conformance_cases("tile-dp") if c.instance.name.startswith("part of a tile")]
    assert len(cases) == 2
    for case in cases:
        check(case)
    monkeypatch.setattr(TileColumns, "options", property(whole_tiles))
    monkeypatch.setattr(TileColumns, "value_of", TileColumns.filled)
    fresh = [c for c in conformance_cases("tile-dp") if c.instance.name.startswith("part of a tile")]
    for known in fresh:  # instances are shared: a copy holds nothing of the options as they were
        case = replace(known, instance=replace(known.instance, problem=replace(known.instance.problem)))
        with pytest.raises((AssertionError, CertificateError, SolveError)):
            check(case)


def test_a_depthwise_layer_keeps_part_of_a_tile() -> None:
    task = DepthwiseConv([np.array([[[4.0, 3.0]], [[2.0, 1.0]]])], [10], tile=2, max_kept=3)
    answer = solve(task)
    verify(task, answer)
    masks = (np.array(bits).reshape(2, 1, 2) for bits in itertools.product((False, True), repeat=4))
    best = min(task.objective((m,)) for m in masks if task.violation((m,)) == 0)
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(best, abs=1e-12) == 1 / 30
    assert answer.value[0].sum() == 3


def test_many_vectors_stop_with_a_bound() -> None:
    rng = np.random.default_rng(0)
    energy = -np.sort(-rng.exponential(size=(24, 200)), axis=1)
    cost = np.arange(26.0) * rng.uniform(1, 9, (12, 1))
    form = TileColumns(energy / energy.sum(), np.repeat(np.arange(12), 2), [200] * 24, cost, cost.sum() / 26, 8, 1500)
    answer = solve(form)
    verify(form, answer)
    assert answer.gap < 1e-3
    tiles = replace(form, max_kept=math.inf)
    assert answer.objective >= solve(tiles).objective - 1e-12


def test_the_lagrangian_bound_is_below_and_forged_multipliers_are_refused() -> None:
    form = example()
    for multiplier in (0.0, 0.5, 2.0, 50.0):
        assert form.bound({"latency": multiplier}) <= solve(form).objective + 1e-12
    with pytest.raises(CertificateError, match="latency"):
        form.bound({"latency": -1.0})


def test_the_published_rules_at_a_ratio() -> None:
    free = example(budget=math.inf)
    assert solve(free, Dcp(0.5)).value.tolist() == [2, 2, 1]
    assert solve(free, DcpB(0.5)).value.tolist() == [2, 2, 1]
    quarter = solve(free, DcpB(0.25)).value
    assert quarter.tolist() == [3, 3, 2]  # layer 0 is not aligned: its second tile holds one vector
    assert solve(free, Hsr(0.25)).value.tolist() == [2, 2, 2]


def test_recalibration_drops_in_the_better_half_and_fills_in_the_other() -> None:
    energy = np.tile(np.arange(8.0, 0, -1), (2, 1))
    cost = np.array([[0.0, 1, 2, 3, 4], [0.0, 5, 10, 15, 20]])
    form = TileColumns(energy, [0, 1], [8, 8], cost, math.inf, 2)
    assert solve(form, Hsr(0.375)).value.tolist() == [6, 4]  # 5 of 8 each: a tile of layer 1 is worth more time


def test_a_rule_beyond_the_budget_fails_and_says_so() -> None:
    answer = solve(example(), Dcp(0.0), throw=False)
    assert answer.status is Status.FAILED
    assert "raise it" in answer.message


def test_out_of_reach_names_the_nearest_request() -> None:
    form = TileColumns(ENERGY, [0, 0, 1], [4, 4, 2], COST + 1, 1.0, 2)
    answer = solve(form, throw=False)
    assert answer.status is Status.INFEASIBLE
    assert "budget=2" in answer.message


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"energy": ENERGY[:, ::-1]}, "energy"),
        ({"capacity": [4, 4, 9]}, "capacity"),
        ({"capacity": [4, 4, 1]}, "beyond"),
        ({"cost": -COST}, "cost"),
        ({"layer": [0, 1, 0]}, "layer"),
        ({"tile": 0}, "tile"),
        ({"budget": float("nan")}, "budget"),
    ],
)
def test_bad_input(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(example(), **changes)  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    save_form(example(), tmp_path / "form.npz")
    assert solve(load_form(tmp_path / "form.npz")).objective == solve(example()).objective

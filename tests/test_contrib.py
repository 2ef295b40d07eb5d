"""The packages for OptunaHub: their layout, and that they run in ordinary studies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")
PACKAGES = Path(__file__).parents[1] / "contrib" / "optunahub" / "package"
NAMES = ("samplers/dsa_evolution", "samplers/level_swap", "benchmarks/allocation_standin")


def loaded(name: str) -> ModuleType:
    """Load a package as the hub does: from its folder."""
    place = PACKAGES / name / "__init__.py"
    spec = importlib.util.spec_from_file_location(f"optunahub_{place.parent.name}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_is_the_registrys(name: str) -> None:
    folder = PACKAGES / name
    assert {"README.md", "LICENSE", "__init__.py"} <= {file.name for file in folder.iterdir()}
    _, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    keys = {line.partition(":")[0] for line in head.splitlines()}
    assert keys == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert loaded(name).__all__


def quiet_study(sampler: Any = None) -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=sampler)


def test_evolution_beats_random_search_on_the_stand_in() -> None:
    problem = loaded("benchmarks/allocation_standin").Problem(blocks=8, seed=1)
    found = {}
    for name, sampler in {
        "evolution": loaded("samplers/dsa_evolution").DSAEvolutionSampler(problem.search_space, seed=0),
        "random": optuna.samplers.RandomSampler(seed=0),
    }.items():
        study = quiet_study(sampler)
        study.optimize(problem, n_trials=60)
        found[name] = study.best_value
        assert len(study.trials) == 60
    assert found["evolution"] < found["random"]


def test_the_stand_in_meets_its_budget() -> None:
    module = loaded("benchmarks/allocation_standin")
    problem, rng = module.Problem(), np.random.default_rng(0)
    for _ in range(20):
        u = rng.uniform(size=16)
        s = problem.allocation(u)
        assert problem._sizes @ s == pytest.approx(0.6 * problem._sizes.sum())
        assert problem.evaluate({f"u{b}": v for b, v in enumerate(u)}) > 0
    with pytest.raises(ValueError, match="0 < sparsity < 1"):
        module.Problem(sparsity=1.5)


def test_level_swaps_stay_within_the_budget_and_improve() -> None:
    cost = np.tile(np.arange(4)[::-1], (6, 1))
    weight, start = np.array([1, 5, 2, 8, 3, 1]), [2, 1, 2, 1, 2, 1]
    sampler = loaded("samplers/level_swap").LevelSwapSampler(cost, 9, start, seed=0)
    study = quiet_study(sampler)

    def objective(trial: Any) -> float:
        levels = [trial.suggest_categorical(f"level_{g}", tuple(range(4))) for g in range(6)]
        assert cost[np.arange(6), levels].sum() <= 9
        return float(weight @ np.square(levels))

    study.optimize(objective, n_trials=40)
    assert [study.trials[0].params[f"level_{g}"] for g in range(6)] == start
    assert study.best_value < study.trials[0].value


def test_other_parameters_are_refused() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    module = loaded("samplers/dsa_evolution")
    study = quiet_study(module.DSAEvolutionSampler(space))
    with pytest.raises(ValueError, match="search_space must hold every parameter, got 'y'"):
        study.optimize(lambda trial: trial.suggest_float("y", 0, 1), n_trials=1)
    with pytest.raises(ValueError, match="real without log or step"):
        module.DSAEvolutionSampler({"x": optuna.distributions.FloatDistribution(0.1, 1, log=True)})

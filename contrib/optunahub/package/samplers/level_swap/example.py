"""Choose one of four levels for each of six groups, within a budget."""

import numpy as np
import optuna
import optunahub

COST = np.tile(np.arange(4)[::-1], (6, 1))
WEIGHT = np.array([1, 5, 2, 8, 3, 1])


def objective(trial: optuna.Trial) -> float:
    """Return a weighted sum of squared levels."""
    levels = [trial.suggest_categorical(f"level_{g}", tuple(range(4))) for g in range(6)]
    return float(WEIGHT @ np.square(levels))


if __name__ == "__main__":
    module = optunahub.load_module("samplers/level_swap")
    study = optuna.create_study(sampler=module.LevelSwapSampler(COST, budget=9, start=[2, 1, 2, 1, 2, 1], seed=0))
    study.optimize(objective, n_trials=40)
    print(study.best_value, study.best_params)

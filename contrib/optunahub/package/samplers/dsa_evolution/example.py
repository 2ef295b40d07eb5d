"""Minimize a parabola of one real and one categorical parameter."""

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    """Return the distance from (0.3, "b")."""
    return (trial.suggest_float("x", 0, 1) - 0.3) ** 2 + (trial.suggest_categorical("kind", ["a", "b"]) == "a")


if __name__ == "__main__":
    module = optunahub.load_module("samplers/dsa_evolution")
    space = {
        "x": optuna.distributions.FloatDistribution(0, 1),
        "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
    }
    study = optuna.create_study(sampler=module.DSAEvolutionSampler(space, seed=0))
    study.optimize(objective, n_trials=40)
    print(study.best_params)

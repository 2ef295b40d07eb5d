"""``prunopt forest --budget``: the mean cost of a row, or sizes of the model: nodes, trees, bytes, features."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prunopt.commands.forest_report import Case, Choice, Rows
from prunopt.core.budget import Budget
from prunopt.core.validate import invalid, number, require

if TYPE_CHECKING:
    from prunopt.forests.size_budgets import WithinSizes

WRITTEN = "write a number for the mean cost of a row, or nodes=500, trees=20, bytes=100kB, features=5, nodes=0.2x"


def read_budgets(given: list[str] | None) -> tuple[float | None, list[Budget]]:
    """Return the mean cost of a row and the sizes that ``--budget`` names; beside sizes the mean cost is one."""
    costs: list[float] = []
    sizes: list[Budget] = []
    for text in given or []:
        try:
            costs.append(float(text))
        except ValueError:
            if not any(sign in text for sign in "=<"):
                raise invalid("--budget", "be a number or a size", text, WRITTEN) from None
            from prunopt.forests.size_budgets import RESOURCES  # with its kernels, which a plain number has no use for

            sizes += Budget.several(text, RESOURCES)
    require(len(costs) < 2, "--budget", "name the mean cost of a row once", costs)
    for cost in costs:
        number("--budget", cost, low=0, mend="leave it out for no limit")
    if sizes and costs:
        from prunopt.forests.size_budgets import COST

        sizes.append(Budget(COST, limit=costs[0]))
    return (None, sizes) if sizes else (costs[0] if costs else None, sizes)


def sized(case: Case, rows: Rows, forest: Any, sizes: list[Budget], errors: str = "holdout") -> Choice:
    """Return the pruning of least error within the sizes, on the rows ``train``."""
    from prunopt.forests.path import pruned_model

    task, found = _found(case, rows, forest, sizes, errors)
    cost = task.cost(found.solution.value)
    pruned = pruned_model(forest, found.path.ensemble, found.solution.value)
    return Choice(found.path, found.solution, pruned, cost, tuple(asdict(use) for use in found.uses))


def _found(case: Case, rows: Rows, forest: Any, sizes: list[Budget], errors: str) -> tuple[Any, WithinSizes]:
    from prunopt.forests.boosters import booster_of
    from prunopt.forests.size_budgets import within_sizes
    from prunopt.problems.forest.forest_budget import ForestBudget

    X, y, costs = case.X[rows.train], case.y[rows.train], case.feature_costs
    booster = booster_of(forest)
    if booster is None:
        task = ForestBudget.from_forest(forest, X, y, costs, 0, errors=errors)
    else:
        known = all(size.resource != "bytes" for size in sizes)
        require(known, "--budget", "limit nodes, trees or features of a booster", "bytes")
        task = booster.task(X, y, costs)
    return task, within_sizes(forest, task, sizes)

"""A hard budget on the heart forest: the path's best point within it, branch and bound, and the proven bound.

python -m benchmarks.forest_within
"""

from __future__ import annotations

import prunopt as po
from benchmarks.machine import described, seconds
from benchmarks.results import store
from prunopt.forests import budget_path
from prunopt.forests.datasets import load_heart
from prunopt.problems import ForestBudget, ForestWithin
from prunopt.solvers.closure.budget_branch_and_bound import BudgetBranchAndBound

BUDGETS = (50, 110, 200, 250, 400)
NODES = 50


def main() -> None:
    """Print and save one row for each budget."""
    from sklearn.ensemble import RandomForestClassifier

    heart = load_heart()
    costs = heart.costs().costs
    forest = RandomForestClassifier(40, max_depth=10, max_features=None, random_state=0).fit(heart.X, heart.y)
    task = ForestBudget.from_forest(forest, heart.X, heart.y, costs, 0, errors="oob")
    path = budget_path(forest, heart.X, heart.y, costs, errors="oob")
    rows = []
    for budget in BUDGETS:
        within, found = ForestWithin(task, budget), {}

        def solve(within: ForestWithin = within, found: dict[str, po.Solution[object]] = found) -> None:
            found["answer"] = po.solve(within, BudgetBranchAndBound(nodes=NODES))

        taken = seconds(solve)
        answer = found["answer"]
        po.verify(within, answer)
        row = {
            "budget": budget,
            "path": path.solution(budget=budget).objective,
            "branch and bound": answer.objective,
            "bound": answer.bound,
            "cost": task.cost(answer.value),
            "seconds": taken,
        }
        rows.append(row)
        print(row, flush=True)
    store("forest_within", {"figures": rows, "machine": described()})


if __name__ == "__main__":
    main()

r"""Pruning and leaf refit in turn, under one objective that never rises.

With the leaf :math:`l_t(x)` that row x reaches in the pruned tree t, leaf scores v, a bias b, and the trees
:math:`U_i` that judge row i (those that did not see it, for out-of-bag errors), the objective is

.. math::
    F(\text{pruning}, v, b) = \frac1S \Bigl[ \sum_i s_i \, \ell\Bigl(y_i, \; b + \frac{T}{|U_i|} \sum_{t \in U_i}
    v_{l_t(x_i)}\Bigr) + \frac{\rho}{2} \sum_{\text{leaves } l} \| v_l - v^0_l \|^2 \Bigr] + \lambda \cdot \text{cost}

with the multinomial logistic loss, or half the squared error, :math:`S = \sum_i s_i`, and the votes :math:`v^0` of the
nodes as they were grown. Within a budget B, :math:`\lambda = 0` and prunings that cost more than B are not admitted.

*Refit*: for a given pruning F is convex in (v, b), and minimised from where it stands. The cost stays.

*Prune*: with scores that change by :math:`\delta_t` in tree t, and L a bound on the second derivative of the loss,

.. math::
    \ell\Bigl(\eta + \frac{T}{|U|} \sum_t \delta_t\Bigr) \le \ell(\eta) + \frac{T}{|U|} \sum_t \Bigl(
    \nabla \ell(\eta) \cdot \delta_t + \frac{\kappa L}{2} \| \delta_t \|^2 \Bigr), \qquad \kappa = T,

so F lies below a sum over nodes: each node h of the unpruned forest, were it a leaf, has its own best score (in closed
form) and its own error, and the best pruning of that sum is a minimum cut, over all nodes of the unpruned forest: nodes
that were pruned away may come back. :math:`\kappa = T` is the worst case and makes small steps, so smaller values are
tried first; whatever comes out is taken only if F itself falls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import softmax

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.forests._routing import leaves_of
from prunopt.forests.leaf_refit import Logistic, Squares, choose_ridge, with_scores
from prunopt.forests.sklearn_trees import compacted
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import targets
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

ROUNDS = 8
LEAST_FALL = 1e-5  # relative fall of the objective below which the alternation ends
SEARCH_NODES = 5  # of branch and bound, in every pruning within a budget
CAUTION = (1.0, 4.0, 16.0)  # kappa, before the number of trees


@dataclass(frozen=True, eq=False)
class Alternation:
    """A pruning and leaf scores that fit each other.

    Parameters
    ----------
    kept : (m,) bool
        A value of `ForestBudget`.
    forest
        A genuine scikit-learn forest, pruned, with the scores as leaf values.
    temperature
        As in `prunopt.forests.leaf_refit.LeafRefit`.
    objectives : tuple of float
        F after the first refit, and after each pruning and each refit that followed; it never rises.
    ridge
        The ridge, chosen once, on held-out rows of the first pruning.
    """

    kept: Bools
    forest: Any
    temperature: float | None
    objectives: tuple[float, ...]
    ridge: float


def alternate(
    task: ForestBudget,
    forest: Any,
    y: ArrayLike,
    kept: Bools,
    *,
    judges: Bools | None = None,
    budget: float | None = None,
    ridge: float | None = None,
    rounds: int = ROUNDS,
    random_state: int = 0,
) -> Alternation:
    """Prune and refit in turn, starting from the pruning ``kept``, until the objective stops falling.

    Parameters
    ----------
    task
        The forest's pruning problem: rows, prices and weights. Without a budget, its price is that of one unit of cost
        in units of the joint loss (nats for classifiers, half the squared error for regressors).
    forest
        The unpruned forest; it is not changed.
    y
        Targets of the task's rows.
    kept : (m,) bool
        Where to start; within the budget.
    judges : (T or 1, n) bool or None
        Which rows each tree is judged on; None = all.
    budget
        Greatest mean cost of a row.
    ridge
        None chooses it on held-out rows.
    rounds
        Most prunings.
    random_state
        Seed of the rows held out for the ridge.
    """
    state = _State(task, y, judges, kept, ridge, random_state)
    price = 0.0 if budget is not None else float(task.price)
    state.refit(state.kept)
    objectives = [state.objective() + price * task.cost(state.kept)]
    for _ in range(rounds):
        before = objectives[-1]
        found = _pruned(state, task, price, budget, before)
        if found is None:
            break
        objectives.append(found)
        state.refit(state.kept)
        objectives.append(state.objective() + price * task.cost(state.kept))
        if before - objectives[-1] <= LEAST_FALL * max(abs(before), 1e-12):
            break
    pruned = compacted(forest, task.ensemble, state.kept)
    ensemble = TreeEnsemble.from_sklearn(pruned)
    place = np.flatnonzero(ensemble.left < 0)
    old = np.flatnonzero(task.ensemble.leaves(state.kept))  # in the same order: tree by tree, by node id
    scores = state.score[old] + state.bias / ensemble.n_trees
    return Alternation(state.kept, *with_scores(pruned, ensemble, place, scores), tuple(objectives), state.ridge)


def _pruned(state: _State, task: ForestBudget, price: float, budget: float | None, before: float) -> float | None:
    """Prune anew and move the state there, if its objective falls; the objective, or None if it does not."""
    for kappa in sorted({*CAUTION, float(task.ensemble.n_trees)}):
        if kappa > task.ensemble.n_trees:
            break
        error, score = state.surrogate(kappa)
        kept = _best(state.task_with(error, price), budget)
        objective = state.objective(kept, score) + price * task.cost(kept)
        if objective < before:
            state.kept, state.score = kept, score
            return objective
    return None


def _best(task: ForestBudget, budget: float | None) -> Bools:
    """The pruning of least surrogate: at the task's price, or within the budget, as far as a short search finds it."""
    import prunopt as po

    if budget is None:
        return np.asarray(po.solve(task, "min-cut").value)
    from prunopt.problems.forest.forest_within import ForestWithin
    from prunopt.solvers.closure.budget_branch_and_bound import BudgetBranchAndBound

    found = po.solve(ForestWithin(task, budget), BudgetBranchAndBound(nodes=SEARCH_NODES), throw=False)
    return np.zeros(len(task.ensemble.internal), np.bool_) if found.value is None else np.asarray(found.value)


class _State:
    """The rows, and the scores of all nodes: those of the leaves are fitted, all others are the votes as grown."""

    def __init__(
        self, task: ForestBudget, y: ArrayLike, judges: Bools | None, kept: Bools, ridge: float | None, seed: int
    ) -> None:
        e = task.ensemble
        n, T = len(task.X), e.n_trees
        self.task, self.kept = task, np.asarray(kept)
        self.deep = leaves_of(e, task.X).astype(np.int64)
        use = np.ones((1, n), np.bool_) if judges is None else judges
        self.use = np.ascontiguousarray(np.broadcast_to(use if len(use) > 1 else use[0], (T, n)).T)
        voters = self.use.sum(axis=1)
        self.share = np.divide(T, voters, out=np.zeros(n), where=voters > 0)
        self.weight = np.where(voters > 0, task.weight, 0.0)
        self.rows = np.flatnonzero(self.weight)
        self.total = float(self.weight.sum())
        code, target = targets(e, y, n)
        if e.classes is not None:
            self.weight[code == len(e.classes)] = 0.0  # a label that the forest never saw teaches its leaves nothing
            self.rows = np.flatnonzero(self.weight)
            code = np.minimum(code, len(e.classes) - 1)
        votes = e.value / T
        self.model: Logistic | Squares = Squares(votes, target) if e.classes is None else Logistic(votes, code)
        self.curvature = 1.0 if e.classes is None else 0.5  # of the loss: largest eigenvalue of its Hessian
        Z = self.indicators(self.kept)[self.rows]
        self.anchor = self.model.start(Z, self.rows, self.weight[self.rows])
        self.score, self.bias = self.anchor.copy(), np.zeros(self.model.n_outputs)
        if ridge is None:
            ridge = choose_ridge(self.model, self.indicators(self.kept), self.weight, self.rows, seed)[0]
        self.ridge = ridge

    def leads(self, kept: Bools) -> Ints:
        """Return the leaf that every node belongs to when only the nodes ``kept`` stay split."""
        e = self.task.ensemble
        split = np.zeros(e.n_nodes, np.bool_)
        split[e.internal] = kept
        return _leads(e.parent, split)

    def indicators(self, kept: Bools) -> Any:
        """Return which leaf each row reaches in each judging tree, times T / number of judges, (n, n_nodes)."""
        i, t = np.nonzero(self.use)
        leaf = self.leads(kept)[self.deep[i, t]]
        shape = (len(self.use), self.task.ensemble.n_nodes)
        return sparse.csr_array((self.share[i], (i, leaf)), shape=shape)

    def refit(self, kept: Bools) -> None:
        """Minimise the objective over scores and bias; nodes without rows stay at their votes."""
        Z = self.indicators(kept)[self.rows]
        leaf = np.flatnonzero(self.task.ensemble.leaves(kept))
        short: Any = type(self.model)(self.model.votes[leaf], self._answers())
        warm = (self.score[leaf], self.bias)
        before = self.objective()
        found, bias = short.fit(
            Z[:, leaf], self.rows, self.weight[self.rows], self.ridge, warm, anchor=self.anchor[leaf]
        )
        score = self.anchor.copy()
        score[leaf] = found
        old = self.score, self.bias
        self.score, self.bias = score, bias
        if self.objective() > before:  # an optimiser stopped early must not undo what was gained
            self.score, self.bias = old

    def _answers(self) -> Any:
        return self.model.target if isinstance(self.model, Squares) else self.model.code

    def objective(self, kept: Bools | None = None, score: Floats | None = None) -> float:
        """Return F without the price of the features."""
        kept = self.kept if kept is None else kept
        score = self.score if score is None else score
        Z = self.indicators(kept)[self.rows]
        losses = self.model.losses(score, self.bias, Z, self.rows)
        leaf = np.flatnonzero(self.task.ensemble.leaves(kept))
        penalty = self.ridge / 2 * np.square(score[leaf] - self.anchor[leaf]).sum()
        return float((self.weight[self.rows] @ losses + penalty) / self.total)

    def surrogate(self, kappa: float) -> tuple[Floats, Floats]:
        """Return the error of every node, were it a leaf with its best score, and that score."""
        e, rows = self.task.ensemble, self.rows
        Z = self.indicators(self.kept)
        eta = Z @ self.score + self.bias
        if isinstance(self.model, Squares):
            slope = eta - self.model.target[:, None]
        else:
            slope = softmax(eta, axis=1)
            slope[np.arange(len(slope)), self.model.code] -= 1.0
        slope *= (self.weight * self.share)[:, None]
        bend = self.weight * self.share * self.curvature * kappa
        current = self.score[self.leads(self.kept)]
        C = slope.shape[1]
        A, B, D = np.zeros(e.n_nodes), np.zeros((e.n_nodes, C)), np.zeros(e.n_nodes)
        _collect(rows, self.deep, self.use, e.parent, slope, bend, current, A, B, D)
        ridge, anchor = self.ridge, self.anchor
        best = (ridge * anchor - B) / (A + ridge)[:, None]
        error = D + (B * best).sum(axis=1) + A / 2 * np.square(best).sum(axis=1)
        return error + ridge / 2 * np.square(best - anchor).sum(axis=1), best

    def task_with(self, error: Floats, price: float) -> ForestBudget:
        """Return the pruning problem with these errors of nodes, added up over the trees."""
        per_tree = np.full(self.task.ensemble.n_trees, self.total / self.task.ensemble.n_trees)
        other = self.task.at_price(price)
        fresh = replace(other, node_error=error, tree_weight=per_tree, loss="log")
        for name in ("_requirements", "_first", "_cost_unit"):
            if name in self.task.__dict__:
                fresh.__dict__[name] = self.task.__dict__[name]
        return fresh


@njit
def _leads(parent: Ints, split: Bools) -> Ints:
    lead = np.empty(len(parent), np.int64)
    inside = np.zeros(len(parent), np.bool_)  # split, and so is everything above
    for h in range(len(parent)):
        u = parent[h]
        lead[h] = h if u < 0 or inside[u] else lead[u]
        inside[h] = split[h] and (u < 0 or inside[u])
    return lead


@njit
def _collect(
    rows: NDArray[np.intp], deep: Ints, use: Bools, parent: Ints, slope: Floats, bend: Floats, current: Floats,
    A: Floats, B: Floats, D: Floats,
) -> None:  # fmt: skip
    """Add up, at all nodes above the leaf of each row, the quadratic that its loss is bounded by."""
    C = slope.shape[1]
    for i in rows:
        for t in range(deep.shape[1]):
            if not use[i, t]:
                continue
            leaf = deep[i, t]
            constant = 0.0
            for c in range(C):
                v = current[leaf, c]
                constant += v * (bend[i] / 2 * v - slope[i, c])
            h = leaf
            while h >= 0:
                A[h] += bend[i]
                D[h] += constant
                for c in range(C):
                    B[h, c] += slope[i, c] - bend[i] * current[leaf, c]
                h = parent[h]

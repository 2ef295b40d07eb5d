"""The recipe: policies at every level of cost, predictors on what they acquire, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution, Status
from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy
from prunopt.forests.boosting.cost_efficient_boosting import Problem
from prunopt.forests.boosting.losses import Classification
from prunopt.forests.boosting.policy_search import PENALTIES, Proposal, penalties_for, proposals, sketches
from prunopt.forests.boosting.predictors import BLENDS, Blend
from prunopt.forests.boosting.surrogate_path import surrogate_path

RIDGE = 3.0
FEW = 100  # validation rows outside the commonest class below which prunings are also judged on the training rows
WINDOW = 0.65
LOSS_SHARE = 0.3
EXTRA, EXTRA_FEW = 1.0, 0.5  # randomized trees for each free tree: of few rows, fewer make the mean as steady
FEW_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Candidate:
    """A policy with its predictors, judged on the validation rows.

    Parameters
    ----------
    cost
        Mean cost of a row.
    score, loss
        Accuracy (or minus the mean squared error), and loss.
    utility : (n,) float64
        What the choice goes by, the mean over the validation rows: whether the prediction is right less 0.3 times the
        loss, or minus the loss for regression; each row times its weight over the mean weight.
    slope
        How far the predictions are drawn towards the prior.
    proposal
        The policy and where it comes from.
    """

    cost: float
    score: float
    loss: float
    utility: Floats
    slope: float
    proposal: Proposal

    @property
    def origin(self) -> str:
        """Where the policy comes from."""
        return self.proposal.origin


@dataclass(frozen=True)
class Settings:
    """Options of the recipe: see the estimators."""

    n_free_trees: int = 96
    blend: str = "all"
    profits: str | tuple[str, ...] = "auto"
    n_penalties: int = len(PENALTIES)
    seed: int = 0
    n_jobs: int | None = None


def judged_candidates(train: Problem, valid: Problem, levels: Floats, settings: Settings) -> list[Candidate]:
    """Return candidates at the ``levels`` of cost (rising), judged on ``valid``; one of them acquires nothing."""
    made: list[list[Proposal]] = []
    if len(levels):
        kinds = _profit_rows(valid, settings.profits)
        penalties = penalties_for(settings.n_penalties)
        found = sketches(
            train, valid, levels, penalties=penalties, profits=kinds, seed=settings.seed, n_jobs=settings.n_jobs
        )
        made = proposals(found, train, valid, levels, seed=settings.seed, n_jobs=settings.n_jobs)
    free = AcquisitionPolicy.of_nothing(train.feature_costs, train.loss.start(train.target, train.weight))
    every = [Proposal(free, "nothing acquired", None, 0.0, np.nan), *(p for level in made for p in level)]
    if len(levels) and levels[-1] >= train.feature_costs.total:
        everything = free.filled(np.arange(len(train.feature_costs.group_cost)))
        every.append(Proposal(everything, "everything acquired", None, train.feature_costs.total, np.nan))
    out: Any = Parallel(n_jobs=settings.n_jobs, prefer="threads")(
        delayed(_judged)(p, train, valid, settings) for p in every
    )
    return sorted(out, key=lambda c: c.cost)


def _judged(proposal: Proposal, train: Problem, valid: Problem, settings: Settings) -> Candidate:
    masked, costs = proposal.policy.masked(valid.codes, valid.feature_costs)
    blend = trained(proposal.policy, train, settings, extra_share=1 / 3)
    blend = blend.calibrated(masked, valid.target, valid.weight)
    score, loss = valid.loss.judge(blend.predictions(masked), valid.target)
    share = valid.weight / valid.weight.sum()
    utility = score - LOSS_SHARE * loss if isinstance(valid.loss, Classification) else -loss
    return Candidate(
        float(share @ costs),
        float(share @ score),
        float(share @ loss),
        utility * share * len(share),
        blend.slope,
        proposal,
    )


def trained(
    policy: AcquisitionPolicy, data: Problem, settings: Settings, *, extra_share: float = 1.0, slope: float = 1.0
) -> Blend:
    """Return the predictors of a policy, with a share of the randomized trees that a model has."""
    extra = extra_share * (EXTRA if len(data.target) > FEW_ROWS else EXTRA_FEW)
    return Blend.trained(
        policy,
        data,
        weights=BLENDS[settings.blend],
        n_free_trees=settings.n_free_trees,
        n_extra=max(1, round(settings.n_free_trees * extra)),
        ridge=RIDGE,
        seed=settings.seed,
        slope=slope,
    )


def within(candidates: list[Candidate], budget: float) -> Candidate:
    """Return the choice for a budget: the best of those that cost nearly as much as the costliest affordable one.

    A cheaper candidate's lead over costlier ones on the validation rows is mostly luck, so the choice is among those
    whose cost is at least 65 % of the costliest within the budget; a cheaper one takes its place only when it is better
    by more than two standard errors of the difference. Nothing is acquired that does not raise the score at all.
    """
    affordable = [c for c in candidates if c.cost <= budget * (1 + 1e-9)]
    top = max(c.cost for c in affordable)
    best = max((c for c in affordable if c.cost >= WINDOW * top), key=lambda c: c.utility.mean())
    for other in sorted(affordable, key=lambda c: -c.utility.mean()):
        gain = other.utility - best.utility
        if gain.mean() > 2.0 * gain.std() / np.sqrt(len(gain)):
            best = other
            break
    cheapest = min(affordable, key=lambda c: c.cost)
    return cheapest if cheapest.score >= best.score else best


def mixed_within(candidates: list[Candidate], budget: float) -> tuple[Candidate, Candidate, float]:
    """Return two candidates and the share of the second, whose mixture costs ``budget`` and loses least.

    They are the corners of the lower hull of cost and (negative) utility to both sides of the budget. A budget above
    the cost of the best candidate is not used up.
    """
    hull: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.cost, -c.utility.mean())):
        value = c.utility.mean()
        if hull and value <= hull[-1].utility.mean():
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            # b is above the line from a to c, or not a corner
            if (b.utility.mean() - a.utility.mean()) * (c.cost - a.cost) > (value - a.utility.mean()) * (
                b.cost - a.cost
            ):
                break
            hull.pop()
        hull.append(c)
    costlier = [c for c in hull if c.cost > budget]
    low = max((c for c in hull if c.cost <= budget), key=lambda c: c.cost)
    if not costlier:
        return low, low, 0.0
    return low, costlier[0], (budget - low.cost) / (costlier[0].cost - low.cost)


def certificate(proposal: Proposal, train: Problem, valid: Problem) -> Solution[Bools] | None:
    """Return the proof that the trees of a policy are an optimal pruning of the forest they come from.

    The surrogate's path is computed again and its bound at the policy's penalty recomputed from multipliers; nothing is
    taken over from the search. None for a policy that no path contains.
    """
    sketch = proposal.sketch
    if sketch is None or sketch.kind == "grown":
        return None
    data = train if sketch.kind == "train" else valid
    exact = surrogate_path(sketch.forest, data, keep_proof=True)
    inside = sketch.forest.internal
    kept = (sketch.lifetime > sketch.point)[inside]
    for k in range(len(exact.cost)):
        if np.array_equal(exact.rank[inside] <= k, kept):
            break
    else:
        return None
    path = exact.path
    assert path is not None
    penalty = path.blocks[k - 1].penalty if k else (path.blocks[0].penalty * 2 if path.blocks else Fraction(0))
    objective, bound = float(path.objective(penalty)), path.bound(penalty)
    unit = exact.unit_loss
    return Solution(
        Status.OPTIMAL if path.gap(penalty) <= 1e-9 else Status.FEASIBLE,
        kept,
        objective=objective * unit,
        bound=min(bound, objective) * unit,
        stats={"penalty": exact.penalty[k], "surrogate_cost": float(exact.cost[k]), "breakpoints": len(path.blocks)},
        solver="min-cut path",
        message=f"exact for the second-order surrogate on the {sketch.kind} rows, in mean loss; "
        "the blend's error is measured, not proven",
    )


def _profit_rows(valid: Problem, profits: str | tuple[str, ...]) -> tuple[str, ...]:
    if profits != "auto":
        return (profits,) if isinstance(profits, str) else profits
    if isinstance(valid.loss, Classification):
        counts = np.bincount(valid.target.astype(np.int64), minlength=valid.loss.n_classes)
        return ("validation", "train") if counts.sum() - counts.max() < FEW else ("validation",)
    return ("validation", "train") if len(valid.target) < FEW else ("validation",)

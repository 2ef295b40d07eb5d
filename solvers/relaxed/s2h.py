"""S2H: a soft mask learned next to the hard network that it stands for, and rounded by an exact knapsack."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import number, one_of, require, whole_number
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.relaxed_mask import Choices, RelaxedMask
from prunopt.forms.relaxed.trained_mask import Lesson, TrainedMask
from prunopt.solvers.knapsack.coupled_dp import CoupledDp
from prunopt.solvers.mip.pulp import Pulp
from prunopt.solvers.relaxed._training import Training
from prunopt.solvers.relaxed._width_logits import Mixture, WidthLogits

if TYPE_CHECKING:
    from torch import Tensor

ROUNDINGS = ("exact", "expected")
VALUES = ("likelihood", "nearest")
FAR = 1.1


@dataclass(frozen=True)
class S2H(Solver[RelaxedMask]):
    r"""Learn the choices of a `RelaxedMask` with a soft network and the hard one at its side, in one stage.

    Every group has logits u, :math:`p = \operatorname{softmax}(u / T)` and the soft point :math:`w = pA`; the hard
    point m is the width that rounds :math:`\hat c = p \cdot c` up (the most probable row where rows are not widths).
    A step descends

    .. math::
        L(w) + D(w, m) + \lambda \, (F(p) - B)^2

    in u, with norms as `WidthLogits.update` brings them together. A problem with a trainee (`TrainedMask`) trains its
    weights in the same step and says what D is; without one weights are frozen and D is L(m), its gradient passed
    straight through. The answer is the hard point after the last step.

    **Exact widths.** With a budget the answer is the choice nearest to the expected widths within it, a knapsack
    coupled along the layers and solved to a proven optimum where the groups form a forest. Where ``settle``
    > 0 and there is a trainee it is solved that share of the steps before the end; from there the choice is fixed, the
    soft point moves to it along a line, and once both are one the weights learn at the widths they keep.

    A heuristic: the solution has no bound.

    Parameters
    ----------
    steps
        Number of steps, unless the trainee's data end before.
    learning_rate, momentum
        Of u: a step's gradient has the norm of one unit vector per group. The rate falls to 0 along a cosine. None:
        7.2 / steps, so that u can go the same way however many steps there are.
    temperature
        T.
    tolerance
        Deviation from the budget, as a share of the dense cost, from which on the budget pulls in full.
    scale
        Norm of the task's and the distillation's pull over the budget's beyond the tolerance.
    distillation_scale
        Norm of the distillation's gradient over the task's, for masks; 0 leaves masks to the task alone.
    rounding
        ``"exact"``: within the budget, as above. ``"expected"``: every width by itself, as in the paper; the answer
        counts as failed where it exceeds the budget.
    value
        What the exact rounding optimizes: ``"nearest"``, the least sum of squared distances to the expected widths, as
        shares of the full ones. Where the answer leaves room for a wider group the expected widths are stretched by a
        common factor until none is left: the budget is used to one step of one group.
        ``"likelihood"``, the greatest :math:`\sum \log p`. While p is broad its modes lie
        far from its means, and the most likely choice is one that nobody has trained.
    settle
        Share of the steps after the exact rounding; 0: it comes last. Only weights learn in them.
    line
        Share of those steps in which the soft point moves to the hard one; then there is one network, trained alone.
    anneal
        Share of the steps before the rounding over which the budget falls, by equal factors, from the dense cost to
        B. A budget that pulls in full from the start settles widths before the weights know anything.
    relative
        Compare steps of groups by the change of their log widths, see `WidthLogits`; False: by that of u.
    project
        Take what task and distillation have against the budget out of their pull, see `WidthLogits.update`.
    every, folder
        A checkpoint is written to the folder after every ``every`` steps; the same call resumes from it and ends with
        the same bits. A checkpoint of another problem, seed or options is refused.
    log
        Rows of ``stats["history"]``: means of soft loss, hard loss and their gap over as many stretches.

    References
    ----------
    .. [1] W. Lin, S. Tang, C. Yu, P. Ye, T. Chen, "S2HPruner: soft-to-hard distillation bridges the discretization
       gap in pruning", NeurIPS 2024.
    """

    name: ClassVar[str] = "s2h"
    form: ClassVar[type] = RelaxedMask
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 45
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    reference: ClassVar[str] = "Lin et al., NeurIPS 2024"

    steps: int = 400
    learning_rate: float | None = None
    momentum: float = 0.9
    temperature: float = 1.0
    tolerance: float = 0.02
    scale: float = 1.0
    distillation_scale: float = 4.0
    rounding: str = "exact"
    value: str = "nearest"
    settle: float = 0.5
    line: float = 0.2
    anneal: float = 0.8
    relative: bool = True
    project: bool = True
    log: int = 50
    folder: str | None = field(default=None, compare=False)
    every: int = field(default=100, compare=False)

    def __post_init__(self) -> None:
        for name in ("steps", "every", "log"):
            whole_number(name, getattr(self, name), low=1)
        rates = () if self.learning_rate is None else ("learning_rate",)
        for name in (*rates, "temperature", "tolerance", "scale"):
            number(name, getattr(self, name), low=0, open_ends="(")
        for name in ("momentum", "settle"):
            number(name, getattr(self, name), low=0, high=1, open_ends=")")
        for name in ("line", "anneal"):
            number(name, getattr(self, name), low=0, high=1)
        number("distillation_scale", self.distillation_scale, low=0)
        one_of("rounding", self.rounding, ROUNDINGS)
        one_of("value", self.value, VALUES)

    def logits(self, problem: RelaxedMask) -> WidthLogits:
        """Return the logits as they start."""
        costs = problem.costs if isinstance(problem, TrainedMask) else None
        given = {f.name: getattr(self, f.name) for f in fields(Mixture)}
        rate = 7.2 / self.steps if self.learning_rate is None else self.learning_rate
        return WidthLogits(problem.groups, problem.tables, costs, Mixture(**{**given, "learning_rate": rate}))

    def rounded(self, problem: RelaxedMask, logits: WidthLogits, rounding: str | None = None) -> Rounded:
        """Return the hard choice of the logits, within the budget where the rounding is exact.

        Raises
        ------
        RuntimeError
            If the groups form circles and the integer program finds nothing.
        """
        costs = problem.costs if isinstance(problem, TrainedMask) else None
        if costs is None or (rounding or self.rounding) == "expected":
            return Rounded(logits.choice(), "each group by itself")
        assert isinstance(problem, TrainedMask)
        stretch, more = 1.0, 0.01
        while True:
            loss = self._distances(logits, costs, stretch)
            task = CoupledKnapsack(loss, costs.cost, costs.edges, costs.pair_cost, costs.budget)
            found: Solution[Any] = (CoupledDp() if task.is_forest else Pulp()).solve(task, Limits(), 0)
            if found.value is None:
                raise RuntimeError(f"rounding: {found.solver} found no widths within the budget: {found.message}")
            if self.value != "nearest" or not all(logits.nested) or not _room(task, found.value):
                break
            stretch, more = stretch + more, 2 * more  # ends: at the latest where all stretched widths are full ones
        proven = "optimal" if found.status is Status.OPTIMAL else f"gap {found.gap:.3g}"
        how = f"{found.solver}, {proven}" + (f", expected widths x {stretch:.3g}" if stretch > 1 else "")
        return Rounded(problem.choices(found.value), how, stretch)

    def _distances(self, logits: WidthLogits, costs: CoupledKnapsack, stretch: float) -> Floats:
        """Return what the exact rounding minimizes, by group and option."""
        loss = np.where(np.isfinite(costs.loss), 0.0, np.inf)
        for i, row in enumerate(logits.log_probabilities()):
            loss[i, : len(row)] = -row
        if self.value == "nearest":
            sizes = [
                s.numpy().astype(float) for s, n in zip(logits.sizes, logits.groups, strict=True) for _ in range(n)
            ]
            for i, (size, wanted) in enumerate(zip(sizes, logits.expected_sizes(), strict=True)):
                loss[i, : len(size)] = ((size - min(stretch * wanted, size[-1])) / size[-1]) ** 2
        return loss

    def solve(self, problem: RelaxedMask, limits: Limits, seed: int) -> Solution[Choices]:
        """Return the hard choice after the last step; with a trainee, its weights are left as they are then."""
        run, state = Run(limits), _SoftAndHard(self, problem, seed)
        state.resume()
        stopped = state.train(run)
        last = state.settled if state.settled is not None else self.rounded(problem, state.logits)
        value, missing = problem.objective(last.choice), problem.violation(last.choice)
        how = f"{state.step} of {self.steps} steps" + (f": {stopped}" if stopped else "")
        message = f"learned for {how}; widths by {last.how}; a heuristic, no bound"
        if missing:
            message += f"; the budget is exceeded by {missing:.3%}: rounding='exact' stays within"
        left = state.logits.expected_cost()
        if left > FAR:  # not for NaN
            message += f"; the search ended at {left:.3g} x the budget: more steps or a higher learning_rate help"
        good = math.isfinite(value) and not missing
        if good:
            run.report(value)
        stats: dict[str, Any] = {"steps": state.step, "stopped": stopped, "history": state.history}
        stats |= {"rounding": last.how, "stretch": last.stretch, "choice": last.choice, "expected_cost": left}
        stats |= {"probabilities": state.logits.log_probabilities(), "unrounded": state.logits.expected_sizes()}
        status, choice = (Status.FEASIBLE, last.choice) if good else (Status.FAILED, None)
        objective = value if good else math.inf
        return Solution(status, choice, objective, solver=self.name, trace=run.trace, stats=stats, message=message)


@dataclass(frozen=True)
class Rounded:
    """A hard choice, and what proves it."""

    choice: Choices
    how: str
    stretch: float = 1.0


def _room(task: CoupledKnapsack, choice: Any) -> bool:
    """Whether some group could take its next option within the budget."""
    for i, k in enumerate(choice):
        if k + 1 < task.loss.shape[1] and np.isfinite(task.loss[i, k + 1]):
            wider = np.array(choice)
            wider[i] += 1
            if task.used(wider) <= task.budget:
                return True
    return False


class _MasksAlone:
    """Masks alone: the distillation is the loss at the hard point, its gradient passed straight through."""

    def __init__(self, problem: RelaxedMask) -> None:
        self.sample: Any = problem.relaxed_loss
        require(self.sample is not None, "problem.relaxed_loss", "be a function, since a step descends it", None)

    def learn(self, soft: list[Tensor], hard: list[Tensor], step: int, learned: bool = True) -> Lesson:
        """Return losses and gradients at both points."""
        import torch

        values, gradients = [], []
        for points in (soft, hard):
            leaves = [z.detach().requires_grad_() for z in points]
            loss = self.sample(leaves, step)
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
            gradients.append([torch.zeros_like(z) if g is None else g for z, g in zip(leaves, found, strict=True)])
            values.append(float(loss.detach()))
        finite = all(math.isfinite(v) for v in values)
        finite = finite and all(bool(torch.isfinite(g).all()) for row in gradients for g in row)
        why = "" if finite else f"the loss is {values[0]} or its gradient not finite at step {step}"
        return Lesson(values[0], values[1], abs(values[0] - values[1]), gradients[0], gradients[1], why)

    def state(self) -> dict[str, Any]:
        """Return nothing: there are no weights."""
        return {}

    def restore(self, state: Any) -> None:
        """Do nothing."""


class _SoftAndHard(Training):
    """Logits, trainee and history between steps."""

    file: ClassVar[str] = "s2h.safetensors"
    solver: S2H
    problem: RelaxedMask

    def __init__(self, solver: S2H, problem: RelaxedMask, seed: int) -> None:
        super().__init__(solver, problem, seed)
        trainee = problem.trainee if isinstance(problem, TrainedMask) else None
        self.trainee = _MasksAlone(problem) if trainee is None else trainee
        self.logits = solver.logits(problem)
        exact = solver.rounding == "exact" and trainee is not None
        exact = exact and isinstance(problem, TrainedMask) and problem.costs is not None
        self.settling = solver.steps - int(solver.settle * solver.steps) if exact else solver.steps
        self.settled: Rounded | None = None
        self.history: list[dict[str, float]] = []
        self.window: list[list[float]] = []

    def advance(self) -> str:
        """Take one step; return why it was not taken, or an empty string."""
        solver, logits = self.solver, self.logits
        if self.step >= self.settling and self.settled is None:
            self.settled = solver.rounded(self.problem, logits)
        soft = logits.soft()
        hard = logits.points(logits.choice() if self.settled is None else self.settled.choice)
        if self.settled is not None:
            gone = (self.step - self.settling + 1) / max(1, solver.steps - self.settling)
            moved = 1.0 if gone >= solver.line else gone / solver.line
            soft = hard if moved >= 1 else [(1 - moved) * z + moved * m for z, m in zip(soft, hard, strict=True)]
        lesson = self.trainee.learn(soft, hard, self.step, self.settled is None)
        if lesson.stopped:
            return f"{lesson.stopped}; the state before it is kept"
        norms = {"task": math.nan, "distillation": math.nan, "budget": math.nan}
        if self.settled is None:
            norms = logits.update(lesson.task, lesson.distillation, self.step / max(1, self.settling))
        self.step += 1
        self.window.append([lesson.soft, lesson.hard, lesson.distance])
        if self.step % max(1, solver.steps // solver.log) == 0 or self.step == solver.steps:
            means = np.mean(self.window, axis=0).tolist()
            row = dict(zip(("soft", "hard", "distance"), means, strict=True))
            row |= {"step": self.step, "gap": row["hard"] - row["soft"], "expected_cost": logits.expected_cost()}
            self.history.append(row | norms)
            self.window = []
        return ""

    def arrays(self) -> Iterable[Any]:
        """Return tables, costs and the budget."""
        costs = self.problem.costs if isinstance(self.problem, TrainedMask) else None
        limits = () if costs is None else (costs.cost, costs.pair_cost, np.array(costs.budget))
        return (*self.problem.tables, *limits)

    def tensors(self) -> dict[str, Tensor]:
        """Return logits, velocities and the trainee's tensors."""
        found = self.logits.state() | {f"trainee.{k}": v for k, v in self.trainee.state().items()}
        return {k: v.detach().clone() for k, v in found.items()}

    def record(self) -> dict[str, Any]:
        """Return the step, the settled choice, and the history."""
        last, chosen = self.settled, None
        if last is not None:
            chosen = [[k.tolist() for k in last.choice], last.how, last.stretch]
        return {"step": self.step, "settled": chosen, "window": self.window, "history": self.history}

    def restore(self, record: Any, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a checkpoint."""
        self.logits.restore(tensors)
        self.trainee.restore({k.removeprefix("trainee."): v for k, v in tensors.items() if k.startswith("trainee.")})
        self.step, self.window, self.history = record["step"], record["window"], record["history"]
        if record["settled"] is not None:
            choice, how, stretch = record["settled"]
            self.settled = Rounded(tuple(np.array(k, np.int64) for k in choice), how, stretch)

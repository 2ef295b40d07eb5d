"""S2H: a soft mask learned next to the hard network that it stands for, and rounded by an exact knapsack."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.files import write_atomically
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.relaxed_mask import Choices, RelaxedMask
from prunopt.forms.relaxed.trained_mask import Lesson, TrainedMask
from prunopt.solvers.knapsack.coupled_dp import CoupledDp
from prunopt.solvers.mip.pulp import Pulp
from prunopt.solvers.relaxed._checkpoints import identity, read_checkpoint
from prunopt.solvers.relaxed._width_logits import WidthLogits

if TYPE_CHECKING:
    from torch import Tensor

ROUNDINGS = ("exact", "expected")
VALUES = ("likelihood", "nearest")
FILE = "s2h.safetensors"
FAR = 1.1


@dataclass(frozen=True)
class S2H(Solver[RelaxedMask]):
    r"""Learn the choices of a `RelaxedMask` with a soft network and the hard one at its side, in one stage.

    Every group has logits u, :math:`p = \operatorname{softmax}(u / T)` and the soft point :math:`w = pA`; the hard
    point m is the width that rounds :math:`\hat c = p \cdot c` up (the most probable row where rows are no widths).
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

    A heuristic for the whole: there is no bound.

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
        What the exact rounding optimises: ``"nearest"``, the least sum of squared distances to the expected widths, as
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
        A checkpoint is written to the folder every so many steps; the same call goes on from it, and ends with the
        same bits. A checkpoint of another problem, seed or options is refused.
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
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a whole number >= 1")
        rates = () if self.learning_rate is None else ("learning_rate",)
        for name in (*rates, "temperature", "tolerance", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a finite number > 0")
        for name, above in (
            ("momentum", 1.0),
            ("settle", 1.0),
            ("line", 1.01),
            ("anneal", 1.01),
            ("distillation_scale", math.inf),
        ):
            if not 0 <= getattr(self, name) < above:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a number >= 0 and below {above:g}")
        for name, known in (("rounding", ROUNDINGS), ("value", VALUES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: give one of {', '.join(known)}")

    def logits(self, problem: RelaxedMask) -> WidthLogits:
        """Return the logits as they start."""
        costs = problem.costs if isinstance(problem, TrainedMask) else None
        rate = 7.2 / self.steps if self.learning_rate is None else self.learning_rate
        return WidthLogits(
            problem.groups, problem.tables, costs, temperature=self.temperature, learning_rate=rate,
            momentum=self.momentum, tolerance=self.tolerance, scale=self.scale,
            distillation_scale=self.distillation_scale, anneal=self.anneal, relative=self.relative,
            project=self.project,
        )  # fmt: skip

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
        """Return what the exact rounding minimises, by group and option."""
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
        run, state = Run(limits), _State(self, problem, seed)
        state.resume()
        stopped = ""
        while state.step < self.steps and not run.out_of_time:
            try:
                stopped = state.advance()
            except KeyboardInterrupt:
                stopped = "interrupted"
            run.evaluations += 1
            if stopped:
                break
            if state.step % self.every == 0 or state.step == self.steps:
                state.save()
        if not stopped and state.step < self.steps:
            stopped = "the limit was reached"
        last = state.settled if state.settled is not None else self.rounded(problem, state.logits)
        value, missing = problem.objective(last.choice), problem.violation(last.choice)
        how = f"{state.step} of {self.steps} steps" + (f": {stopped}" if stopped else "")
        message = f"learned for {how}; widths by {last.how}; a heuristic, no bound"
        if missing:
            message += f"; the budget is exceeded by {missing:.3%}: rounding='exact' stays within"
        left = state.logits.expected_cost()
        if left > FAR:  # not for NaN
            message += (
                f"; the search ended at {left:.3g} x the budget: more steps, or a greater learning_rate, get closer"
            )
        good = math.isfinite(value) and not missing
        if good:
            run.report(value)
        stats: dict[str, Any] = {
            "steps": state.step, "stopped": stopped, "history": state.history, "rounding": last.how,
            "stretch": last.stretch,
            "expected_cost": left, "probabilities": state.logits.log_probabilities(),
            "unrounded": state.logits.expected_sizes(), "choice": last.choice,
        }  # fmt: skip
        return Solution(
            Status.FEASIBLE if good else Status.FAILED, last.choice if good else None, value if good else math.inf,
            solver=self.name, trace=run.trace, stats=stats, message=message,
        )  # fmt: skip


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


class _Frozen:
    """Masks alone: the distillation is the loss at the hard point, its gradient passed straight through."""

    def __init__(self, problem: RelaxedMask) -> None:
        if problem.relaxed_loss is None:
            raise ValueError("problem.relaxed_loss: None given; the solver descends a differentiable loss")
        self.sample = problem.relaxed_loss

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


class _State:
    """Logits, trainee and history between steps."""

    def __init__(self, solver: S2H, problem: RelaxedMask, seed: int) -> None:
        self.solver, self.problem, self.seed = solver, problem, seed
        trainee = problem.trainee if isinstance(problem, TrainedMask) else None
        self.trainee = _Frozen(problem) if trainee is None else trainee
        self.logits = solver.logits(problem)
        exact = solver.rounding == "exact" and trainee is not None
        exact = exact and isinstance(problem, TrainedMask) and problem.costs is not None
        self.settling = solver.steps - int(solver.settle * solver.steps) if exact else solver.steps
        self.step, self.settled = 0, None  # type: int, Rounded | None
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

    def _path(self) -> Path | None:
        return None if self.solver.folder is None else Path(self.solver.folder) / FILE

    def _identity(self) -> str:
        costs = self.problem.costs if isinstance(self.problem, TrainedMask) else None
        limits = () if costs is None else (costs.cost, costs.pair_cost, np.array(costs.budget))
        return identity(self.solver, self.seed, self.problem, (*self.problem.tables, *limits))

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        path = self._path()
        if path is None:
            return
        from safetensors.torch import save_file

        tensors = self.logits.state()
        tensors |= {f"trainee.{k}": v for k, v in self.trainee.state().items()}
        chosen = (
            None
            if self.settled is None
            else [[k.tolist() for k in self.settled.choice], self.settled.how, self.settled.stretch]
        )
        numbers = {"step": self.step, "settled": chosen, "window": self.window, "history": self.history}
        with write_atomically(path) as temporary:
            ready = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
            save_file(ready, temporary, metadata={"problem": self._identity(), "numbers": json.dumps(numbers)})

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one; ValueError if it is of something else."""
        path = self._path()
        if path is None or not path.exists():
            return
        meta, tensors = read_checkpoint(path, self._identity())
        numbers = json.loads(meta["numbers"])
        self.logits.restore(tensors)
        self.trainee.restore({k.removeprefix("trainee."): v for k, v in tensors.items() if k.startswith("trainee.")})
        self.step, self.window, self.history = numbers["step"], numbers["window"], numbers["history"]
        if numbers["settled"] is not None:
            choice, how, stretch = numbers["settled"]
            self.settled = Rounded(tuple(np.array(k, np.int64) for k in choice), how, stretch)

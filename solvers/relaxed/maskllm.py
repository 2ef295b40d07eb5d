"""MaskLLM: a distribution over the candidates of every group, learned through Gumbel-softmax samples of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import Shown, one_of, require, whole_number
from prunopt.forms.relaxed.relaxed_mask import Choices, RelaxedMask
from prunopt.solvers.relaxed._inclusion import CHUNK, inclusion_in_chunks
from prunopt.solvers.relaxed._training import Training

if TYPE_CHECKING:
    from torch import Tensor

NOISES = ("gumbel", "antithetic", "none", "expected")
LOGITS = ("candidate", "entry")
MOMENTS = ("exp_avg", "exp_avg_sq")
PAPER_STEPS = 2000


@dataclass(frozen=True)
class MaskLLM(Solver[RelaxedMask]):
    r"""Learn the choices of a `RelaxedMask` by gradient descent on sampled relaxations.

    Every group has logits :math:`\pi \in \mathbb{R}^C`. A step t of T draws Gumbel noise g and descends

    .. math::
        L\bigl(p A\bigr) - \lambda (1 - t/T) \sum e \, (pA)^2, \qquad
        p = \operatorname{softmax}\Bigl(\frac{\kappa_t \pi + g}{\tau_t}\Bigr)

    with e the problem's energy; :math:`\kappa` and :math:`\tau` are linear in t. The answer is :math:`\arg\max \pi`.
    A prior mask m moves the start by :math:`\alpha \, \sigma(\pi) \, (\langle m, a_c \rangle - \operatorname{mean}_c)`:
    for N:M masks the mean overlap is :math:`N^2 / M`.

    A heuristic: the solution has no bound.

    Parameters
    ----------
    steps
        T.
    learning_rate
        Of AdamW at the start; it falls along a cosine to a tenth. None: 1 / steps, which is the paper's 5e-4 for its
        2,000 steps, so that logits travel as far in fewer steps.
    kappa, tau
        Values at the first and the last step.
    prior_strength
        :math:`\alpha`; 0 starts from noise alone.
    regulariser
        :math:`\lambda`.
    spread
        Standard deviation of the logits at the start.
    accumulate
        Batches averaged in a step.
    noise
        ``"gumbel"``; ``"antithetic"``: the average over u and 1 - u of the uniform numbers behind the noise, two
        evaluations a step; ``"none"``: the mean of the distribution, the exact expectation where L is linear in Z;
        ``"expected"``: the problem's ``expected_loss``, the exact expectation over independent choices with
        :math:`p = \operatorname{softmax}(\kappa_t \pi)`: no variance, and tau plays no part.
    straight_through
        Evaluate L at the nearest candidate, and pass the gradient on to p.
    logits
        ``"candidate"``: one for each candidate. ``"entry"``: one for each entry of a group, for candidates that are
        all the ways to keep N of M: the relaxation is the inclusion probabilities of the distribution
        :math:`P(a) \propto \exp \langle a, \theta \rangle` at perturbed :math:`\theta`, and memory grows with M, not
        with binomial(M, N).
    check
        Evaluate the problem's objective at argmax every this many steps, and answer with the best seen; None: at
        the start and the end only.
    check_samples
        A check evaluates the candidates that the step's noise made the most probable too: for small problems, where
        an objective costs little, the noise is a search of its own.
    device
        Where logits live and noise is drawn; a device has a random sequence of its own.
    folder, every
        A checkpoint is written there every ``every`` steps. A run that finds one of the same problem, options and seed
        resumes from it and ends with the same bits; one of another is refused.

    References
    ----------
    .. [1] G. Fang et al., "MaskLLM: learnable semi-structured sparsity for large language models", NeurIPS 2024.
    """

    name: ClassVar[str] = "maskllm"
    form: ClassVar[type] = RelaxedMask
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    reference: ClassVar[str] = "Fang et al., NeurIPS 2024"

    steps: int = PAPER_STEPS
    learning_rate: float | None = None
    kappa: tuple[float, float] = (1e2, 5e2)
    tau: tuple[float, float] = (4.0, 0.05)
    prior_strength: float = 3.0
    regulariser: float = 1e-5
    spread: float = 0.01
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    noise: str = "gumbel"
    straight_through: bool = False
    logits: str = "candidate"
    check: int | None = None
    check_samples: bool = False
    device: str = "cpu"
    folder: str | None = field(default=None, compare=False)
    every: int = field(default=100, compare=False)

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "every"):
            whole_number(name, getattr(self, name), low=1)
        one_of("noise", self.noise, NOISES)
        one_of("logits", self.logits, LOGITS)
        require(min(self.kappa) > 0, "kappa", "hold numbers > 0", self.kappa)
        require(min(self.tau) > 0, "tau", "hold numbers > 0", self.tau)
        plain = self.logits == "candidate" and not self.straight_through
        require(plain or self.noise != "expected", "noise", "be a random one with these options", self.noise)
        alone = self.logits == "candidate" or not self.straight_through
        require(alone, "straight_through", "be False for logits='entry'", self.straight_through)

    def memory(self, problem: RelaxedMask) -> int:
        """Return the bytes that logits, their gradients, Adam's two moments and a step's samples take.

        For N:M masks that is 4 (8 C + 2 M) bytes per block with C logits for candidates, 56 per weight for 2:4; with
        logits for entries 52 M bytes per block, 52 per weight for any pattern, and the recursions of a chunk of 16,384
        blocks. The model's own training memory comes on top.
        """
        total = 0
        for g, a in zip(problem.groups, problem.tables, strict=True):
            n_candidates, entries = a.shape
            if self.logits == "entry":
                total += 4 * g * 13 * entries
            else:
                total += 4 * g * (8 * n_candidates + 2 * entries)
        if self.logits == "entry":
            chunks = (
                (min(g, CHUNK), a.shape[1], int(a[0].sum()))
                for g, a in zip(problem.groups, problem.tables, strict=True)
            )
            total += max(4 * g * 18 * m * (n + 1) for g, m, n in chunks)
        return total

    def solve(self, problem: RelaxedMask, limits: Limits, seed: int) -> Solution[Choices]:
        """Return the most probable choices after the last step, or the best that a check has seen."""
        run, state = Run(limits), _Sampling(self, problem, seed)
        state.resume()
        if state.best is None:
            state.look(run)

        def check() -> None:
            if self.check and state.step % self.check == 0 and state.step < self.steps:
                state.look(run, self.check_samples)

        stopped = state.train(run, check)
        state.look(run)
        choice, value = state.best_choice()
        status = Status.FEASIBLE if math.isfinite(value) else Status.FAILED
        how = f"{state.step} of {self.steps} steps" + (f": {stopped}" if stopped else "")
        stats = {k: getattr(state, k) for k in ("final", "best_step", "history")}
        stats |= {"steps": state.step, "stopped": stopped, "memory_bytes": self.memory(problem)}
        message = f"learned for {how}; a heuristic, no bound"
        found = choice if status is Status.FEASIBLE else None
        return Solution(status, found, value, solver=self.name, trace=run.trace, stats=stats, message=message)


class _Sampling(Training):
    """Logits and their optimizer between steps. Noise is drawn from (seed, step): a resumed run sees the same."""

    file: ClassVar[str] = "maskllm.safetensors"
    solver: MaskLLM
    problem: RelaxedMask

    def __init__(self, solver: MaskLLM, problem: RelaxedMask, seed: int) -> None:
        import torch

        needed = "expected_loss" if solver.noise == "expected" else "relaxed_loss"
        self.sample: Any = getattr(problem, needed)
        require(self.sample is not None, f"problem.{needed}", f"be a function for noise={solver.noise!r}", None)
        super().__init__(solver, problem, seed)
        self.torch = torch
        self.drawn: Choices | None = None
        self.tables = [torch.from_numpy(a.astype(np.float32)).to(solver.device) for a in problem.tables]
        self.energy = None
        if problem.energy is not None:
            self.energy = [torch.from_numpy(np.asarray(e, np.float32)).to(solver.device) for e in problem.energy]
        draw = np.random.default_rng([seed, 1])
        self.logits: list[Tensor] = []
        for t, (g, a) in enumerate(zip(problem.groups, problem.tables, strict=True)):
            entries = solver.logits == "entry"
            if entries:
                _check_subsets(t, a)
            start = draw.normal(0.0, solver.spread, (g, a.shape[1] if entries else len(a)))
            if problem.prior is not None:
                prior = np.asarray(problem.prior[t])
                overlap = prior if entries else prior @ a.T
                start += solver.prior_strength * start.std() * (overlap - overlap.mean(axis=1, keepdims=True))
            self.logits.append(torch.from_numpy(start.astype(np.float32)).to(solver.device).requires_grad_())
        self.rate = 1.0 / solver.steps if solver.learning_rate is None else solver.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.logits, lr=self.rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=solver.weight_decay
        )
        self.start = self.choice()
        self.final, self.best_step = math.nan, 0
        self.best: tuple[Choices, float] | None = None
        self.history: list[dict[str, float]] = []

    def choice(self) -> Choices:
        """Return the most probable candidates."""
        tables = [z.detach().cpu().numpy() for z in self.logits]
        if self.solver.logits == "entry":
            return self.problem.nearest(tables)
        return tuple(np.argmax(z, axis=1).astype(np.int64) for z in tables)

    def look(self, run: Run, samples: bool = False) -> None:
        """Evaluate the problem's objective at the most probable candidates, and at those of the last noise if asked."""
        if samples and self.drawn is not None:
            self._judge(self.drawn, run)
        self.final = self._judge(self.choice(), run)

    def _judge(self, choice: Choices, run: Run) -> float:
        if self.best is not None and all(np.array_equal(a, b) for a, b in zip(choice, self.best[0], strict=True)):
            return self.best[1]
        value = self.problem.objective(choice)
        if self.best is None or value < self.best[1] or math.isnan(self.best[1]):
            self.best, self.best_step = (choice, value), self.step
        if math.isfinite(value):
            run.report(value)
        return value

    def best_choice(self) -> tuple[Choices, float]:
        """Return the best choice evaluated so far and its loss."""
        return self.best if self.best is not None else (self.choice(), math.nan)

    def advance(self) -> str:
        """Take one step; return why it was not taken, with everything as it was, or an empty string."""
        torch, solver = self.torch, self.solver
        share = self.step / max(1, solver.steps - 1)
        kappa = solver.kappa[0] + share * (solver.kappa[1] - solver.kappa[0])
        tau = solver.tau[0] + share * (solver.tau[1] - solver.tau[0])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
        drawn = np.random.SeedSequence([self.seed, 2, self.step]).generate_state(1)
        generator = torch.Generator(solver.device).manual_seed(int(drawn[0]))
        uniform = [torch.rand(z.shape, generator=generator, device=solver.device) for z in self.logits]
        draws = [uniform] if solver.noise != "antithetic" else [uniform, [1 - u for u in uniform]]
        self.optimizer.zero_grad(set_to_none=True)
        total, n = 0.0, len(draws) * solver.accumulate
        for draw in draws:
            points = self._points(draw, kappa, tau)
            if solver.check_samples:
                self.drawn = self._nearest(points)
            # The graph behind the points is walked once, however many batches there are.
            leaves = [z.detach().requires_grad_() for z in points]
            for k in range(solver.accumulate):
                loss = self.sample(leaves, self.step * solver.accumulate + k) / n
                loss.backward()
                total += float(loss.detach())
            gradients = [torch.zeros_like(z) if z.grad is None else z.grad for z in leaves]
            if self.energy is not None and solver.regulariser:
                weight = 2 * solver.regulariser * (1 - self.step / solver.steps) / len(draws)
                for gradient, e, z, a in zip(gradients, self.energy, leaves, self.tables, strict=True):
                    # The expectation of sum e z^2 over choices is linear in their probabilities.
                    gradient -= weight * (e @ (a * a).T / 2 if solver.noise == "expected" else e * z.detach())
            torch.autograd.backward(points, gradients)
        if not math.isfinite(total) or any(not torch.isfinite(z.grad).all() for z in self.logits if z.grad is not None):
            return f"the loss is {total} or its gradient not finite at step {self.step}; the state before it is kept"
        torch.nn.utils.clip_grad_norm_(self.logits, solver.clip)
        self.optimizer.step()
        self.step += 1
        if self.step % max(1, solver.steps // 50) == 0 or self.step == solver.steps:
            now = self.choice()
            changed = sum(int((a != b).sum()) for a, b in zip(now, self.start, strict=True)) / self.problem.n_groups
            row = {"step": self.step, "loss": total, "kappa": kappa, "tau": tau, "changed": changed}
            self.history.append(row)
        return ""

    def _points(self, uniform: Sequence[Tensor], kappa: float, tau: float) -> list[Tensor]:
        torch, out = self.torch, []
        if self.solver.noise == "expected":
            return [torch.softmax(kappa * z, dim=1) for z in self.logits]
        for z, a, u in zip(self.logits, self.tables, uniform, strict=True):
            score = kappa * z
            if self.solver.noise != "none":
                score = score - torch.log(-torch.log(u.clamp(1e-10, 1 - 1e-7)))
            if self.solver.logits == "entry":
                out.append(inclusion_in_chunks(score / tau, round(float(a[0].sum()))))
                continue
            p = torch.softmax(score / tau, dim=1)
            if self.solver.straight_through:
                hard = torch.zeros_like(p).scatter_(1, p.argmax(dim=1, keepdim=True), 1.0)
                p = hard + p - p.detach()
            out.append(p @ a)
        return out

    def _nearest(self, points: Sequence[Tensor]) -> Choices:
        """Return the candidates nearest to a sample, (G, M) points or, of an expectation, (G, C) probabilities."""
        arrays = [z.detach().cpu().numpy() for z in points]
        if self.solver.noise == "expected":
            return tuple(np.argmax(z, axis=1).astype(np.int64) for z in arrays)
        return self.problem.nearest(arrays)

    def arrays(self) -> Iterable[Any]:
        """Return tables, prior and energy."""
        return (*self.problem.tables, *(self.problem.prior or ()), *(self.problem.energy or ()))

    def tensors(self) -> dict[str, Tensor]:
        """Return logits, Adam's moments, the first and the best choice."""
        best, _ = self.best_choice()
        found: dict[str, Tensor] = {}
        for t, z in enumerate(self.logits):
            found |= {f"logits.{t}": z, f"start.{t}": self.torch.from_numpy(self.start[t])}
            found |= {f"best.{t}": self.torch.from_numpy(best[t])}
            found |= {f"{k}.{t}": self.optimizer.state[z][k] for k in MOMENTS}
        return found

    def record(self) -> dict[str, Any]:
        """Return the step, what is best so far, and the history."""
        numbers = {"step": self.step, "best": self.best_choice()[1], "best_step": self.best_step, "final": self.final}
        return numbers | {"history": self.history}

    def restore(self, record: Any, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a checkpoint."""
        for t, z in enumerate(self.logits):
            z.data.copy_(tensors[f"logits.{t}"])
        n, taken = range(len(self.logits)), self.torch.tensor(float(record["step"]))
        moments = {t: {k: tensors[f"{k}.{t}"] for k in MOMENTS} | {"step": taken.clone()} for t in n}
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.start = tuple(tensors[f"start.{t}"].numpy() for t in n)
        self.best = tuple(tensors[f"best.{t}"].numpy() for t in n), float(record["best"])
        self.step, self.best_step, self.final = record["step"], record["best_step"], float(record["final"])
        self.history = record["history"]


def _check_subsets(t: int, table: Floats) -> None:
    """Refuse a list of candidates that is not every subset of a size."""
    size = int(table[0].sum())
    whole = len(table) == math.comb(table.shape[1], size) == len(np.unique(table, axis=0))
    whole = whole and bool(np.isin(table, (0, 1)).all() and (table.sum(axis=1) == size).all())
    must = "be 'candidate' unless every table of candidates is every way to keep N of M"
    require(whole, "logits", must, Shown(f"'entry' with table {t}"))

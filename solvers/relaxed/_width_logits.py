"""Logits of a choice per group: soft points, hard choices, and how gradients of task, distillation and budget mix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.relaxed_mask import Choices

if TYPE_CHECKING:
    from torch import Tensor


def is_nested(table: Floats) -> bool:
    """Whether the rows are widths: 1..1 0..0, the wider the later."""
    sums = table.sum(axis=1).astype(int)
    steps = np.arange(table.shape[1])
    return bool(np.all(np.diff(sums) > 0) and np.array_equal(table, (steps[None, :] < sums[:, None]).astype(float)))


@dataclass(frozen=True)
class Mixture:
    """How `WidthLogits` step: the options of `S2H` of these names."""

    temperature: float
    learning_rate: float
    momentum: float
    tolerance: float
    scale: float
    distillation_scale: float
    anneal: float
    relative: bool
    project: bool


class WidthLogits:
    r"""Logits u per group, :math:`p = \operatorname{softmax}(u / T)`, soft point :math:`p A`.

    For widths (rows of A are 1..1 0..0) the hard choice is the least width that is no less than the expected one,
    :math:`\hat c = \sum_k p_k c_k`; for other tables it is the most probable row. Widths start at the greatest: its
    probability is 1 - d / C with d the step between the two greatest widths C; other tables start even.
    """

    def __init__(
        self, groups: Sequence[int], tables: Sequence[Floats], costs: CoupledKnapsack | None, mixture: Mixture
    ) -> None:
        import torch

        self.torch, self.groups, self.costs, self.mixture = torch, list(groups), costs, mixture
        self.tables = [torch.from_numpy(np.asarray(a, np.float32)) for a in tables]
        self.nested = [is_nested(np.asarray(a)) for a in tables]
        self.sizes = [a.sum(dim=1) for a in self.tables]
        self.logits: list[Tensor] = []
        for n, a, nested, sizes in zip(self.groups, self.tables, self.nested, self.sizes, strict=True):
            u = torch.zeros(n, len(a))
            if nested and len(a) > 1:
                t = float(sizes[-2] / sizes[-1])
                u[:, -1] = mixture.temperature * math.log((len(a) - 1) * t / (1 - t))
            self.logits.append(u)
        self.velocity = [torch.zeros_like(u) for u in self.logits]
        self.costing = None if costs is None else _Costs(costs, self.groups, [len(a) for a in self.tables])

    def probabilities(self) -> list[Tensor]:
        """Return p of every table, (G_t, C_t)."""
        return [self.torch.softmax(u / self.mixture.temperature, dim=1) for u in self.logits]

    def soft(self) -> list[Tensor]:
        """Return the soft points, (G_t, M_t)."""
        return [p @ a for p, a in zip(self.probabilities(), self.tables, strict=True)]

    def choice(self) -> Choices:
        """Return the hard choice."""
        out = []
        for p, nested, sizes in zip(self.probabilities(), self.nested, self.sizes, strict=True):
            if nested:
                wanted = (p @ sizes).clamp(max=float(sizes[-1]))
                row = self.torch.searchsorted(sizes.contiguous(), (wanted - 1e-4).contiguous())
                out.append(row.clamp(max=len(sizes) - 1).numpy().astype(np.int64))
            else:
                out.append(p.argmax(dim=1).numpy().astype(np.int64))
        return tuple(out)

    def points(self, choice: Choices) -> list[Tensor]:
        """Return the hard points of a choice."""
        return [a[self.torch.from_numpy(k)] for a, k in zip(self.tables, choice, strict=True)]

    def expected_cost(self) -> float:
        """Return the expected cost as a share of the budget; NaN without a budget."""
        if self.costing is None or self.costs is None:
            return math.nan
        return float(self.costing(self.probabilities())) / self.costs.budget

    def log_probabilities(self) -> list[Floats]:
        """Return log p of every group, in order."""
        rows = [self.torch.log_softmax(u.double() / self.mixture.temperature, dim=1).numpy() for u in self.logits]
        return [row for table in rows for row in table]

    def expected_sizes(self) -> list[float]:
        """Return the expected number of ones of every group, in order."""
        return [float(c) for p, s in zip(self.probabilities(), self.sizes, strict=True) for c in p @ s]

    def budget_at(self, share: float | None) -> float:
        """Return the budget when so much of the training is over: from the dense cost down to the budget."""
        assert self.costs is not None
        assert self.costing is not None
        gone = min(1.0, share / self.mixture.anneal) if share is not None and self.mixture.anneal > 0 else 1.0
        dense = self.costing.dense
        return float(dense * (self.costs.budget / dense) ** gone) if self.costs.budget < dense else self.costs.budget

    def update(self, task: Sequence[Tensor], distillation: Sequence[Tensor], share: float | None) -> dict[str, float]:
        r"""Take one step with gradients in the points; return the norms before they were mixed.

        The distillation's gradient is brought to ``distillation_scale`` times the norm of the task's. With
        :math:`\delta` the expected cost beyond the budget as a share of the dense cost and
        :math:`y = \min(\delta^2 / \mathrm{tolerance}^2, 1)`, the norms of (task and distillation) and of the budget
        are brought to the ratio scale / y: beyond the tolerance the budget pulls in full, at the budget not at all.
        With ``project`` the share y of what the former has against the budget's pull is taken out of it: beyond the
        tolerance task and distillation say where to narrow, and not whether.
        The mixture's norm is that of one unit vector per group, so that the rate alone says how far a step goes.
        """
        torch = self.torch
        p = [q.requires_grad_() for q in self.probabilities()]
        metric = self._metric(p)
        first, second = (
            [
                f * self._in_logits(q.detach(), g.detach().float().cpu() @ a.T)
                for f, q, g, a in zip(metric, p, part, self.tables, strict=True)
            ]
            for part in (task, distillation)
        )
        norms = {"task": _norm(first), "distillation": _norm(second), "budget": 0.0}
        factor = self.mixture.distillation_scale
        if norms["task"] > 0 and norms["distillation"] > 0:
            factor *= norms["task"] / norms["distillation"]
        wanted = [a + factor * b for a, b in zip(first, second, strict=True)]
        weight, pull, pulls = _norm(wanted), 0.0, [torch.zeros_like(u) for u in self.logits]
        if self.costing is not None and self.costs is not None:
            beyond = (self.costing(p) - self.budget_at(share)) / self.costing.dense
            if float(beyond.detach()) != 0.0:
                found = torch.autograd.grad(beyond**2, p)
                pulls = [f * self._in_logits(q.detach(), g) for f, q, g in zip(metric, p, found, strict=True)]
                if self.mixture.relative and share is not None and share < self.mixture.anneal:
                    pulls = self._evenly(p, pulls, float(beyond.detach()))
            pull = min((float(beyond.detach()) / self.mixture.tolerance) ** 2, 1.0)
            norms["budget"] = _norm(pulls)
        if self.mixture.project and pull and norms["budget"]:
            along = sum(float((x * y).sum()) for x, y in zip(wanted, pulls, strict=True)) / norms["budget"] ** 2
            if along < 0:  # the task wants what the budget forbids
                wanted = [x - pull * along * y for x, y in zip(wanted, pulls, strict=True)]
        total = self.mixture.scale + pull if pull and norms["budget"] else self.mixture.scale
        size = math.sqrt(sum(self.groups))
        a = self.mixture.scale / total * size / weight if weight else 0.0
        b = pull / total * size / norms["budget"] if norms["budget"] else 0.0
        rate = self.mixture.learning_rate * 0.5 * (1 + math.cos(math.pi * (share or 0.0)))
        for u, v, x, y in zip(self.logits, self.velocity, wanted, pulls, strict=True):
            v.mul_(self.mixture.momentum).add_(a * x + b * y)
            u.sub_(rate * v)
            u.sub_(u.mean(dim=1, keepdim=True))  # a shift of all logits changes nothing: the least 2-norm
        return norms

    def _in_logits(self, q: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient in the logits of one in the probabilities."""
        return q * (gradient - (q * gradient).sum(dim=1, keepdim=True)) / self.mixture.temperature

    def _evenly(self, p: Sequence[Tensor], pulls: list[Tensor], beyond: float) -> list[Tensor]:
        """Return the budget's pull while it falls: all log widths alike; tables that are not widths keep theirs."""
        out = []
        for q, nested, sizes, pull in zip(p, self.nested, self.sizes, pulls, strict=True):
            mean, slope, square = self._widths(q.detach(), sizes)
            out.append(math.copysign(1.0, beyond) * (mean * slope / square) if nested else pull)
        return out

    def _widths(self, q: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return :math:`\hat c`, its gradient g in u, and :math:`\|g\|^2 + (0.05 \hat c)^2`."""
        mean = (q @ sizes)[:, None]
        slope = q * (sizes[None, :] - mean) / self.mixture.temperature
        return mean, slope, (slope**2).sum(1, keepdim=True) + (0.05 * mean) ** 2

    def _metric(self, p: Sequence[Tensor]) -> list[Tensor]:
        r"""Return the factor of each group's gradients, (G_t, 1): steps are compared by the change of log widths.

        :math:`\hat c^2 / (\|\partial \hat c / \partial u\|^2 + (0.05 \hat c)^2)`; 1 where rows are not widths. In
        the plain metric of u the budget takes most from the groups with the greatest share of the cost, and these stay
        bottlenecks: the weights behind a closed gate do not learn.
        """
        if not self.mixture.relative:
            return [q.new_ones(len(q), 1) for q in p]
        out = []
        for q, nested, sizes in zip(p, self.nested, self.sizes, strict=True):
            mean, _, square = self._widths(q.detach(), sizes)
            factor = mean**2 / square
            out.append(factor if nested else self.torch.ones_like(factor))
        return out

    def state(self) -> dict[str, Tensor]:
        """Return logits and velocities by name."""
        named = {f"logits.{t}": u for t, u in enumerate(self.logits)}
        return named | {f"velocity.{t}": v for t, v in enumerate(self.velocity)}

    def restore(self, state: Any) -> None:
        """Go back to a state."""
        for t in range(len(self.logits)):
            self.logits[t] = state[f"logits.{t}"].clone()
            self.velocity[t] = state[f"velocity.{t}"].clone()


class _Costs:
    """The expected cost, differentiable in the probabilities."""

    def __init__(self, costs: CoupledKnapsack, groups: Sequence[int], options: Sequence[int]) -> None:
        import torch

        self.spans = [(t, g, options[t]) for t, n in enumerate(groups) for g in range(n)]
        n = len(self.spans)
        self.single = [torch.from_numpy(costs.cost[i, :k].astype(np.float32)) for i, (_, _, k) in enumerate(self.spans)]
        self.constant = float(costs.cost[n:, 0].sum())
        self.pairs = []
        for (i, j), table in zip(costs.edges.tolist(), costs.pair_cost, strict=True):
            rows = self.spans[i][2] if i < n else 1
            columns = self.spans[j][2] if j < n else 1
            self.pairs.append((i, j, torch.from_numpy(table[:rows, :columns].astype(np.float32))))
        last = np.concatenate([[k - 1 for _, _, k in self.spans], np.zeros(costs.n_groups - n)]).astype(np.int64)
        self.dense = costs.used(last)
        self.one = torch.ones(1)

    def __call__(self, p: Sequence[Tensor]) -> Any:
        rows = [p[t][g] for t, g, _ in self.spans]
        total: Any = self.constant
        for row, cost in zip(rows, self.single, strict=True):
            total = total + row @ cost
        for i, j, table in self.pairs:
            left = rows[i] if i < len(rows) else self.one
            total = total + left @ table @ (rows[j] if j < len(rows) else self.one)
        return total


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((t.double() ** 2).sum()) for t in tensors))

"""A library of alternatives: what each block of a transformer may become, with its loss and its costs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Floats, Ints
from prunopt.core.budget import Budget, Budgets, BudgetUse
from prunopt.core.files import read_json
from prunopt.core.solver import Limits
from prunopt.forms import MultipleChoiceKnapsack

if TYPE_CHECKING:
    from prunopt.networks.transformers.alternative_files import AlternativeFiles

RESOURCES = ("parameters", "memory", "kv_cache", "latency_ms", "decode_ms")  # that budgets may name
GRANULARITY = ("blocks", "attention", "mlp", "heads", "ffn")  # what may be removed
TIMES = ("latency_ms", "decode_ms")
NANO = 1e6  # nanoseconds of a millisecond: costs of the knapsack are whole numbers
FORMAT = "prunopt-alternatives-1"
TENSORS, RECORD = "alternatives.safetensors", "alternatives.json"


@dataclass(frozen=True, eq=False)
class Chosen:
    """One alternative for each block, within the budgets.

    Parameters
    ----------
    levels, groups, neurons : (blocks,) int
        The alternative, and the key-value groups and neurons that it keeps; a block without either is dropped.
    budgets
        What is used of each.
    loss, bound, gap
        The sum of losses, and how near to the least it is proven to be.
    """

    levels: Ints
    groups: Ints
    neurons: Ints
    budgets: tuple[BudgetUse, ...]
    loss: float
    bound: float
    gap: float


@dataclass(frozen=True, eq=False)
class Alternatives:
    r"""What each block may become: how many key-value groups and neurons stay, none of either being a dropped block.

    The first alternative of every block is the block as it is. Losses of different blocks are added up: each was
    measured with all other blocks as they are.

    Parameters
    ----------
    groups, neurons : (blocks, alternatives) int
        What stays; -1 where a block has fewer alternatives.
    loss : (blocks, alternatives) float
        KL(dense || model) in nats per token; infinite where there is no alternative.
    costs
        From names of resources to (blocks, alternatives): ``parameters``, ``memory`` (bytes of weights), ``kv_cache``
        (bytes per token), ``latency_ms`` (a pass over a window), ``decode_ms`` (a pass over one token).
    base
        What the rest of the model costs: embeddings, norms, the head.
    about
        How it was measured.
    files
        Where the projections that were re-solved are kept; None: nowhere.
    """

    groups: Ints
    neurons: Ints
    loss: Floats
    costs: dict[str, Floats]
    base: dict[str, float]
    about: dict[str, Any]
    files: AlternativeFiles | None = None

    def restricted(self, granularity: Sequence[str]) -> Alternatives:
        """Return the library without what removes other things than these: blocks, attention, mlp, heads, ffn."""
        for name in granularity:
            validate.one_of("granularity", name, GRANULARITY)
        a, f = self.groups, self.neurons
        gone = (a == 0) & (f == 0)
        kinds = {
            "blocks": gone, "attention": (a == 0) & (a[:, :1] > 0) & ~gone, "mlp": (f == 0) & (f[:, :1] > 0) & ~gone,
            "heads": (a > 0) & (a < a[:, :1]), "ffn": (f > 0) & (f < f[:, :1]),
        }  # fmt: skip
        barred = np.zeros(a.shape, np.bool_)
        for name in set(GRANULARITY) - set(granularity):
            barred |= kinds[name]
        about = self.about | {"granularity": [g for g in self.about["granularity"] if g in granularity]}
        return replace(self, loss=np.where(barred, np.inf, self.loss), about=about)

    def total(self, resource: str) -> float:
        """Return what the unpruned model costs."""
        return self.base[resource] + float(self.costs[resource][:, 0].sum())

    def limits(self, budgets: Budgets) -> dict[str, float]:
        """Return the tightest limit of each resource that budgets name."""
        out: dict[str, float] = {}
        for budget in Budget.several(budgets, RESOURCES):
            mend = "measure it: measure_alternatives(resources=)"
            validate.one_of("resource of the budget", budget.resource, list(self.costs), mend)
            allowed = budget.allowed(self.total(budget.resource))
            out[budget.resource] = min(allowed, out.get(budget.resource, math.inf))
        return out

    def form(self, limits: dict[str, float]) -> MultipleChoiceKnapsack:
        """Return the knapsack: the blocks, and as a last group the rest of the model; times in nanoseconds."""
        rest = np.full((1, self.loss.shape[1]), np.inf)
        rest[0, 0] = 0.0
        costs, whole = {}, {}
        for name, limit in limits.items():
            unit, label = (NANO, name.replace("_ms", "_ns")) if name in TIMES else (1.0, name)
            rows = np.vstack([self.costs[name], np.full((1, self.loss.shape[1]), self.base[name])])
            costs[label] = np.ceil(np.round(rows * unit, 6)).astype(np.int64)
            whole[label] = math.floor(limit * unit)
        return MultipleChoiceKnapsack(np.vstack([self.loss, rest]), costs, whole)

    def choose(
        self, budgets: Budgets, *, factors: Any = 1.0, seconds: float | None = 60.0, gap: float = 1e-9
    ) -> Chosen:
        """Return the alternatives of least total loss within budgets.

        Parameters
        ----------
        budgets
            ``po.Budget("memory", share=0.6)``, ``"latency_ms=0.7x"``, or several in one text.
        factors : float, or (blocks, alternatives) float
            What losses are multiplied with before the choice; > 0.
        seconds
            For the search; what is not proven by then is the best so far, with its gap.
        gap
            That is small enough.

        Raises
        ------
        SolveError
            If nothing fits: names the resource in the way, and the nearest feasible request.
        """
        limits = self.limits(budgets)
        weighted = replace(self, loss=self.loss * validate.floats("factors", factors, low=0.0))
        answer = solve(weighted.form(limits), limits=Limits(seconds=seconds, gap=gap))
        levels = np.asarray(answer.value)[:-1]
        rows = np.arange(len(levels))
        prices = np.atleast_1d(answer.stats["penalties"] if "penalties" in answer.stats else answer.duals["penalty"])
        uses = []
        for (name, limit), price in zip(limits.items(), prices.tolist(), strict=True):
            used = self.base[name] + float(self.costs[name][rows, levels].sum())
            uses.append(BudgetUse(name, limit, self.total(name), used, price * (NANO if name in TIMES else 1.0)))
        kept = self.groups[rows, levels], self.neurons[rows, levels]
        return Chosen(levels, *kept, tuple(uses), answer.objective, answer.bound, answer.gap)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``alternatives.safetensors`` (the arrays) and ``alternatives.json`` (the rest) to a folder.

        Projections that are kept in files are copied there.
        """
        import torch

        from prunopt.core.files import write_json
        from prunopt.core.tensor_files import write_tensors

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        arrays = {"groups": self.groups, "neurons": self.neurons, "loss": self.loss}
        arrays |= {f"cost.{name}": table for name, table in self.costs.items()}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        write_tensors(place / TENSORS, tensors, {"format": FORMAT})
        if self.files is not None:
            self.files.copy_to(place)
        write_json(place / RECORD, {"format": FORMAT, "base": self.base, "about": self.about})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Alternatives:
        """Read what `save` wrote; ValueError says what is wrong with a file."""
        from prunopt.core.tensor_files import read_tensors
        from prunopt.networks.transformers.alternative_files import AlternativeFiles

        place, files = Path(folder), AlternativeFiles(folder)
        try:
            record = dict(read_json(place / RECORD))
            base = {str(k): float(v) for k, v in dict(record["base"]).items()}
            validate.one_of("format", record["format"], [FORMAT])
        except (OSError, ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise validate.invalid(str(place), f"hold {RECORD} as `save` wrote it", validate.Shown(error)) from None
        _, tensors = read_tensors(place / TENSORS, "measure the alternatives again")
        try:
            found = {name: tensor.numpy() for name, tensor in tensors.items()}
            costs = {name: found[f"cost.{name}"] for name in base}
            shape = found["loss"].shape
            validate.require(all(a.shape == shape for a in found.values()), str(place), "hold arrays alike", shape)
            kept = files if all(map(files.has, range(shape[0]))) else None
            return cls(found["groups"], found["neurons"], found["loss"], costs, base, dict(record["about"]), kept)
        except KeyError as error:
            raise validate.invalid(
                str(place / TENSORS), "hold all arrays", validate.Shown(f"none called {error}")
            ) from None

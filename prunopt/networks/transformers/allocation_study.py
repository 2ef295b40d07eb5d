"""Allocations of a transformer compared: every rule by its name, and a search on the model's own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prunopt.networks.transformers.allocation import named_allocation
from prunopt.problems.allocation.allocation_search import AllocationSearch
from prunopt.study.run import search
from prunopt.study.storages import hidden


@dataclass(frozen=True)
class SearchOptions:
    """How an allocation is searched.

    Parameters
    ----------
    storage
        Journal file or database; the same call resumes.
    trials
        In all, those of earlier calls among them.
    workers
        Processes.
    solver
        Of black boxes; None: the best one.
    space
        As of `AllocationSearch`.
    start
        The rule that ``space="levels"`` starts from.
    fidelity
        Fraction of the windows on which a trial may be stopped early; 1: none is.
    repair
        Set the torn last line of a journal aside.
    seed
        Same seed, same answer.
    launcher
        What starts the workers, as in `prunopt.search`.
    """

    storage: str
    trials: int = 200
    workers: int = 1
    solver: str | None = None
    space: str = "levels"
    start: str = "mckp"
    fidelity: float = 0.5
    repair: bool = False
    seed: int = 0
    launcher: str = "processes"


def study_sparsity(
    evaluator: Any,
    sparsity: float,
    rules: Sequence[str],
    options: SearchOptions,
    tell: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """Return the allocations of rules and of a search at one sparsity, and what each costs the model.

    Parameters
    ----------
    evaluator
        A `MaskedModel`, or what has its ``sizes``, ``blocks`` and ``loss``.
    rules
        Names of allocation rules.
    tell
        Called with what is being done.
    """
    rows: dict[str, Any] = {}
    for name in rules:
        tell(name)
        found = named_allocation(name, evaluator, sparsity)
        rows[name] = {"allocation": found, "loss": evaluator.loss(found)}
    more: dict[str, Any] = {}
    if options.space == "expressions":
        more["statistics"] = evaluator.blocks.samples
    if options.space == "levels":
        known = rows[options.start]["allocation"] if options.start in rows else None
        more["start"] = named_allocation(options.start, evaluator, sparsity) if known is None else known
    fidelities = (options.fidelity, 1.0) if options.fidelity < 1 else (1.0,)
    task = AllocationSearch(evaluator, evaluator.sizes, sparsity, options.space, fidelities=fidelities, **more)
    run = search(
        task,
        trials=options.trials,
        storage=options.storage,
        seed=options.seed,
        workers=options.workers,
        launcher=options.launcher,
        solver=options.solver,
        repair=options.repair,
        name=f"{options.space} {options.solver or 'default'} {sparsity:g}",
        callback=lambda outcome: tell(f"trial {outcome.number}"),
    )
    best = run.best
    rows["search"] = {"allocation": best.decision, "loss": best.value, "found": best.text}
    return {
        "sparsity": sparsity, "rows": rows, "search": run.name, "trials": len(run.finished),
        "evaluations": run.evaluations, "lost": run.lost, "seconds": run.seconds,
    }  # fmt: skip


def study_report(evaluator: Any, columns: list[dict[str, Any]], storage: str) -> dict[str, Any]:
    """Return what several sparsities of `study_sparsity` come to: the front, and the best allocation of the first."""
    sizes = evaluator.sizes
    points = [
        {"sparsity": c["sparsity"], "method": name, "loss": float(row["loss"]),
         "kept": float(sizes @ (1 - row["allocation"]))}
        for c in columns
        for name, row in c["rows"].items()
    ]  # fmt: skip
    front: list[dict[str, Any]] = []
    for p in sorted(points, key=lambda p: (round(p["kept"] / sizes.sum(), 6), p["loss"])):
        if not front or p["loss"] < front[-1]["loss"]:
            front.append(p)
    best = min(columns[0]["rows"].items(), key=lambda item: float(item[1]["loss"]))
    return {
        "model": evaluator.model, "measure": evaluator.measure, "dense": float(evaluator.loss([0.0] * len(sizes))),
        "weights": float(sizes.sum()), "storage": hidden(storage), "columns": columns, "front": front,
        "allocation": list(map(float, best[1]["allocation"])), "method": best[0],
    }  # fmt: skip

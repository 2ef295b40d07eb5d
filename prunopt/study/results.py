"""What a search has found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prunopt.core.validate import Shown, require, whole_number
from prunopt.solvers.blackbox._trials import LOST, NOTE, RETRY, SURPLUS, indices


@dataclass(frozen=True)
class SearchTrial:
    """One trial of a search.

    Parameters
    ----------
    number
        Its index: 0, 1, ... in the order of a single worker; a lost trial and its repetition share one.
    value
        The loss; None where there is none. A pruned trial has the loss of the fidelity at which it was given up.
    state
        ``"COMPLETE"``, ``"PRUNED"``, ``"RUNNING"``, ``"WAITING"`` or ``"FAIL"`` (a point without a decision).
    params
        The point.
    decision
        What the point decodes to: for an `AllocationSearch` the sparsity of every layer.
    text
        The point for people: the expression, where there is one.
    copy_of
        The storage's number of the trial whose decision this one shares; None if it was evaluated itself.
    seconds
        How long it took.
    """

    number: int
    value: float | None
    state: str
    params: Mapping[str, Any]
    decision: Any = None
    text: str = ""
    copy_of: int | None = None
    seconds: float = math.nan
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchRun:
    """A search as its storage has it.

    Parameters
    ----------
    trials
        Every trial once, by number; ``lost`` are those given up because their worker died (they were queued again).
    complete
        Whether as many trials are finished as were asked for.
    """

    trials: tuple[SearchTrial, ...]
    lost: int
    complete: bool
    name: str
    storage: str
    sizes: Any = None
    seconds: float = 0.0

    @property
    def finished(self) -> tuple[SearchTrial, ...]:
        """The trials that are complete or pruned."""
        return tuple(t for t in self.trials if t.state in ("COMPLETE", "PRUNED"))

    @property
    def evaluations(self) -> int:
        """How many decisions were evaluated: finished trials that are not copies."""
        return sum(t.copy_of is None for t in self.finished)

    @property
    def best(self) -> SearchTrial:
        """The complete trial of least loss, the first of equals."""
        return self._complete()[0]

    def _complete(self) -> list[SearchTrial]:
        """The complete trials, of which there is one at least, best first."""
        found = [t for t in self.trials if t.state == "COMPLETE" and t.value is not None]
        require(found, "trials", "hold a complete one", Shown("none"), "ask for more trials")
        return sorted(found, key=lambda t: (t.value, t.number))

    def chosen(self, evaluator: Any, top: int = 8) -> SearchTrial:
        """Return, of the ``top`` best decisions, the one of least loss by an evaluator that took no part in the search.

        The least of many noisy losses is partly luck, the more so the longer the search; on other text that luck does
        not come again.

        Parameters
        ----------
        evaluator
            ``evaluator.loss(decision)``, such as that of the task, on other data.
        top
            How many decisions are judged, >= 1.

        Returns
        -------
        SearchTrial
            With the loss by the evaluator under ``attributes["judged"]``.
        """
        own = [t for t in self._complete() if t.copy_of is None][: whole_number("top", top, low=1)]
        judged = [replace(t, attributes={**t.attributes, "judged": float(evaluator.loss(t.decision))}) for t in own]
        return min(judged, key=lambda t: t.attributes["judged"])

    def front(self) -> list[SearchTrial]:
        """Return the Pareto front of loss against size kept: the complete trials that no other beats in both.

        Without sizes (a black box of another kind) that is the best trial alone.
        """
        complete = [t for t in self.trials if t.state == "COMPLETE" and t.value is not None and t.copy_of is None]
        rows = sorted(complete, key=lambda t: (self.kept(t), t.value, t.number))
        found: list[SearchTrial] = []
        for t in rows:
            if not found or (t.value or 0.0) < (found[-1].value or 0.0):
                found.append(t)
        return found

    def kept(self, trial: SearchTrial) -> float:
        """Return the fraction of the whole that a trial keeps, to nine digits; 1 where there are no sizes."""
        if self.sizes is None or trial.decision is None:
            return 1.0
        return round(1.0 - float(self.sizes @ trial.decision / self.sizes.sum()), 9)


def read(study: Any, task: Any, box: Any, *, trials: int, place: str, seconds: float) -> SearchRun:
    """Read a search back from its study."""
    everyone = study.get_trials(deepcopy=False)
    rows, lost, seen = [], 0, set()
    for number, t in zip(indices(everyone), everyone, strict=True):
        if SURPLUS in t.user_attrs:
            continue
        if LOST in t.user_attrs:
            lost += 1
            continue
        if number in seen:
            continue
        seen.add(number)
        point = dict(t.params)
        whole = set(point) == {g.name for g in box.genes}
        decision = box.decode(point) if whole else None
        times = t.datetime_start, t.datetime_complete
        took = (times[1] - times[0]).total_seconds() if all(times) else math.nan
        attributes = {k: v for k, v in t.user_attrs.items() if k not in (NOTE, RETRY, "worker", "copy_of")}
        text = task.describe(point) if whole and hasattr(task, "describe") else ""
        about = (text, t.user_attrs.get("copy_of"), took, attributes)
        rows.append(SearchTrial(number, t.value, t.state.name, point, decision, *about))
    rows.sort(key=lambda r: r.number)
    done = sum(r.state in ("COMPLETE", "PRUNED") for r in rows)
    return SearchRun(tuple(rows), lost, done >= trials, study.study_name, place, getattr(task, "sizes", None), seconds)

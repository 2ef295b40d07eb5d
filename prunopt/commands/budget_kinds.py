"""``prunopt prune --budget``: several resources at once, or parts of several kinds, are chosen in one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunopt.core import validate
from prunopt.core.budget import Budget

if TYPE_CHECKING:
    from prunopt.networks.transformers.recipes import PruneOptions
    from prunopt.networks.transformers.result import PruneResult


def together(budget: Sequence[str] | None, granularity: str | None) -> list[Budget]:
    """Return the budgets if they need a choice among alternatives: not parameters alone, or a granularity is given."""
    if not budget:
        mend = "give --budget parameters=0.8 with it"
        validate.require(granularity is None, "--granularity", "come with a budget", granularity, mend)
        return []
    from prunopt.networks.transformers.alternatives import GRANULARITY, RESOURCES

    for part in _parts(granularity):
        validate.one_of("--granularity", part, GRANULARITY)
    found = Budget.several(list(budget), RESOURCES)
    return found if granularity is not None or any(b.resource != "parameters" for b in found) else []


def _parts(granularity: str | None) -> list[str]:
    return [part.strip() for part in (granularity or "").split(",") if part.strip()]


def refuse_others(**options: Any) -> None:
    """Refuse options of the other way to prune, which chooses units by a rule."""
    for name, value in options.items():
        mend = "alternatives of blocks are chosen in one program; --granularity says what may be removed"
        validate.require(value in (None, False), f"--{name}", "be left out with these budgets", value, mend)


def pruned(
    model: Any, sources: Any, budgets: Sequence[Budget], granularity: str | None, *, library: Path | None,
    options: PruneOptions, resume_dir: Path, seed: int, tell: Callable[[str], None],
) -> PruneResult:  # fmt: skip
    """Measure (or read the library that is there), choose, and prune."""
    from prunopt.networks.transformers.alternative_measuring import MeasureOptions, measure_alternatives
    from prunopt.networks.transformers.alternative_search import ChoiceOptions
    from prunopt.networks.transformers.alternatives import GRANULARITY, RECORD, Alternatives
    from prunopt.networks.transformers.budgeted_pruning import prune_to_budgets

    parts = _parts(granularity) or GRANULARITY
    measuring = MeasureOptions(progress=lambda done, of: tell(f"measured {done} of {of} blocks"))
    choosing = ChoiceOptions(progress=lambda done, of: tell(f"measured {done} of {of} choices"))
    alternatives = None
    if library is not None:
        if not (library / RECORD).exists():
            measured = measure_alternatives(model, sources, granularity=parts, options=measuring, resume_dir=library)
            measured.save(library)
        alternatives = Alternatives.load(library)
    return prune_to_budgets(
        model, sources, budgets, granularity=parts, alternatives=alternatives, measuring=measuring, choosing=choosing,
        options=options, resume_dir=resume_dir, seed=seed,
    )  # fmt: skip

"""``prunopt warm-up``: every kernel compiled and cached before it is needed."""

from __future__ import annotations

import time
import warnings
from typing import Annotated, Any

import typer

from prunopt.commands.output import guarded, print_json, progress

FORESTS = "BudgetedForestClassifier", "BudgetedBoostingClassifier"
INSTANCES = 4  # of each form: sizes and options that the kernels tell apart


@guarded
def warm_up(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile all kernels and keep them in numba's cache, so that the first solve takes no longer than the others.

    Every solver answers small problems of its form, and small forests are grown. Run it once after an installation, or
    when an image is built; the folder of the cache is numba's (NUMBA_CACHE_DIR).
    """
    start = time.perf_counter()
    with progress("compiling", total=len(kernels()) + len(FORESTS)) as tell, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solved = compile_solvers(tell)
        grown = compile_forests(tell)
    seconds = time.perf_counter() - start
    if as_json:
        print_json({"solvers": solved, "forests": grown, "seconds": seconds})
        return
    print(f"Compiled or found in the cache: the kernels of {len(solved)} solvers and of forests, {seconds:.1f} s.")


def compile_solvers(tell: Any) -> list[str]:
    """Let every solver that has kernels answer a few instances of its form; return their names."""
    import prunopt as po
    from prunopt import testing

    names: list[str] = []
    for kind, solver in kernels():
        tell(solver.name)
        for instance, _ in zip(testing.instances_of(kind), range(INSTANCES), strict=False):
            if not solver.why_not_on(instance.problem):
                answer = po.solve(instance.problem, solver(), limits=po.Limits(evaluations=50), throw=False)
                if answer.status.has_value and answer.duals and hasattr(instance.problem, "bound"):
                    instance.problem.bound(answer.duals)
        names.append(solver.name)
    return sorted(dict.fromkeys(names))


def kernels() -> list[tuple[Any, Any]]:
    """Return the solvers that have kernels, each with a form that it solves."""
    from prunopt import testing
    from prunopt.core.registry import load_solvers
    from prunopt.core.solver import solvers_for

    load_solvers()
    able = [(kind, s) for kind in testing.INSTANCES for s in solvers_for(kind)]
    return [(kind, s) for kind, s in able if "numba" in s.requires and not s.why_not()]


def compile_forests(tell: Any) -> list[str]:
    """Prune a small forest, grow a small boosted one, and predict on demand."""
    import numpy as np

    from prunopt import forests

    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    done = []
    for name in FORESTS:
        tell(name)
        getattr(forests, name)(budget=2.0, random_state=0).fit(X, y).predict_on_demand(X)
        done.append(name)
    return done

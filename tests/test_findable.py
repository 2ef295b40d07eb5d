"""Who knows an algorithm's name finds its file by it."""

from __future__ import annotations

from pathlib import Path

from prunopt.core.registry import load_solvers
from prunopt.core.solver import registered

ROOT = Path(__file__).parents[1]
# What is not a solver of its own, or goes by another name in the literature: the file's name without underscore.
OTHERS = {
    "OWL": "owl",
    "ATP": "atp",
    "ALS": "als",
    "DEPrune": "deprune",
    "parametric cut": "parametric_cut",
    "push-relabel": "push_relabel",
    "Taylor importance": "taylor",
    "Fisher importance": "fisher",
    "cost-efficient boosting": "cost_efficient_boosting",
}


def stems() -> set[str]:
    """Names of the package's files."""
    files = (file for top in ("prunopt", "solvers", "problems") for file in (ROOT / top).rglob("*.py"))
    return {file.stem.removeprefix("_") for file in files}


def test_every_algorithm_has_the_file_of_its_name() -> None:
    load_solvers()
    own = [solver for solver in registered() if solver.__module__.startswith("prunopt.")]
    assert len(own) + len(OTHERS) >= 28
    wanted = {solver.name: solver.name.replace("-", "_") for solver in own} | OTHERS
    missing = sorted(name for name, stem in wanted.items() if stem not in stems())
    assert not missing


def test_a_solver_is_in_the_file_of_its_name() -> None:
    load_solvers()
    own = [solver for solver in registered() if solver.__module__.startswith("prunopt.")]
    assert {s.name: s.__module__.rpartition(".")[2] for s in own} == {s.name: s.name.replace("-", "_") for s in own}

"""The primal-dual method for closures on disk: memory for the items and one chunk, however many requirements."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution, Status, relative_gap
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import require
from prunopt.forms.closure._multipliers_on_disk import MultipliersOnDisk, MultipliersWriter
from prunopt.forms.closure.closure_on_disk import ClosureOnDisk
from prunopt.solvers.closure import _dual_prices as kernel
from prunopt.solvers.closure.primal_dual import (
    PATIENCE,
    Units,
    best_level,
    block_ends,
    bound_of,
    check_relaxation,
    iterate,
    ranked,
)

NARROW = 2**31 - 1  # the most that a multiplier of 32 bits can be
FINE = 2**12  # units of the mean scaled cost of an edge at which 32 bits are fine enough


@dataclass(frozen=True)
class StreamedPrimalDual(Solver[ClosureOnDisk]):
    r"""Bound a `ClosureOnDisk` as `PrimalDual` bounds a `Closure`, one chunk after another.

    What every item pays of every requirement's scaled cost lies on disk beside the requirements; in memory are the
    items, what each of them pays in total, and one chunk. A pass visits the chunks in random order and takes one
    projected step of the smoothed dual

    .. math::
        \tfrac12 \sum_h \omega_h t_h(b)^2, \qquad \sum_h b_{hj} = p c_j,

    (see `PrimalDual`) for every block of a chunk's requirements. In the same pass the closures {t > s} of all levels s
    that stood at its beginning are penalized, so that a pass reads every chunk once and writes its multipliers once.

    A requirement's multipliers always add up to its scaled cost, whatever the other chunks hold: after each chunk the
    multipliers on disk prove a bound, which is known without reading anything. The best of these bounds is the one
    that is kept: a changed chunk is a new file, and the files of the best multipliers stay until better ones are
    complete. So the bound is valid whenever the method stops (by a limit, an interrupt, or an error in a callback),
    and a named folder holds whole multipliers even if the process is killed.

    Parameters
    ----------
    folder
        Where multipliers are kept; the same folder again goes on from there (as long as closure and penalty are the
        same). None = a folder inside that of the closure, deleted once the solution is no longer in use.
    relaxation
        Length of the steps, in (0, 2); 1 is the inverse of the curvature.

    Notes
    -----
    ``limits.evaluations`` counts passes. Disk: 4 bytes per edge and 16 bytes per requirement for the closure; for the
    multipliers 4 bytes per edge, or 8 where integers of 32 bits are not fine enough, up to twice that while it runs.
    Memory: about 100 bytes per item and 50 bytes per edge of the largest chunk.

    References
    ----------
    A. Ene, H. L. Nguyen, "Random coordinate descent methods for minimizing decomposable submodular functions", ICML
    2015; F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.
    """

    name: ClassVar[str] = "streamed-primal-dual"
    form: ClassVar[type] = ClosureOnDisk
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Ene & Nguyen, ICML 2015; Nan, Wang & Saligrama, NIPS 2016"

    folder: str | os.PathLike[str] | None = None
    relaxation: float = 1.8

    def __post_init__(self) -> None:
        check_relaxation(self.relaxation)

    def solve(self, problem: ClosureOnDisk, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best closure found, with the best bound and the multipliers on disk that prove it."""
        run = Run(limits)
        units, dtype = units_of(problem)
        writer, resumed = self._writer(problem, units, dtype)
        method = _Streamed(problem, units, writer, self.relaxation, np.random.default_rng(seed))
        finished = False
        try:
            try:
                method.start(run)
                why = iterate(method, run)
            except KeyboardInterrupt:
                why = "interrupted"
            multipliers = writer.close()
            finished = True
        finally:
            if not finished and self.folder is None:
                shutil.rmtree(writer.best.folder, ignore_errors=True)
        if self.folder is None:
            weakref.finalize(multipliers, shutil.rmtree, multipliers.folder, ignore_errors=True)
        duals = {"requirements": multipliers, "denominator": units.scale}
        bound, objective = problem.bound(duals), problem.objective(method.chosen)
        run.report(objective, bound)
        solved = relative_gap(objective, bound) <= limits.gap
        stats = {
            "iterations": run.evaluations,
            "chunks": len(problem.sizes),
            "multiplier bytes": np.dtype(dtype).itemsize,
            "rounded costs": units.rounded,
            "resumed": resumed,
            **method.stats,
        }
        return Solution(
            Status.OPTIMAL if solved else Status.FEASIBLE,
            method.chosen,
            objective=objective,
            bound=bound,
            duals=duals,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message="" if solved else f"{why}: the best closure found so far, with a valid bound",
        )

    def _writer(self, problem: ClosureOnDisk, units: Units, dtype: str) -> tuple[MultipliersWriter, bool]:
        """The multipliers to start from: those in the named folder if they fit, else 0."""
        sizes = tuple(e for _, e in problem.sizes)
        if self.folder is None:
            place = Path(tempfile.mkdtemp(prefix="multipliers-", dir=problem.folder))
        else:
            place = Path(self.folder)
            if place.exists() and any(place.iterdir()):
                found = MultipliersOnDisk.open(place)
                same = found.closure == problem.digest and found.sizes == sizes
                require(same, "folder", "hold multipliers of this closure", str(self.folder), "name another folder")
                if (found.denominator, found.dtype, found.penalty) == (units.scale, dtype, str(problem.penalty)):
                    return MultipliersWriter(found), True
        files: tuple[None, ...] = (None,) * len(sizes)
        nothing = MultipliersOnDisk(place, files, sizes, units.scale, dtype, problem.digest, str(problem.penalty))
        writer = MultipliersWriter(nothing)
        nothing.save()
        return writer, False


def units_of(problem: ClosureOnDisk) -> tuple[Units, str]:
    """Return the units of the multipliers, and the type that they are stored in: 32 bits if those are fine enough."""
    wide = Units.of(problem.profit, problem.total_cost, problem.n_requirements, problem.penalty)
    unit = 1 if wide.rounded else problem.penalty.denominator
    largest = min(problem.largest_cost * problem.penalty, Fraction(wide.gains, wide.scale)) * unit
    if wide.rounded or largest <= 0 or largest > NARROW:
        return wide, "int64"
    scale = min(unit << (floor(NARROW / largest).bit_length() - 1), wide.scale)
    mean = problem.total_cost * problem.penalty * scale / max(problem.n_edges, 1)
    if mean < FINE and scale < wide.scale:
        return wide, "int64"
    gains = wide.gains // wide.scale * scale
    return replace(wide, scale=scale, gains=gains, ceiling=min(gains, NARROW)), "int32"


class _Streamed:
    """Descent of the smoothed dual, one block of one chunk after another."""

    patience: int | None = PATIENCE

    def __init__(
        self,
        problem: ClosureOnDisk,
        units: Units,
        writer: MultipliersWriter,
        relaxation: float,
        rng: np.random.Generator,
    ) -> None:
        self.problem, self.units, self.writer = problem, units, writer
        self.relaxation, self.rng = relaxation, rng
        self.chosen = np.zeros(problem.n_items, np.bool_)
        self.profit = 0
        self.stats: dict[str, Any] = {"bytes read": 0, "bytes written": 0}
        degree = np.zeros(problem.n_items)
        self.forest = kernel.forest_of(problem.parent, problem.profit * units.scale, degree)
        self.step, self.move = np.zeros(problem.n_items), np.zeros(problem.n_items)
        self.bound = bound_of(self.forest)
        self.ready = False

    def start(self, run: Run) -> None:
        """Take the multipliers on disk, and split all other scaled costs equally."""
        run.report(0.0, self.units.objective(self.bound, self.problem.unit))
        forest = self.forest
        for k in range(len(self.problem.sizes)):
            if run.limits.seconds is not None and run.seconds >= run.limits.seconds:
                return
            needs = self._read(k)
            kernel.adopt(needs, forest.spent, forest.omega)
            self._write(k, needs.shares, run)
        np.maximum(forest.omega, 1.0, out=forest.omega)
        self.ready = True

    def advance(self, run: Run) -> bool:
        """Pass over all chunks in random order, and over the blocks of each."""
        if not self.ready:
            return False
        forest, before = self.forest, (self.bound, self.profit)
        kernel.regress(forest)
        rank, profit = ranked(forest)
        cost = np.zeros_like(profit)
        for k in self.rng.permutation(len(self.problem.sizes)):
            if run.out_of_time:
                return True
            needs = self._read(k)
            kernel.add_costs_by_rank(needs, rank, cost)
            ends = block_ends(needs.offsets, self.problem.n_items)
            buffer = np.zeros(int(np.diff(needs.offsets).max(initial=0)))
            for b in self.rng.permutation(len(ends) - 1):
                if run.out_of_time:
                    break
                kernel.regress(forest)
                space = (self.step, self.move, buffer)
                kernel.redistribute(forest, needs, ends[b], ends[b + 1], self.relaxation, *space)
            self._write(k, needs.shares, run)
        self._consider(*best_level(rank, profit, cost), run)
        return self.bound < before[0] or self.profit > before[1]

    def _read(self, k: int) -> kernel.Needs:
        chunk, shares = self.problem.chunk(k), self.writer.read(k)
        self.stats["bytes read"] += sum(a.nbytes for a in (*chunk, shares))
        return kernel.Needs(chunk.offsets, chunk.items, self.units.capacity(chunk.cost), shares)

    def _write(self, k: int, shares: NDArray[Any], run: Run) -> None:
        """Store a chunk's multipliers; with them the stored ones prove what the items pay in total."""
        self.writer.write(k, shares)
        self.stats["bytes written"] += shares.nbytes
        bound = bound_of(self.forest)
        if bound <= self.bound:
            self.bound = bound
            self.writer.keep()
            run.report(bound=self.units.objective(bound, self.problem.unit))

    def _consider(self, chosen: Bools, profit: int, run: Run) -> None:
        """Keep a set of items if it is the best so far."""
        if profit <= self.profit:
            return
        if self.units.rounded:
            profit = floor(-self.problem.exact_objective(chosen) / self.problem.unit * self.units.scale)
        if profit > self.profit:
            self.chosen, self.profit = chosen, profit
            run.report(self.units.objective(profit, self.problem.unit))

"""SlimGPT, as its authors released it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import Shown, one_of, require, whole_number
from prunopt.forms.layer.quadratic_subset import QuadraticSubset
from prunopt.solvers.layer._answer import answer
from prunopt.solvers.layer._obs_kernel import PRECISIONS, Array


@dataclass(frozen=True)
class SlimGpt(Solver[QuadraticSubset]):
    r"""SlimGPT [1]_: batched greedy pruning, the inverse Hessian recomputed for every batch.

    Groups of several columns (heads) go one at a time, scored by the *grouped Cholesky*: :math:`\sum_{j \in h}
    \|W_j\|^2 / L_{jj}^2` with :math:`L L^T = C_{hh}`. That drops the off-diagonal part of L; the exact cost is
    :math:`\|L^{-1} W_h^T\|_F^2` (`obs-greedy`). Single columns go in batches by :math:`\|W_j\|^2 / C_{jj}`, their
    number by the *Dynamic Group Size*: with t columns to remove, b = (t - 512) // 2 at first, a batch has max(b, 64)
    columns, 1024 at most, and b becomes (b - 512) // 2.

    What remains is updated as by the published column loop; done here for a whole batch at once, which gives the same
    weights.

    Parameters
    ----------
    smallest, largest, offset
        The numbers 64, 1024 and 512 of the Dynamic Group Size.
    precision
        ``"double"``, or ``"single"`` as released.

    References
    ----------
    .. [1] G. Ling, Z. Wang, Y. Yan, Q. Liu, "SlimGPT: layer-wise structured pruning for large language models",
       NeurIPS 2024.
    """

    name: ClassVar[str] = "slimgpt"
    form: ClassVar[type] = QuadraticSubset
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    reference: ClassVar[str] = "Ling, Wang, Yan & Liu, NeurIPS 2024"

    smallest: int = 64
    largest: int = 1024
    offset: int = 512
    precision: str = "double"

    def __post_init__(self) -> None:
        whole_number("smallest", self.smallest, low=1)
        whole_number("largest", self.largest, low=self.smallest)
        whole_number("offset", self.offset, low=1)
        one_of("precision", self.precision, PRECISIONS)

    def solve(self, problem: QuadraticSubset, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the groups removed."""
        run = Run(limits)
        kind = PRECISIONS[self.precision]
        W: Any = np.array(problem.weight, kind)
        H: Any = np.array(problem.normal, kind)
        gone = np.zeros(problem.n_groups, np.bool_)
        b = (problem.remove - self.offset) // 2
        batches: list[int] = []
        scores: Floats | None = None
        while gone.sum() < problem.remove and not (run.out_of_time and scores is not None):
            C = inverted(H)
            scores = np.where(gone, np.inf, _scores(problem, W, C))
            count = 1
            if problem.singles:
                count = min(problem.remove - int(gone.sum()), max(b, self.smallest), self.largest)
                b = (b - self.offset) // 2
            chosen = np.argsort(scores, kind="stable")[:count]
            S = np.concatenate([problem.members[g] for g in chosen])
            W = W - W[:, S] @ np.linalg.solve(C[np.ix_(S, S)], C[S])
            W[:, S] = 0
            H[S] = 0
            H[:, S] = 0
            H[S, S] = 1
            gone[chosen] = True
            scores[chosen] = np.inf
            batches.append(len(chosen))
            run.evaluations += 1
        stats: dict[str, Any] = {"inversions": len(batches), "batches": batches}
        missing = problem.remove - int(gone.sum())
        if missing and scores is not None:
            gone[np.argsort(scores, kind="stable")[:missing]] = True
            stats["groups chosen without update"] = missing
        return answer(problem, np.flatnonzero(gone), self.name, run, stats=stats)


def inverted(H: Array) -> Array:
    """Return the inverse of a positive definite matrix, in its own precision."""
    from scipy.linalg import lapack

    potrf, potri = (lapack.dpotrf, lapack.dpotri) if H.dtype == np.float64 else (lapack.spotrf, lapack.spotri)
    L, info = potrf(H, lower=1)
    where = Shown(f"a negative pivot in column {info - 1}")
    require(not info, "hessian", f"be positive definite in {H.dtype}", where, "raise the damping")
    half: Array = np.tril(potri(L, lower=1)[0])
    return half + np.tril(half, -1).T


def _scores(problem: QuadraticSubset, W: Array, C: Array) -> Floats:
    squares = np.einsum("ij,ij->j", W, W).astype(np.float64)
    if problem.singles:
        columns = np.concatenate(problem.members)
        single: Floats = squares[columns] / C[columns, columns]
        return single
    scores = [squares[g] / np.diagonal(np.linalg.cholesky(C[np.ix_(g, g)])) ** 2 for g in problem.members]
    return np.array([float(s.sum()) for s in scores])

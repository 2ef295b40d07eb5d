"""Fewest shared neurons: the smallest set of random neurons of an input that serves every output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Bytes, Floats
from prunopt.core.jit import njit
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.solvers.subset_sum.subset_sum_mitm import smallest_subsets

MOST = 24  # neurons of a pool: 2**24 sets are looked at


@dataclass(frozen=True, eq=False)
class SharedNeurons:
    """The neurons of one pool that are kept, and what each target takes of them.

    Parameters
    ----------
    neurons : (n,) bool
        The set; proven to be as small as any that serves every target.
    kept : (m, n) bool
        The fewest candidates of that set for each target.
    """

    neurons: Bools
    kept: Bools

    @property
    def n_neurons(self) -> int:
        """Number of neurons kept."""
        return int(np.count_nonzero(self.neurons))


def fewest_neurons(targets: ArrayLike, candidates: ArrayLike, epsilon: float) -> SharedNeurons:
    r"""Keep the fewest neurons of a pool such that every target has a subset of them within the tolerance.

    .. math::
        \min_{y, x} \sum_k y_k \quad \text{s.t.} \quad x_{ik} \le y_k, \quad
        \Bigl| t_i - \sum_k p_{ik} x_{ik} \Bigr| \le \varepsilon

    All :math:`2^n` subsets are added up for each target; a set of neurons serves it if some subset of the set is within
    epsilon, which one pass over the n neurons tells for all sets at once. The sets that serve every target are counted
    out, so the answer is proven smallest; of several, the one with the fewest candidates in all is not looked for.

    Parameters
    ----------
    targets : (m,) float
        The weights of the outputs on one input.
    candidates : (m, n) float
        The products of each output; column k is neuron k. n <= 24.
    epsilon
        The tolerance.

    Raises
    ------
    ValueError
        If there are more than 24 neurons, or all of them together do not serve some target; it is named.
    """
    problem = SubsetSum(targets, candidates, epsilon)
    n = problem.n_candidates
    if n > MOST or problem.candidates.ndim != 2:
        raise ValueError(f"candidates: shape {problem.candidates.shape} given, (m, n) with n <= {MOST} is needed")
    serves = np.ones(2**n, np.uint8)
    for i, (target, row) in enumerate(zip(problem.targets, problem.candidates, strict=True)):
        if abs(target) <= problem.epsilon:
            continue  # the empty subset will do
        _narrow(row, float(target), problem.epsilon, serves)
        if not serves[-1]:
            near = problem.nearest(i)
            raise ValueError(
                f"targets[{i}]={target:.6g}: no subset of the {n} neurons is within {epsilon:g}; {near:.6g} off"
            )
    sets = np.flatnonzero(serves)
    best = int(sets[np.argmin(np.bitwise_count(sets))])
    neurons = (best >> np.arange(n)) & 1 > 0
    found = smallest_subsets(SubsetSum(problem.targets, np.where(neurons, problem.candidates, 0.0), epsilon))
    if not found.reached.all():
        raise ArithmeticError(
            "targets: rounding moved a sum that lies on the edge of its window; change epsilon a little"
        )
    return SharedNeurons(neurons, found.kept)


@njit
def _narrow(row: Floats, target: float, epsilon: float, serves: Bytes) -> None:
    """Strike out the sets that hold no subset within epsilon of the target."""
    n = len(row)
    size = 1 << n
    total = np.zeros(size)
    hit = np.zeros(size, np.uint8)
    hit[0] = abs(target) <= epsilon
    for k in range(n):
        step = 1 << k
        for s in range(step):
            total[step + s] = total[s] + row[k]
            hit[step + s] = abs(total[step + s] - target) <= epsilon
    for k in range(n):
        step = 1 << k
        for s in range(size):
            if s & step and hit[s ^ step]:
                hit[s] = 1
    for s in range(size):
        serves[s] &= hit[s]

"""Subset sums: the fewest of given numbers that add up to each target within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.deadline import is_over
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import floats, mask, number, refuse, require
from prunopt.forms.subset._sum_sets import fits, least_size, unreached

if TYPE_CHECKING:
    import pulp

BITS = 61  # the sums of a problem stay below 2**61 units, so that differences of two fit into 64 bits
STRATUM_ENTRIES = 2**22  # sums of one half of a pool that a proof enumerates
ROUNDING = 1e-6  # rounding to units may move a sum by this much of epsilon at most
CHUNK = 65_536
NAMED = 5  # how many targets an explanation names


class FixedPoint(NamedTuple):
    """A problem in whole units: every algorithm and every check of the form adds these numbers, without rounding.

    ``pools[pool[i]]`` are the candidates of target i: equal rows of candidates are held once.
    """

    targets: Ints
    pool: Ints
    pools: Ints
    epsilon: int
    unit: float
    exact: bool


@one_line
@dataclass(frozen=True, eq=False)
class SubsetSum:
    r"""For every target the fewest candidates whose sum is near enough.

    .. math::
        \min_{x \in \{0,1\}^{m \times n}} \; \sum_{i,j} x_{ij}
        \quad \text{s.t.} \quad \Bigl| \sum_j a_{ij} x_{ij} - t_i \Bigr| \le \varepsilon \quad (i = 1, \dots, m)

    In a pruned random network the targets are the weights of the network to be imitated, the candidates are random
    weights (or products of two), and what is kept are the candidates chosen [1]_. A pool of n candidates, uniform on
    [-1, 1], holds a subset within :math:`\varepsilon` of every target in [-1/2, 1/2] with probability
    :math:`1 - \delta` once :math:`n \ge C \log_2 (2 / \min(\varepsilon, \delta))` [2]_.

    Parameters
    ----------
    targets : (m,) float
        The numbers t_i to be reached.
    candidates : (n,) or (m, n) float
        The numbers a_ij to be added up, shared by all targets or own ones of each.
    epsilon : float
        The tolerance, > 0, in the unit of the targets.
    label : callable, optional
        Gives the number of a target a name, for messages; a saved form loses it.

    Notes
    -----
    The value is a bool array of shape (m, n), True = the candidate is kept. Sums are formed in whole multiples of a
    power of two (`fixed`), at least 2**61 of which make up the largest sum; where that rounds the data at all,
    ``fixed.exact`` is False, and a tolerance so fine that the rounding would matter is refused. The tolerance is wider
    than epsilon by what rounding to these units, and decimals written in binary, may move a sum, at most by some 1e-6
    of it: a sum that is exactly at epsilon counts as within.

    References
    ----------
    .. [1] A. Pensia, S. Rajput, A. Nagle, H. Vishwakarma, D. Papailiopoulos, "Optimal lottery tickets via SubsetSum:
       logarithmic over-parameterization is sufficient", NeurIPS 2020.
    .. [2] G. S. Lueker, "Exponentially small bounds on the expected optimum of the partition and subset sum problems",
       Random Structures and Algorithms 12 (1998).
    """

    targets: Any
    candidates: Any
    epsilon: float
    label: Callable[[int], str] | None = field(default=None, repr=False)
    violation_unit: ClassVar[float] = 1.0  # violations count in units of epsilon, however many candidates are kept

    def __post_init__(self) -> None:
        targets, candidates = _numbers("targets", self.targets), _numbers("candidates", self.candidates)
        require(targets.ndim == 1, "targets", "have shape (m,)", targets, "ravel a matrix of weights")
        m = len(targets)
        fits = candidates.ndim == 1 or (candidates.ndim == 2 and len(candidates) == m)
        require(fits, "candidates", f"have shape (n,), or ({m}, n) with a row for each target", candidates)
        epsilon = number("epsilon", self.epsilon, low=1e-200, mend="give a tolerance in the unit of the targets")
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "candidates", candidates)
        object.__setattr__(self, "epsilon", epsilon)
        self._check_rounding()

    def _check_rounding(self) -> None:
        n, unit = self.n_candidates, self._unit
        if (n + 1) * unit / 2 <= ROUNDING * self.epsilon or (_whole(self.targets, unit) and self._whole_candidates):
            return
        least = (n + 1) * unit / 2 / ROUNDING
        why = f"sums of candidates and targets of this size are told apart in steps of {unit:.3g}"
        refuse("epsilon", f"be >= {least:.3g}", self.epsilon, why)

    @property
    def n_targets(self) -> int:
        """Number of targets m."""
        return len(self.targets)

    @property
    def n_candidates(self) -> int:
        """Number of candidates n of each target."""
        return int(self.candidates.shape[-1])

    @property
    def provable_size(self) -> int:
        """The largest size of a subset that enumeration can rule out: n up to 44 candidates, fewer beyond."""
        half = self.n_candidates - self.n_candidates // 2
        level = enumerable_level(half)
        return self.n_candidates if level == half else level

    @cached_property
    def _unit(self) -> float:
        sizes = np.abs(self.candidates).sum(axis=-1)
        total = float(np.max(sizes, initial=0.0)) + float(np.abs(self.targets).max(initial=0.0)) + self.epsilon
        require(total < 2.0**900, "candidates", "add up, with the targets, to less than 2**900", total, "rescale them")
        return math.ldexp(1.0, math.frexp(total)[1] - BITS)

    @cached_property
    def _whole_candidates(self) -> bool:
        return _whole(self.candidates, self._unit)

    @cached_property
    def fixed(self) -> FixedPoint:
        """The problem in whole units of a power of two, equal rows of candidates held once."""
        unit = self._unit
        targets = np.rint(self.targets / unit).astype(np.int64)
        if self.candidates.ndim == 1:
            pool, distinct = np.zeros(self.n_targets, np.int64), self.candidates[None, :]
        else:
            pool, distinct = _distinct_rows(self.candidates)
        pools = np.ascontiguousarray(np.rint(distinct / unit).astype(np.int64))
        exact = _whole(self.targets, unit) and self._whole_candidates
        written = min(2.0 ** (BITS - 52), ROUNDING * self.epsilon / unit)  # half a unit in the last place each
        rounded = 0.0 if exact else (self.n_candidates + 1) / 2
        return FixedPoint(targets, pool, pools, int(self.epsilon / unit + written + rounded), unit, exact)

    def objective(self, x: ArrayLike, /) -> float:
        """Return the number of candidates kept, over all targets."""
        return float(np.count_nonzero(self._as_value(x)))

    def errors(self, x: ArrayLike) -> Floats:
        """Return for each target how far its sum is from it, signed (sum - target), shape (m,)."""
        return self.in_targets_unit(self._misses(self._as_value(x)))

    def in_targets_unit(self, whole: Ints) -> Floats:
        """Return whole numbers of units of `fixed` in the unit of the targets."""
        return whole.astype(np.float64) * self.fixed.unit

    def violation(self, x: ArrayLike, /) -> float:
        """Return 0 if every sum is within epsilon, else by how much the worst is not, in units of epsilon."""
        kept = self._as_value(x)
        worst = int(np.abs(self._misses(kept)).max(initial=0))
        return 0.0 if worst <= self.fixed.epsilon else (worst * self.fixed.unit - self.epsilon) / self.epsilon

    def _misses(self, kept: Bools) -> Ints:
        fixed, out = self.fixed, np.empty(self.n_targets, np.int64)
        for start in range(0, self.n_targets, CHUNK):
            span = slice(start, start + CHUNK)
            out[span] = np.where(kept[span], fixed.pools[fixed.pool[span]], 0).sum(axis=1) - fixed.targets[span]
        return out

    def _as_value(self, x: ArrayLike) -> Bools:
        return mask("x", x, (self.n_targets, self.n_candidates))

    def least_reaching(self) -> Ints:
        r"""Return for each target the fewest candidates that could reach it, by size alone; n + 1 where none can.

        The k largest positive candidates bound every sum of k from above, the k most negative from below: fewer than
        the k at which these two come within epsilon of the target will not do.
        """
        fixed, n = self.fixed, self.n_candidates
        none = np.zeros((len(fixed.pools), 1), np.int64)
        up = -np.sort(-np.maximum(fixed.pools, 0), axis=1)
        down = np.sort(np.minimum(fixed.pools, 0), axis=1)
        highest = np.concatenate([none, np.cumsum(up, axis=1)], axis=1)
        lowest = np.concatenate([none, np.cumsum(down, axis=1)], axis=1)
        least = np.empty(self.n_targets, np.int64)
        for start in range(0, self.n_targets, CHUNK):
            span = slice(start, start + CHUNK)
            t, p = fixed.targets[span, None], fixed.pool[span]
            short = (highest[p] < t - fixed.epsilon) | (lowest[p] > t + fixed.epsilon)
            least[span] = np.count_nonzero(short, axis=1)
        return np.minimum(least, n + 1)

    def missed_by_step(self, target: int) -> int:
        """Return how far, in units of `fixed`, every sum is from a target, as multiples of a divisor of all candidates.

        0 where there is such a multiple within epsilon.
        """
        row, fixed = self.fixed.pools[self.fixed.pool[target]], self.fixed
        step, t = int(np.gcd.reduce(row)) if len(row) else 0, int(fixed.targets[target])
        miss = abs(t) if not step else min(t % step, -t % step)
        return miss if miss > fixed.epsilon else 0

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the number of candidates that every answer keeps, as far as the claims of ``duals`` hold.

        Every claim "target i needs at least k" is checked by looking at all smaller subsets: the pool is divided
        into its even and its odd places, the sums of each part are listed by size and sorted, and for every sum of
        the one part the other is searched for a partner. A claim that does not hold counts with the size that does.
        No solver's code takes part. Subsets larger than `provable_size` are looked at where the candidates have few
        different sums, as sets of sums by size.

        Parameters
        ----------
        duals
            ``"sizes"``: (m,) integers >= 0, the least number of candidates that each target needs.
        """
        claims = np.asarray(duals.get("sizes", ()))
        if claims.shape != self.targets.shape or (claims.size and claims.dtype.kind not in "iu"):
            raise CertificateError(f"duals['sizes']: {claims.dtype} {claims.shape}, {self.n_targets} integers needed")
        return float(self.proven_sizes(claims.astype(np.int64)).sum())

    def proven_sizes(self, claims: Ints) -> Ints:
        """Return the part of each claim of `bound` that holds, shape (m,)."""
        reach = np.minimum(self.least_reaching(), np.maximum(claims, 0))
        if not np.any(claims > reach):
            return reach
        from prunopt.forms.subset._subset_sum_check import proven_sizes

        fixed = self.fixed
        out = proven_sizes(fixed.targets, fixed.pool, fixed.pools, fixed.epsilon, reach, claims, self.provable_size)
        for i in np.flatnonzero((out < claims) & (out > self.provable_size)):
            row, most = fixed.pools[fixed.pool[i]], int(min(claims[i], self.n_candidates + 1)) - 1
            if fits(row, most):
                size = least_size(row, int(fixed.targets[i]), fixed.epsilon, most)
                out[i] = max(out[i], most + 1 if size is None and not is_over() else size or 0)
        return out

    def nearest(self, target: int) -> float:
        """Return how near a subset can come to target number ``target``; at most 44 candidates.

        All sums of the even places are searched for in the sorted sums of the odd ones.
        """
        n = self.n_candidates
        require(self.provable_size >= n, "candidates", "be few enough to look at every subset", n)
        return self._nearest(target) * self.fixed.unit

    def _nearest(self, target: int) -> int:
        fixed = self.fixed
        row, t = fixed.pools[fixed.pool[target]], fixed.targets[target]
        wanted, held = t - _all_sums(row[0::2]), np.sort(_all_sums(row[1::2]))
        place = np.searchsorted(held, wanted)
        above = np.abs(held[np.minimum(place, len(held) - 1)] - wanted).min()
        below = np.abs(wanted - held[np.maximum(place - 1, 0)]).min()
        return int(min(above, below))

    def is_infeasible_by(self, ray: ArrayLike) -> bool:
        """Return whether ``ray``, the number of a target (or an array of one or more; the first counts), is one that
        no subset reaches: by size, by a divisor of all candidates, by looking at every subset of up to 44 candidates,
        or at every sum."""
        named = np.atleast_1d(np.asarray(ray))
        if not named.size or named.dtype.kind not in "iu" or not 0 <= int(named[0]) < self.n_targets:
            return False
        if self.least_reaching()[named[0]] > self.n_candidates or self.missed_by_step(int(named[0])):
            return True
        if self.provable_size >= self.n_candidates:
            return self._nearest(int(named[0])) > self.fixed.epsilon
        row = self.fixed.pools[self.fixed.pool[named[0]]]
        return fits(row, 1) and unreached(row, int(self.fixed.targets[named[0]]), self.fixed.epsilon)

    def enough_candidates(self, target: int, miss: float = 0.01) -> int | None:
        r"""Estimate how many candidates like those given a target needs, to miss it with a probability of ``miss``.

        The sum of a random subset of k candidates has mean k a/2 and variance k q/4, where a is the candidates' mean
        and q their mean square; taken as normal, :math:`2^k` subsets put
        :math:`\lambda = 2^k \, 2 \varepsilon \, \varphi` into the window. The estimate is the least k > n with
        :math:`e^{-\lambda} \le` ``miss``, or None where there is none below 64 n + 1024.
        """
        row = self.candidates if self.candidates.ndim == 1 else self.candidates[target]
        mean, square = (float(row.mean()), float((row**2).mean())) if row.size else (0.0, 0.0)
        n, wanted = self.n_candidates, math.log(-math.log(miss))
        if square == 0.0:
            return None
        for k in range(n + 1, 64 * n + 1024):
            variance = k * square / 4
            far = (float(self.targets[target]) - k * mean / 2) ** 2 / (2 * variance)
            density = -far - 0.5 * math.log(2 * math.pi * variance)
            if k * math.log(2) + math.log(2 * self.epsilon) + density >= wanted:
                return k
        return None

    def name_of(self, target: int) -> str:
        """Return what messages call target number ``target``."""
        return f"target {target}" if self.label is None else self.label(target)

    def explain(self, missed: Ints, distances: Floats) -> str:
        """Return which targets cannot be met, how near they can be come to, and what would do."""
        worst = np.argsort(-distances, kind="stable")[:NAMED]
        named = "; ".join(
            f"{self.name_of(int(missed[w]))} ({self.targets[missed[w]]:.6g}) comes no nearer than {distances[w]:.6g}"
            for w in worst
        )
        more = f"; and {len(missed) - len(worst)} more" if len(missed) > len(worst) else ""
        request = float(f"{distances.max():.6g}")
        request = request if request >= distances.max() else request * (1 + 1e-5)
        estimates = [self.enough_candidates(int(missed[w])) for w in worst]
        if None in estimates:
            samples = "more candidates like these would not help"
        else:
            most = max(k for k in estimates if k is not None)
            samples = f"or about {most} candidates like these in place of {self.n_candidates} (an estimate)"
        return (
            f"{len(missed)} of {self.n_targets} targets cannot be met within epsilon={self.epsilon:g}: {named}{more}; "
            f"nearest feasible request: epsilon={request:.6g}, {samples}"
        )

    def to_pulp(self) -> pulp.LpProblem:
        """Return the problem as a PuLP model with binaries ``x_i_j``; rows are in units of epsilon."""
        import pulp

        model = pulp.LpProblem("subset_sum", pulp.LpMinimize)
        shape = (self.n_targets, self.n_candidates)
        rows = np.broadcast_to(self.candidates, shape) / self.epsilon
        x = [[model.add_variable(f"x_{i}_{j}", 0, 1, pulp.LpBinary) for j in range(shape[1])] for i in range(shape[0])]
        model.setObjective(pulp.LpAffineExpression([(v, 1.0) for row in x for v in row]))
        for i, t in enumerate(self.targets / self.epsilon):
            total = pulp.LpAffineExpression([(v, float(a)) for v, a in zip(x[i], rows[i], strict=True)])
            # A sum exactly at the tolerance must not miss it by how decimals are written.
            room = 1.0 + 1e-9 * (1.0 + abs(float(t)))
            model.addConstraint(total <= float(t) + room, f"target_{i}_top")
            model.addConstraint(total >= float(t) - room, f"target_{i}_bottom")
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at a mask: a start for an engine."""
        return {f"x_{i}_{j}": float(kept) for (i, j), kept in np.ndenumerate(np.asarray(x, np.bool_))}

    def read_pulp(self, model: pulp.LpProblem) -> Bools:
        """Return the mask held by the variables of a solved `to_pulp` model."""
        found = model.variablesDict()
        kept = np.zeros((self.n_targets, self.n_candidates), np.bool_)
        for i, j in np.ndindex(*kept.shape):
            variable = found.get(f"x_{i}_{j}")
            kept[i, j] = variable is not None and (variable.varValue or 0.0) > 0.5
        return kept


def enumerable_level(items: int) -> int:
    """Return up to which size the subsets of ``items`` numbers are few enough to be listed (4,194,304 in all)."""
    total = 1
    for level in range(1, items + 1):
        total += math.comb(items, level)
        if total > STRATUM_ENTRIES:
            return level - 1
    return items


def _numbers(name: str, values: Any) -> Floats:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return np.ascontiguousarray(floats(name, array))


def _whole(values: Floats, unit: float) -> bool:
    scaled = values / unit
    return bool(np.array_equal(scaled, np.rint(scaled)))


def _all_sums(items: Ints) -> Ints:
    sums = np.zeros(1, np.int64)
    for a in items:
        sums = np.concatenate([sums, sums + a])
    return sums


def _distinct_rows(rows: Floats) -> tuple[Ints, Floats]:
    """Number equal rows alike: the number of each row, and one row for each number."""
    words = (rows + 0.0).view(np.uint64)  # + 0.0 makes -0.0 and 0.0 one
    factors = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], np.uint64) | np.uint64(1)
    key = np.zeros(len(rows), np.uint64)
    for column, factor in zip(words.T, factors, strict=True):  # a polynomial hash: no sort of whole rows
        key = (key ^ (key >> np.uint64(29))) * factor + column
    _, first, pool = np.unique(key, return_index=True, return_inverse=True)
    pool = pool.astype(np.int64).ravel()
    spans = [slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK)]
    if all(np.array_equal(rows[first[pool[span]]], rows[span]) for span in spans):
        return pool, rows[first]
    distinct, pool = np.unique(rows + 0.0, axis=0, return_inverse=True)
    return pool.astype(np.int64).ravel(), distinct

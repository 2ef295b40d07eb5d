"""Golden-ratio decomposition: a random candidate in each of k adjacent intervals reaches every weight greedily."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.subset_sum import SubsetSum
from prunopt.solvers.subset_sum_mitm import Subsets, answer, greedy_subsets, out_of_reach, smallest_subsets

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
GAMMA = (math.sqrt(5.0) - 1.0) / 2.0  # 1 - GAMMA**2 == GAMMA


@dataclass(frozen=True)
class GoldenWidth:
    r"""How many hyperbolic samples hold a golden-ratio decomposition of every weight, and where they are drawn.

    With :math:`\gamma = (\sqrt 5 - 1) / 2` and weights :math:`|w| \le B`, the intervals
    :math:`I_i = [B \gamma^{i+2}, B \gamma^{i+1}]`, i = 0 ... k - 1, are filled by one sample each. Every one has the
    mass p = 1 / k under the hyperbolic density, :math:`(1 + 1/k) / (2 k)` at least under the product of two
    log-uniform factors.

    Parameters
    ----------
    levels
        The number k of intervals: :math:`\lceil \log_{1/\gamma} (B / \varepsilon) \rceil`.
    samples
        Draws of one sign that give each of ``n_weights`` weights a sample of its own in each interval, with
        probability 1 - delta: the least M with :math:`k \, P(\mathrm{Bin}(M, p) < N) \le \delta` (the batch rule: what
        falls into an interval that one weight has filled serves the next).
    closed_form
        An upper bound of ``samples``: :math:`\lceil (N + L + \sqrt{L^2 + 2 L N}) / p \rceil` with
        :math:`L = \ln (k / \delta)`, from Chernoff's bound on the lower tail.
    separate
        What N weights need that share nothing: :math:`N \lceil \ln (k N / \delta) / p \rceil` (coupon collector).
    low, high
        The range of the samples: :math:`B \gamma^{k+1}` to :math:`B \gamma`.
    """

    levels: int
    samples: int
    closed_form: int
    separate: int
    low: float
    high: float


@dataclass(frozen=True)
class GoldenRatio(Solver[SubsetSum]):
    r"""Answer a `SubsetSum` by the golden-ratio decomposition of Orseau, Hutter and Rivasplata [1]_.

    Let :math:`\gamma = (\sqrt 5 - 1) / 2`, so that :math:`1 - \gamma^2 = \gamma`, and let
    :math:`u_i \in [s \gamma^{i+1}, s \gamma^i]` be any numbers, one in each of k adjacent intervals. Go through them
    from the largest and take :math:`u_i` if it is no more than what is left of :math:`|w|`. Then
    :math:`r_i \le s \gamma^{i-1}` throughout: where :math:`u_i` does not fit, :math:`r < u_i \le s \gamma^i`; where it
    does, what is left is at most :math:`s \gamma^{i-1} - s \gamma^{i+1} = s \gamma^i`. Every :math:`|w| \le s / \gamma`
    is therefore reached within :math:`s \gamma^{k-1}`, whatever the numbers are; no larger ratio between the
    intervals tolerates that.

    Given any candidates, the solver goes through those of the target's sign and stops as soon as epsilon is met. A
    target that is not reached (an interval is empty, or the target too large) is answered by `smallest_subsets`;
    ``stats["repaired"]`` counts them. A heuristic: the number kept is not the least.

    Parameters
    ----------
    spares
        True: all candidates take part; the invariant holds all the same for the intervals that they fill, wherever
        these begin. False, as in the paper: of each interval only the first candidate does.
    top
        The upper end s of the first interval, for ``spares=False``; None: the largest candidate of the sign.
    repair
        Answer what the decomposition misses by meeting in the middle.

    References
    ----------
    .. [1] L. Orseau, M. Hutter, O. Rivasplata, "Logarithmic pruning is all you need", NeurIPS 2020.
    """

    name: ClassVar[str] = "golden-ratio"
    form: ClassVar[type] = SubsetSum
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 50
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Orseau, Hutter & Rivasplata, NeurIPS 2020"

    spares: bool = True
    top: float | None = None
    repair: bool = True

    def __post_init__(self) -> None:
        if self.top is not None and not 0 < self.top < math.inf:
            raise ValueError(f"top={self.top!r}: give the upper end of the first interval, > 0, or None")

    def solve(self, problem: SubsetSum, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the decomposition of every target, with the bound that the sizes of the candidates alone give."""
        run, m = Run(limits), problem.n_targets
        mask, rest = greedy_subsets(problem, np.arange(m), level=None if self.spares else self._intervals)
        reached = rest <= problem.fixed.epsilon
        subsets = Subsets(
            problem,
            size=np.count_nonzero(mask, axis=1).astype(np.int64),
            error=problem.in_targets_unit(rest),
            reached=reached,
            settled=np.zeros(m, np.bool_),
            lower=problem.least_reaching(),
            kept=mask,
        )
        stats: dict[str, Any] = {"decomposed": int(reached.sum()), "repaired": 0}
        missed = np.flatnonzero(~reached)
        if self.repair and len(missed) and not run.out_of_time:
            subsets = _repaired(subsets, missed, limits, run)
            stats["repaired"] = int((subsets.reached & ~reached).sum())
        out_of_reach(problem, subsets)
        how = f"{stats['decomposed']} of {m} targets decomposed, {stats['repaired']} repaired; not proven smallest"
        why = "an interval is empty, or a target too large for the candidates"
        return answer(problem, self.name, run, subsets, stats=stats, how=how, why=why)

    def _intervals(self, sizes: Floats) -> NDArray[np.int32]:
        """The interval of each size; -1 for what lies above the first, the largest integer for sizes of 0."""
        top = sizes.max(axis=1, initial=0.0)[:, None] if self.top is None else self.top
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.floor(np.log(top / sizes) / -math.log(GAMMA))
        return np.where(sizes > 0, np.maximum(level, -1), np.iinfo(np.int32).max).astype(np.int32)


def golden_width(
    epsilon: float, delta: float, *, n_weights: int = 1, largest: float = 1.0, product: bool = False
) -> GoldenWidth:
    """Return how many samples the construction draws.

    Parameters
    ----------
    epsilon
        The tolerance of each weight, below ``largest``.
    delta
        The probability of a failure, over all weights together, between 0 and 1.
    n_weights
        How many weights share the samples.
    largest
        The bound B on the absolute weights.
    product
        Whether a sample is the product of two log-uniform factors (`product_samples`).
    """
    from scipy.special import bdtr

    if not 0 < epsilon < largest or not math.isfinite(largest):
        raise ValueError(f"epsilon={epsilon!r}: give a tolerance between 0 and the largest weight, {largest!r}")
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta!r}: give a probability between 0 and 1")
    if n_weights < 1:
        raise ValueError(f"n_weights={n_weights!r}: give a count >= 1")
    k = golden_levels(epsilon, largest)
    p = (1 + 1 / k) / (2 * k) if product else 1 / k
    tail, n = math.log(k / delta), n_weights
    top = math.ceil((n + tail + math.sqrt(tail * tail + 2 * tail * n)) / p)
    low, high = n, top  # the least number that keeps the tail below delta / k, by halving
    while low < high:
        middle = (low + high) // 2
        if k * bdtr(n - 1, middle, p) <= delta:
            high = middle
        else:
            low = middle + 1
    return GoldenWidth(
        levels=k,
        samples=low,
        closed_form=top,
        separate=n * math.ceil(math.log(k * n / delta) / p),
        low=largest * GAMMA ** (k + 1),
        high=largest * GAMMA,
    )


def golden_levels(epsilon: float, largest: float = 1.0) -> int:
    r"""Return the number of intervals, :math:`k = \lceil \log_{1/\gamma} (B / \varepsilon) \rceil`, at least 1."""
    return max(1, math.ceil(math.log(largest / epsilon) / -math.log(GAMMA) - 1e-12))


def hyperbolic_samples(
    shape: int | tuple[int, ...], low: float, high: float, *, seed: int | np.random.Generator, signed: bool = False
) -> Floats:
    r"""Draw from the hyperbolic density :math:`1 / (v \ln (\mathrm{high} / \mathrm{low}))` on [low, high].

    Intervals whose ends have the same ratio have the same probability.

    Parameters
    ----------
    shape
        Shape of the result.
    low, high
        The range, 0 < low < high.
    seed
        A seed or a generator.
    signed
        Give each sample a random sign.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"low={low!r}, high={high!r}: give 0 < low < high, finite")
    rng = np.random.default_rng(seed)
    values = np.clip(np.exp(rng.uniform(math.log(low), math.log(high), shape)), low, high)
    return values * rng.choice((-1.0, 1.0), shape) if signed else values


def product_samples(
    shape: int | tuple[int, ...], low: float, high: float, *, seed: int | np.random.Generator
) -> tuple[Floats, Floats]:
    r"""Draw two factors u, v > 0, each hyperbolic, whose product covers [low, high].

    With :math:`T = \ln (\mathrm{high} / \mathrm{low})`, log u and log v are uniform on an interval of length T about
    :math:`\tfrac14 \ln (\mathrm{low} \cdot \mathrm{high})`. Their sum has a triangular density of length 2 T, whose
    middle half is [log low, log high]; there it is at least 1 / (2 T), half of the hyperbolic density.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"low={low!r}, high={high!r}: give 0 < low < high, finite")
    length, centre = math.log(high / low), (math.log(low) + math.log(high)) / 4
    rng = np.random.default_rng(seed)
    ends = (math.exp(centre - length / 2), math.exp(centre + length / 2))
    return hyperbolic_samples(shape, *ends, seed=rng), hyperbolic_samples(shape, *ends, seed=rng)


def batch_assignment(samples: ArrayLike, width: GoldenWidth, n_weights: int) -> Ints:
    """Deal the samples of one batch out to the weights: entry (j, i) is weight j's sample in interval i, -1 for none.

    The j-th sample that falls into an interval goes to weight j.

    Parameters
    ----------
    samples : (M,) float
        Positive numbers; those outside of all intervals go to nobody.
    width
        The construction, from `golden_width`.
    n_weights
        Number of weights.
    """
    values = np.asarray(samples, np.float64)
    if values.ndim != 1:
        raise ValueError(f"samples: shape {values.shape} given, (M,) is needed")
    if np.any(values <= 0) or not np.all(np.isfinite(values)):
        raise ValueError("samples: give finite numbers > 0; take each sign by itself")
    interval = np.floor(np.log(width.high / values) / -math.log(GAMMA)).astype(np.int64)
    interval[values == width.low] = width.levels - 1
    inside = np.flatnonzero((interval >= 0) & (interval < width.levels))
    order = inside[np.argsort(interval[inside], kind="stable")]
    count = np.bincount(interval[inside], minlength=width.levels)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    served = turn < n_weights
    out = np.full((n_weights, width.levels), -1, np.int64)
    out[turn[served], interval[order[served]]] = order[served]
    return out


def _repaired(subsets: Subsets, missed: Ints, limits: Limits, run: Run) -> Subsets:
    """Answer the missed targets by the smallest subset, in the time that is left."""
    problem = subsets.problem
    rows = problem.candidates if problem.candidates.ndim == 1 else problem.candidates[missed]
    left = None if limits.seconds is None else max(0.0, limits.seconds - run.seconds)
    part = smallest_subsets(
        SubsetSum(problem.targets[missed], rows, problem.epsilon), limits=replace(limits, seconds=left)
    )
    run.evaluations += int(part.settled.sum())
    better = replace(subsets, interrupted=part.interrupted)
    for name in ("size", "error", "reached", "settled", "lower", "kept"):
        whole = getattr(subsets, name).copy()
        whole[missed] = getattr(part, name)
        object.__setattr__(better, name, whole)
    return better

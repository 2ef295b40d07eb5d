"""Random candidates for subset sums: how many a construction draws, and from which distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.validate import number

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

    _check_width(epsilon, delta, n_weights, largest)
    number("epsilon", epsilon, low=0.0, high=largest, open_ends="()")
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
    number("high", high, low=number("low", low, low=0.0, open_ends="("), open_ends="(")
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
    number("high", high, low=number("low", low, low=0.0, open_ends="("), open_ends="(")
    length, centre = math.log(high / low), (math.log(low) + math.log(high)) / 4
    rng = np.random.default_rng(seed)
    ends = (math.exp(centre - length / 2), math.exp(centre + length / 2))
    return hyperbolic_samples(shape, *ends, seed=rng), hyperbolic_samples(shape, *ends, seed=rng)


def product_width(epsilon: float, delta: float, *, n_weights: int = 1, largest: float = 0.25) -> int:
    r"""Return how many products of two uniform factors hold a subset near every weight: the measured law.

    A product is u v with u uniform on [0, 1] and v on [-1, 1] (those of one sign of u), scaled by 4 B. The theorem
    [1]_ says :math:`C \log_2 (2 N / \min(\varepsilon / B, \delta))` with a constant that it leaves open. Measured, the
    least n follows

    .. math:: n = \left\lceil 2 + \log_2 (B / \varepsilon) + 1.35 \log_2 (N / \delta) \right\rceil

    from above, for :math:`\varepsilon / B` of 1/10 to 1/10,000 (``benchmarks/lottery_theory``): most samples guard
    against pools of small numbers, few of them buy precision. `proven_width` needs no measurement, and is some
    twelve times as wide.

    Parameters
    ----------
    epsilon
        The tolerance of each weight.
    delta
        The probability of a failure, over all weights together.
    n_weights
        Number N of weights.
    largest
        The bound B on the absolute weights; 1/4 for factors up to 1.

    References
    ----------
    .. [1] A. Pensia, S. Rajput, A. Nagle, H. Vishwakarma, D. Papailiopoulos, "Optimal lottery tickets via SubsetSum:
       logarithmic over-parameterization is sufficient", NeurIPS 2020.
    """
    _check_width(epsilon, delta, n_weights, largest)
    return math.ceil(2 + math.log2(max(largest / epsilon, 1.0)) + 1.35 * math.log2(n_weights / delta))


def proven_width(
    epsilon: float, delta: float, *, n_weights: int = 1, largest: float = 0.5, mass: float = 1.0, sure: bool = True
) -> int:
    r"""Return a number of samples that provably suffices, without a constant left open.

    Let the samples be uniform on [-2 B, 2 B] and :math:`v_t` the share of [-B, B] that sums of t samples come within
    epsilon of; :math:`v_0 = \varepsilon / B`. A point not covered is covered by the next sample with probability
    :math:`v_t / 2`, so :math:`E[v_{t+1}] \ge v_t + v_t (1 - v_t) / 2`, and :math:`v_{t+1} \le 2 v_t`. As
    :math:`v^{-\theta}` is convex, its mean falls by the factor :math:`1 - \tfrac{1-c}{2} (1 - 2^{-\theta})` at least
    while :math:`v < c`; after s samples Markov's inequality bounds P(v < c), and each of m more covers a given weight
    with probability c / 2. The least s + m over c, theta and m is returned (the argument is Lueker's, with explicit
    numbers).

    Parameters
    ----------
    epsilon, delta, n_weights
        As in `product_width`; the bound holds for every weight by itself and is added up over them.
    largest
        The bound B.
    mass
        The samples contain uniform ones only with this probability: ln(2) / 2 for products of two uniform factors,
        which contain the uniform distribution on [-1/2, 1/2].
    sure
        False: only until half of [-B, B] is covered in the mean of the logarithm, what the growth alone would take.
    """
    _check_width(epsilon, delta, n_weights, largest)
    start = min(1.0, epsilon / largest)
    if not sure:
        return math.ceil(max(0.0, math.log(0.5 / start)) / (mass * math.log(1.5)))
    fail, best = delta / n_weights, math.inf
    theta = np.linspace(0.05, 6.0, 60)
    for c in (0.5, 0.4, 0.3, 0.2):
        step = -np.log1p(-mass * (1 - c) / 2 * (1 - 2.0**-theta))
        reach = theta * max(0.0, math.log(c / start))
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            grow = 0.0 if start >= c else np.ceil((reach - math.log(share * fail)) / step).min()
            hit = math.ceil(math.log((1 - share) * fail) / math.log1p(-mass * c / 2))
            best = min(best, grow + hit)
    return int(best)


def single_width(epsilon: float, delta: float, *, n_weights: int = 1, largest: float = 0.25) -> int:
    r"""Return how many products of two uniform factors hold one that is by itself near enough to each weight.

    That is what the first proofs did [1]_, polynomial in 1 / epsilon. The product has the density :math:`\tfrac12 \ln
    (1 / |p|)` on [-1, 1]; scaled by 4 B, the window of a weight up to B has a mass of :math:`\tfrac{\varepsilon}{4 B}
    \ln \tfrac{4 B}{B + \varepsilon}` at least, and :math:`n = \ln (N / \delta)` over that.

    References
    ----------
    .. [1] E. Malach, G. Yehudai, S. Shalev-Shwartz, O. Shamir, "Proving the lottery ticket hypothesis: pruning is all
       you need", ICML 2020.
    """
    _check_width(epsilon, delta, n_weights, largest)
    relative = epsilon / (4 * largest)
    return math.ceil(math.log(n_weights / delta) / (relative * math.log(1 / min(0.25 + relative, 0.99))))


def signed_draws(needed: int, n_pools: int, delta: float) -> int:
    """Return how many draws of a random sign hold ``needed`` of either sign, in each of ``n_pools`` pools, with
    probability 1 - delta."""
    from scipy.special import bdtr

    draws = 2 * needed
    while 2 * n_pools * bdtr(needed - 1, draws, 0.5) > delta:
        draws += 1
    return draws


def _check_width(epsilon: float, delta: float, n_weights: int, largest: float) -> None:
    number("epsilon", epsilon, low=0.0, open_ends="(")
    number("delta", delta, low=0.0, high=1.0, open_ends="()")
    number("n_weights", n_weights, low=1)
    number("largest", largest, low=0.0, open_ends="(")

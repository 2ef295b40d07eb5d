"""What is left of a `QuadraticSubset` when groups are removed, and the least that removing more of them costs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.deadline import is_over
from prunopt.core.solution import CertificateError

CHUNK = 512
SPECTRUM = 400  # columns up to which eigenvalues are computed for a bound


class Rest(NamedTuple):
    """The groups still open when others are removed: W'^T W' and C' over their columns, and what was spent so far.

    ``groups`` are their numbers, ``sizes`` how many columns each has, in the order of the arrays.
    """

    groups: Ints
    sizes: Ints
    gram: Floats
    inverse: Floats
    spent: float


class Costs(NamedTuple):
    """Exact costs of removing one open group, and two of them (on the diagonal: one), and what whitening leaves.

    Out of time, costs of two groups may be lower bounds.
    """

    one: Floats
    two: Floats
    correlation: Floats


def check_cover(removed: Bools, kept: Bools, remove: int) -> None:
    """Every set of ``remove`` groups lies in a leaf: the leaves are disjoint and as numerous, together, as the sets."""
    if np.any(removed & kept):
        raise CertificateError("duals: a leaf removes a group that it keeps")
    n = removed.shape[1]
    total = 0
    for fixed, out in zip((removed | kept).sum(axis=1).tolist(), removed.sum(axis=1).tolist(), strict=True):
        total += math.comb(n - fixed, remove - out) if remove >= out else 0
    if total != math.comb(n, remove):
        raise CertificateError(f"duals: the leaves hold {total} of the {math.comb(n, remove)} answers")
    r, k = removed.astype(np.float32), kept.astype(np.float32)
    for start in range(0, len(r), CHUNK):
        part = slice(start, start + CHUNK)
        apart = (r[part] @ k.T + k[part] @ r.T) > 0
        apart[np.arange(len(apart)), start + np.arange(len(apart))] = True
        if not apart.all():
            raise CertificateError("duals: two leaves hold the same answer")


def restrict(rest: Rest, open_: Bools) -> Rest:
    """Return the rest without the groups that are not open (they are kept, so their columns play no part)."""
    stay = open_[rest.groups]
    if stay.all():
        return rest
    columns = np.repeat(stay, rest.sizes)
    pick = np.ix_(columns, columns)
    return Rest(rest.groups[stay], rest.sizes[stay], rest.gram[pick], rest.inverse[pick], rest.spent)


def exact_costs(rest: Rest) -> Costs:
    """Return the exact costs of every single open group and of every pair."""
    gram, between = np.array(rest.gram), np.array(rest.inverse)
    if not len(rest.groups):
        return Costs(np.zeros(0), np.zeros((0, 0)), between)
    stop = np.cumsum(rest.sizes)
    spans = [slice(b - s, b) for b, s in zip(stop.tolist(), rest.sizes.tolist(), strict=True)]
    if np.all(rest.sizes == 1):
        scale = 1 / np.sqrt(np.diagonal(between))
        gram, between = gram * np.outer(scale, scale), between * np.outer(scale, scale)
    else:
        for span in spans:
            L = np.linalg.cholesky(rest.inverse[span, span])
            for matrix in (gram, between):
                matrix[span] = solve_triangular(L, matrix[span], lower=True)
                matrix[:, span] = solve_triangular(L, matrix[:, span].T, lower=True).T
    one = np.add.reduceat(np.diagonal(gram), stop - rest.sizes)
    return Costs(one, _pairs(gram, between, one, spans), between)


def _pairs(gram: Floats, between: Floats, one: Floats, spans: list[slice]) -> Floats:
    """Costs of two groups: with Z the whitened correlation, e_g + tr (I - Z Z^T)^-1 (v_h - v_g Z^T)(...)^T."""
    if len(one) == len(gram):
        own = one[:, None]
        left = np.maximum(1 - between**2, 1e-300)
        np.fill_diagonal(left, 1.0)
        two = own + (own.T - 2 * between * gram + between**2 * own) / left
    else:
        two = np.maximum(one[:, None], one)  # out of time: two groups cost at least what either does
        sizes = np.array([span.stop - span.start for span in spans])
        for g, G in enumerate(spans):
            if is_over():
                break
            for size in np.unique(sizes[:g]):
                h = np.flatnonzero(sizes[:g] == size)
                S = np.array([np.arange(spans[k].start, spans[k].stop) for k in h])
                Z = between[S, G]
                cross = Z @ gram[G][:, S].transpose(1, 0, 2)
                own = gram[S[:, :, None], S[:, None, :]]
                moved = own - cross - cross.transpose(0, 2, 1) + Z @ gram[G, G] @ Z.transpose(0, 2, 1)
                solved = np.linalg.solve(np.eye(size) - Z @ Z.transpose(0, 2, 1), moved)
                two[g, h] = two[h, g] = one[g] + np.trace(solved, axis1=1, axis2=2)
    np.fill_diagonal(two, one)
    return np.asarray(two)


def least_rest(rest: Rest, missing: int, enough: float = math.inf, costs: Costs | None = None) -> float:
    r"""Return a lower bound on the cost of removing ``missing`` more of the open groups; ``enough`` will do.

    Costs grow with what is removed, so with e_h and e_gh the exact costs of one and of two groups, every R of r
    groups costs at least (a) the r-th smallest e_h; (b) the r-th smallest of :math:`q_g`, the (r - 1)-th smallest
    e_gh of g; exactly the least e_h or e_gh for r = 1, 2. And where D dominates C' on R, R costs at least
    :math:`\sum_h \operatorname{tr} W_h D_h^{-1} W_h^T`: (c) with :math:`D_h = \mu_h C'_{hh}`, :math:`\mu_h` being 1
    plus the r - 1 largest norms of whitened blocks between h and others; (d) with :math:`\mu` the largest eigenvalue
    of the whitened C'.
    """
    if missing <= 0:
        return 0.0 if missing == 0 else math.inf
    if len(rest.groups) < missing:
        return math.inf
    one, two, between = exact_costs(rest) if costs is None else costs
    if missing == 1:
        return float(one.min())
    others = two + np.diag(np.full(len(two), np.inf))
    nearest = np.partition(others, missing - 2, axis=1)[:, missing - 2]
    least = float(np.partition(nearest, missing - 1)[missing - 1])
    if missing == 2:
        return float(others.min())
    if least >= enough:
        return least
    begin = np.cumsum(rest.sizes) - rest.sizes
    norms = np.sqrt(np.add.reduceat(np.add.reduceat(between**2, begin, axis=0), begin, axis=1))
    np.fill_diagonal(norms, 0.0)
    reach = 1 - np.partition(-norms, missing - 2, axis=1)[:, : missing - 1].sum(axis=1)
    least = max(least, float(np.partition(one / reach, missing - 1)[:missing].sum()))
    if least >= enough or len(between) > SPECTRUM:
        return least
    largest = float(np.linalg.eigvalsh(between)[-1])
    return max(least, float(np.partition(one, missing - 1)[:missing].sum()) / largest)

"""Sweeps over the coordinates of the convex relaxation that the bound for masks is the dual of.

With D = diag(delta) <= H and P = H - D a mask of the row w with weights v loses (w - v) P (w - v)^T + sum_i delta_i
(w_i - v_i)^2. Letting a mask z_i lie between 0 and 1 turns the part of delta_i v_i^2 into delta_i v_i^2 / z_i, and a
price lambda of a kept weight into the reverse Huber term

    min_z  delta v^2 / z + lambda z  =  2 sqrt(delta lambda) |v|  up to |v| = sqrt(lambda / delta),  delta v^2 + lambda.
"""

from __future__ import annotations

from prunopt.core.arrays import Floats
from prunopt.core.jit import njit


@njit
def sweep_rows(W: Floats, P: Floats, delta: Floats, price: Floats, V: Floats, Y: Floats) -> None:
    """Minimize over one weight after the other, in place; Y is (W - V) P."""
    rows, d = W.shape
    for j in range(d):
        own, dj = max(P[j, j], 1e-300), delta[j]
        column = P[j]
        for r in range(rows):
            pull = P[j, j] * V[r, j] + Y[r, j] + dj * W[r, j]
            fresh = pull / (own + dj)
            if fresh * fresh * dj < price[r, j]:
                root = (dj * price[r, j]) ** 0.5
                most = (price[r, j] / dj) ** 0.5
                fresh = 0.0
                if pull > root:
                    fresh = min((pull - root) / own, most)
                elif pull < -root:
                    fresh = max((pull + root) / own, -most)
            step = fresh - V[r, j]
            if step != 0.0:
                V[r, j] = fresh
                for k in range(d):
                    Y[r, k] -= step * column[k]

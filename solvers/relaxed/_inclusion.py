"""Inclusion probabilities of subsets of a fixed size, differentiable, in memory that grows with the entries alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 14


def inclusion_probabilities(theta: Tensor, size: int) -> Tensor:
    r"""Return :math:`P(j \in S)` for :math:`P(S) \propto \exp \sum_{i \in S} \theta_i` over the subsets S of a size.

    .. math::
        P(j \in S) = e^{\theta_j} \, \frac{E_{N-1}(\theta_{-j})}{E_N(\theta)}

    with E the elementary symmetric polynomials of :math:`e^{\theta}`, by a recursion forwards and one backwards, in
    logarithms: O(M N) numbers for each row.

    Parameters
    ----------
    theta : (G, M) tensor
    size : int
        N, from 1 to M.

    Returns
    -------
    (G, M) tensor; every row adds up to N.
    """
    import torch

    rows, m = theta.shape
    if size == m:
        return torch.ones_like(theta)
    never = torch.full((rows, 1), -torch.inf, dtype=theta.dtype, device=theta.device)

    def shifted(e: Tensor) -> Tensor:
        return torch.cat([never, e[:, :-1]], dim=1)

    start = torch.cat([torch.zeros_like(never), never.expand(rows, size)], dim=1)
    before, after = [start], [start]
    for j in range(m):
        before.append(_log_add(before[-1], shifted(before[-1]) + theta[:, j : j + 1]))
    for j in range(m - 1, 0, -1):
        after.append(_log_add(after[-1], shifted(after[-1]) + theta[:, j : j + 1]))
    whole = before[-1][:, size]
    out = []
    for j in range(m):
        # Sizes k before j and N - 1 - k after it, for k = 0 .. N - 1.
        others = _log_sum(before[j][:, :size] + after[m - 1 - j][:, :size].flip(1))
        out.append(torch.exp(theta[:, j] + others - whole))
    return torch.stack(out, dim=1)


def inclusion_in_chunks(theta: Tensor, size: int, rows: int = CHUNK) -> Tensor:
    """Return `inclusion_probabilities`, ``rows`` rows at a time, recomputed in the backward pass.

    The recursions' intermediate numbers, O(M N) a row, are held for one chunk only.
    """
    import torch

    class Chunks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, whole: Tensor) -> Tensor:
            ctx.save_for_backward(whole)
            out = torch.empty_like(whole)
            for k in range(0, len(whole), rows):
                out[k : k + rows] = inclusion_probabilities(whole[k : k + rows], size)
            return out

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (whole,), out = ctx.saved_tensors, torch.empty_like(gradients[0])
            for k in range(0, len(whole), rows):
                part = whole[k : k + rows].detach().requires_grad_()
                with torch.enable_grad():
                    there = inclusion_probabilities(part, size)
                out[k : k + rows] = torch.autograd.grad(there, part, gradients[0][k : k + rows])[0]
            return out

    answer: Tensor = Chunks.apply(theta)  # type: ignore[no-untyped-call]
    return answer


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """Return log(e^a + e^b), without the NaN gradients of two infinities."""
    import torch

    both = torch.isneginf(a) & torch.isneginf(b)
    zero = torch.zeros_like(a)
    added = torch.logaddexp(torch.where(both, zero, a), torch.where(both, zero, b))
    return torch.where(both, torch.full_like(a, -torch.inf), added)


def _log_sum(a: Tensor) -> Tensor:
    """Return the log of the sum of e^a over a row, of which at least one entry is finite."""
    import torch

    top = a.max(dim=1, keepdim=True).values.detach()
    return torch.log(torch.exp(a - top).sum(dim=1)) + top[:, 0]

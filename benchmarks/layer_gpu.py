"""One layer of LLaMA-7B's shape on a GPU (heads at d = 4096, columns at d = 11008), and the whole model from it.

``python -m benchmarks.layer_gpu``. Random weights, a Hessian from 128 x 2048 random tokens with a falling spectrum; a
fifth of the units is removed by block elimination with downdates. The solvers of prunopt run on the CPU; this script
runs the steps of `prunopt.solvers.layer._obs_kernel` in torch. SlimGPT's authors state 18 minutes for the whole model.
"""

import json
import time
from typing import Any

LAYERS = 32
TOKENS, CHUNK = 128 * 2048, 4096
SHAPES = {"o_proj": (4096, 4096, 128), "down_proj": (4096, 11008, 1)}
BATCH = 64


def hessian(columns: int, torch: Any, device: str) -> Any:
    """The mean over tokens of x x^T, products in single precision, sums in double."""
    scale = torch.arange(1, columns + 1, device=device, dtype=torch.float32) ** -0.6
    basis = torch.linalg.qr(torch.randn(columns, columns, device=device))[0]
    total = torch.zeros(columns, columns, device=device, dtype=torch.float64)
    for _ in range(TOKENS // CHUNK):
        x = (torch.randn(CHUNK, columns, device=device) * scale) @ basis.T
        total += (x.T @ x).double()
    return total / TOKENS


def prune(weight: Any, normal: Any, size: int, remove: int, torch: Any) -> Any:
    """Greedy removal of groups of ``size`` columns; single columns go in batches."""
    C = torch.cholesky_inverse(torch.linalg.cholesky(normal)).float()
    W = weight.clone()
    gone = torch.zeros(W.shape[1] // size, dtype=torch.bool, device=W.device)
    taken = 0
    while taken < remove:
        if size == 1:
            costs, count = (W**2).sum(0) / torch.diagonal(C), min(BATCH, remove - taken)
        else:
            at = torch.arange(W.shape[1], device=W.device).reshape(-1, size)
            blocks = C[at[:, :, None], at[:, None, :]]
            blocks[gone] = torch.eye(size, device=W.device)
            half = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), W.T[at], upper=False)
            costs, count = (half**2).sum((1, 2)), 1
        costs[gone] = float("inf")
        groups = torch.argsort(costs)[:count]
        columns = (groups[:, None] * size + torch.arange(size, device=W.device)).flatten()
        L = torch.linalg.cholesky(C[columns][:, columns])
        half_W = torch.linalg.solve_triangular(L, W[:, columns].T, upper=False)
        half_C = torch.linalg.solve_triangular(L, C[columns], upper=False)
        W -= half_W.T @ half_C
        C -= half_C.T @ half_C
        W[:, columns], C[columns], C[:, columns] = 0, 0, 0
        C[columns, columns] = 1
        gone[groups] = True
        taken += count
    return W


def main() -> None:
    """Print the seconds of each step as JSON."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: benchmarks.layer has the figures of the CPU")
    torch.manual_seed(0)
    out: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for name, (rows, columns, size) in SHAPES.items():
        times = []
        weight = torch.randn(rows, columns, device="cuda")
        for step in ("warm-up", "measured"):
            torch.cuda.synchronize()
            start = time.perf_counter()
            normal = hessian(columns, torch, "cuda")
            normal.diagonal().add_(0.01 * normal.diagonal().mean())
            torch.cuda.synchronize()
            middle = time.perf_counter()
            pruned = prune(weight, normal, size, columns // size // 5, torch)
            torch.cuda.synchronize()
            times = [middle - start, time.perf_counter() - middle]
            assert step == "warm-up" or bool(torch.isfinite(pruned).all())
        change = (weight - pruned).double()
        error = float(((change @ normal) * change).sum() / ((weight.double() @ normal) * weight).sum())
        out[name] = {"hessian and data seconds": times[0], "pruning seconds": times[1], "relative error": error}
    out["pruning of the whole model seconds"] = LAYERS * sum(out[name]["pruning seconds"] for name in SHAPES)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()

"""llm-compressor's SparseGPT on a given weight and Hessian: run by `benchmarks.layer` with the peer's own Python.

``python layer_peer.py IN.npz OUT.npz PATTERN``: IN holds ``weight`` and ``hessian``, PATTERN is 2:4 or unstructured
(50 %); OUT gets the pruned weight and the seconds of three calls.
"""

import sys
import time

import numpy as np


def main(source: str, target: str, pattern: str) -> None:
    import torch
    from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight

    with np.load(source, allow_pickle=False) as arrays:
        weight, hessian = (torch.from_numpy(arrays[name].astype(np.float32)) for name in ("weight", "hessian"))
    n, m = (2, 4) if pattern == "2:4" else (0, 0)
    taken = []
    for _ in range(3):
        module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        module.weight.data.copy_(weight)
        start = time.perf_counter()
        found = sparsify_weight(module, {module: hessian.clone()}, 0.5, n, m, 128, 0.01, False)
        taken.append(time.perf_counter() - start)
    pruned = found[-1] if isinstance(found, tuple) else found
    np.savez(target, weight=pruned.detach().float().numpy(), seconds=np.array(taken))


if __name__ == "__main__":
    main(*sys.argv[1:])

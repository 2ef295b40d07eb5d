"""The cells of the table of language models, and the perplexity of a result on file: nothing here needs torch."""

from __future__ import annotations

from typing import Any

import numpy as np

DOMAINS = ("WikiText-2 test", "Python help", "film reviews")

STRUCTURED: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude", "refit": False},
    "wanda": {"method": "wanda", "refit": False},
    "wanda+refit": {"method": "wanda", "shrinkage": 0},
    "slimgpt": {"method": "slimgpt", "damping": 0.01},
    "ours": {"method": "wanda", "allocation": "log", "shrinkage": 0.2},
}
SINGLE: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude", "refit": False},
    "wanda": {"method": "wanda", "refit": False},
    "wanda+refit": {"method": "wanda", "shrinkage": 0},
    "sparsegpt": {"method": "sparsegpt", "refit": False},
    "sparsegpt+refit": {"method": "sparsegpt", "shrinkage": 0},
    "ours": {"method": "sparsegpt", "shrinkage": 0.2},
}
GROUPS = {
    "10 %": (STRUCTURED, {"sparsity": 0.1, "units": ("ffn",)}),
    "20 %": (STRUCTURED, {"sparsity": 0.2, "units": ("ffn",)}),
    "30 %": (STRUCTURED, {"sparsity": 0.3, "units": ("ffn",)}),
    "50 %": (SINGLE, {"sparsity": 0.5, "pattern": "unstructured"}),
    "2-4": (SINGLE, {"sparsity": 0.5, "pattern": "2:4"}),
    "70 %": ({}, {"sparsity": 0.7, "pattern": "unstructured"}),
}
REPAIRED = ", repaired"  # the model of the cell without it, its outputs repaired as the command does it
DEFAULT: dict[str, Any] = {"method": None, "allocation": None}  # what `prunopt prune` does, in one shape
CELLS = {f"{g}/{m}": base | options for g, (methods, base) in GROUPS.items() for m, options in methods.items()}
TRIALS: dict[str, dict[str, Any]] = {
    "10 %/ours, no shrinkage": GROUPS["10 %"][1] | {"method": "wanda", "allocation": "log", "shrinkage": 0},
    "20 %/ours, no shrinkage": GROUPS["20 %"][1] | {"method": "wanda", "allocation": "log", "shrinkage": 0},
    "30 %/ours, no shrinkage": GROUPS["30 %"][1] | {"method": "wanda", "allocation": "log", "shrinkage": 0},
    "30 %/ours corrected, no shrinkage": {},  # measured with options that were removed for it: the row is a record
    "30 %/wanda+refit, damping 1": GROUPS["30 %"][1] | {"method": "wanda", "damping": 1.0, "shrinkage": 0},
    "30 %/obs-greedy": GROUPS["30 %"][1] | {"method": "obs-greedy", "shrinkage": 0},
    "30 %/obs-greedy shrunk": GROUPS["30 %"][1] | {"method": "obs-greedy", "shrinkage": 0.2},
    "2-4/sparsegpt+refit, rarity 0.5": {},  # likewise
    "20 %/default": {"sparsity": 0.2} | DEFAULT,
    "30 %/default": {"sparsity": 0.3} | DEFAULT,
    "50 %/default": GROUPS["50 %"][1] | DEFAULT,
    "2-4/default": GROUPS["2-4"][1] | DEFAULT,
    "70 %/default": GROUPS["70 %"][1] | DEFAULT,
    "70 %/sparsegpt": GROUPS["70 %"][1] | SINGLE["sparsegpt"],
}  # fmt: skip


def options_of(name: str) -> dict[str, Any]:
    """Return what a cell asks for; its seed, ``@1`` at the end, and the repair are left to the caller."""
    found = (CELLS | TRIALS)[name.partition("@")[0].removesuffix(REPAIRED)]
    if not found:
        raise ValueError(f"cell {name!r} was measured with an option that was removed; choose another")
    return dict(found)


def perplexity(result: dict[str, Any], domain: str) -> float:
    """Return exp of the mean loss."""
    return float(np.exp(np.mean(result["evaluation"][domain]["loss"])))

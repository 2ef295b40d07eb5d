"""The cells of the table of language models, and the perplexity of a result on file: nothing here needs torch."""

from __future__ import annotations

from typing import Any

import numpy as np

DOMAINS = ("WikiText-2 test", "Python help")

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
}
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
    "30 %/ours, repaired": GROUPS["30 %"][1] | STRUCTURED["ours"] | {"repair": "blocks"},
    "2-4/ours, repaired": GROUPS["2-4"][1] | SINGLE["ours"] | {"repair": "blocks"},
    "50 %/ours, repaired": GROUPS["50 %"][1] | SINGLE["ours"] | {"repair": "blocks"},
    "50 %/obc": GROUPS["50 %"][1] | {"method": "obc"},
    "50 %/obc, repaired": GROUPS["50 %"][1] | {"method": "obc", "repair": "blocks"},
}  # fmt: skip


def perplexity(result: dict[str, Any], domain: str) -> float:
    """Return exp of the mean loss."""
    return float(np.exp(np.mean(result["evaluation"][domain]["loss"])))

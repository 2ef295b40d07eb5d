"""What the tests of both repairs share."""

from __future__ import annotations

from typing import Any

from prunopt.networks.transformers.families import blocks, weight_of

KINDS: dict[str, dict[str, Any]] = {
    "2:4": {"pattern": "2:4"},
    "units": {"sparsity": 0.3, "units": ("heads", "ffn"), "method": "obs-swap"},
}


def half_is_zero(model: Any) -> bool:
    """Whether two of every four weights of all blocks are 0."""
    layers = [weight_of(block.module.get_submodule(name)) for block in blocks(model) for name in block.layers]
    return all(bool(((w == 0).reshape(-1, 4).sum(1) >= 2).all()) for w in layers)

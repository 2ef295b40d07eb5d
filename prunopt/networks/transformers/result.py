"""A pruned transformer: the model, what was done to it, and how it is written to a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunopt.core.files import digest, write_json
from prunopt.networks.io.folders import FORMAT, MANIFEST, WEIGHTS, versions, whole_folder
from prunopt.networks.transformers.checkpoints import linear_shapes, write_model
from prunopt.networks.transformers.layer import LayerReport
from prunopt.networks.transformers.repair import RepairReport


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned transformer.

    Parameters
    ----------
    model
        The smaller model, in evaluation mode.
    report
        One row for each layer: objective, bound, gap, kept, damping, seconds.
    removed, target, total
        Parameters (or single weights) removed, asked for, and those of all blocks' linear layers.
    stock
        Whether stock transformers code can load what `save` writes.
    options
        What was asked for, as plain values.
    notes
        What a person should know: dampings that went up, shares of rare tokens, budgets met by other means.
    digests
        SHA-256 of the calibration and of the model before.
    repairs
        One row for each block that was repaired; the report's errors are those before.
    """

    model: nn.Module
    report: tuple[LayerReport, ...]
    removed: int
    target: int
    total: int
    stock: bool
    options: dict[str, Any]
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    repairs: tuple[RepairReport, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction removed of the parameters of the blocks' linear layers."""
        return self.removed / self.total

    def save(self, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
        """Write the model, its configuration and ``prunopt.json`` to a folder; `prunopt.networks.load` reads it."""
        save(self, folder, tokenizer=tokenizer)


def save(result: PruneResult, folder: str | os.PathLike[str], *, tokenizer: Any = None) -> None:
    """Write a pruned transformer: all files, or none.

    ``config.json``, ``generation_config.json`` and ``model.safetensors`` are those of transformers, weights in the
    number format of the checkpoint that they come from; where all blocks have one shape, stock ``from_pretrained``
    reads the folder. ``prunopt.json`` holds shapes, budget, the report of every layer, notes, versions, and the
    digests of weights, calibration and the model before.

    Raises
    ------
    ValueError
        If the folder exists and is not one that prunopt wrote.
    """
    model, kinds = result.model, {p.dtype for p in result.model.parameters()}
    with whole_folder(folder) as place:
        write_model(model, place)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
        manifest = {
            "format": FORMAT, "kind": "transformer", "stock": result.stock, "shapes": linear_shapes(model),
            "removed": result.removed, "target": result.target, "total": result.total,
            "sparsity": result.sparsity, "options": result.options, "notes": list(result.notes),
            "dtype": str(kinds.pop()).removeprefix("torch.") if len(kinds) == 1 else None,
            "report": [row.to_dict() for row in result.report], "weights": digest(place / WEIGHTS),
            "before": {k: v for k, v in result.digests.items() if k != "options"}, "versions": versions(),
        }  # fmt: skip
        if result.repairs:
            manifest["repair"] = [row.to_dict() for row in result.repairs]
        write_json(place / MANIFEST, manifest)

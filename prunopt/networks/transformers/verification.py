"""A saved model, checked against what its manifest claims."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn

from prunopt.core.solution import CertificateError
from prunopt.forms.layer.nm_patterns import check_pattern
from prunopt.networks.io.folders import read_manifest
from prunopt.networks.io.journal import model_digest
from prunopt.networks.transformers._recomputed import recomputed_errors, recomputed_outputs, recomputed_repairs
from prunopt.networks.transformers.block_removal import remove_parts
from prunopt.networks.transformers.calibration import as_calibration, completed
from prunopt.networks.transformers.checkpoints import load
from prunopt.networks.transformers.families import Block, blocks, weight_of
from prunopt.networks.transformers.modelling_file import check_modelling_file
from prunopt.networks.transformers.surgery import parameters_of

ROUNDING = 1e-4  # of a relative error, where the weights before were rounded to another format
TOLERANCE = 1e-3  # relative, of errors that are sums in single precision


@torch.no_grad()
def verify_folder(
    folder: str | os.PathLike[str], original: nn.Module | None = None, calibration: Any = None
) -> dict[str, str]:
    """Recompute what a manifest claims: digest, shapes, masks and budget; with more given, the errors of its layers.

    Parameters
    ----------
    folder
        Written by `prunopt.networks.save`.
    original
        The model before: its digest is compared.
    calibration
        What it was calibrated on: the error of every pruned layer is recomputed on inputs from the pruned model.

    Returns
    -------
    dict
        What was checked, and the figures found.

    Raises
    ------
    CertificateError
        If a claim does not hold.
    """
    manifest, model = read_manifest(folder), load(folder)
    checks = {"weights": "digest and shapes as in the manifest"}
    found = blocks(model)
    pattern, total = manifest["options"]["pattern"], int(manifest["total"])
    if pattern is None:
        left = sum(parameters_of(b)[part] for b in found for part in ("attention", "feed_forward"))
        removed = total - left
        if removed != manifest["removed"]:
            raise CertificateError(f"{removed} parameters are missing, the manifest says {manifest['removed']}")
        checks["budget"] = f"{removed:,} of {total:,} parameters removed, {manifest['target']:,} asked for"
    else:
        zeros = sum(_zeros(b, pattern) for b in found)
        if zeros < manifest["removed"]:
            raise CertificateError(f"{zeros} weights are 0, the manifest says {manifest['removed']}")
        checks["masks"] = f"{zeros:,} of {total:,} weights are 0" + (
            "" if pattern == "unstructured" else f", all {pattern}"
        )
    if (said := check_modelling_file(folder, model)) is not None:
        checks["modeling file"] = said
    if original is None:
        return checks
    if model_digest(original) != manifest["before"]["model"]:
        raise CertificateError("the original is not the model that was pruned: their digests differ")
    checks["original"] = "digest as in the manifest"
    if calibration is not None:
        checks["errors"] = _errors(manifest, original, model, calibration)
    return checks


def _zeros(block: Block, pattern: str) -> int:
    zeros = 0
    for name in block.layers:
        weight = weight_of(block.module.get_submodule(name))
        gone = (weight == 0).cpu().numpy()
        if pattern != "unstructured":
            kept, size = check_pattern(pattern)
            if (gone.reshape(-1, size).sum(axis=1) < size - kept).any():
                raise CertificateError(f"{block.name}.{name}: a block keeps more than {kept} of {size} weights")
        zeros += int(gone.sum())
    return zeros


def _errors(manifest: dict[str, Any], original: nn.Module, pruned: nn.Module, calibration: Any) -> str:
    """Recompute ||(W - W') X||^2 / ||W X||^2 of all pruned layers, X being the inputs in the pruned model."""
    if any(row["error"] is None for row in manifest["report"]):
        return "not recomputed: masks learned by the model's loss come without errors of layers"
    if any(manifest["options"].get(name) for name in ("rarity", "correction")):
        return "not recomputed: the options rarity and correction, which were removed, were used"
    tokens = as_calibration(calibration)
    if tokens.digest() != manifest["before"]["calibration"]:
        raise CertificateError("the calibration is not the one that was used: their digests differ")
    tokens, _ = completed(tokens, original)
    worst, count = 0.0, 0
    before, after = (copy.deepcopy(m).float() for m in (original, pruned))  # as they were when it was pruned
    for model in (before, after):  # a mask made for one kernel of attention means another thing to the next
        choose: Any = getattr(model, "set_attn_implementation", None)
        if choose is not None:
            choose("eager")
    remove_parts(before, manifest["options"].get("parts", {}))
    repaired = manifest.get("repair")
    whole = manifest.get("output_repair")
    recomputed = recomputed_outputs if whole else recomputed_repairs if repaired else recomputed_errors
    for name, error, claim in recomputed(before, after, tokens, manifest):
        worst, count = max(worst, abs(error - claim) / max(claim, 1e-12)), count + 1
        if abs(error - claim) > TOLERANCE * max(claim, 1e-6) + (ROUNDING if manifest["options"].get("dtype") else 0):
            raise CertificateError(f"{name}: error {error:.6g}, the manifest says {claim:.6g}")
    kind, experts = (
        "divergence of the repaired outputs" if whole else "repaired blocks" if repaired else "layers",
        sum("expert" in row["unit"] for row in manifest["report"]),
    )
    if whole:
        return f"{kind} recomputed, relative difference {worst:.1e}; errors of layers are those before that repair"
    rest = f"; those of {experts} experts are not" if experts and not repaired else ""
    return f"{count} {kind} recomputed, largest relative difference {worst:.1e}{rest}"

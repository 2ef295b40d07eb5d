"""N:M masks of a transformer learned by its own loss: the task, its answer carried back, and masks on disk."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from prunopt.api import solve
from prunopt.core.deprecation import moved_arguments
from prunopt.core.files import write_atomically
from prunopt.core.solution import Solution
from prunopt.core.validate import Shown, one_of, require
from prunopt.forms import MaskBlocks
from prunopt.forms.layer.nm_patterns import candidates, check_pattern, codes_of, mask_of, pack, unpack
from prunopt.networks.io.journal import model_digest
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import blocks, replace_weight, weight_of
from prunopt.networks.transformers.layer import LayerReport
from prunopt.networks.transformers.layerwise import LayerwisePruning
from prunopt.networks.transformers.recipes import SINGLE_WEIGHTS, PruneOptions
from prunopt.networks.transformers.result import PruneResult
from prunopt.networks.transformers.text import token_losses
from prunopt.problems.semi_structured_mask import Masks, SemiStructuredMask
from prunopt.solvers.relaxed.maskllm import MaskLLM

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ORDER = "kept places, lexicographic"


@dataclass(frozen=True, eq=False)
class LearnedMasks:
    """Masks, the model that has them, and how they were found.

    Parameters
    ----------
    masks
        By layer, (out, in) bool, True = kept.
    model
        A copy of the model with zeros in place; the kept weights are the given ones, bit for bit, unless ``refit``.
    solution
        Of the task: loss, trace, and in ``stats`` the history of loss, temperature and share of changed blocks.
    refit_share
        How far the kept weights went towards those of least squares after the masks were learned, 0 to 1.
    """

    masks: Masks
    model: nn.Module
    solution: Solution[Masks]
    pattern: tuple[int, int]
    refit: bool
    refit_share: float = 0.0


def layer_names(model: nn.Module) -> list[str]:
    """Return the names of the linear layers inside the blocks: embeddings and the output layer are not among them."""
    return [f"{block.name}.{name}" for block in blocks(model) for name in block.layers]


@dataclass(frozen=True)
class MaskTaskOptions:
    """What the loss of masks is taken of, and how.

    Parameters
    ----------
    layers
        Names of linear layers; None: all in the blocks.
    batch
        Windows at a step.
    evaluation : (n, length) int64
        What the objective is taken over; None: the windows that masks are learned on.
    device
        Where the model runs.
    dtype
        What weights are rounded to in the losses, such as ``torch.bfloat16``; None: as they are. The loss of the
        logits is taken in single precision all the same, and the answer's weights are the model's own.
    """

    layers: Sequence[str] | None = None
    batch: int = 1
    evaluation: torch.Tensor | None = None
    device: str = "cpu"
    dtype: torch.dtype | None = None


@moved_arguments(options=MaskTaskOptions)
def mask_task(
    model: nn.Module,
    windows: torch.Tensor,
    *,
    pattern: str | tuple[int, int] = "2:4",
    prior: Mapping[str, Any] | None = None,
    options: MaskTaskOptions | None = None,
) -> SemiStructuredMask:
    """Return the task of choosing masks by the loss of next tokens, the weights frozen.

    Parameters
    ----------
    model
        A causal language model.
    windows : (n, length) int64
        To learn on, some at a step, in turn.
    prior
        Masks to start near, by layer.
    options
        Layers, batch, evaluation windows, device and number format.
    """
    options = options or MaskTaskOptions()
    layers, batch, evaluation, device, dtype = (getattr(options, f.name) for f in fields(options))
    names = layer_names(model) if layers is None else list(layers)
    linears = {name: model.get_submodule(name) for name in names}
    given = {name: weight_of(layer).detach() for name, layer in linears.items()}
    weights = {name: w.to(device, dtype) for name, w in given.items()}
    fixed = {n: p.detach().to(device, dtype) for n, p in model.named_parameters()}
    fixed |= {n: b.detach().to(device) for n, b in model.named_buffers()}
    windows = windows.to(device)
    judged = windows if evaluation is None else evaluation.to(device)

    def loss_of(masks: Mapping[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        masked = {}
        for name, mask in masks.items():
            weight = weights[name] * mask.to(weights[name].dtype)
            masked[f"{name}.weight"] = weight if isinstance(linears[name], nn.Linear) else weight.T
        out: Any = functional_call(model, fixed | masked, (), {"input_ids": ids, "use_cache": False})
        logits = out.logits[:, :-1].flatten(0, 1).float()
        return nn.functional.cross_entropy(logits, ids[:, 1:].flatten())

    def relaxed(masks: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        rows = (torch.arange(batch) + step * batch) % len(windows)
        return loss_of(masks, windows[rows])

    @torch.no_grad()
    def hard(masks: Masks) -> float:
        tensors = {name: torch.from_numpy(mask).to(device) for name, mask in masks.items()}
        return sum(float(loss_of(tensors, part)) * len(part) for part in torch.split(judged, 4)) / len(judged)

    return SemiStructuredMask(
        {name: (w.shape[0], w.shape[1]) for name, w in given.items()},
        hard,
        relaxed,
        pattern,
        prior={n: np.asarray(prior[n], np.float64) for n in names} if prior is not None else None,
        energy={name: (w.double() ** 2).numpy() for name, w in given.items()},
        identity=f"{model_digest(model)} {as_calibration(windows.cpu()).digest()} {batch} {dtype}",
    )


def masks_by(model: nn.Module, windows: torch.Tensor, method: str, pattern: str | tuple[int, int] = "2:4") -> Masks:
    """Return the masks that a one-shot method chooses, such as magnitude, wanda, sparsegpt or mask-descent."""
    one_of("method", method, SINGLE_WEIGHTS.methods[:-1])
    kept, size = check_pattern(pattern)
    options = PruneOptions(refit=False, damping=SINGLE_WEIGHTS.damping, shrinkage=0.0)
    work = copy.deepcopy(model).eval()
    walk = LayerwisePruning(work, as_calibration(windows), method, options, 0)
    with torch.no_grad():
        walk.patterned((kept, size), np.zeros(len(walk.blocks)))
    walk.close()
    table = candidates(kept, size).astype(np.float64)
    out = {}
    for name in layer_names(work):
        weight = weight_of(work.get_submodule(name)).detach().numpy()
        there = (weight != 0).reshape(-1, size) @ table.T  # a kept weight may happen to be 0
        out[name] = candidates(kept, size)[np.argmax(there, axis=1)].reshape(weight.shape)
    return out


@moved_arguments(task=MaskTaskOptions)
def learn_masks(
    model: nn.Module,
    windows: torch.Tensor,
    *,
    pattern: str | tuple[int, int] = "2:4",
    prior: str | Mapping[str, Any] | None = "sparsegpt",
    solver: MaskLLM | None = None,
    refit: bool = False,
    calibration: torch.Tensor | None = None,
    damping: float = SINGLE_WEIGHTS.damping,
    seed: int = 0,
    task: MaskTaskOptions | None = None,
) -> LearnedMasks:
    """Learn N:M masks by the model's own loss (MaskLLM), and re-solve the kept weights if asked.

    Parameters
    ----------
    model, windows, pattern, task
        As of `mask_task`, ``task`` being its options. The model is not changed.
    prior
        A one-shot method that gives the masks to start near, the masks themselves, or None.
    solver
        Steps, temperatures and the like; None: `MaskLLM` as published.
    refit
        Re-solve weights by least squares, layer by layer; otherwise they stay as they are, bit for bit. Masks are
        learned for weights that have been re-solved under the prior's masks (those that it removes stay as they were,
        to be chosen again), and the kept ones are re-solved for the learned masks. What is least in a layer's error is
        not what is least in the model's loss, for which the masks were learned: of `SHARES` of the way from the
        weights that masks were learned for to the re-solved ones, the one of least loss is taken.
    calibration : (n, length) int64
        Windows for the prior's masks and for least squares; None: those to learn on.
    """
    shape = check_pattern(pattern)
    known = windows if calibration is None else calibration
    start = masks_by(model, known, prior, shape) if isinstance(prior, str) else prior
    base = model
    if refit and start is not None:
        given = {n: np.asarray(m, np.bool_) for n, m in start.items()}
        base = _between(model, refit_masks(model, given, known, damping=damping), 1.0, given)
    options = task or MaskTaskOptions()
    problem = mask_task(base, windows, pattern=shape, prior=start, options=options)
    solution = solve(problem, replace(solver or MaskLLM(), device=options.device), seed=seed)
    pruned, share = with_masks(base, solution.value), 0.0
    if refit:
        pruned, share = _refitted(model, pruned, solution.value, known, damping)
    return LearnedMasks(solution.value, pruned, solution, shape, refit, share)


@torch.no_grad()
def _between(first: nn.Module, second: nn.Module, share: float, masks: Mapping[str, Any]) -> nn.Module:
    """Return a copy of the first model, its kept weights so much of the way to those of the second."""
    out = copy.deepcopy(first)
    for name, mask in masks.items():
        a, b = (weight_of(m.get_submodule(name)).detach() for m in (first, second))
        kept = torch.from_numpy(np.asarray(mask, np.bool_))
        replace_weight(out.get_submodule(name), torch.where(kept, a + share * (b - a), a))
    return out


@torch.no_grad()
def _refitted(
    model: nn.Module, pruned: nn.Module, masks: Masks, windows: torch.Tensor, damping: float
) -> tuple[nn.Module, float]:
    """Return the best on the way from the pruned model to the re-solved one, and how far that is."""
    solved = refit_masks(model, masks, windows, damping=damping)
    found = [(_between(pruned, solved, share, masks), share) for share in SHARES]
    losses = [float(token_losses(candidate, windows).loss.mean()) for candidate, _ in found]
    return found[int(np.argmin(losses))]


@torch.no_grad()
def with_masks(model: nn.Module, masks: Mapping[str, NDArray[np.bool_]]) -> nn.Module:
    """Return a copy of the model with zeros where the masks are False; all other weights are untouched."""
    out = copy.deepcopy(model).eval()
    for name, mask in masks.items():
        layer = out.get_submodule(name)
        weight = weight_of(layer).detach()
        replace_weight(layer, torch.where(torch.from_numpy(mask), weight, torch.zeros(())))
    return out


@torch.no_grad()
def refit_masks(
    model: nn.Module,
    masks: Mapping[str, NDArray[np.bool_]],
    windows: torch.Tensor,
    *,
    damping: float = SINGLE_WEIGHTS.damping,
) -> nn.Module:
    """Return a copy of the model with the masks, its kept weights re-solved layer by layer by least squares.

    Each layer's kept weights fit the outputs that its given weights have on the inputs that the pruned layers before
    it produce from the windows.

    Parameters
    ----------
    masks
        By layer, (out, in) bool.
    windows : (n, length) int64
    damping
        Added to the diagonal of X X', relative to its mean.
    """
    pruned = with_masks(model, masks)
    stream = Activations(pruned, blocks(pruned), as_calibration(windows))
    for before, block in zip(blocks(model), blocks(pruned), strict=True):
        for stage in block.stages:
            if not any(f"{block.name}.{n}" in masks for n in stage):
                continue
            hessian = stream.hessians(block, stage[:1])[stage[0]]
            for name in stage:
                mask = masks.get(f"{block.name}.{name}")
                if mask is None:
                    continue
                weight = weight_of(before.module.get_submodule(name)).detach().double().numpy()
                form = MaskBlocks(weight, hessian, sparsity=float(1 - mask.mean()), damping=damping)
                replace_weight(block.module.get_submodule(name), torch.from_numpy(form.refit(mask)))
        stream.advance(block)
    stream.close()
    return pruned


def as_result(found: LearnedMasks) -> PruneResult:
    """Return what `prunopt.networks.save` writes: model, counts, and a row for each layer, without errors."""
    kept = {name: int(mask.sum()) for name, mask in found.masks.items()}
    total = sum(mask.size for mask in found.masks.values())
    stats, nan = found.solution.stats, float("nan")
    rows = [
        LayerReport(
            name, "maskllm", "weight", kept[name], mask.size, nan, nan, -np.inf, np.inf, 0.0, (), found.refit, 0.0, ""
        )
        for name, mask in found.masks.items()
    ]  # fmt: skip
    removed = total - sum(kept.values())
    options = {"pattern": f"{found.pattern[0]}:{found.pattern[1]}", "method": "maskllm", "steps": stats["steps"]}
    notes = (found.solution.message, f"loss {found.solution.objective:.4f} nats per token on what it was learned on")
    return PruneResult(found.model, tuple(rows), removed, removed, total, True, options, notes)


# What damaged numbers and texts in the header of a file of masks may raise.
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def save_masks(
    path: str | os.PathLike[str], masks: Mapping[str, NDArray[np.bool_]], pattern: str | tuple[int, int]
) -> None:
    """Write masks, about 0.65 bits per weight for 2:4, losslessly: packed codes in a safetensors file."""
    from safetensors.numpy import save_file

    kept, size = check_pattern(pattern)
    n_codes = len(candidates(kept, size))
    packed = {name: pack(codes_of(mask, kept, size), n_codes) for name, mask in masks.items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    meta = {"kind": "prunopt N:M masks", "pattern": f"{kept}:{size}", "order": ORDER, "shapes": json.dumps(shapes)}
    with write_atomically(Path(path)) as temporary:
        save_file(packed, temporary, metadata=meta)


def load_masks(path: str | os.PathLike[str]) -> tuple[Masks, tuple[int, int]]:
    """Return masks and their pattern; ValueError where the file holds none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            meta = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        one_of("order of masks", meta.get("order"), (ORDER,))
        kept, size = check_pattern(meta["pattern"])
        shapes = {str(k): tuple(int(n) for n in v) for k, v in json.loads(meta["shapes"]).items()}
        require(set(shapes) == set(packed), "shapes", "be those of the masks", Shown("others"))
        n_codes = len(candidates(kept, size))
        out = {}
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=object)) // size
            out[name] = mask_of(unpack(packed[name], count, n_codes), kept, size, shape)
    except (SafetensorError, OSError, *DAMAGE) as error:
        raise ValueError(f"path={os.fspath(path)!r}: cannot be read as masks: {error}") from None
    return out, (kept, size)

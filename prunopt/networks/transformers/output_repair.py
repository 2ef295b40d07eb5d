"""Repair of a whole pruned model by gradient: what is left of it learns to give what the dense model gives."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core import validate
from prunopt.networks.transformers.before_after import output
from prunopt.networks.transformers.calibration_inputs import Calibration, as_calibration, for_model
from prunopt.networks.transformers.families import blocks
from prunopt.networks.transformers.number_formats import LOW, stored_dtype
from prunopt.networks.transformers.repair import BETAS, LOWER, BlockRepair, put, size_of, trained

if TYPE_CHECKING:
    from prunopt.networks.transformers.layerwise import LayerwisePruning

WARM = 0.05  # of the way, in which the rate rises
WORK = 1.2e14, 1.2e16  # multiplications of a repair by default, on a processor and on an accelerator
LEAST, MOST = 10, 100  # steps: of which a command repairs without being asked, and by default
CHECKED = 4  # windows of the calibration on which a verification measures again


@dataclass(frozen=True)
class OutputRepair:
    r"""How a pruned model is repaired, once all of its blocks are pruned.

    The weights that stay, :math:`\theta`, are trained by AdamW [1]_ towards the dense model's distributions of the next
    token, without labels [2]_,

    .. math:: \min_\theta \; \sum_t \omega_t \, \mathrm{KL}\big(p_{dense}(\cdot \mid x_{\le t}) \,\|\,
              p_\theta(\cdot \mid x_{\le t})\big) \Big/ \sum_t \omega_t .

    Zeros stay zeros, embeddings and heads stay as they are. Of models without logits, the squared error of their
    outputs, relative to their size, is in the place of the divergence.

    Some windows are held out and judge: the best weights are kept, and the model is never worse on them than it was.
    After a judgment that is no better it goes on from the best with a third of the rate.

    Parameters
    ----------
    steps
        How many, >= 1; None: as many as `WORK` multiplications allow, from 1 to 100: about ten minutes of a core for
        a model of a hundred million parameters, on a GPU of a hundred times as many. The same seed gives the same
        weights.
    minutes
        It ends within so many, > 0, wherever it is; None: after the steps alone.
    batch
        Windows in a step, >= 1.
    rate
        The highest step, as a fraction of the root mean square of a layer's weights that stay, > 0; it rises over the
        first twentieth and falls to 0 along a cosine.
    held_out
        How many windows judge, at most a quarter of them, >= 1.
    every
        Steps between two judgments, >= 1.
    patience
        Judgments in a row without a better one after which it ends, >= 1.
    windows
        What it learns from in place of the calibration's windows: as these, and more of them.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019 (the decay is 0 here).
    .. [2] S. Muralidharan et al., "Compact language models via pruning and knowledge distillation", NeurIPS 2024.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 4
    rate: float = 0.001
    held_out: int = 8
    every: int = 10
    patience: int = 6
    windows: Any = None

    def __post_init__(self) -> None:
        if self.minutes is not None:
            validate.number("minutes", self.minutes, low=0, open_ends="(")
        validate.number("rate", self.rate, low=0, open_ends="(")
        for name in ("batch", "held_out", "every", "patience"):
            validate.whole_number(name, getattr(self, name), low=1)
        if self.steps is not None:
            validate.whole_number("steps", self.steps, low=1)

    def steps_for(self, model: nn.Module, tokens: int) -> int:
        """Return how many steps a repair takes, 0 where not one is within `WORK`; ``tokens`` are those of a window."""
        if self.steps is not None:
            return self.steps
        each = 8.0 * sum(p.numel() for p in model.parameters()) * tokens * self.batch  # forward twice, backward once
        return min(MOST, int(WORK[next(model.parameters()).device.type != "cpu"] / each))

    def split(self, n: int, seed: int) -> tuple[list[int], list[int]]:
        """Return which of ``n`` windows are learned from, and which judge."""
        validate.require(n >= 4, "calibration", "be four windows at least for a repair of outputs", n, "pass more")
        count = min(self.held_out, n // 4)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        return order[count:], sorted(order[:count])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: of windows their number."""
        own = None if self.windows is None else len(as_calibration(self.windows).windows)
        return asdict(replace(self, windows=None)) | {"kind": "outputs", "windows": own}


@dataclass(frozen=True)
class OutputStep:
    """What the progress of a run is told at a judgment, in the place of a layer's report."""

    name: str


@dataclass(frozen=True)
class OutputRepairReport:
    """What the repair of a model came to.

    Parameters
    ----------
    before, after
        The divergence (nats per token) or relative error on the windows that judge, as pruned and as it is now.
    calibration
        As it is now on the first windows of the calibration, in single precision, which `verify_folder` recomputes.
    steps, kept
        Steps taken, and after how many of them the weights are from: 0 where none were better.
    tokens
        Tokens that were learned from, those seen twice counted twice.
    """

    before: float
    after: float
    calibration: float
    steps: int
    kept: int
    tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return asdict(self)


def repair_of(given: Any) -> BlockRepair | OutputRepair | None:
    """Read what users give as ``repair``: None, ``"blocks"``, ``"outputs"``, a `BlockRepair` or an `OutputRepair`."""
    if given is None or isinstance(given, BlockRepair | OutputRepair):
        return given
    kind = given if isinstance(given, str) else validate.Shown(type(given).__name__)
    known = given in ("blocks", "outputs")
    validate.require(known, "repair", "be 'blocks', 'outputs', a BlockRepair, an OutputRepair or None", kind)
    return BlockRepair() if given == "blocks" else OutputRepair()


def check_repair(
    repair: BlockRepair | OutputRepair, tokens: Calibration, *, method: str, streamed: bool, alone: bool, seed: int
) -> None:
    """Refuse a repair where it cannot be done."""
    kind = "blocks" if isinstance(repair, BlockRepair) else "outputs"
    validate.require(method != "maskllm", "repair", "be left out with the method maskllm", kind, "its weights are held")
    must = "be left out for a model that is streamed"
    validate.require(not streamed, "repair", must, kind, "read the model into memory")
    must, mend = "be left out under torch.inference_mode()", "call it outside: it needs gradients"
    validate.require(not torch.is_inference_mode_enabled(), "repair", must, kind, mend)
    validate.require(alone, "repair", "be left out in several processes", kind, "repair runs in one")
    if isinstance(repair, BlockRepair):
        stacks = validate.Shown("blocks, for an encoder and a decoder")
        validate.require(tokens.target is None, "repair", "be 'outputs' or left out", stacks)
        repair.windows_held_out(len(tokens.windows), seed)
    else:
        repair.split(len(tokens.windows if repair.windows is None else as_calibration(repair.windows).windows), seed)


@torch.no_grad()
def output_divergence(model: nn.Module, dense: nn.Module, calibration: Calibration) -> float:
    """Return how far a model's outputs are from the dense one's on the first `CHECKED` windows of a calibration."""
    data, dense = for_model(calibration, model)[0], _in_format(dense, torch.float32)
    return _mean(model, dense, data, range(min(CHECKED, len(data.windows))), None)


def repair_outputs(
    model: nn.Module, dense: nn.Module, calibration: Any, how: OutputRepair = OutputRepair(), *, seed: int = 0,
    progress: Callable[[str], None] | None = None, formats: Mapping[str, torch.dtype] | None = None,
) -> OutputRepairReport:  # fmt: skip
    """Train in place what a pruned model has left, towards the outputs of the dense one.

    Parameters
    ----------
    model
        Pruned; zeros of its linear layers stay. In single precision; it is computed in bfloat16 where the processor or
        the GPU multiplies that faster.
    dense
        On the same device; left as it is.
    calibration
        As of `prune_transformer`, where ``how`` names no windows.
    seed
        Of the windows that judge, and of the order of the others.
    progress
        Called with a line for each judgment.
    formats
        In which parameters will be stored, by their names; those of the checkpoint for any other. What is judged has
        gone through them.
    """
    start, tell = time.perf_counter(), progress or (lambda text: None)
    given = as_calibration(calibration)
    data = for_model(given if how.windows is None else as_calibration(how.windows), model)[0]
    learned, held = how.split(len(data.windows), seed)
    faster = _faster(next(model.parameters()).device)
    weights = data.row_weights(target=data.target is not None)
    was, declared = model.training, getattr(getattr(model, "config", None), "dtype", None)
    model.eval()  # dropout is of no use to a distillation
    teacher = _in_format(dense, faster or torch.float32)
    parameters = _parameters(model)
    kinds = {id(p): (formats or {}).get(name) for name, p in model.named_parameters()}
    stored = [kind if (kind := kinds[id(p)]) in LOW else stored_dtype(p.detach(), declared) for p in parameters]
    masks = [p.detach() != 0 if p.dim() > 1 else None for p in parameters]
    judge = partial(_mean, model, teacher, data, held, faster)
    before = least = judge()
    best, kept, done, since, tokens, scale = [p.detach().clone() for p in parameters], 0, 0, 0, 0, 1.0
    steps = max(1, how.steps_for(model, int(weights.shape[1])))
    order, queue, part = torch.Generator().manual_seed(seed), list[int](), 0.0
    with torch.enable_grad(), trained(model, parameters):
        sizes = [size_of(p) for p in parameters]
        adam = _adam(parameters)
        while part < 1 and since < how.patience:
            rate = scale * how.rate * min(1.0, (part + 1e-3) / WARM) * 0.5 * (1 + math.cos(math.pi * part))
            for group, size in zip(adam.param_groups, sizes, strict=True):
                group["lr"] = rate * size
            for _ in range(how.batch):
                queue = queue or [learned[i] for i in torch.randperm(len(learned), generator=order).tolist()]
                k = queue.pop()
                _apart(model, teacher, data, k, faster)[0].div(how.batch).backward()  # type: ignore[no-untyped-call]
                tokens += int((weights[k] > 0).sum())
            for p, mask in zip(parameters, masks, strict=True):
                if p.grad is not None and mask is not None:
                    p.grad *= mask
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            adam.zero_grad()
            done += 1
            part = done / steps
            if how.minutes is not None:
                part = max(part, (time.perf_counter() - start) / (60 * how.minutes))
            if done % how.every and part < 1:
                continue
            working = [p.detach().clone() for p in parameters]
            put(parameters, [w.to(to).to(w.dtype) for w, to in zip(working, stored, strict=True)])
            found = judge()  # of what will be stored
            if found < least:
                least, kept, since, best = found, done, 0, [p.detach().clone() for p in parameters]
                put(parameters, working)
            else:
                since, scale, adam = since + 1, scale * LOWER, _adam(parameters)
                put(parameters, best)
            tell(f"repair of outputs, step {done} of {steps}: {found:.4g} on windows held out, {before:.4g} before")
    put(parameters, best)
    model.train(was)
    now = output_divergence(model, dense, given)
    return OutputRepairReport(before, least, now, done, kept, tokens, time.perf_counter() - start)


def repaired_once(
    model: nn.Module, dense: nn.Module, tokens: Calibration, how: OutputRepair, walk: LayerwisePruning,
    formats: Mapping[str, torch.dtype],
) -> OutputRepairReport:  # fmt: skip
    """Repair a model at the end of a run over its layers, or take what a killed run had finished."""
    known = None if walk.journal is None else walk.journal.replay("outputs")
    if known is not None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(known[0][name])
        return OutputRepairReport(**known[1])
    tell, layers = walk.options.progress, walk.n_layers
    progress = None if tell is None else lambda text: tell(layers, layers, OutputStep(text))
    report = repair_outputs(model, dense, tokens, how, seed=walk.seed, progress=progress, formats=formats)
    if walk.journal is not None:
        walk.journal.append("outputs", dict(model.named_parameters()), report.to_dict())
    return report


@torch.no_grad()
def _mean(
    model: nn.Module, dense: nn.Module, data: Calibration, windows: Iterable[int], faster: torch.dtype | None
) -> float:
    """Return how far a model is from the dense one, a mean over the tokens of some windows."""
    parts = [_apart(model, dense, data, k, faster) for k in windows]
    whole = sum(float(share) for _, share in parts)
    return sum(float(loss) * float(share) for loss, share in parts) / max(whole, torch.finfo(torch.float64).tiny)


def _apart(
    model: nn.Module, dense: nn.Module, data: Calibration, k: int, faster: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far the model is from the dense one at a window, a mean over its tokens, and what they count."""
    device, kind = next(model.parameters()).device, next(dense.parameters()).dtype
    given = data.given(k, device)
    with torch.no_grad():
        wanted = output(dense, {n: v.to(kind) if v.is_floating_point() else v for n, v in given.items()})[0].float()
    with nullcontext() if faster is None else torch.autocast(device.type, faster):
        found = output(model, given)[0]
    if found.shape[-1] == getattr(getattr(model, "config", None), "vocab_size", None):
        logs = torch.log_softmax(found.float(), -1), torch.log_softmax(wanted, -1)
        each = F.kl_div(*logs, reduction="none", log_target=True).sum(-1)
    else:
        size = wanted.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
        each = (found.float() - wanted).square().sum(-1) / size
    share = data.of(slice(k, k + 1)).row_weights(target=data.target is not None)[0].to(each.device, torch.float32)
    if each.shape != share.shape:  # one answer for a window
        share = share.sum().expand(each.shape) / max(1, each.numel())
    return (each * share).sum() / share.sum().clamp_min(torch.finfo(torch.float32).tiny), share.sum()


def _in_format(model: nn.Module, kind: torch.dtype) -> nn.Module:
    """Return a model for evaluation, a copy where its numbers are of another format."""
    there = {p.dtype for p in model.parameters()} == {kind} and not model.training
    return model if there else copy.deepcopy(model).to(kind).eval()


def _faster(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the device multiplies matrices of it faster than those of single precision."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if device.type == "cpu" and has.get("amx_tile") else None


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return weights, biases and norms of all blocks, each once."""
    found = {id(p): p for block in blocks(model) for p in block.module.parameters()}
    return list(found.values())


def _adam(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    return torch.optim.AdamW([{"params": [p]} for p in parameters], betas=BETAS, weight_decay=0.0)

"""Depth: which blocks of a transformer are dropped, and the repair of the layers before the gaps."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.networks.io.journal import Journal, model_digest
from prunopt.networks.transformers.block_removal import drop_blocks, only
from prunopt.networks.transformers.calibration import Activations, Calibration, as_calibration
from prunopt.networks.transformers.families import Block, blocks, replace_weight, weight_of
from prunopt.networks.transformers.number_formats import restore, to_single
from prunopt.networks.transformers.result import PruneResult
from prunopt.networks.transformers.stock_configs import write_config
from prunopt.networks.transformers.surgery import parameters_of
from prunopt.networks.transformers.text import logits_of
from prunopt.problems import DepthSelection

SPARE = 6  # candidates beyond the number that is dropped


@dataclass(frozen=True)
class DepthOptions:
    """Details of `prune_depth`.

    Parameters
    ----------
    candidates
        Blocks that may be dropped, those of least influence; None: `remove` + 6.
    windows, judges
        Windows of the calibration, from its beginning, on which losses are measured; and, behind them, on which what
        was chosen is compared with the blocks of least influence, and what was repaired with what was not.
    exchanges
        Sets beside the chosen one, one block exchanged, that are measured, the most promising first.
    damping
        Ridge of the repair, as a multiple of the mean diagonal of the inputs' second moments; None: no repair.
    progress
        Called with what is being done.
    """

    candidates: int | None = None
    windows: int = 2
    judges: int = 4
    exchanges: int = 24
    damping: float | None = 0.1
    progress: Callable[[str], Any] | None = None


@torch.no_grad()
def block_influence(model: nn.Module, calibration: Any) -> Floats:
    r"""Return 1 - the mean cosine of what enters and what leaves each block, (blocks,): ShortGPT's score [1]_.

    References
    ----------
    .. [1] X. Men et al., "ShortGPT: layers in large language models are more redundant than you expect", 2024.
    """
    tokens, found = as_calibration(calibration), blocks(model)
    stream = Activations(model, found, tokens)
    scores = np.zeros(len(found))
    for k, block in enumerate(found):
        before = [stream.window(i).clone() for i in range(len(tokens.windows))]
        stream.advance(block)
        total = 0.0
        for i, entered in enumerate(before):
            cosine = nn.functional.cosine_similarity(entered, stream.window(i), dim=-1)
            total += float(cosine[tokens.mask[i]].double().sum())
        scores[k] = 1.0 - total / tokens.n_tokens
    stream.close()
    return scores


class DropLosses:
    """KL(dense || model without some blocks) in nats per token; blocks before the first dropped one are not run again.

    Parameters
    ----------
    model
        Whole; it is left as it is.
    windows : (n, length) int64
        Token ids.
    resume_dir
        A folder in which measured losses are kept, for this model and these windows.
    """

    @torch.no_grad()
    def __init__(
        self, model: nn.Module, windows: torch.Tensor, resume_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.model, self.windows, self.blocks, self.evaluations = model, windows, blocks(model), 0
        self.known: dict[tuple[int, ...], float] = {}
        self._journal = None
        if resume_dir is not None:
            inputs = {"model": model_digest(model), "windows": as_calibration(windows).digest()}
            self._journal = Journal(resume_dir, inputs)
            while step := self._journal.replay("loss"):
                self.known[tuple(step[1]["dropped"])] = float(step[1]["loss"])
        stream = Activations(model, self.blocks, as_calibration(windows))
        self._entering = []
        for block in self.blocks:
            self._entering.append([stream.window(i).clone() for i in range(len(windows))])
            stream.advance(block)
        stream.close()
        self._dense = [logits_of(model, w[None])[0].float().log_softmax(-1) for w in windows]

    def __call__(self, dropped: Sequence[int]) -> float:
        """Return the loss without the blocks of these numbers; each set is measured once."""
        gone = tuple(sorted(dropped))
        if gone not in self.known:
            self.evaluations += 1
            self.known[gone] = self._measured(gone)
            if self._journal is not None:
                self._journal.append("loss", {}, {"dropped": list(gone), "loss": self.known[gone]})
        return self.known[gone]

    @torch.no_grad()
    def _measured(self, dropped: tuple[int, ...]) -> float:
        total, first, n = 0.0, min(dropped), len(self.blocks)
        kept = [k for k in range(n) if k not in set(dropped)]
        validate.require(kept, "dropped blocks", "leave a block", list(dropped))
        if kept[-1] < first:  # the last blocks go: the one before them is run
            first = kept[-1]
        for hidden, dense, window in zip(self._entering[first], self._dense, self.windows, strict=True):
            with only(self.model, self.blocks, [k for k in kept if k >= first], hidden):
                ours = logits_of(self.model, window[None])[0].float().log_softmax(-1)
            total += float((dense.exp() * (dense - ours)).sum(-1).mean())
        return total / len(self.windows)


@dataclass(frozen=True)
class DepthChoice:
    """Blocks to drop.

    Parameters
    ----------
    dropped
        Their numbers.
    predicted, bound
        What single blocks and pairs say that the exact choice on them loses, and the proven bound of that.
    by_pairs, by_influence
        The exact choice on pairs, and the blocks of least influence.
    judged
        Losses of the sets compared at last, on the judges' windows, by name.
    evaluations
        Passes of the model that measuring took.
    """

    dropped: tuple[int, ...]
    predicted: float
    bound: float
    by_pairs: tuple[int, ...]
    by_influence: tuple[int, ...]
    judged: dict[str, float]
    evaluations: int


def choose_depth(
    model: nn.Module, calibration: Any, remove: int, options: DepthOptions | None = None, *, resume_dir: Any = None
) -> DepthChoice:
    """Choose blocks to drop: candidates by influence, exactly by measured pairs, exchanges, judged on other windows.

    Parameters
    ----------
    model, calibration
        As of `prune_transformer`; influences are of the whole calibration.
    remove
        How many blocks go.
    options
        Details.
    resume_dir
        A folder for measured losses: a killed run goes on there, and other numbers of blocks use them again.
    """
    options, tokens, found = options or DepthOptions(), as_calibration(calibration), blocks(model)
    validate.whole_number("remove", remove, low=1, high=len(found) - 2)
    needed = options.windows + options.judges
    mend = "pass more windows"
    validate.require(len(tokens.windows) >= needed, "calibration", f"hold {needed} windows", len(tokens.windows), mend)
    tell = options.progress or (lambda _: None)
    tell("influence of blocks")
    order = [int(k) for k in np.argsort(block_influence(model, tokens), kind="stable")]
    count = min(len(found) - 1, remove + SPARE if options.candidates is None else options.candidates)
    validate.require(count >= remove, "candidates", f"be at least {remove}", count)
    candidates = sorted(order[:count])
    known = DropLosses(model, tokens.windows[: options.windows], resume_dir)
    n = len(found)
    single, pair = np.full(n, np.inf), np.zeros((n, n))
    for a in candidates:
        single[a] = known((a,))
    for a in candidates:
        tell(f"pairs with block {a}")
        for b in (c for c in candidates if c > a):
            pair[a, b] = known((a, b))
    task = DepthSelection(single, pair, remove)
    answer = solve(task, limits=60.0)
    by_pairs, by_influence = _numbers(answer.value), tuple(sorted(order[:remove]))
    best, least = by_pairs, known(by_pairs)
    if known(by_influence) < least:
        best, least = by_influence, known(by_influence)
    best = _exchanged(known, task, best, least, candidates, options.exchanges, tell)
    judges = DropLosses(model, tokens.windows[options.windows : needed])
    sets = {"chosen": best, "pairs": by_pairs, "influence": by_influence}
    judged = {name: judges(s) for name, s in sets.items()}
    dropped = sets[min(judged, key=lambda name: judged[name])]
    made = known.evaluations + judges.evaluations
    return DepthChoice(dropped, answer.objective, answer.bound, by_pairs, by_influence, judged, made)


def _numbers(dropped: Any) -> tuple[int, ...]:
    return tuple(int(k) for k in np.flatnonzero(dropped))


def _exchanged(
    known: DropLosses, task: DepthSelection, best: tuple[int, ...], least: float, candidates: Sequence[int], most: int,
    tell: Callable[[str], Any],
) -> tuple[int, ...]:  # fmt: skip
    """Exchange single blocks while that helps; the model of pairs says which exchanges are tried first."""
    tried, left = {best}, most
    while left:
        near = [tuple(sorted({*best, i} - {o})) for o in best for i in candidates if i not in best]
        near = [s for s in near if s not in tried]
        if not near:
            return best
        near.sort(key=lambda s: task.objective(np.isin(np.arange(len(task.single)), s)))
        for s in near[: min(left, 8)]:
            tried.add(s)
            left -= 1
            found = known(s)
            tell(f"exchanges, {left} left")
            if found < least:
                best, least = s, found
                break
    return best


@torch.no_grad()
def prune_depth(
    model: nn.Module, calibration: Any, remove: int, *, options: DepthOptions | None = None,
    resume_dir: str | os.PathLike[str] | None = None,
) -> PruneResult:  # fmt: skip
    """Drop blocks of a transformer, and repair the layers before the gaps.

    Where the repaired model is no nearer to the dense one on the judges' windows, it is not used.

    Parameters
    ----------
    model, calibration, remove, options, resume_dir
        As of `choose_depth`.
    """
    options, tokens = options or DepthOptions(), as_calibration(calibration)
    work = copy.deepcopy(model).eval()
    formats = to_single(work)
    total = _linear(work)
    choice = choose_depth(work, tokens, remove, options, resume_dir=resume_dir)
    judges = tokens.windows[options.windows : options.windows + options.judges]
    dense = [logits_of(work, w[None])[0].float().log_softmax(-1) for w in judges]
    smaller, judged = copy.deepcopy(work), dict(choice.judged)
    drop_blocks(smaller, choice.dropped)
    judged["unrepaired"] = _to_dense(smaller, dense, judges)
    notes = [f"blocks dropped: {' '.join(map(str, choice.dropped))}"]
    if options.damping is not None:
        rest = _without_judges(tokens, options)
        repaired = repair_gaps(work, smaller, choice.dropped, rest, damping=options.damping)
        judged["repaired"] = _to_dense(repaired, dense, judges)
        if judged["repaired"] < judged["unrepaired"]:
            smaller = repaired
        else:
            notes.append("the repair did not help on other windows, and is not used")
    stock = write_config(smaller, blocks(smaller))
    restore(smaller, formats)
    plain = {
        "units": ["blocks"], "sparsity": None, "budget": None, "pattern": None, "method": "depth",
        "allocation": "given", "parts": {"blocks": list(choice.dropped)}, "judged": judged, "refit": False,
        "predicted": {"loss": choice.predicted, "bound": choice.bound}, "damping": options.damping, "seed": 0,
    }  # fmt: skip
    removed = total - _linear(smaller)
    digests = {"calibration": tokens.digest(), "model": model_digest(model), "options": json.dumps(plain)}
    return PruneResult(smaller, (), removed, removed, total, stock, plain, tuple(notes), digests)


def _without_judges(tokens: Calibration, options: DepthOptions) -> Calibration:
    at = [k for k in range(len(tokens.windows)) if not options.windows <= k < options.windows + options.judges]
    return tokens.of(at)


def _to_dense(model: nn.Module, dense: Sequence[torch.Tensor], windows: torch.Tensor) -> float:
    from prunopt.networks.transformers.text import divergence

    return divergence(model, dense, windows)


def _linear(model: nn.Module) -> int:
    return sum(parameters_of(b)["attention"] + parameters_of(b)["feed_forward"] for b in blocks(model))


@torch.no_grad()
def repair_gaps(
    model: nn.Module, smaller: nn.Module, dropped: Sequence[int], calibration: Any, *, damping: float = 0.1
) -> nn.Module:
    r"""Return the smaller model with the layers before its gaps re-solved towards the dense model's hidden states.

    With x the inputs of the projection down before a gap, in the smaller model, and E what its block's outputs lack of
    what the dense model has behind the gap, the projection becomes

    .. math:: W + E X^T (X X^T + \lambda I)^{-1}

    which minimizes :math:`\|E - (W' - W) X\|^2 + \lambda \|W' - W\|^2`. A gap at the beginning has no layer before it.

    Parameters
    ----------
    model, smaller
        Whole, and without the dropped blocks; both are left as they are.
    dropped
        Numbers of the blocks.
    calibration
        As of `prune_transformer`.
    damping
        :math:`\lambda` as a multiple of the mean diagonal of :math:`X X^T`.
    """
    validate.number("damping", damping, low=0, open_ends="(")
    tokens, found, gone = as_calibration(calibration), blocks(model), set(dropped)
    ends = {k for k in gone if k + 1 not in gone}  # what enters behind them is aimed at
    behind: dict[int, list[torch.Tensor]] = {}
    stream = Activations(model, found, tokens)
    for k, block in enumerate(found):
        stream.advance(block)
        if k in ends:
            behind[k] = [stream.window(i).clone() for i in range(len(tokens.windows))]
    stream.close()
    new = copy.deepcopy(smaller)
    kept = [k for k in range(len(found)) if k not in gone]
    rest = blocks(new)
    stream = Activations(new, rest, tokens)
    for k, block in zip(kept, rest, strict=True):
        if k + 1 in gone and block.feed_forward is not None:
            end = next(e for e in sorted(ends) if e > k)
            _resolve(block, stream, behind[end], tokens, damping)
        stream.advance(block)
    stream.close()
    return new


def _resolve(
    block: Block, stream: Activations, wanted: Sequence[torch.Tensor], tokens: Calibration, damping: float
) -> None:
    """Re-solve the projection down of a block, so that the block puts out what is wanted."""
    assert block.feed_forward is not None
    layer, name = block.feed_forward.projection, block.stages[-1][0]
    size, out = weight_of(layer).shape[1], weight_of(layer).shape[0]
    moments, crossed = torch.zeros(size, size, dtype=torch.float64), torch.zeros(out, size, dtype=torch.float64)
    lacking = [wanted[i] - compute()[0].reshape(wanted[i].shape) for i, compute in stream.run(block)]

    def take(_: str, window: int, rows: torch.Tensor) -> None:
        seen = tokens.mask[window]
        inputs, missing = rows[seen].double(), lacking[window][seen].double()
        moments.add_(inputs.T @ inputs)
        crossed.add_(missing.T @ inputs)

    stream.inputs(block, [name], take)
    ridge = damping * float(moments.diagonal().mean())
    moments.diagonal().add_(max(ridge, torch.finfo(torch.float64).tiny))
    step = torch.linalg.solve(moments, crossed.T).T
    replace_weight(layer, weight_of(layer).double() + step)

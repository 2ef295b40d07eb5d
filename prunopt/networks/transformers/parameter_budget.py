"""How many heads and neurons each block loses, so that a budget of parameters is met to one unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.core.budget import Budget
from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.recipes import ALL_UNITS, UNITS
from prunopt.networks.transformers.surgery import parameters_of

EXPERT_STEP = 8


@dataclass(frozen=True)
class Plan:
    """What is removed from the model.

    Parameters
    ----------
    groups, neurons
        Head groups and neurons removed from each block.
    removed, target, total
        Parameters removed, those that were asked for, and those of all blocks' linear layers.
    unit
        Parameters of the smallest unit that can be removed: removed and target differ by less.
    experts
        Whole experts removed from each block; empty: none.
    """

    groups: tuple[int, ...]
    neurons: tuple[int, ...]
    removed: int
    target: int
    total: int
    unit: int
    experts: tuple[int, ...] = ()


def check_sparsity(sparsity: float) -> float:
    """Return the sparsity; ValueError unless it is in [0, 1)."""
    mend = "pass the fraction of the blocks' parameters to remove"
    return validate.number("sparsity", sparsity, low=0, high=1, open_ends=")", mend=mend)


def parameters_to_remove(budgets: Sequence[Budget], total: int) -> int:
    """Return how many of a model's parameters are over the tightest of some budgets.

    Parameters
    ----------
    budgets
        Of the resource ``"parameters"``: of the whole model, embeddings among them, tied ones once.
    total
        Parameters of the model.
    """
    return total - math.floor(min(b.allowed(total) for b in budgets))


@dataclass(frozen=True)
class BlockSizes:
    """Parameters of blocks: of a whole block, its attention's groups and its neurons; how many of these go at once."""

    whole: tuple[int, ...]
    group: tuple[int, ...]
    neuron: tuple[int, ...]
    width: tuple[int, ...]
    groups: tuple[int, ...]
    step: tuple[int, ...]

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> BlockSizes:
        """Count them."""
        rows = [parameters_of(b) for b in blocks]
        return cls(
            tuple(r["attention"] + r["feed_forward"] for r in rows),
            tuple(r["group"] for r in rows),
            tuple(r["neuron"] for r in rows),
            tuple(0 if (part := b.feed_forward or b.experts) is None else part.width for b in blocks),
            tuple(0 if b.attention is None else b.attention.n_groups for b in blocks),
            tuple(_step_of(b) for b in blocks),
        )

    def removed(self, groups: Sequence[int], neurons: Sequence[int]) -> int:
        """Return the parameters of so many groups and neurons of each block."""
        return int(np.dot(groups, self.group) + np.dot(neurons, self.neuron))


def structured_plan(
    blocks: Sequence[Block],
    allocation: Floats,
    target: int,
    *,
    units: Sequence[str] = UNITS,
    at_least: bool = False,
) -> Plan:
    """Return how many units each block loses.

    Head groups are removed first, the nearest whole number to a block's sparsity, one at least staying; neurons make up
    the rest, and single neurons are added or taken back until the total is within one unit of the target.

    Parameters
    ----------
    allocation
        Sparsity of each block, before rounding.
    target
        Parameters to remove from all blocks' linear layers.
    units
        Of ``"heads"`` and ``"ffn"``.
    at_least
        Remove the target or more, never less.
    """
    sizes, ffn, n = checked_sizes(blocks, units), "ffn" in units, len(blocks)
    left = next((b.missing for b in blocks if b.missing), "")
    groups, neurons = [0] * n, [0] * n
    if "heads" in units:
        for k, block in enumerate(blocks):
            if block.attention is not None:
                # alone, groups have to make up for what neurons do not give
                wanted = allocation[k] * (sizes.groups[k] if ffn else sizes.whole[k] / max(1, sizes.group[k]))
                groups[k] = min(sizes.groups[k] - 1, math.floor(wanted + 0.5))
    if ffn:
        rest = [allocation[k] * sizes.whole[k] - groups[k] * sizes.group[k] for k in range(n)]
        for k in range(n):
            neurons[k] = int(np.clip(round(rest[k] / max(1, sizes.neuron[k])), 0, max(0, sizes.width[k] - 1)))
        neurons = [
            min(max(0, w - s), round(c / s) * s) if s > 1 else c
            for c, w, s in zip(neurons, sizes.width, sizes.step, strict=True)
        ]
        neurons = _settled(sizes, groups, neurons, target)
    while at_least and sizes.removed(groups, neurons) < target and _one_more(sizes, groups, neurons, ffn):
        pass
    unit = max((m * s for m, s in zip(sizes.neuron, sizes.step, strict=True)), default=1) if ffn else max(sizes.group)
    removed, total = sizes.removed(groups, neurons), sum(sizes.whole)
    if removed < (target if at_least else target - unit * (1 if ffn else n)):
        raise validate.invalid(
            "sparsity",
            f"be {removed / total:.3f} or less: {' and '.join(units)} can give up {removed:,} of {total:,} parameters",
            validate.Shown(f"{target / total:.3f}"),
            f"ask for less, or for more units{f' ({left})' if left else ''}",
        )
    return Plan(tuple(groups), tuple(neurons), removed, target, total, unit)


def checked_sizes(blocks: Sequence[Block], units: Sequence[str]) -> BlockSizes:
    """Return the sizes of blocks; ValueError where they have no such units, or ones that cannot be removed."""
    for unit_name in units:
        validate.one_of("units", unit_name, ALL_UNITS)
    validate.require(units, "units", f"name some of {', '.join(UNITS)}", tuple(units))
    validate.unique("units", units)
    sizes, left = BlockSizes.of(blocks), next((b.missing for b in blocks if b.missing), "")
    for unit_name, counts, what in (("heads", sizes.groups, "attention"), ("ffn", sizes.width, "feed-forward layers")):
        there = unit_name not in units or any(counts)
        validate.require(there, "units", f"leave out {unit_name!r}", tuple(units), left or f"there are no {what}")
    for fixed in sorted({b.attention.fixed for b in blocks if b.attention is not None and "heads" in units}):
        validate.require(not fixed, "units", "leave out 'heads'", tuple(units), fixed)
    return sizes


def expert_plan(blocks: Sequence[Block], target: int, *, at_least: bool = False) -> Plan:
    """Return how many whole experts all blocks that have some lose: the same number, so that stock code loads the rest.

    A router goes on picking as many for a token as before: so many stay at least.
    """
    having = [b.experts for b in blocks if b.experts is not None]
    nothing = validate.Shown("('experts',)")
    validate.require(having, "units", "leave out 'experts'", nothing, "the model has none that prunopt knows")
    fixed = next((e.fixed for e in having if e.fixed), "")
    validate.require(not fixed, "units", "leave out 'experts'", nothing, fixed)
    each = [0 if b.experts is None else parameters_of(b)["expert"] for b in blocks]
    total, one = sum(BlockSizes.of(blocks).whole), sum(each)
    room = min(e.count - max(1, e.top_k) for e in having)
    count = max(1, math.ceil(target / one) if at_least else round(target / one))
    said = (
        f"be {room * one / total:.3f} or less: of {having[0].count} experts {having[0].top_k} are used for each token"
    )
    validate.require(count <= room, "sparsity", said, validate.Shown(f"{target / total:.3f}"), "ask for less")
    gone = tuple(0 if b.experts is None else count for b in blocks)
    none = (0,) * len(blocks)
    return Plan(none, none, count * one, target, total, one, gone)


def _one_more(sizes: BlockSizes, groups: list[int], neurons: list[int], ffn: bool) -> bool:
    """Remove one more unit, from the block that has lost least of them."""
    gone, there = (neurons, sizes.width) if ffn else (groups, sizes.groups)
    more = sizes.step if ffn else (1,) * len(groups)
    room = [k for k in range(len(gone)) if gone[k] + more[k] < there[k]]
    if not room:
        return False
    k = min(room, key=lambda i: (gone[i] / there[i], i))
    gone[k] += more[k]
    return True


def _step_of(block: Block) -> int:
    """Return how many neurons a block loses at once: kernels of experts ask for slices of 16 bytes, of any format."""
    part = block.experts
    return EXPERT_STEP if part is not None and part.width % EXPERT_STEP == 0 and part.width > EXPERT_STEP else 1


def _settled(sizes: BlockSizes, groups: Sequence[int], neurons: Sequence[int], target: int) -> list[int]:
    """Add or take back single neurons, in turn from the widest block, until the target is met to one neuron."""
    out = list(neurons)
    missing = target - sizes.removed(groups, out)
    sign = 1 if missing > 0 else -1
    while True:
        room = [k for k, s in enumerate(sizes.step) if (out[k] + s < sizes.width[k] if sign > 0 else out[k] >= s)]
        room = [k for k in room if abs(missing - sign * sizes.step[k] * sizes.neuron[k]) < abs(missing)]
        if not room:
            return out
        # The block that has given least (or most, when taking back) of its width goes first.
        k = min(room, key=lambda i: (sign * out[i] / sizes.width[i], i))
        out[k] += sign * sizes.step[k]
        missing -= sign * sizes.step[k] * sizes.neuron[k]

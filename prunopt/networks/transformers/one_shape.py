"""One shape in all blocks: counts of heads and widths that a configuration can state, nearest to what is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.parameter_budget import BlockSizes, Plan, checked_sizes
from prunopt.networks.transformers.stack_configs import is_mixed
from prunopt.networks.transformers.stock_configs import config_takes

STEPS = (64, 32, 8, 1)  # widths are multiples of the first of these that is near enough; 32: rows that llama.cpp packs
NEAR = 0.005  # of the blocks' parameters: how far from the target a width may be for the sake of its multiple


def one_shape_plan(
    model: Any, blocks: Sequence[Block], target: int, *, units: Sequence[str], at_least: bool = False,
    insist: bool = False,
) -> tuple[Plan | None, str]:  # fmt: skip
    r"""Return what every block loses alike, or None and why no one shape will do.

    With G groups of a parameters and N neurons of n in all blocks together, and T all that their linear layers hold,
    the choice is that of

    .. math:: \min_{g, w} |g - \tfrac{t}{T} G| \quad\text{with}\quad |g a + w n - t| \le 0.005\, T

    over the counts g that leave a number of groups which the configuration can state, and the widths that are multiples
    of 64, else of 32, of 8, of 1: all are tried. Of at least 800 neurons some multiple of 8 is always near enough, of
    3200 one of 32, of 6400 one of 64. A count of neurons may miss the target by half a neuron of every block, heads
    alone by half a group.

    Parameters
    ----------
    model
        Of which the configuration is asked what it can state.
    target
        Parameters to remove from all blocks' linear layers.
    units
        Of ``"heads"`` and ``"ffn"``.
    at_least
        Remove the target or more, never less.
    insist
        Take the nearest shape, up to a whole group or neuron of every block away.
    """
    sizes, kind = checked_sizes(blocks, units), type(model).__name__
    if is_mixed(blocks):
        return _same_shares(sizes, target, units, at_least), ""
    widths, counts = ({n for n in numbers if n} for numbers in (sizes.width, sizes.groups))
    for name, found in (("ffn", widths), ("heads", counts)):
        if name in units and len(found) > 1:
            return None, f"blocks of {kind} have other shapes by themselves"
    width, groups = max(widths, default=0), max(counts, default=0)
    removable = [0]
    if "heads" in units:
        removable += sorted(groups - g for g in stock_group_counts(model, blocks) if g < groups)
    wide = "ffn" in units and config_takes(model, width=max(1, width // 2))
    if len(removable) == 1 and not wide:
        what = " or ".join(said for u, said in (("heads", "fewer heads"), ("ffn", "narrower blocks")) if u in units)
        return None, f"the configuration of {kind} has no word for {what}"
    total, group, neuron = sum(sizes.whole), sum(sizes.group), sum(sizes.neuron)
    unit = neuron if wide else group
    near = max(NEAR * total, unit if at_least or insist else unit / 2)
    best: Plan | None = None
    nearest = math.inf
    for gone in removable:
        for step in STEPS if wide else (1,):
            if wide and (width % step or width < 8 * step):
                continue
            narrower = _narrower(target - gone * group, neuron, width, step, at_least) if wide else 0
            removed = gone * group + narrower * neuron
            missed = target - removed
            if removed <= 0 or abs(missed) > near or (at_least and missed > 0):
                continue
            if (away := abs(gone - target / total * groups)) < nearest:  # of two as near, fewer heads go
                nearest, best = away, _plan(sizes, gone, narrower, target, neuron * step if wide else group)
            break  # the widest step that is near enough
    if best is None:
        return None, f"no one shape that the configuration of {kind} can state removes about {target / total:.3g}"
    return best, ""


def _narrower(missing: int, neuron: int, width: int, step: int, at_least: bool) -> int:
    """Return how many neurons go, a multiple of the step; one step stays at least."""
    count = missing / (neuron * step)
    steps = math.ceil(count) if at_least else round(count)
    return min(max(steps, 0) * step, width - step)


def _same_shares(sizes: BlockSizes, target: int, units: Sequence[str], at_least: bool) -> Plan:
    """Return what blocks of two stacks, or with experts, lose: as many groups each, the same share of their widths."""
    total, ffn = sum(sizes.whole), "ffn" in units
    gone = 0
    if "heads" in units:
        most = min((g for g in sizes.groups if g), default=1) - 1
        wanted = target / total * (most + 1) if ffn else target / max(1, sum(sizes.group))
        gone = min(most, math.ceil(wanted) if at_least and not ffn else math.floor(wanted + 0.5))
    groups, held = (
        tuple(gone if g else 0 for g in sizes.groups),
        sum(w * n for w, n in zip(sizes.width, sizes.neuron, strict=True)),
    )
    neurons, each = (0,) * len(groups), [1] * len(groups)
    if ffn:
        share = (target - sizes.removed(groups, neurons)) / max(1, held)
        common = next(s for s in STEPS if s == 1 or all(w % s == 0 and w >= 8 * s for w in sizes.width if w))
        each = [max(s, common) for s in sizes.step]
        up = math.ceil if at_least else round
        neurons = tuple(
            min(max(0, w - s), max(0, up(share * w / s)) * s) for w, s in zip(sizes.width, each, strict=True)
        )
    unit = sum(n * s for n, s in zip(sizes.neuron, each, strict=True)) if ffn else sum(sizes.group)
    return Plan(groups, neurons, sizes.removed(groups, neurons), target, total, unit)


def _plan(sizes: BlockSizes, gone: int, narrower: int, target: int, unit: int) -> Plan:
    groups = tuple(gone if g else 0 for g in sizes.groups)
    neurons = tuple(narrower if w else 0 for w in sizes.width)
    return Plan(groups, neurons, sizes.removed(groups, neurons), target, sum(sizes.whole), unit)


def stock_group_counts(model: Any, blocks: Sequence[Block]) -> list[int]:
    """Return with how many key-value groups in every block stock code can build the model."""
    attention = next((b.attention for b in blocks if b.attention is not None), None)
    if attention is None:
        return []
    per, width = attention.heads_per_group, attention.head_dim
    return [g for g in range(1, attention.n_groups + 1) if config_takes(model, heads=(g * per, g, width))]

"""Windows of taps on offer beside widths: one knapsack chooses both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prunopt.core import validate
from prunopt.networks.cnn.channel_groups import ChannelGroups
from prunopt.networks.cnn.costs import layer_costs
from prunopt.networks.cnn.importances.ranking import Progress
from prunopt.networks.cnn.inputs import Inputs, split
from prunopt.networks.cnn.latency import LatencyTable
from prunopt.networks.cnn.repair import divergence_of, outputs_of, repair_on
from prunopt.networks.cnn.replay import Replay
from prunopt.networks.cnn.watching import silent
from prunopt.networks.cnn.windowed_conv import Window, best_windows, with_windows
from prunopt.problems.channel_widths import LayerCost

BATCH = 4  # pictures: more of them do not fit the cache


@dataclass(frozen=True, eq=False)
class WindowOptions:
    """The windows that a depthwise layer may take, the whole kernel first, and what each loses."""

    name: str
    windows: tuple[Window, ...]
    losses: tuple[float, ...]


def window_options(
    model: nn.Module,
    groups: ChannelGroups,
    images: tuple[Inputs, Inputs] | None = None,
    progress: Progress | None = None,
) -> tuple[WindowOptions, ...]:
    """Return the windows with one or two rows or columns less than the kernel, never a single row or column.

    Parameters
    ----------
    images
        Those that a layer is re-solved on, and those that judge it: a window loses the divergence of the whole
        network's predictions with the layer re-solved. None: the share of the kernel's energy outside of it.
    """
    layers = [s for s in groups.slots if s.kind == "depthwise" and len(s.ins) == len(s.outs) and s.runs == 1]
    layers = [s for s in layers if isinstance(model.get_submodule(s.name), nn.Conv2d)]
    replays: list[Replay] = []
    if images is not None:
        replays, dense = [Replay(model, split(x, BATCH)) for x in images], outputs_of(model, images[1])
    keep, out, tell = np.ones(groups.n_channels, np.bool_), [], progress or silent
    for number, slot in enumerate(layers):
        conv: Any = model.get_submodule(slot.name)
        best = best_windows(conv.weight)
        shapes = [s for s in best if all(2 <= n >= k - 2 for n, k in zip(s, conv.kernel_size, strict=True))]
        if len(shapes) < 2:
            continue
        losses = [best[s][1] for s in shapes]
        for replay in replays:
            replay.inputs(slot.name)
        if replays:
            stand, judge = replays
            for k, shape in enumerate(shapes[1:], 1):
                smaller = with_windows(model, {slot.name: best[shape][0]})
                repair_on(stand.fork(model), stand.fork(smaller), groups, keep)
                losses[k] = divergence_of(dense, judge.fork(smaller).outputs())
        out.append(WindowOptions(slot.name, tuple(best[s][0] for s in shapes), tuple(losses)))
        tell(f"windows of {number + 1} of {len(layers)} depthwise layers")
    return tuple(out)


def costs_with_windows(
    model: nn.Module,
    groups: ChannelGroups,
    chosen: Sequence[int],
    widths: Sequence[Sequence[int]],
    options: Sequence[WindowOptions],
    *,
    resource: str,
    table: LatencyTable | None,
    example: Inputs | None,
    progress: Progress | None = None,
) -> list[LayerCost]:
    """Return the costs of all layers; the windows of ``options[k]`` are those of group ``len(chosen) + k``."""

    def costs(network: nn.Module, slots: Any) -> list[LayerCost]:
        part = replace(groups, slots=tuple(slots))
        return layer_costs(
            network, part, chosen, widths, resource=resource, table=table, example=example, progress=progress
        )

    named = {o.name: k for k, o in enumerate(options)}
    out = costs(model, [s for s in groups.slots if s.name not in named])
    for slot in groups.slots:
        if slot.name not in named:
            continue
        k = named[slot.name]
        rows = [costs(with_windows(model, {slot.name: w}), [slot]) for w in options[k].windows]
        place = rows[0][0].source
        # channels of several groups run through it: each group's share would depend on window and width
        where = f"windows of {slot.name!r}"
        validate.require(
            len(rows[0]) == 1, where, "belong to one group", validate.Shown("several"), "use windows=False"
        )
        columns = [np.diagonal(r[0].table) if place >= 0 else np.asarray(r[0].table)[0, :1] for r in rows]
        out.append(LayerCost(place, len(chosen) + k, np.array(columns).T))
    return out

"""What every width of every group would lose: made once, used for any number of budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from prunopt.networks.cnn.channel_groups import ChannelGroups, channel_groups
from prunopt.networks.cnn.importance import Ranking, rank_channels
from prunopt.networks.cnn.kernel_windows import WindowOptions, window_options
from prunopt.networks.cnn.repair import divergence_of, logits, repair_on
from prunopt.networks.cnn.replay import Replay
from prunopt.networks.cnn.surgery import remove_channels

Progress = Callable[[str], None]
LOSSES = ("layers", "measured")
BATCH = 4  # pictures: more of them do not fit the cache
PROBED = (0.25, 0.5, 0.75)  # of the removable part of a group: the widths whose loss is measured on the whole network


@dataclass(frozen=True, eq=False)
class CnnProfile:
    """The groups to be pruned, the order in which channels go, widths and windows on offer and what each loses."""

    groups: ChannelGroups
    chosen: tuple[int, ...]
    rankings: tuple[Ranking, ...]
    widths: tuple[list[int], ...]
    losses: tuple[list[float], ...]
    windows: tuple[WindowOptions, ...] = ()


def profile_cnn(
    model: nn.Module, calibration: torch.Tensor | None, *, importance: str = "obs", loss: str = "layers",
    levels: int = 8, round_to: int = 8, least: float = 0.125, groups: ChannelGroups | None = None,
    only: Iterable[int] | None = None, example: torch.Tensor | None = None, probe: int = 48, windows: bool = False,
    seed: int = 0, progress: Progress | None = None,
) -> CnnProfile:  # fmt: skip
    """Return what `prune_cnn` knows before it sees a budget; the parameters are those of `prune_cnn`."""
    pictures = calibration if calibration is not None else example
    if pictures is None:
        raise ValueError("example: without calibration pictures, an example of the input is needed")
    found = channel_groups(model, pictures[:2]) if groups is None else groups
    wanted = None if only is None else set(only)
    chosen = [g for g in found.free if wanted is None or g in wanted]
    if not chosen:
        raise ValueError(
            f"model: {type(model).__name__} has no group of channels that may be removed: each is an input or output "
            "of the network, added to one, or left out by only="
        )
    ranked = rank_channels(model, found, chosen, calibration, importance=importance, seed=seed, progress=progress)
    widths = [offered(found, g, levels, round_to, least) for g in chosen]
    losses = [_losses(found, r, w) for r, w in zip(ranked, widths, strict=True)]
    # what is re-solved on some pictures is judged on others: a classifier has more inputs than there are pictures
    judges = 0 if calibration is None else min(probe, len(calibration) // 2)
    some = None if calibration is None else (calibration[judges:][: 3 * probe], calibration[:judges])
    if loss == "measured":
        if some is None or not len(some[1]):
            raise ValueError("calibration: loss='measured' needs two pictures or more; take loss='layers'")
        losses = _measured_losses(model, found, ranked, widths, losses, some, progress)
    taps = window_options(model, found, some, measured=loss == "measured", progress=progress) if windows else ()
    return CnnProfile(found, tuple(chosen), tuple(ranked), tuple(widths), tuple(losses), taps)


def offered(groups: ChannelGroups, g: int, levels: int, round_to: int, least: float) -> list[int]:
    """Return the widths that a group may take, falling: all of it, then multiples of ``round_to``."""
    members = groups.members(g)
    full, fixed = len(members), int(np.count_nonzero(groups.fixed[members]))
    low = max(1, fixed, math.ceil(least * full))
    rounded = [w for w in range(full - 1, low - 1, -1) if w % round_to == 0]
    if len(rounded) > levels - 1:
        at = np.unique(np.linspace(0, len(rounded) - 1, levels - 1).round().astype(int))
        rounded = [rounded[i] for i in at]
    return [full, *rounded]


def _losses(groups: ChannelGroups, ranking: Ranking, widths: Sequence[int]) -> list[float]:
    full = len(groups.members(ranking.group))
    return [float(ranking.error[full - w]) for w in widths]


def _measured_losses(
    model: nn.Module, groups: ChannelGroups, ranked: Sequence[Ranking], widths: Sequence[Sequence[int]],
    losses: list[list[float]], images: tuple[torch.Tensor, torch.Tensor], progress: Progress | None,
) -> list[list[float]]:  # fmt: skip
    # in the order in which the groups begin, so that what comes before is run once for all
    first = {r.group: min(i for i, s in enumerate(groups.slots) if np.any(groups.group[s.outs] == r.group))
             for r in ranked}  # fmt: skip
    stand, judge = (Replay(model, torch.split(x, BATCH)) for x in images)
    dense = logits(model, images[1])
    out = list(losses)
    for number, at in enumerate(sorted(range(len(ranked)), key=lambda i: first[ranked[i].group])):
        r, w, own = ranked[at], widths[at], losses[at]
        for replay in (stand, judge):
            replay.inputs(groups.slots[first[r.group]].name)
        full = len(groups.members(r.group))
        points = [(0.0, 0.0)]
        for part in PROBED:
            k = min(range(len(w)), key=lambda i: abs((full - w[i]) / max(full - w[-1], 1) - part))
            if k == 0 or own[k] <= points[-1][0]:
                continue
            keep = np.ones(groups.n_channels, np.bool_)
            keep[r.order[: full - w[k]]] = False
            smaller = remove_channels(model, groups, keep)
            repair_on(stand.fork(model), stand.fork(smaller), groups, keep)
            points.append((own[k], max(divergence_of(dense, judge.fork(smaller).outputs()), points[-1][1])))
        out[at] = _interpolated(own, points)
        if progress is not None:
            progress(f"{number + 1} of {len(ranked)} groups measured")
    return out


def _interpolated(errors: Sequence[float], points: Sequence[tuple[float, float]]) -> list[float]:
    """Losses at the layers' ``errors``: lines through the measured points, the last one carried on."""
    if len(points) < 2:
        return list(errors)
    xs, ys = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    slope = max((ys[-1] - ys[-2]) / (xs[-1] - xs[-2]), 0.0)
    return [float(np.interp(e, xs, ys) + slope * max(0.0, e - xs[-1])) for e in errors]

"""What every width of every group would lose: made once, used for any number of budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prunopt.core import validate
from prunopt.core.deprecation import moved_arguments
from prunopt.networks.cnn._old_keywords import old_keywords
from prunopt.networks.cnn.channel_groups import ChannelGroups, channel_groups
from prunopt.networks.cnn.importances import Importance, importance_of
from prunopt.networks.cnn.importances.ranking import Candidates, Progress, Ranking
from prunopt.networks.cnn.inputs import Inputs, batch_of, split
from prunopt.networks.cnn.kernel_windows import BATCH, WindowOptions, window_options
from prunopt.networks.cnn.repair import divergence_of, outputs_of, repair_on
from prunopt.networks.cnn.replay import Replay
from prunopt.networks.cnn.surgery import remove_channels
from prunopt.networks.cnn.watching import mode_kept, silent

LOSSES = ("layers", "measured")
PROBED = (0.25, 0.5, 0.75)  # of the removable part of a group: the widths whose loss is measured on the whole network


@dataclass(frozen=True)
class Widths:
    """The widths on offer, how the loss of each is found, and who chooses.

    Parameters
    ----------
    levels, round_to, least
        Widths of a group: so many at most, multiples of ``round_to``, no less than this share of the group.
    branches
        Offer to remove branches of residual sums whole, in the same knapsack.
    windows
        Offer rectangular windows of taps for depthwise layers, too, in the same knapsack (`window_options`).
    loss
        ``"layers"`` takes the error of the layers that read a group; ``"measured"`` scales it, group by group, to the
        divergence of the whole network's predictions with a quarter, half and three quarters of that group removed.
    probe
        Pictures on which ``loss="measured"`` is measured.
    groups
        The channels that may be removed, where not all (`ChannelGroups.only`) or where tracing fails; None traces.
    solver
        Of `ChannelWidths`; None takes ``coupled-dp`` where the groups form a forest and ``pulp`` elsewhere.
    """

    levels: int = 8
    round_to: int = 8
    least: float = 0.125
    branches: bool = False
    windows: bool = False
    loss: str = "layers"
    probe: int = 48
    groups: ChannelGroups | None = None
    solver: str | None = None

    def __post_init__(self) -> None:
        validate.whole_number("levels", self.levels, low=2)
        validate.whole_number("round_to", self.round_to, low=1)
        validate.whole_number("probe", self.probe, low=1)
        validate.number("least", self.least, low=0, high=1)
        validate.one_of("loss", self.loss, LOSSES)

    def of(self, groups: ChannelGroups, group: int) -> list[int]:
        """Return the widths that a group may take, falling: all of it, then multiples of ``round_to``."""
        members = groups.members(group)
        full, fixed = len(members), int(np.count_nonzero(groups.fixed[members]))
        low = max(1, fixed, math.ceil(self.least * full))
        # a channel may stand for several features of its layer, as behind a group norm
        counts = [int(np.count_nonzero(groups.group[s.outs] == group)) for s in groups.producers(group)]
        each = max(1, max(counts, default=full) // full)
        rounded = [w for w in range(full - 1, low - 1, -1) if w * each % self.round_to == 0]
        if len(rounded) > self.levels - 1:
            at = np.unique(np.linspace(0, len(rounded) - 1, self.levels - 1).round().astype(int))
            rounded = [rounded[i] for i in at]
        return [full, *rounded, *([0] if self.branches and group in groups.branches else [])]


@dataclass(frozen=True, eq=False)
class CnnProfile:
    """The groups to be pruned, the order in which channels go, widths and windows on offer and what each loses."""

    groups: ChannelGroups
    chosen: tuple[int, ...]
    rankings: tuple[Ranking, ...]
    widths: tuple[list[int], ...]
    losses: tuple[list[float], ...]
    windows: tuple[WindowOptions, ...] = ()
    solver: str | None = None


@old_keywords
@moved_arguments(widths=Widths)
@mode_kept
def profile_cnn(
    model: nn.Module,
    example: Any,
    *,
    importance: str | Importance = "obs",
    widths: Widths = Widths(),
    seed: int = 0,
    progress: Progress | None = None,
) -> CnnProfile:
    """Return what `prune_cnn` knows before it sees a budget; the parameters are those of `prune_cnn`."""
    example = batch_of(example)
    ranking = importance_of(importance)
    found = channel_groups(model, example[:2]) if widths.groups is None else widths.groups
    validate.require(
        found.free,
        "model",
        "have a group of channels that may be removed",
        validate.Shown(type(model).__name__),
        "each is an input or output of the network, is added to one, or is fixed"
        + "".join(f"; not followed: {p}" for p in found.pinned[:3]),
    )
    ranked = ranking.rank(Candidates(model, found, found.free, example, seed, progress or silent))
    offered = [[w for w in widths.of(found, r.group) if w == 0 or not _emptied(found, r, w)] for r in ranked]
    losses = [_losses(found, r, w) for r, w in zip(ranked, offered, strict=True)]
    # what is re-solved on some pictures is judged on others: a classifier has more inputs than there are pictures
    judges = min(widths.probe, len(example) // 2)
    some = (example[judges:][: 3 * widths.probe], example[:judges])
    measured = widths.loss == "measured"
    if measured:
        validate.require(judges, "example", 'hold 2 pictures or more for loss="measured"', validate.Shown("1"))
        losses = _measured_losses(model, found, ranked, offered, losses, some, progress)
    taps = window_options(model, found, some if measured else None, progress) if widths.windows else ()
    return CnnProfile(found, tuple(found.free), tuple(ranked), tuple(offered), tuple(losses), taps, widths.solver)


def _emptied(groups: ChannelGroups, ranking: Ranking, width: int) -> bool:
    """Whether a layer would put out nothing: channels that stay, such as those of padding, may all be of others."""
    gone = ranking.order[: len(groups.members(ranking.group)) - width]
    return any(len(s.outs) and np.isin(s.outs, gone).all() for s in groups.slots)


def _losses(groups: ChannelGroups, ranking: Ranking, widths: Sequence[int]) -> list[float]:
    full = len(groups.members(ranking.group))
    return [float(ranking.error[full - w]) for w in widths]


def _measured_losses(
    model: nn.Module,
    groups: ChannelGroups,
    ranked: Sequence[Ranking],
    widths: Sequence[Sequence[int]],
    losses: list[list[float]],
    images: tuple[Inputs, Inputs],
    progress: Progress | None,
) -> list[list[float]]:
    # in the order in which the groups begin, so that what comes before is run once for all
    first = {
        r.group: min(i for i, s in enumerate(groups.slots) if np.any(groups.group[s.outs] == r.group)) for r in ranked
    }
    stand, judge = (Replay(model, split(x, BATCH)) for x in images)
    dense = outputs_of(model, images[1])
    out, tell = list(losses), progress or silent
    for number, at in enumerate(sorted(range(len(ranked)), key=lambda i: first[ranked[i].group])):
        r, w, own = ranked[at], widths[at], losses[at]
        for replay in (stand, judge):
            replay.inputs(groups.slots[first[r.group]].name)
        full = len(groups.members(r.group))
        points = [(0.0, 0.0)]
        for part in (*PROBED, *([1.0] if w[-1] == 0 else [])):
            k = min(range(len(w)), key=lambda i: abs((full - w[i]) / max(full - w[-1], 1) - part))
            if k == 0 or own[k] <= points[-1][0]:
                continue
            keep = np.ones(groups.n_channels, np.bool_)
            keep[r.order[: full - w[k]]] = False
            smaller = remove_channels(model, groups, keep)
            repair_on(stand.fork(model), stand.fork(smaller), groups, keep)
            points.append((own[k], max(divergence_of(dense, judge.fork(smaller).outputs()), points[-1][1])))
        out[at] = _interpolated(own, points)
        tell(f"{number + 1} of {len(ranked)} groups measured")
    return out


def _interpolated(errors: Sequence[float], points: Sequence[tuple[float, float]]) -> list[float]:
    """Losses at the layers' ``errors``: lines through the measured points, the last one carried on."""
    if len(points) < 2:
        return list(errors)
    xs, ys = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    slope = max((ys[-1] - ys[-2]) / (xs[-1] - xs[-2]), 0.0)
    return [float(np.interp(e, xs, ys) + slope * max(0.0, e - xs[-1])) for e in errors]

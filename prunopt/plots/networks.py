"""Pictures of networks: heads, sparsity by layer, masks, sizes and times before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.plots.axes import COLOURS, GREY, finish, new_axes, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def head_map(
    scores: ArrayLike, n_heads: Sequence[int], ax: Axes | None = None, *, kept: ArrayLike | None = None, label: str = ""
) -> Axes:
    """Draw what heads are worth, by layer and head; heads that go are crossed out.

    Parameters
    ----------
    scores : (heads,) float
        Layer after layer.
    n_heads : sequence of int
        Heads of each layer.
    ax
        Where to draw.
    kept : (heads,) bool
        Which heads stay.
    label
        What the scores are.
    """
    numbers = validate.floats("scores", scores, (sum(n_heads),), mend="pass a number per head")
    size = (1.6 + 0.42 * max(n_heads), 1.2 + 0.42 * len(n_heads))
    ax = new_axes(ax, (max(3.6, size[0]), max(2.2, size[1])))
    grid = np.full((len(n_heads), max(n_heads)), np.nan)
    gone: list[tuple[int, int]] = []
    flags = np.ones(len(numbers), np.bool_) if kept is None else np.asarray(kept, np.bool_)
    start = 0
    for layer, n in enumerate(n_heads):
        grid[layer, :n] = numbers[start : start + n]
        gone += [(layer, int(h)) for h in np.flatnonzero(~flags[start : start + n])]
        start += n
    picture = ax.imshow(grid, aspect="auto", cmap="cividis")
    for layer, head in gone:
        ax.plot(head, layer, marker="x", color="white", markersize=9, markeredgewidth=3)
        ax.plot(head, layer, marker="x", color="black", markersize=8, markeredgewidth=1.4)
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_xticks(range(0, max(n_heads), max(1, max(n_heads) // 12)))
    ax.set_yticks(range(0, len(n_heads), max(1, len(n_heads) // 12)))
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(picture, ax=ax, label=label)
    return ax


def head_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ax: Axes | None = None, *, measure: str = "loss", total: int = 0
) -> Axes:
    """Draw the loss against the heads that stay, a line for each method.

    Parameters
    ----------
    curves
        ``{method: (heads kept, loss)}``.
    ax
        Where to draw.
    measure
        What the loss is.
    total
        Heads of the whole model, for the axis; 0 leaves it out.
    """
    validate.require(curves, "curves", "hold {method: (heads kept, loss)}", curves)
    ax = new_axes(ax)
    for (name, (heads, losses)), (colour, marker, line) in zip(curves.items(), styles(), strict=False):
        ax.plot(heads, losses, marker=marker, markersize=4, color=colour, linestyle=line, label=name)
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f"heads kept of {total}" if total else "heads kept")
    ax.set_ylabel(measure)
    finish(ax, legend=True)
    return ax


def sparsity_by_layer(
    allocations: Any,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    layer: str = "block",
    what: str = "fraction removed",
    bold: str = "",
) -> Axes:
    """Draw how much of each layer goes, a line for each allocation.

    Parameters
    ----------
    allocations : (layers,) float, or a mapping from labels to such
        Fractions within [0, 1], in the order of the layers.
    ax
        Where to draw.
    names
        What to call the layers on the axis; None numbers them from 0.
    layer
        What a layer is, for the label: ``"block"``.
    what
        What the fractions are.
    bold
        The label of the line to be drawn strongest.

    Raises
    ------
    ValueError
        If an allocation has no layer, another number of layers than the first, or a value outside [0, 1].
    """
    named = allocations if isinstance(allocations, Mapping) else {"": allocations}
    validate.require(named, "allocations", "hold fractions by layer, or a mapping from labels to such", allocations)
    n = np.size(next(iter(named.values())))
    validate.require(n, "allocations", "have a layer", validate.Shown("none"))
    rows = {label: validate.floats(f"allocations[{label!r}]", row, (n,), low=0, high=1) for label, row in named.items()}
    _check_names(names, n)
    ax = new_axes(ax, (7.2, 4.2))
    at = np.arange(n)
    plain = (style for style in styles() if not bold or style[0] != COLOURS[-1])  # black is the bold line's
    for (label, row), (colour, marker, line) in zip(rows.items(), plain, strict=False):
        strong = label == bold or len(rows) == 1
        look: Any = {"color": "black" if label == bold else colour, "linestyle": line, "marker": marker}
        ax.plot(at, row, label=label or None, linewidth=2.4 if strong else 1.2, markersize=4 if n <= 60 else 0, **look)
    if names is not None:
        ax.set_xticks(at, list(names), rotation=90 if n > 6 else 0, fontsize="small")
    else:
        ax.set_xticks(at[:: -(-n // 16)])
    ax.set_xlabel(layer)
    ax.set_ylabel(what)
    ax.set_ylim(0.0, 1.02)
    finish(ax, legend=any(rows))
    return ax


def mask_density(
    mask: ArrayLike,
    ax: Axes | None = None,
    *,
    tile: tuple[int, int] | None = None,
    label: str = "share of weights kept",
) -> Axes:
    """Draw the share of the weights that stays, tile by tile of a weight matrix.

    Parameters
    ----------
    mask : (out, in) bool
        True where a weight stays.
    ax
        Where to draw.
    tile
        Rows and columns of a tile; None: about 64 tiles along the longer side. Those at the edges may be smaller.
    label
        What the colors mean.
    """
    kept = validate.bools("mask", mask, ("outputs", "inputs"))
    validate.require(kept.size, "mask", "hold weights", validate.Shown(f"shape {kept.shape}"))
    side = max(1, -(-max(kept.shape) // 64))
    height, width = (side, side) if tile is None else tile
    validate.require(min(height, width) >= 1, "tile", "have rows and columns", tile)
    density = np.add.reduceat(
        np.add.reduceat(kept.astype(np.float64), np.arange(0, kept.shape[0], height), axis=0),
        np.arange(0, kept.shape[1], width),
        axis=1,
    )
    rows, columns = _edges(kept.shape[0], height), _edges(kept.shape[1], width)
    density /= np.outer(np.diff(rows), np.diff(columns))
    ax = new_axes(ax, (6.4, max(2.4, min(6.4, 1.2 + 5.0 * kept.shape[0] / kept.shape[1]))))
    mesh = ax.pcolormesh(columns, rows, density, cmap="cividis", vmin=0.0, vmax=1.0)
    ax.invert_yaxis()
    ax.set_aspect("equal" if 0.25 <= kept.shape[0] / kept.shape[1] <= 4 else "auto")
    ax.set_xlabel("input of the layer")
    ax.set_ylabel("output of the layer")
    ax.figure.colorbar(mesh, ax=ax, label=f"{label}, tiles of {height} x {width}")
    return ax


def _check_names(names: Sequence[str] | None, n: int) -> None:
    if names is not None:
        validate.require(len(names) == n, "names", f"be {n}, one for each on the axis", names)


def _edges(length: int, step: int) -> Ints:
    return np.append(np.arange(0, length, step), length)


def before_after(
    before: ArrayLike,
    after: ArrayLike,
    ax: Axes | None = None,
    *,
    what: str,
    part: str,
    names: Sequence[str] | None = None,
    labels: tuple[str, str] = ("before", "after"),
) -> Axes:
    """Draw the size of each part of a model, before and after, as bars one over the other.

    Parameters
    ----------
    before, after : (parts,) float
        Sizes; what stays is no larger than what was there.
    ax
        Where to draw.
    what
        What is counted: ``"channels"``.
    part
        What a part is: ``"layer"``.
    names
        What to call the parts; None numbers them from 1.
    labels
        What to call the two states.
    """
    first = validate.floats("before", before, ("parts",))
    second = validate.floats("after", after, first.shape, mend="pass one for each of before")
    validate.require(len(first), "before", "hold a part", before)
    _check_names(names, len(first))
    ax = new_axes(ax, (7.2, 4.4))
    at = np.arange(1, len(first) + 1)
    ax.bar(at, first, color=GREY, width=0.85, label=f"{labels[0]} ({first.sum():g} {what})")
    ax.bar(at, second, color=COLOURS[0], width=0.85, label=f"{labels[1]} ({second.sum():g} {what})")
    if names is not None:
        ax.set_xticks(at, list(names), rotation=90 if len(names) > 6 else 0, fontsize="small")
    ax.set_xlabel(part)
    ax.set_ylabel(what)
    ax.set_xlim(0.3, len(first) + 0.7)
    ax.margins(y=0.25)
    ax.legend(frameon=False, fontsize="small", loc="upper right")
    return ax


def latency(
    times: Mapping[str, ArrayLike], ax: Axes | None = None, *, unit: str = "ms", what: str = "time of one pass"
) -> Axes:
    """Draw measured times, a bar for each model, and how much faster each is than the first.

    Parameters
    ----------
    times
        ``{model: time or times}``; of several times the median is drawn, with a line from the least to the greatest.
    ax
        Where to draw.
    unit
        Unit of the times.
    what
        What was timed: ``"batch of 8, one thread"``.
    """
    validate.require(times, "times", "hold {model: time or times}", times)
    rows = {name: validate.floats(f"times[{name!r}]", np.atleast_1d(row), ("times",)) for name, row in times.items()}
    for name, row in rows.items():
        validate.require(len(row) and row.min() > 0, f"times[{name!r}]", "hold times above 0", row)
    ax = new_axes(ax, (6.4, 1.2 + 0.5 * len(rows)))
    medians = [float(np.median(row)) for row in rows.values()]
    at = np.arange(len(rows))
    ax.barh(at, medians, height=0.62, color=[GREY] + [COLOURS[0]] * (len(rows) - 1))
    for k, row in enumerate(rows.values()):
        if len(row) > 1:
            ax.plot([row.min(), row.max()], [k, k], color="black", marker="|", markersize=7, linewidth=1.2)
        ratio = "" if k == 0 else f"  ({medians[0] / medians[k]:.2f} x)"
        ax.annotate(
            f"{medians[k]:.4g} {unit}{ratio}",
            (max(medians[k], row.max()), k),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    ax.set_yticks(at, list(rows))
    ax.invert_yaxis()
    ax.set_xlim(0.0, 1.32 * max(float(row.max()) for row in rows.values()))
    ax.set_xlabel(f"{what} [{unit}]")
    finish(ax, legend=False)
    return ax

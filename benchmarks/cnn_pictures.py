"""The picture of docs/results/cnn.md: ``python -m benchmarks.cnn_pictures`` writes docs/cnn_frontier.png."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cnn import NETWORKS, results
from prunopt.core.files import write_atomically
from prunopt.plots import COLOURS

DOCS = Path(__file__).parents[1] / "docs"
CURVES = {  # what a label begins with, and what the legend says
    "peer-bn-": "Torch-Pruning, batch norms re-estimated",
    "measured-": "knapsack, measured loss, no repair",
    "layers-repair-": "knapsack, layers' error, repair",
    "measured-repair-": "knapsack, measured loss, repair",
    "matched-": "  + distilled without labels",
    "joint-repair-": "widths and windows in one knapsack, repair",
    "windows-": "tap windows alone",
}


def frontier(place: Path) -> None:
    """Draw top-1 against milliseconds in ONNX Runtime, a panel for each network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    timed = [name for name in NETWORKS if results(name).get("processor")]
    figure, grid = plt.subplots(
        1, len(timed), figsize=(1 + 5 * len(timed), 4.2), constrained_layout=True, squeeze=False
    )
    axes = grid[0]
    for ax, name in zip(axes, timed, strict=True):
        found = results(name)
        times, rows = found.get("processor", {}).get("onnxruntime", {}), found["rows"]
        dense = times["dense"], 100 * rows["dense"]["top1"]
        for (prefix, title), colour, marker in zip(CURVES.items(), COLOURS, "osD^v<P*", strict=False):
            points = []
            for label, row in rows.items():
                rest = label.removeprefix(prefix)
                if label.startswith(prefix) and rest.replace(".", "").isdigit() and label in times:
                    points.append((times[label], 100 * row["top1"]))
            if not points:
                continue
            points = sorted([*points, dense])
            ax.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=title)
        ax.axvline(dense[0] / 1.3, color="gray", linestyle=":", linewidth=1)
        ax.text(dense[0] / 1.3, 1, " 1.3x", color="gray")
        ax.set(
            title=name, xlabel="processor milliseconds in ONNX Runtime, one thread", ylabel="top-1 of 250 pictures (%)"
        )
        ax.set_ylim(-2, 92)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="center left" if name == timed[0] else "lower right")
    with write_atomically(place) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


if __name__ == "__main__":
    frontier(DOCS / "cnn_frontier.png")

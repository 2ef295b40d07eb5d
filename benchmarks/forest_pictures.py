"""The pictures of docs/results/forests.md: ``python -m benchmarks.forest_pictures`` writes them to docs/."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.forest_accuracy import METHODS, SHARES, SIZES, TITLES, _column, load_results
from prunopt.core.files import write_atomically

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = {"prunopt": "#0072B2", "cegb": "#D55E00", "ccp": "#999999", "subset": "#009E73"}
MARKS = {"prunopt": "o", "cegb": "s", "ccp": "v", "subset": "^"}


def accuracy() -> None:
    """Draw test error against what was spent, a panel for each set, error bars over splits."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = load_results()
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    for ax, name in zip(axes.flat, SIZES, strict=True):
        low, places = np.inf, np.arange(len(SHARES))
        for method in METHODS[:4]:
            runs = results.get((name, method), {})
            if not runs:
                continue
            error = np.array([100 * (1 - _column(runs, k)) for k in range(len(SHARES))])
            spread = error.std(axis=1, ddof=1) / np.sqrt(error.shape[1])
            ax.errorbar(
                places, error.mean(axis=1), spread, color=COLOURS[method], marker=MARKS[method], ms=4.5, lw=1.4,
                capsize=2.5, label=TITLES[method], zorder=3 if method == "prunopt" else 2,
            )  # fmt: skip
            low = min(low, float((error.mean(axis=1) - spread).min()))
        ax.set(title=name, yscale="log", ylim=(0.9 * low, None), xticks=places)
        ax.set_xticklabels([f"{100 * share:g}" for share in SHARES])
        ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        ax.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        ax.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        ax.grid(alpha=0.25)
    for ax in axes[1]:
        ax.set_xlabel("budget, % of the cost of all features")
    for ax in axes[:, 0]:
        ax.set_ylabel("test error, %")
    axes[0, 0].legend(fontsize=8)
    with write_atomically(DOCS / "forest_accuracy.png") as place:
        figure.savefig(place, dpi=110)


def heart() -> None:
    """Run the command on heart disease and keep its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "prunopt", "forest", "--out", folder], check=True)
        for name in ("pareto", "features", "trees"):
            shutil.copy(Path(folder) / f"{name}.png", DOCS / f"{name}_heart.png")


if __name__ == "__main__":
    accuracy()
    heart()

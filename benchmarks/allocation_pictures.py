"""The pictures of the section on allocation: ``python -m benchmarks.allocation_pictures`` writes them to docs/."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.results import load
from prunopt.core.files import write_atomically
from prunopt.plots import COLOURS

DOCS = Path(__file__).parents[1] / "docs"
PANELS = (
    ("by rule", ("owl", "log", "atp")),
    ("by redundancy, searched", ("als global", "als row", "dsa")),
    ("on measured curves", ("mckp unweighted", "mckp", "mckp, learned", "mckp, swaps")),
)


def levels(name: str = "wanda-60") -> None:
    """Draw the sparsity of every block by every method, with held-out perplexities in the legends."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = load("allocation_model", name)
    by, mean = name.split("-")
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", sharey=True)
    uniform = np.array(cells["uniform"]["allocation"])
    for ax, (title, methods) in zip(axes, PANELS, strict=True):
        shown = cells["heldout uniform"]["perplexity"]
        ax.step(range(len(uniform)), uniform, where="mid", color="#999999", lw=1, label=f"uniform ({shown:.2f})")
        for k, method in enumerate(m for m in methods if f"heldout {m}" in cells):
            row = cells[method]["allocation"]
            label = f"{method} ({cells[f'heldout {method}']['perplexity']:.2f})"
            ax.step(
                range(len(row)), row, where="mid", color=COLOURS[k], lw=2 if "swaps" in method else 1.4, label=label
            )
        ax.set(title=title, xlabel="block")
        ax.legend(fontsize=8, title="held-out perplexity", title_fontsize=8)
    axes[0].set_ylabel("fraction of the weights removed")
    figure.suptitle(f"SmolLM2-135M, {mean} % removed by {by}")
    DOCS.mkdir(exist_ok=True)
    with write_atomically(DOCS / "allocation_levels.png") as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    levels()

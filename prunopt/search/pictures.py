"""Pictures of a search's report: sparsity by layer, and loss against size. Needs the extra ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunopt.core.artifact import write_atomically


def draw(report: dict[str, Any], out: Path) -> list[Path]:
    """Write ``sparsity-by-layer-S.png`` for each sparsity, and ``front.png``; return their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from prunopt.plots import COLOURS

    def figure() -> tuple[Any, Any]:
        made = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(made)
        return made, made.add_subplot()

    def keep(made: Any, name: str) -> Path:
        with write_atomically(out / name) as temporary:
            made.savefig(temporary, dpi=150)
        return out / name

    written = []
    for column in report["columns"]:
        made, ax = figure()
        for k, (name, row) in enumerate(column["rows"].items()):
            last = name == "search"
            ax.plot(
                row["allocation"],
                color="black" if last else COLOURS[k % 6],
                lw=2.2 if last else 1.2,
                ls=("-", "--", ":")[k // 6 % 3],
                label=f"{name} ({float(row['loss']):.4g})",
            )
        ax.set(xlabel="block", ylabel="fraction removed", title=f"{report['model']}, {column['sparsity']:g} removed")
        ax.legend(fontsize=8, title=report["measure"])
        written.append(keep(made, f"sparsity-by-layer-{column['sparsity']:g}.png"))
    made, ax = figure()
    for column in report["columns"]:
        for name, row in column["rows"].items():
            ax.plot(1 - column["sparsity"], float(row["loss"]), "ko" if name == "search" else "o", alpha=0.6)
    ax.plot([p["kept"] / report["weights"] for p in report["front"]], [p["loss"] for p in report["front"]], "k-", lw=1)
    ax.set(xlabel="fraction of the weights kept", ylabel=report["measure"], title="Pareto front")
    written.append(keep(made, "front.png"))
    return written

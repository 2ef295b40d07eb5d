"""Pictures of a search's report: sparsity by layer, and loss against size. Needs the extra ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunopt.core.files import write_atomically
from prunopt.plots import pareto, sparsity_by_layer


def draw(report: dict[str, Any], out: Path) -> list[Path]:
    """Write ``sparsity-by-layer-S.png`` for each sparsity, and ``front.png``; return their paths."""
    from matplotlib.figure import Figure

    written = []
    for column in report["columns"]:
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        ax = draw_column(column, report["measure"], figure.add_subplot())
        ax.set_title(f"{Path(report['model']).name}: {column['sparsity']:g} of the blocks' weights removed")
        written.append(out / f"sparsity-by-layer-{column['sparsity']:g}.png")
        with write_atomically(written[-1]) as temporary:
            figure.savefig(temporary, dpi=150)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    draw_front(report, figure.add_subplot()).set_title(f"{Path(report['model']).name}: loss against size")
    written.append(out / "front.png")
    with write_atomically(written[-1]) as temporary:
        figure.savefig(temporary, dpi=150)
    return written


def draw_column(column: dict[str, Any], measure: str, ax: Any) -> Any:
    """Draw the allocations of one sparsity, the searched one strongest; the legend says what each loses."""
    ranked = sorted(column["rows"].items(), key=lambda item: float(item[1]["loss"]))
    labels = {name: f"{name} ({float(row['loss']):.4g})" for name, row in ranked}
    lines = {labels[name]: row["allocation"] for name, row in ranked}
    sparsity_by_layer(lines, ax, bold=labels.get("search", ""))
    ax.legend(fontsize="small", title=f"{measure} [nats per token]", framealpha=0.85, edgecolor="none")
    return ax


def draw_front(report: dict[str, Any], ax: Any) -> Any:
    """Draw the loss of every method against the share of the weights that stays."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for column in report["columns"]:
        for name, row in column["rows"].items():
            kept, loss = lines.setdefault(name, ([], []))
            kept.append(1.0 - float(column["sparsity"]))
            loss.append(float(row["loss"]))
    pareto(lines, ax, measure=f"{report['measure']} [nats per token]")
    sizes = [1.0 - float(column["sparsity"]) for column in report["columns"]]
    ax.set_xlim(min(sizes) - 0.05, max(sizes) + 0.05)
    ax.set_xlabel("fraction of the weights kept")
    return ax

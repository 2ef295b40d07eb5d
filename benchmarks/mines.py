"""Ultimate pits of a mine: ``python -m benchmarks.mines FILE NX NY NZ`` beside OR-tools and MineFlow.

The file holds the value of every block, one a line, x first, then y, then z upwards, after their number (the data of
MineFlow, ``bauxitemed.dat`` of 120 x 120 x 26 blocks, are such). A block needs the nine above it. Or it is a
``NAME.upit`` of MineLib, with ``NAME.prec`` and, if it is there, the published pit ``NAME_upit.sol`` beside it. The
block models are fetched by whoever measures, none is shipped. Processor seconds of one thread, in processes of their
own, the peers' by the Python that ``MINES_PYTHON`` names (with pymineflow and OR-tools), else by this one. Every
optimum must be the same number; ours is with the check of its proof.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import recorded

Numbers = np.ndarray[Any, np.dtype[np.int64]]
DECIMALS = 6  # of values with more, so that integers can add them up on all sides


def precedences(nx: int, ny: int, nz: int) -> tuple[Numbers, Numbers]:
    """Return each block with those above it: the nearest nine of the next level."""
    at = np.arange(nx * ny * nz).reshape(nz, ny, nx)
    below, above = [], []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            ys, xs = slice(max(0, -dy), ny - max(0, dy)), slice(max(0, -dx), nx - max(0, dx))
            yt, xt = slice(max(0, dy), ny - max(0, -dy)), slice(max(0, dx), nx - max(0, -dx))
            below.append(at[:-1, ys, xs].ravel())
            above.append(at[1:, yt, xt].ravel())
    return np.concatenate(below), np.concatenate(above)


def values_of(file: str) -> Numbers:
    """Return the values of a file's blocks."""
    numbers = np.loadtxt(file, np.int64)
    return numbers[1:] if numbers[0] == len(numbers) - 1 else numbers


def minelib(file: Path) -> tuple[Numbers, int, tuple[Numbers, Numbers]]:
    """Return the values of a pit of MineLib as integers, how many decimals they had, and its precedences."""
    lines = [line.split() for line in file.read_text().splitlines() if line.strip()[:1].isdigit()]
    decimals = min(max(len(value.partition(".")[2]) for _, value in lines), DECIMALS)
    values = np.array([round(Fraction(value) * 10**decimals) for _, value in lines])
    rows = file.with_suffix(".prec").read_text().splitlines()
    needs = [[int(word) for word in row.split()] for row in rows if row]
    below = np.repeat([row[0] for row in needs], [row[1] for row in needs])
    return values, decimals, (below, np.concatenate([row[2:] for row in needs]).astype(np.int64))


def mine(file: str, shape: tuple[str, ...]) -> tuple[Numbers, int, tuple[Numbers, Numbers]]:
    """Return values, their decimals and precedences of either kind of file."""
    if file.endswith(".upit"):
        return minelib(Path(file))
    return values_of(file), 0, precedences(*map(int, shape))


def published(file: str) -> int | None:
    """Return the value of the pit that MineLib publishes, in the unit of the integers."""
    solution = Path(file.removesuffix(".upit") + "_upit.sol")
    if not file.endswith(".upit") or not solution.exists():
        return None
    return int(minelib(Path(file))[0][np.loadtxt(solution, np.int64)].sum())


def ours(file: str, *shape: str) -> dict[str, Any]:
    """The closure by `min-cut`, with the check of its proof."""
    import prunopt as po
    from prunopt.forms import Closure

    values, decimals, (below, above) = mine(file, shape)
    small = Closure.of([3, -2], requirements=[[], []], cost=[], arcs=[(0, 1)])
    po.solve(small)  # compilation is done before
    arcs, nothing = np.column_stack([below, above]).astype(np.int32), np.zeros(len(values) + 1, np.int64)
    alone = np.full(len(values), -1, np.int32)
    closure = Closure(values, alone, nothing, np.zeros(0, np.int32), np.zeros(0, np.int64), arcs=arcs)
    start = time.process_time()
    answer = po.solve(closure)
    seconds = time.process_time() - start
    return {"value": round(-answer.objective), "bound": -answer.bound, "seconds": seconds, "decimals": decimals,
            "solver": answer.solver, "arcs": len(below), "blocks": int(answer.value.sum())}  # fmt: skip


def mineflow(file: str, *shape: str) -> dict[str, Any]:
    """MineFlow's pseudoflow on explicit precedences: building and solving."""
    from pymineflow import ExplicitPit

    values, _, (below, above) = mine(file, shape)
    start = time.process_time()
    _, value, blocks, seconds = ExplicitPit(len(values), below, above, values).solve()
    return {"value": int(value), "blocks": int(blocks), "seconds": time.process_time() - start, "of solving": seconds}


def ortools(file: str, *shape: str) -> dict[str, Any]:
    """OR-tools' push-relabel: building the graph and solving it."""
    from ortools.graph.python import max_flow

    values, _, (below, above) = mine(file, shape)
    n, gain, loss = len(values), np.flatnonzero(values > 0), np.flatnonzero(values < 0)
    start = time.process_time()
    solver = max_flow.SimpleMaxFlow()
    tails = np.concatenate([np.full(len(gain), n), loss, below])
    heads = np.concatenate([gain, np.full(len(loss), n + 1), above])
    room = np.concatenate([values[gain], -values[loss], np.full(len(below), 2**60)])
    solver.add_arcs_with_capacity(tails, heads, room)
    if solver.solve(n, n + 1) != solver.OPTIMAL:
        raise RuntimeError("OR-tools did not solve the flow")
    value = int(values[gain].sum()) - solver.optimal_flow()
    return {"value": value, "seconds": time.process_time() - start}


def apart(function: str, file: str, *shape: str) -> dict[str, Any]:
    """Return what a function of this module says, in a process of its own."""
    python = sys.executable if function == "ours" else os.environ.get("MINES_PYTHON", sys.executable)
    code = f"import json, benchmarks.mines as m; print(json.dumps(m.{function}(*{(file, *shape)!r})))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function}: {done.stderr[-1500:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(file: str, *shape: str) -> None:
    """Measure one block model on all sides, three times, and print the least seconds of each."""
    kinds = ("ours", "ortools", "mineflow")
    rows: dict[str, Callable[[], Any]] = {
        f"{kind}, {k}": partial(apart, kind, file, *shape) for k in range(3) for kind in kinds
    }
    found = recorded("mines", Path(file).stem, rows)["rows"]
    least = {kind: min(found[f"{kind}, {k}"]["seconds"] for k in range(3)) for kind in kinds}
    values = {row["value"] for row in found.values()} | ({published(file)} - {None})
    ratios = ", ".join(f"{least['ours'] / least[kind]:.3g} x {kind}'s" for kind in kinds[1:])
    print(f"{Path(file).stem}: optimum {', '.join(map(str, values))}; ours {least['ours']:.3g} s, {ratios}")


if __name__ == "__main__":
    main(*sys.argv[1:])

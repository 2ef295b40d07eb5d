"""Reliability: ``python -m benchmarks.trust faults|random|scaled|files|soak [NAME ...] [--times N] [--seconds S]``.

``faults`` forges answers to every instance of every form; ``random`` and ``scaled`` hold every solver against brute
force on random problems, plain ones and ones of every order of magnitude with duplicates, rank-deficient Hessians and
denormal numbers; ``files`` feeds mutated files to every reader; ``soak`` solves 200 times and watches the memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
import prunopt.forms
from benchmarks.machine import RESULTS
from prunopt import testing
from prunopt.core.artifact import write_json
from prunopt.core.checks import CLAIMED
from prunopt.core.dispatch import load_solvers
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, solvers_for
from prunopt.testing.faults import Liar, faults, is_wrong
from prunopt.testing.files import mutated, outcome, readers
from prunopt.testing.random_problems import GENERATORS, random_instance

PLACE = RESULTS / "trust.json"
ENGINES = ("pulp", "highs-milp")  # every tenth problem: a model is written and an engine started for each
SLOW = {"maskllm", "s2h", "tpe", "cma-es", "dsa-evolution", "surrogate", "dcp", "dcp-b", "hsr", "obs-branch-and-bound"}


def main() -> None:
    """Run one kind of test; results are written name by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["faults", "random", "scaled", "files", "soak"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each name")
    asked = parser.parse_args()
    load_solvers()
    warnings.simplefilter("ignore")
    jobs: dict[str, Any] = {
        "faults": ([f.__name__ for f in testing.INSTANCES], forged),
        "random": (list(GENERATORS), lambda n, t, s: random(n, t, s, rough=False)),
        "scaled": (list(GENERATORS), lambda n, t, s: random(n, t, s, rough=True)),
        "files": (list(by_name()), hostile),
        "soak": (["solve"], soak),
    }
    names, job = jobs[asked.kind]
    for name in asked.names or names:
        start = time.perf_counter()
        found = job(name, asked.times, asked.seconds)
        found["took"] = round(time.perf_counter() - start, 1)
        known = json.loads(PLACE.read_text()) if PLACE.is_file() else {}
        known.setdefault(asked.kind, {})[name] = found
        write_json(PLACE, known)
        print(asked.kind, name, {k: v for k, v in found.items() if v != []}, flush=True)


def forged(form: str, times: int, seconds: float) -> dict[str, Any]:
    """Forge answers to every instance, by the best exact and the best other solver."""
    kind = next(f for f in testing.INSTANCES if f.__name__ == form)
    until, count, through = time.process_time() + seconds, Counter[str](), []
    able = [s for s in solvers_for(kind) if not s.why_not() and s.name not in SLOW - {"obs-branch-and-bound"}]
    stale: Any = {}
    for instance in testing.INSTANCES[kind]():
        for solver in [s for s in able if s.exact][:1] + [s for s in able if not s.exact][:1]:
            if instance.optimum is None or time.process_time() > until:
                continue
            honest = po.solve(instance.problem, solver(), limits=Limits() if solver.exact else Limits(evaluations=10))
            count["honest answers"] += 1
            for name, forgery in faults(instance.problem, honest, stale):
                wrong = is_wrong(instance.problem, instance.optimum, forgery)
                count["forged"] += 1
                count["wrong"] += bool(wrong)
                if got := _passes(instance, forgery, wrong, honest, kind):
                    count["on an engine's word"] += got == "word"
                    through += [f"{instance.name}: {name}: {got}"] if got != "word" else []
            stale = honest.duals
    return {**count, "through": len(through), "examples": through[:5]}


def _passes(instance: testing.Instance, forgery: Any, wrong: str, honest: Solution[Any], kind: type) -> str:
    """What gets through the checks; "word" where the answer is marked as an engine's claim and `verify` refuses it."""
    try:
        po.verify(instance.problem, forgery)
        if wrong:
            return f"verify: {wrong}"
    except po.CertificateError:
        pass
    try:
        answer = po.solve(instance.problem, Liar(forgery, honest.solver, kind), throw=False)
    except po.CertificateError:
        return ""
    told = is_wrong(instance.problem, instance.optimum, answer)
    if not told or not str(answer.stats.get("bound", "")).startswith(CLAIMED):
        return f"solve: {told}" if told else ""
    try:
        po.verify(instance.problem, answer)
    except po.CertificateError:
        return "word"
    return f"solve and verify: {told}"


def random(form: str, times: int, seconds: float, *, rough: bool) -> dict[str, Any]:
    """Hold every solver against brute force on random problems."""
    kind, until, ends = getattr(prunopt.forms, form), time.process_time() + seconds, []
    count, solved = Counter[str](), Counter[str]()
    able = [s for s in solvers_for(kind) if not s.why_not()]
    for k in range(times):
        if time.process_time() > until:
            break
        scale = 10.0 ** (k % 25 - 12) if rough else 1.0
        try:
            instance = random_instance(form, k, scale=scale, rough=rough)
        except ValueError:  # refused with a message: numbers too far apart, a Hessian of no use
            count["refused by the form"] += 1
            continue
        count["problems"] += 1
        count["infeasible"] += instance.optimum is None
        for solver in able:
            every = 10 if solver.name in ENGINES else 25 if solver.name in SLOW else 1 if solver.exact else 5
            if k % every:
                continue
            solved[solver.name] += 1
            why = _differs(instance, solver(), scale, checked=k % 20 == 0)
            ends += [f"seed {k}, {solver.name}: {why}"] if why else []
    return {**count, "solved": dict(solved), "wrong": len(ends), "examples": ends[:5]}


def _differs(instance: testing.Instance, solver: Any, scale: float, *, checked: bool) -> str:
    try:
        answer = po.solve(
            instance.problem, solver, limits=None if solver.exact else Limits(evaluations=20), throw=False
        )
        if checked:
            po.verify(instance.problem, answer)
    except Exception as error:  # an answer is asked for, whatever the numbers
        return repr(error)[:200]
    wrong = is_wrong(instance.problem, instance.optimum, answer)
    if wrong or not solver.exact:
        return wrong
    if instance.optimum is None:
        return "" if answer.status is po.Status.INFEASIBLE else f"infeasible, but ended {answer.status.name}"
    if answer.status is not po.Status.OPTIMAL:
        return f"ended {answer.status.name}: {answer.message}"
    # also at the problem's own scale, not only to an absolute 1e-6
    unit = max(abs(instance.optimum), 1e-3 * scale)
    return "" if answer.objective <= instance.optimum + 1e-6 * unit else f"{answer.objective}, not {instance.optimum}"


def by_name() -> dict[str, Any]:
    """Return the readers by name."""
    return {reader.name: reader for reader in readers()}


def hostile(name: str, times: int, seconds: float) -> dict[str, Any]:
    """Feed mutated files to a reader."""
    reader, until, count, bad = by_name()[name], time.process_time() + seconds, Counter[str](), []
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / reader.file
        reader.write(file)
        data = file.read_bytes()
        for _ in range(times):
            if time.process_time() > until:
                break
            kind, other = mutated(data, rng)
            file.write_bytes(other)
            end = outcome(reader, file)
            count["tried"] += 1
            count[end if end in ("read", "refused") else "fault"] += 1
            bad += [f"{kind}: {end[:200]}"] if end not in ("read", "refused") else []
    return {**count, "faults": len(bad), "examples": sorted(set(bad))[:8]}


def soak(name: str, times: int, seconds: float) -> dict[str, Any]:
    """Solve 200 times over all forms, twice, and compare the memory after each round."""
    held: list[int] = []
    for _ in range(3):
        for k in range(200):
            form = list(GENERATORS)[k % len(GENERATORS)]
            po.solve(random_instance(form, k).problem, throw=False)
        gc.collect()
        if not tracemalloc.is_tracing():
            tracemalloc.start()  # after the first round, which fills caches
        held.append(tracemalloc.get_traced_memory()[0])
    rss = int(next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmRSS")).split()[1])
    return {"solves": 600, "bytes after each round": held, "resident_kib": rss}


if __name__ == "__main__":
    main()

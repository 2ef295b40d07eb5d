"""Reliability: ``python -m benchmarks.trust faults|random|scaled|files|soak [NAME ...] [--times N] [--seconds S]``.

``faults`` forges answers to every instance of every form; ``random`` and ``scaled`` hold every solver against brute
force on random problems, plain ones and ones of every order of magnitude with duplicates, rank-deficient Hessians and
denormal numbers; ``files`` feeds mutated files to every reader; ``soak`` solves 200 times and watches the memory.

``random``, ``scaled`` and ``files`` go on where the last run ended: random problems up to seed ``--times``, files for
``--seconds`` more. What is on file is counted together.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import re
import tempfile
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
import prunopt.forms
from benchmarks.results import load, store
from prunopt import testing
from prunopt.core.certificates import CLAIMED
from prunopt.core.registry import load_solvers
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, solvers_for
from tests.support.faults import Liar, faults, is_wrong
from tests.support.files import Reader, corpus, ending, mutated, readers
from tests.support.random_problems import GENERATORS, random_instance

CORPUS = Path(__file__).parents[1] / "tests" / "trust" / "corpus"
SMALL, KEPT = 3000, 8  # bytes of a file that is kept, and how many of a reader
RESUMED = ("random", "scaled", "files")
ENGINES = {"pulp": 20, "highs-milp": 10}  # a share of the problems: a model is written, an engine is started
NEAREST = {"coupled-dp", "mask-enumeration"}  # to exact, in forms without a solver that is so on every problem
SLOW = {"maskllm", "s2h", "tpe", "cma-es", "dsa-evolution", "surrogate", "dcp", "dcp-b", "hsr"}


def main(words: list[str] | None = None) -> None:
    """Run one kind of test; results are written name by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["faults", "random", "scaled", "files", "soak"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each name")
    parser.add_argument("--file", type=Path, help="Where the figures are kept, in the place of results/trust.json.gz")
    asked = parser.parse_args(words)
    load_solvers()
    warnings.simplefilter("ignore")
    jobs: dict[str, Any] = {
        "faults": (lambda: [f.__name__ for f in testing.INSTANCES], forged),
        "random": (lambda: list(GENERATORS), lambda *a: random(*a, rough=False)),
        "scaled": (lambda: list(GENERATORS), lambda *a: random(*a, rough=True)),
        "files": (lambda: list(by_name()), hostile),  # imports every reader
        "soak": (lambda: ["solve"], soak),
    }
    names, job = jobs[asked.kind]
    table = asked.file or "trust"
    for name in asked.names or names():
        before = load(table, f"{asked.kind}/{name}", {})
        found, start = before, time.perf_counter()
        for found in job(name, asked.times, asked.seconds, before if asked.kind in RESUMED else {}):
            now = time.perf_counter()
            took = now - start + (before.get("took", 0.0) if asked.kind in RESUMED else 0.0)
            store(table, {f"{asked.kind}/{name}": {**found, "took": round(took, 1)}})
        print(asked.kind, name, {k: v for k, v in found.items() if v != []}, flush=True)


def _spent() -> float:
    """Seconds of CPU, those of engines and parsers in processes of their own among them."""
    return sum(os.times()[:4])


def forged(form: str, times: int, seconds: float, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Forge answers to every instance, by the best exact and the best other solver."""
    kind = next(f for f in testing.INSTANCES if f.__name__ == form)
    until, count, through = _spent() + seconds, Counter[str](), []
    there = [s for s in solvers_for(kind) if not s.why_not() and s.name not in SLOW]
    stale: Any = {}
    for instance in testing.instances_of(kind):
        able = [s for s in there if not s.why_not_on(instance.problem)]
        for solver in [s for s in able if s.exact][:1] + [s for s in able if not s.exact][:1]:
            if instance.optimum is None or _spent() > until:
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
    yield {**count, "through": len(through), "examples": through[:5]}


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


def random(form: str, times: int, seconds: float, before: dict[str, Any], *, rough: bool) -> Iterator[dict[str, Any]]:
    """Hold every solver against brute force on the random problems of the seeds up to ``times``."""
    kind, until = getattr(prunopt.forms, form.partition(" ")[0]), _spent() + seconds
    count = Counter({k: v for k, v in before.items() if isinstance(v, int)})
    solved, ends = Counter(before.get("solved", {})), list(before.get("examples", []))
    able = [s for s in solvers_for(kind) if not s.why_not()]
    while count["seeds"] < times and _spent() < until:
        for k in range(count["seeds"], min(count["seeds"] + 250, times)):
            scale = 10.0 ** (k % 25 - 12) if rough else 1.0
            count["seeds"] += 1
            try:
                instance = random_instance(form, k, scale=scale, rough=rough)
            except ValueError:  # refused with a message: numbers too far apart, a Hessian of no use
                count["refused by the form"] += 1
                continue
            count["problems"] += 1
            count["infeasible"] += instance.optimum is None
            for solver in able:
                if k % _every(solver) or solver.why_not_on(instance.problem):
                    continue
                solved[solver.name] += 1
                why = _differs(instance, solver(), scale, checked=k % 20 == 0)
                count["wrong"] += bool(why)
                ends += [f"seed {k}, {solver.name}: {why}"] if why else []
        yield {**count, "wrong": count["wrong"], "solved": dict(solved), "examples": ends[:10]}


def _every(solver: Any) -> int:
    """Of how many problems a solver gets one: exact ones get all, engines that start a process a share."""
    all_of_them = solver.exact or solver.name in NEAREST
    return ENGINES.get(solver.name, 250 if solver.name in SLOW else 1 if all_of_them else 5)


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


def hostile(name: str, times: int, seconds: float, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Feed mutated files to a reader for some seconds of the clock.

    A mutation that ends in a message of a new kind is mutated again, and the small ones of these are kept.
    """
    reader = by_name()[name]
    count = Counter({k: v for k, v in before.items() if isinstance(v, int)})
    bad = list(before.get("examples", []))
    rng = np.random.default_rng([zlib.crc32(name.encode()), count["tried"]])
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / reader.file
        reader.write(file)
        pool = [file.read_bytes(), *(p.read_bytes() for p in corpus(CORPUS, reader))]
        seen = set()
        for data in pool:
            file.write_bytes(data)
            seen.add(ending(reader, file)[1])
        until = time.perf_counter() + seconds
        while time.perf_counter() < until and count["tried"] < before.get("tried", 0) + times:
            base = pool[0] if rng.random() < 0.5 else pool[int(rng.integers(len(pool)))]
            kind, other = mutated(base, rng)
            file.write_bytes(other)
            end, said = ending(reader, file)
            count["tried"] += 1
            count[end if end in ("read", "refused") else "faults"] += 1
            bad += [f"{kind}: {end[:200]}"] if end not in ("read", "refused") else []
            if (said not in seen or end not in ("read", "refused")) and len(pool) < 200:
                seen.add(said)
                pool.append(other)
                _keep(reader, other, at_any_rate=end not in ("read", "refused"))
    yield {**count, "faults": count["faults"], "endings": len(seen), "examples": sorted(set(bad))[:8]}


def _keep(reader: Reader, data: bytes, *, at_any_rate: bool) -> None:
    """Put a file into the corpus, if it is small, and there are few."""
    folder = CORPUS / re.sub(r"\W+", "-", reader.name)
    if not at_any_rate and (len(data) > SMALL or len(corpus(CORPUS, reader)) >= KEPT):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{hashlib.sha256(data).hexdigest()[:12]}{Path(reader.file).suffix}").write_bytes(data)


def soak(name: str, times: int, seconds: float, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
    yield {"solves": 600, "bytes after each round": held, "resident_kib": rss}


if __name__ == "__main__":
    main()

"""Closures on disk: the same problem as in memory, whole or absent, bounds that only true multipliers prove."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms import Closure, ClosureOnDisk
from prunopt.forms.closure._multipliers_on_disk import MultipliersOnDisk, MultipliersWriter
from prunopt.forms.closure.closure_on_disk import ClosureWriter
from prunopt.testing import brute_force_closure, on_disk, random_closure


def example(folder: Path) -> ClosureOnDisk:
    problem = Closure.of([5, 4, -1], arcs=[(1, 0), (2, 1)], requirements=[[0], [0, 1], [2]], cost=[6, 2, 1])
    return on_disk(problem, folder, 2)


def multipliers_for(disk: ClosureOnDisk, folder: Path, chunks: list[np.ndarray], denominator: int) -> MultipliersOnDisk:
    sizes = tuple(e for _, e in disk.sizes)
    start = MultipliersOnDisk(folder, (None,) * len(sizes), sizes, denominator, "int64", disk.digest)
    writer = MultipliersWriter(start)
    for k, shares in enumerate(chunks):
        writer.write(k, shares.astype(np.int64))
    writer.keep()
    return writer.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_disk_and_memory_agree(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    problem = random_closure(rng, int(rng.integers(0, 9)))
    folder = tmp_path_factory.mktemp("closure")
    on_disk(problem, folder / "c", int(rng.integers(1, 4)))
    disk = ClosureOnDisk.open(folder / "c")
    again = disk.to_closure()
    assert (disk.n_items, disk.n_requirements, disk.n_edges) == (
        problem.n_items,
        problem.n_requirements,
        problem.n_edges,
    )
    for _ in range(4):
        x = rng.random(problem.n_items) < 0.6
        assert disk.exact_objective(x) == problem.exact_objective(x) == again.exact_objective(x)
        assert disk.violation(x) == problem.violation(x)
    optimum = brute_force_closure(problem)
    assert brute_force_closure(again) == optimum
    for denominator in (problem.penalty.denominator * 3, 7):  # 7: penalties are not whole numbers of its units
        shares = [rng.integers(0, 30, e) for _, e in disk.sizes]
        duals = {"requirements": multipliers_for(disk, folder / f"m{denominator}", shares, denominator)}
        assert disk.bound(duals) <= optimum + 1e-9
    shutil.rmtree(folder)


def test_the_bound_is_that_of_the_closure_in_memory(tmp_path: Path) -> None:
    disk = example(tmp_path / "c")
    shares = [np.arange(e) + 1 for _, e in disk.sizes]
    stored = multipliers_for(disk, tmp_path / "m", shares, 1)
    memory = disk.to_closure()
    edges = {(int(h), j): 0 for h in range(3) for j in memory.indices[memory.indptr[h] : memory.indptr[h + 1]]}
    first = 0
    for chunk, share in zip(disk.chunks(), shares, strict=True):
        owner = first + np.repeat(np.arange(len(chunk.cost)), np.diff(chunk.offsets))
        for h, j, b in zip(chunk.items, owner, share, strict=True):
            edges[int(h), int(j)] = int(b)
        first += len(chunk.cost)
    flat = [edges[h, j] for h in range(3) for j in memory.indices[memory.indptr[h] : memory.indptr[h + 1]]]
    expected = memory.exact_bound({"requirements": np.array(flat), "denominator": 1})
    assert disk.rational_bound({"requirements": stored}) == expected
    assert disk.rational_bound({"requirements": tmp_path / "m"}) == expected


def test_a_folder_that_was_not_finished_cannot_be_opened(tmp_path: Path) -> None:
    writer = ClosureWriter(tmp_path / "half", 2)
    writer.add([0, 1, 2], [0, 0], [3])
    with pytest.raises(ValueError, match="no complete closure"):
        ClosureOnDisk.open(tmp_path / "half")

    def chunks() -> object:
        yield [0, 1, 2], [0, 0], [3]
        raise RuntimeError("the rows ended")

    with pytest.raises(RuntimeError, match="the rows ended"):
        ClosureOnDisk.write(tmp_path / "broken", [1, 2], [-1, -1], chunks())  # type: ignore[arg-type]
    assert not list((tmp_path / "broken").iterdir())
    fresh = ClosureOnDisk.write(tmp_path / "half", [1, 2], [-1, -1], [([0, 1, 2], [0, 0], [3])])
    assert fresh.objective(np.array([True, True])) == 0.0
    with pytest.raises(ValueError, match="hold no closure yet"):
        ClosureWriter(tmp_path / "half", 2)


@pytest.mark.parametrize("what", ["cut short", "items", "type", "missing", "cost", "manifest", "parent"])
def test_damage_is_found(tmp_path: Path, what: str) -> None:
    place = tmp_path / "c"
    disk = example(place)
    file = place / "chunk-00000.items.npy"
    items = disk.chunk(0).items
    if what == "cut short":
        file.write_bytes(file.read_bytes()[:-2])
    elif what == "items":
        np.save(file, items + 7)
    elif what == "type":
        np.save(file, items.astype(np.int64))
    elif what == "missing":
        file.unlink()
    elif what == "cost":
        np.save(place / "chunk-00000.cost.npy", disk.chunk(0).cost + 1)
    elif what == "parent":
        np.save(place / "parent.npy", np.array([0, 0, 1], np.int32))
    else:
        manifest = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps({**manifest, "unit": ["1", "0"]}))
    with pytest.raises(ValueError, match="no complete closure"):
        ClosureOnDisk.open(place)


def test_multipliers_of_something_else_are_refused(tmp_path: Path) -> None:
    disk = example(tmp_path / "c")
    stored = multipliers_for(disk, tmp_path / "m", [np.ones(e) for _, e in disk.sizes], 1)
    other = ClosureOnDisk.write(tmp_path / "d", [1, 2], [-1, -1], [([0, 1, 2], [0, 0], [3])])
    with pytest.raises(po.CertificateError, match="another closure"):
        other.bound({"requirements": stored})
    with pytest.raises(po.CertificateError, match="no multipliers"):
        disk.bound({"requirements": tmp_path / "nowhere"})
    negative = multipliers_for(disk, tmp_path / "n", [-np.ones(e) for _, e in disk.sizes], 1)
    with pytest.raises(po.CertificateError, match="negative"):
        disk.bound({"requirements": negative})
    manifest = json.loads((tmp_path / "m" / "multipliers.json").read_text())
    manifest["files"][0] = "../../secret.npy"
    (tmp_path / "m" / "multipliers.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="damaged"):
        MultipliersOnDisk.open(tmp_path / "m")


def test_the_best_multipliers_survive_worse_ones_and_a_kill(tmp_path: Path) -> None:
    disk = example(tmp_path / "c")
    sizes = tuple(e for _, e in disk.sizes)
    start = MultipliersOnDisk(tmp_path / "m", (None, None), sizes, 1, "int64", disk.digest)
    writer = MultipliersWriter(start)
    start.save()
    good = [np.full(n, 2) for n in sizes]
    for k in (0, 1):
        writer.write(k, good[k])
    writer.keep()
    saved = writer.close()
    assert np.array_equal(MultipliersOnDisk.open(tmp_path / "m").chunk(1), good[1])
    again = MultipliersWriter(saved)
    again.write(0, np.full(sizes[0], 9))  # never kept: as if the process were killed here
    assert np.array_equal(MultipliersOnDisk.open(tmp_path / "m").chunk(0), good[0])
    assert np.array_equal(again.read(0), np.full(sizes[0], 9))
    assert np.array_equal(again.close().chunk(0), good[0])
    assert len(list((tmp_path / "m").glob("chunk-*.npy"))) == 2


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"indices must hold .* <= 0"):
        ClosureOnDisk.write(tmp_path / "a", [1], [-1], [([0, 1], [4], [3])])
    with pytest.raises(ValueError, match="a gain belongs in profit"):
        ClosureOnDisk.write(tmp_path / "a", [1], [-1], [([0, 1], [0], [-3])])
    with pytest.raises(ValueError, match=r"parent\[0\] must be an earlier item"):
        ClosureOnDisk.write(tmp_path / "a", [1], [3], [([0, 1], [0], [3])])
    disk = ClosureOnDisk.write(tmp_path / "a", [1], [-1], [([0, 1], [0], [3])])
    with pytest.raises(ValueError, match="penalty must be >= 0"):
        disk.at_penalty(-1)
    with pytest.raises(TypeError, match="a folder already"):
        po.save_form(disk, tmp_path / "x.npz")
    assert disk.at_penalty(Fraction(1, 6)).objective(np.array([True])) == -0.5

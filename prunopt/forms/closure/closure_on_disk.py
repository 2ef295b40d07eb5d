"""A closure whose requirements lie on disk, chunk by chunk: as many as there is disk for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core import deprecation
from prunopt.core.arrays import Ints
from prunopt.core.deprecation import renamed_arguments, renamed_fields
from prunopt.core.display import one_line
from prunopt.core.files import write_json
from prunopt.core.solution import CertificateError
from prunopt.core.validate import ints, require
from prunopt.forms.closure._multipliers_on_disk import MultipliersOnDisk, read_array, write_array
from prunopt.forms.closure.closure import INT64_SAFE, Closure, exact_sum

FORMAT = "prunopt-closure-on-disk-1"
MANIFEST = "manifest.json"


class Chunk(NamedTuple):
    """Some requirements of a closure: ``items[offsets[j]:offsets[j + 1]]`` need requirement j of the chunk."""

    offsets: Ints  # (w + 1,)
    items: NDArray[np.int32]  # (e,)
    cost: Ints  # (w,)


@renamed_fields(price="penalty")
@one_line
@dataclass(frozen=True, eq=False)
class ClosureOnDisk:
    r"""Choose items that bring profit, with all that they need: a `Closure` that does not fit into memory.

    .. math::
        \min_{x \in \{0,1\}^m} \; u \Bigl( p \sum_{j} c_j w_j - \sum_h a_h x_h \Bigr)
        \quad \text{s.t.} \quad x_h \le x_{\mathrm{parent}(h)}, \quad x_h \le w_j \ (j \in R_h)

    Items, with their profits and parents, are in memory; requirements, with their costs and the items that need them,
    are files in a folder, in chunks that are read one after another. Everything here takes memory for the items and
    one chunk, however many chunks there are. Make one with `write` or a `ClosureWriter`, come back to it with `open`.

    Parameters
    ----------
    folder
        Where the chunks lie.
    profit : (m,) int64
        Profit a_h of each item, of any sign.
    parent : (m,) int32
        The item that item h needs, ``parent[h] < h``, or -1.
    sizes : tuple of (int, int)
        Requirements and edges of each chunk.
    total_cost, largest_cost
        Sum and largest of all costs.
    penalty : Fraction
        The factor p >= 0 on all costs.
    unit : Fraction
        The factor u > 0 that turns the integers into the caller's unit.
    digest
        SHA-256 of the manifest; multipliers on disk name it.

    Notes
    -----
    The value is a bool array of shape (m,), True = the item is chosen.
    """

    folder: Path
    profit: Ints
    parent: NDArray[np.int32]
    sizes: tuple[tuple[int, int], ...]
    total_cost: int
    largest_cost: int
    penalty: Fraction
    unit: Fraction
    digest: str

    @classmethod
    @renamed_arguments(price="penalty")
    def write(
        cls,
        folder: str | os.PathLike[str],
        profit: ArrayLike,
        parent: ArrayLike,
        chunks: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike]],
        *,
        penalty: Fraction | int = 1,
        unit: Fraction | int = 1,
    ) -> ClosureOnDisk:
        """Write a closure to a folder and return it.

        Parameters
        ----------
        folder
            A new folder, or one without a closure in it.
        profit, parent : (m,) int
            See `Closure`.
        chunks
            ``(indptr, indices, cost)`` for each chunk, as in `Closure`: ``indices[indptr[h]:indptr[h + 1]]`` are the
            requirements of item h, numbered within the chunk. A requirement belongs to one chunk.
        penalty, unit
            See `Closure`.
        """
        with ClosureWriter(folder, len(np.asarray(profit))) as writer:
            for indptr, indices, cost in chunks:
                writer.add(indptr, indices, cost)
            return writer.finish(profit, parent, penalty=penalty, unit=unit)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, check: bool = True) -> ClosureOnDisk:
        """Open the closure in a folder.

        Parameters
        ----------
        folder
            What `write` or a `ClosureWriter` wrote.
        check
            Read every chunk once, and refuse damaged ones. Leave it on for folders that may have been changed.

        Raises
        ------
        ValueError
            If there is no complete closure, or a file is missing or damaged.
        """
        place = Path(folder)
        try:
            text = (place / MANIFEST).read_bytes()
            data = json.loads(text.decode())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, {FORMAT!r} is needed")
            m = int(data["items"])
            closure = cls(
                place,
                read_array(place / "profit.npy", "int64", m),
                read_array(place / "parent.npy", "int32", m),
                tuple((int(w), int(e)) for w, e in data["chunks"]),
                int(data["total cost"]),
                int(data["largest cost"]),
                Fraction(*map(int, data["price"])),
                Fraction(*map(int, data["unit"])),
                hashlib.sha256(text).hexdigest(),
            )
            closure._check()
            if check:
                closure._check_chunks()
            return closure
        except (OSError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"folder={str(folder)!r}: no complete closure ({error})") from None

    def _check(self) -> None:
        _ = self.alone  # checks profits, parents, penalty and unit
        require(all(w >= 0 and e >= 0 for w, e in self.sizes), "chunks", "have sizes >= 0", self.sizes)
        possible = 0 <= self.largest_cost <= self.total_cost < INT64_SAFE
        require(possible, "cost", "add up to less than 2**62", self.total_cost, "use a coarser unit")

    def _check_chunks(self) -> None:
        total, largest = 0, 0
        for k, chunk in enumerate(self.chunks()):
            _check_chunk(chunk, self.n_items, f"chunk {k}")
            total += exact_sum(chunk.cost)
            largest = max(largest, int(chunk.cost.max(initial=0)))
        said = (total, largest) == (self.total_cost, self.largest_cost)
        require(said, "cost", f"add up to {self.total_cost}, as the manifest says", total)

    def at_price(self, price: Fraction | int) -> ClosureOnDisk:
        """Return `at_penalty`: the old name."""
        deprecation.warn("ClosureOnDisk.at_price", "at_penalty")
        return self.at_penalty(price)

    @property
    def n_items(self) -> int:
        """Number of items m."""
        return len(self.profit)

    @property
    def n_requirements(self) -> int:
        """Number of requirements W."""
        return sum(w for w, _ in self.sizes)

    @property
    def n_edges(self) -> int:
        """Number of (item, requirement) pairs E."""
        return sum(e for _, e in self.sizes)

    def at_penalty(self, penalty: Fraction | int) -> ClosureOnDisk:
        """Return the same closure at another penalty; the files are shared."""
        other = replace(self, penalty=Fraction(penalty))
        other._check()
        return other

    def chunk(self, k: int) -> Chunk:
        """Read chunk k.

        Raises
        ------
        ValueError
            If its files are missing, or not of the size that the manifest states.
        """
        w, e = self.sizes[k]
        name = f"chunk-{k:05d}"
        return Chunk(
            read_array(self.folder / f"{name}.offsets.npy", "int64", w + 1),
            read_array(self.folder / f"{name}.items.npy", "int32", e),
            read_array(self.folder / f"{name}.cost.npy", "int64", w),
        )

    def chunks(self) -> Iterator[Chunk]:
        """Read one chunk after another."""
        return (self.chunk(k) for k in range(len(self.sizes)))

    # The problem.

    @cached_property
    def alone(self) -> Closure:
        """The items without their requirements."""
        nothing = np.zeros(self.n_items + 1, np.int64)
        none = (np.zeros(0, np.int32), np.zeros(0, np.int64))
        return Closure(self.profit, self.parent, nothing, *none, penalty=self.penalty, unit=self.unit)

    def exact_objective(self, x: ArrayLike) -> Fraction:
        """Return the objective of ``x`` as an exact rational; reads every chunk once."""
        chosen = self.alone._as_value(x)
        spent = 0
        if np.any(chosen):
            for chunk in self.chunks():
                users = np.concatenate([[0], np.cumsum(chosen[chunk.items], dtype=np.int64)])
                needed = users[chunk.offsets[1:]] > users[chunk.offsets[:-1]]
                spent += exact_sum(chunk.cost[needed])
        return self.unit * (self.penalty * spent - exact_sum(self.profit[chosen]))

    def objective(self, x: ArrayLike, /) -> float:
        """Return penalty * cost of what is needed - profit of what is chosen, in the caller's unit."""
        return float(self.exact_objective(x))

    def violation(self, x: ArrayLike, /) -> float:
        """Return how many chosen items lack their parent."""
        return self.alone.violation(x)

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the lower bound that Lagrange multipliers prove (see `rational_bound`)."""
        return float(self.rational_bound(duals))

    def rational_bound(self, duals: Mapping[str, Any]) -> Fraction:
        r"""Return the Lagrangian lower bound of multipliers on disk, as an exact rational.

        .. math::
            -u \Bigl( \sum_{\text{trees}} \max_{y \text{ closed}} \sum_h (a_h - \sum_j b_{hj}) y_h
            + \sum_j \max(0, \sum_h b_{hj} - p c_j) \Bigr)

        Chunks and multipliers are read once, and added up in integers with code that no solver uses. Where the
        multipliers' unit does not divide a requirement's scaled cost, what is paid beyond it is rounded up by less
        than one unit, which keeps the bound valid.

        Parameters
        ----------
        duals
            ``"requirements"``: a `MultipliersOnDisk`, or the folder of one.

        Raises
        ------
        CertificateError
            If the multipliers belong to another closure, are missing, negative, or too large to be added.
        """
        given = duals["requirements"]
        try:
            multipliers = given if isinstance(given, MultipliersOnDisk) else MultipliersOnDisk.open(given)
        except (TypeError, ValueError) as error:
            raise CertificateError(f"duals['requirements']: {error}") from None
        if multipliers.closure != self.digest or multipliers.sizes != tuple(e for _, e in self.sizes):
            raise CertificateError("duals['requirements']: multipliers of another closure")
        scale = multipliers.denominator
        if exact_sum(np.abs(self.profit)) * scale >= INT64_SAFE:
            raise CertificateError(f"denominator {scale}: too fine to be added in 64 bits")
        weight, spent, beyond = self.profit * scale, 0, 0
        for k, chunk in enumerate(self.chunks()):
            share = multipliers.chunk(k).astype(np.int64, copy=False)
            if share.min(initial=0) < 0:
                raise CertificateError(f"duals['requirements']: a multiplier of chunk {k} is negative")
            spent += exact_sum(share)
            if spent >= INT64_SAFE:
                raise CertificateError(f"duals['requirements']: they add up to {spent}, beyond 2**62")
            np.subtract.at(weight, chunk.items, share)
            running = np.concatenate([[0], np.cumsum(share)])
            paid = running[chunk.offsets[1:]] - running[chunk.offsets[:-1]]
            beyond += exact_sum(np.maximum(paid - self._scaled_costs(chunk.cost, scale), 0))
        profit = exact_sum(self.alone.tree_values(weight)) + beyond
        return -self.unit * Fraction(profit, scale)

    def _scaled_costs(self, cost: Ints, scale: int) -> Ints:
        """Costs times the penalty in units of ``1 / scale``, rounded down, at most 2^62."""
        factor = self.penalty * scale
        if self.largest_cost * factor.numerator < INT64_SAFE and factor.denominator < INT64_SAFE:
            return cost * factor.numerator // factor.denominator
        exact = (min(int(c) * factor.numerator // factor.denominator, INT64_SAFE) for c in cost)
        return np.fromiter(exact, np.int64, len(cost))

    def to_closure(self) -> Closure:
        """Read everything into memory: the same problem as a `Closure`, about 30 bytes per edge while reading."""
        chunks = list(self.chunks())
        first = np.cumsum([0, *(w for w, _ in self.sizes)])
        items = np.concatenate([np.zeros(0, np.int32), *(c.items for c in chunks)])
        owner = [np.repeat(a + np.arange(len(c.cost)), np.diff(c.offsets)) for a, c in zip(first, chunks, strict=False)]
        order = np.argsort(items, kind="stable")
        return Closure(
            self.profit,
            self.parent,
            np.concatenate([[0], np.cumsum(np.bincount(items, minlength=self.n_items))]),
            np.concatenate([np.zeros(0, np.int64), *owner])[order],
            np.concatenate([np.zeros(0, np.int64), *(c.cost for c in chunks)]),
            penalty=self.penalty,
            unit=self.unit,
        )


class ClosureWriter:
    """Writes a `ClosureOnDisk` chunk by chunk; profits may still change until `finish`.

    The manifest is written last, and renamed into place: a folder that was not finished cannot be opened. As a
    context manager it deletes what it has written when the block ends without `finish`.

    Parameters
    ----------
    folder
        A new folder, or one without a closure in it.
    n_items
        Number of items m.
    seed
        Requirements are put into a random order within their chunk, which lets solvers treat neighbors as a sample.
    """

    def __init__(self, folder: str | os.PathLike[str], n_items: int, *, seed: int = 0) -> None:
        self.folder, self.n_items = Path(folder), n_items
        require(self.folder.is_dir() or not self.folder.exists(), "folder", "be a folder, not a file", str(folder))
        empty = not (self.folder / MANIFEST).exists()
        require(empty, "folder", "hold no closure yet", str(folder), "delete it, or name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._discard()  # what an interrupted writer left
        self._rng = np.random.default_rng(seed)
        self._sizes: list[tuple[int, int]] = []
        self._total = self._largest = 0

    def __enter__(self) -> ClosureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not (self.folder / MANIFEST).exists():
            self._discard()

    def add(self, indptr: ArrayLike, indices: ArrayLike, cost: ArrayLike) -> None:
        """Write one chunk of requirements.

        Parameters
        ----------
        indptr, indices : (m + 1,) and (e,) int
            ``indices[indptr[h]:indptr[h + 1]]`` are the requirements of item h, numbered within the chunk.
        cost : (w,) int
            Cost >= 0 of each requirement of the chunk.
        """
        from scipy import sparse

        costs = np.asarray(cost, np.int64)
        part = Closure(
            np.zeros(self.n_items, np.int64),
            np.full(self.n_items, -1, np.int32),
            np.asarray(indptr),
            np.asarray(indices),
            costs,
        )
        place = self._rng.permutation(len(costs)).astype(np.int32)
        shape = (self.n_items, len(costs))
        marks = np.ones(part.n_edges, np.bool_)
        turned = sparse.csr_array((marks, place[part.indices], part.indptr), shape=shape).tocsc()
        moved = np.empty_like(costs)
        moved[place] = costs
        chunk = Chunk(turned.indptr.astype(np.int64), turned.indices.astype(np.int32), moved)
        name = f"chunk-{len(self._sizes):05d}"
        for what, array in chunk._asdict().items():
            write_array(self.folder / f"{name}.{what}.npy", array)
        self._sizes.append((len(costs), part.n_edges))
        self._total += exact_sum(costs)
        self._largest = max(self._largest, int(costs.max(initial=0)))

    @renamed_arguments(price="penalty")
    def finish(
        self, profit: ArrayLike, parent: ArrayLike, *, penalty: Fraction | int = 1, unit: Fraction | int = 1
    ) -> ClosureOnDisk:
        """Write the items and the manifest, and return the closure."""
        none = (np.zeros(self.n_items + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
        items = Closure(np.asarray(profit), np.asarray(parent), *none, penalty=Fraction(penalty), unit=Fraction(unit))
        require(self._total < INT64_SAFE, "cost", "add up to less than 2**62", self._total, "use a coarser unit")
        write_array(self.folder / "profit.npy", items.profit)
        write_array(self.folder / "parent.npy", items.parent)
        manifest = {
            "format": FORMAT,
            "items": self.n_items,
            "chunks": self._sizes,
            "total cost": str(self._total),
            "largest cost": str(self._largest),
            "price": [str(items.penalty.numerator), str(items.penalty.denominator)],
            "unit": [str(items.unit.numerator), str(items.unit.denominator)],
        }
        write_json(self.folder / MANIFEST, manifest)
        return ClosureOnDisk.open(self.folder, check=False)

    def _discard(self) -> None:
        for pattern in ("chunk-*.npy", "profit.npy", "parent.npy", ".*.npy.part"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _check_chunk(chunk: Chunk, n_items: int, name: str) -> None:
    offsets, items = chunk.offsets, chunk.items
    leads = offsets[0] == 0 and offsets[-1] == len(items) and np.all(np.diff(offsets) >= 0)
    require(leads, f"{name}, offsets", f"rise from 0 to {len(items)}", offsets)
    ints(f"{name}, items", items, low=0, high=n_items - 1)
    ints(f"{name}, cost", chunk.cost, low=0)

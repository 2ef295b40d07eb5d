"""Hostile files: mutations of valid ones, and every reader of prunopt with a valid file for it.

`mutated` damages bytes as disks, editors and attackers do; `readers` yields for every kind of file a writer of a valid
sample and its reader. A reader keeps its promise when anything that it refuses is a ``ValueError`` (or an ``OSError``
of the system, or a ``CertificateError``) with a message.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.solution import CertificateError

REFUSALS = (ValueError, OSError, CertificateError)
NUMBERS = (b"-1", b"0", b"1e308", b"NaN", b"Infinity", b"-Infinity", b"99999999999999999999", b"1e400", b"0x10", b"1_0")
TEXTS = (b"null", b"true", b"[]", b"{}", b'""', b'"../../../etc/passwd"', b'"/etc/passwd"', b'"\\u0000"', b"[" * 5000)
PLAIN: tuple[Any, ...] = (None, True, -1, 0, 2**70, 1e308, np.nan, np.inf, "", "../x", "\x00", [], {}, [[]], [None] * 3)


class Reader(NamedTuple):
    """A kind of file: its name, the sample that is mutated, and the reader of the file or of the folder it lies in."""

    name: str
    file: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]


def mutated(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return name and bytes of one random mutation."""
    if rng.random() < 0.7 and (inside := _inside(data, rng)) is not None:
        return inside
    kind = str(rng.choice(["cut", "flip", "insert", "drop", "twice", "number", "text", "json", "zero", "swap"]))
    size = max(1, len(data))
    a, b = sorted(int(v) for v in rng.integers(0, size + 1, 2))
    b = min(b, a + int(rng.integers(1, 64)))
    out = bytearray(data)
    if kind == "cut":
        return kind, bytes(out[:a])
    if kind == "flip":
        for at in rng.integers(0, size, int(rng.integers(1, 6))):
            if at < len(out):
                out[at] ^= 1 << int(rng.integers(8))
        return kind, bytes(out)
    if kind == "insert":
        return kind, bytes(out[:a]) + rng.bytes(int(rng.integers(1, 32))) + bytes(out[a:])
    if kind == "drop":
        return kind, bytes(out[:a]) + bytes(out[b:])
    if kind == "twice":
        return kind, bytes(out[:b]) + bytes(out[a:])
    if kind == "zero":
        out[a:b] = bytes(b - a)
        return kind, bytes(out)
    if kind == "swap":
        lines = data.split(b"\n")
        i, j = (int(v) for v in rng.integers(0, len(lines), 2))
        lines[i], lines[j] = lines[j], lines[i]
        return kind, b"\n".join(lines)
    if kind == "json":
        changed = _other_json(data, rng)
        if changed is not None:
            return kind, changed
    places = list(re.finditer(rb"-?\d+(\.\d+)?" if kind == "number" else rb'"[^"]*"|[A-Za-z]+|\d+', data))
    if not places:
        return "cut", bytes(out[:a])
    place = places[int(rng.integers(len(places)))]
    choices = NUMBERS if kind == "number" else TEXTS + NUMBERS
    return kind, data[: place.start()] + choices[int(rng.integers(len(choices)))] + data[place.end() :]


def _inside(data: bytes, rng: np.random.Generator) -> tuple[str, bytes] | None:
    """Mutate one file of a zip archive, or the header of a safetensors file, so that the wrapping stays whole."""
    if data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
        except Exception:  # an archive that is damaged already
            return None
        if not parts:
            return None
        name = list(parts)[int(rng.integers(len(parts)))]
        kind, parts[name] = mutated(parts[name], rng)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
        return f"{kind} inside", out.getvalue()
    if len(data) > 9 and data[8:9] == b"{":
        length = int.from_bytes(data[:8], "little")
        kind, header = mutated(data[8 : 8 + length], rng)
        header += b" " * (-len(header) % 8)
        return f"{kind} inside", len(header).to_bytes(8, "little") + header + data[8 + length :]
    return None


def _other_json(data: bytes, rng: np.random.Generator) -> bytes | None:
    """Replace, or drop, one part of a JSON text; None for other texts."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return None
    inner = [tree]
    for node in inner:
        parts = list(node.values()) if isinstance(node, dict) else node
        inner.extend(part for part in parts if isinstance(part, dict | list))
    inner = [node for node in inner if len(node)] if isinstance(tree, dict | list) else []
    if not inner:
        return None
    node = inner[int(rng.integers(len(inner)))]
    keys = list(node) if isinstance(node, dict) else range(len(node))
    key = keys[int(rng.integers(len(keys)))]
    if rng.random() < 0.3:
        del node[key]
    else:
        node[key] = PLAIN[int(rng.integers(len(PLAIN)))]
    return json.dumps(tree).encode()


def outcome(reader: Reader, path: Path) -> str:
    """Return how reading ends: "read", "refused", or what else it raised (which is a fault of the reader)."""
    return ending(reader, path)[0]


def ending(reader: Reader, path: Path) -> tuple[str, str]:
    """Return `outcome` and the kind of message: its text without names and numbers."""
    try:
        reader.read(path)
    except REFUSALS as error:
        text = str(error).strip()
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|[-+\d.]+|0x\w+", "#", text)[:120]
        return ("refused", kind) if text else (f"refused without a message: {type(error).__name__}", "")
    except Exception as error:  # whatever it is, a user would see a traceback
        return f"{type(error).__name__}: {error}", ""
    return "read", "read"


def corpus(folder: Path, reader: Reader) -> list[Path]:
    """Return the files for a reader in a folder of those that were kept because they ended in a new way."""
    return sorted((folder / re.sub(r"\W+", "-", reader.name)).glob("*"))


def readers(*, torch: bool = True) -> Iterator[Reader]:
    """Yield every reader; those that need torch only where ``torch`` asks for them."""
    yield from _tables()
    yield from _forms()
    yield from _searches()
    if torch:
        yield from _networks()


def _tables() -> Iterator[Reader]:
    from prunopt.forests.cost_files import read_costs
    from prunopt.forests.csv_tables import read_csv
    from prunopt.forests.skops_files import read_forest

    rows = "\n".join(f"{k},{k * 0.5},{'ab'[k % 2]},{'yes' if k % 3 else 'no'}" for k in range(24))
    yield Reader("csv", "t.csv", _text(f"age,dose,kind,ill\n{rows}\n"), lambda p: read_csv(p, "ill"))
    prices = {
        "costs": {"age": 0, "dose": 2.5, "kind": 1},
        "groups": {"blood": ["dose", "kind"]},
        "common": {"blood": 0.5},
        "currency": "EUR",
        "derived_from": {"kind": ["age"]},
    }
    names = ("age", "dose", "kind")
    yield Reader("costs", "c.json", _text(json.dumps(prices)), lambda p: read_costs(p, names))
    both = {
        "currencies": {"money": prices, "time": {"age": 1, "dose": 1, "kind": 1}},
        "weights": {"money": 1, "time": 2},
    }
    yield Reader("costs of two currencies", "c.json", _text(json.dumps(both)), lambda p: read_costs(p, names))
    yield Reader("forest.skops", "f.skops", _write_forest, read_forest)


def _write_forest(path: Path) -> None:
    import skops.io
    from sklearn.ensemble import RandomForestClassifier

    X = np.arange(40.0).reshape(20, 2)
    skops.io.dump(RandomForestClassifier(2, max_depth=2, random_state=0).fit(X, np.arange(20) % 2), path)


def _forms() -> Iterator[Reader]:
    from prunopt.forms import (
        BudgetedClosure,
        Closure,
        ClosureOnDisk,
        LinearProgram,
        MaskBlocks,
        SubsetSum,
        load_form,
        save_form,
    )
    from prunopt.forms.mip_model import read_model

    closure = Closure.of([3, 3.5, -1], requirements=[[0], [0, 1], [1]], cost=[4, 1], arcs=[(1, 0)])
    forms: list[Any] = [
        closure,
        LinearProgram([1.0, -2.0], [[1.0, 1.0]], [1.0]),
        SubsetSum([0.5, 0.25], [0.25, 0.5, 1.0], 0.125),
        MaskBlocks(np.ones((2, 4)), np.eye(4), pattern=(2, 4)),
    ]
    for form in forms:
        name = type(form).__name__

        def write(path: Path, form: Any = form) -> None:
            save_form(form, path)

        yield Reader(f"form {name}", f"{name}.npz", write, load_form)

    def model(path: Path) -> None:
        task = BudgetedClosure(Closure.of([7, 8, 9], requirements=[[0], [1], [2]], cost=[4, 5, 6]), 10).to_pulp()
        task.writeMPS(str(path)) if path.suffix == ".mps" else task.writeLP(str(path))

    yield Reader("mps", "m.mps", model, read_model)
    yield Reader("lp", "m.lp", model, read_model)

    def folder(path: Path) -> None:
        parts = (np.array([0, 1, 2]), np.array([0, 0]), np.array([4]))
        ClosureOnDisk.write(path.parent, [3, 3], [-1, 0], [parts])

    for part in ("manifest.json", "profit.npy", "chunk-00000.offsets.npy"):
        yield Reader(f"closure on disk, {part}", part, folder, lambda p: ClosureOnDisk.open(p.parent))


def _searches() -> Iterator[Reader]:
    from prunopt.study.journal import check, open_journal

    def journal(path: Path) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(storage=open_journal(path), study_name="s")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)

    yield Reader("journal", "a.journal", journal, check)


def _networks() -> Iterator[Reader]:
    from prunopt.networks.cnn.latency import LatencyTable, machine
    from prunopt.networks.lottery.tickets import read_network
    from prunopt.networks.transformers.block_allocation import read_allocation
    from prunopt.networks.transformers.checkpoints import load
    from prunopt.networks.transformers.learned_masks import load_masks, save_masks
    from prunopt.networks.transformers.pruning import prune_transformer
    from prunopt.networks.transformers.result import save
    from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer

    yield Reader("allocation", "a.json", _text('{"allocation": [0.1, 0.2, 0.5]}'), read_allocation)
    times = {"about": {**machine("torch"), "threads": 1}, "milliseconds": {"conv 3>8": 0.5, "linear 8>2": 0.25}}
    yield Reader("latency table", "l.json", _text(json.dumps(times)), lambda p: LatencyTable("torch", p))
    mask = np.tile([True, False, True, False], (4, 4))
    yield Reader("packed masks", "m.safetensors", lambda p: save_masks(p, {"a": mask}, (2, 4)), load_masks)

    def network(path: Path) -> None:
        from safetensors.numpy import save_file

        rng = np.random.default_rng(0)
        arrays = {
            "0.weight": rng.normal(size=(4, 3)),
            "0.bias": rng.normal(size=4),
            "1.weight": rng.normal(size=(2, 4)),
        }
        save_file({k: v.astype(np.float32) for k, v in arrays.items()}, path)

    yield Reader("lottery target", "n.safetensors", network, read_network)
    small: list[Any] = []

    def pruned(path: Path) -> None:
        if not small:
            small.append(prune_transformer(tiny_transformer("llama"), tiny_tokens(4, 16), units=("ffn",), sparsity=0.3))
        save(small[0], path.parent)

    for part in ("prunopt.json", "config.json", "model.safetensors"):
        yield Reader(f"pruned model, {part}", part, pruned, lambda p: load(p.parent))


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, "utf-8")

    return write

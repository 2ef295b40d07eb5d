"""What each command will hold in memory, from sizes that are known before it starts; too little is refused.

The figures are upper ends of what was measured (docs/results/reliability.md); `prunopt --estimate COMMAND ...`
prints them.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from prunopt.core.memory import MI, require, room

FLOAT = 4.0
LIBRARIES = {
    "torch": 260 * MI,
    "transformers": 80 * MI,
    "sklearn": 60 * MI,
    "matplotlib": 60 * MI,
    "numba": 60 * MI,
}  # where yet to be loaded
TORCH = LIBRARIES["torch"]
CELL = 100.0  # bytes a cell of a table takes while it is read, as text and as number


@dataclass(frozen=True)
class Sizes:
    """Of a transformer: parameters, and the greatest widths."""

    parameters: float
    hidden: float
    inner: float
    layers: float
    vocabulary: float
    heads: float

    @property
    def weights(self) -> float:
        """Bytes in single precision."""
        return FLOAT * self.parameters

    def window(self, length: int) -> float:
        """Bytes of one window's pass through a block: activations, attention."""
        return FLOAT * length * (8 * self.hidden + 4 * self.inner + 2 * self.heads * length)

    def logits(self, length: int) -> float:
        """Bytes of the logits of one window, a copy in single precision, and what a loss makes of them."""
        return 4 * FLOAT * length * self.vocabulary


KNOWN = {  # models that packages carry
    "smollm2": Sizes(134_515_008, 576, 1536, 30, 49_152, 9),
    "minilm": Sizes(22_713_216, 384, 1536, 6, 30_522, 12),
}


def model_sizes(source: str) -> Sizes | None:
    """Return the sizes of a model from its configuration and the headers of its weights; None: the reader will say."""
    if source in KNOWN:
        return KNOWN[source]
    folder = Path(source)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        count = float(sum(_elements(file) for file in folder.glob("*.safetensors")))
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(config, dict):
        return None

    def number(*names: str) -> float:
        found = [config[name] for name in names if isinstance(config.get(name), int | float)]
        return float(found[0]) if found else 0.0

    hidden = number("hidden_size", "n_embd", "d_model", "dim")
    return Sizes(
        count,
        hidden,
        number("intermediate_size", "n_inner", "ffn_dim", "hidden_dim") or 4 * hidden,
        number("num_hidden_layers", "n_layer", "n_layers"),
        number("vocab_size"),
        number("num_attention_heads", "n_head", "n_heads"),
    )


def _hold(command: str, parts: dict[str, float], mend: str, *libraries: str) -> None:
    """Refuse a command where there is too little memory for its parts and for libraries that it has yet to load."""
    missing = [LIBRARIES[name] for name in libraries if name not in sys.modules]
    require(f"prunopt {command}", parts | ({"libraries": float(sum(missing))} if missing else {}), mend)


def _elements(file: Path) -> int:
    """Numbers that a file of tensors holds, by its header."""
    with open(file, "rb") as data:
        (length,) = struct.unpack("<Q", data.read(8))
        if length > 100 * MI:
            return 0  # its reader refuses it
        header = json.loads(data.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            total += math.prod(map(int, entry["shape"]))
    return total


def prune(
    model: str,
    *,
    windows: int,
    length: int,
    method: str,
    refit: bool,
    evaluated: int,
    stream: bool | None,
    folds: bool = False,
    repair: str | None = None,
) -> bool:
    """Refuse `prunopt prune` where there is too little memory for it; return whether the model is to be streamed.

    Parameters
    ----------
    evaluated
        Windows of each of two texts that are scored before and after.
    stream
        None: where the whole model would not fit.
    folds
        Whether the shrinkage of a layer is chosen by folds of its windows.
    """
    if (found := model_sizes(model)) is None:
        return bool(stream)
    by_norms = not refit and method in ("wanda", "magnitude")
    parts = {
        "weights, twice while they are read or written": 2 * found.weights,
        "activations of a block": 2 * FLOAT * windows * length * found.hidden,
        "a layer that is solved": _layer(found, by_norms, folds),
        "a window's pass": found.window(length),
    }
    if repair == "outputs":
        parts["repair of outputs"] = _repair(found, length)
    elif repair not in (None, "none"):
        parts["repair of a block"] = parts["activations of a block"] / 2 + 6 * found.weights / max(found.layers, 1)
        parts["gradients"] = 2 * found.window(length)
    if method == "maskllm":
        parts["logits of masks and their optimizer"] = 56 * found.parameters
        parts["gradients"] = 4 * found.layers * found.window(length) + 3 * found.logits(length) + found.weights
    if evaluated or method == "maskllm":
        parts["a window's logits"] = found.logits(length)
    mend = "pass fewer --windows, a smaller --length, or a smaller model"
    can = method != "maskllm" and is_shards(model)
    if stream is None:
        stream = can and sum(parts.values()) + TORCH > room()[0]
    if stream and can:
        ends = FLOAT * found.vocabulary * found.hidden
        block = (found.parameters - 2 * found.vocabulary * found.hidden) / max(1.0, found.layers)
        through = {
            "activations": FLOAT * (windows + 4 * evaluated) * length * found.hidden,
            "a window's pass": found.window(length),
        }
        solved = _layer(found, by_norms, folds)
        parts = through | {"a block": 1.5 * FLOAT * block, "a layer that is solved": solved}
        first = through | {"the embedding, and the head": 2 * ends, "a window's logits": found.logits(length)}
        parts = max(parts, first, key=lambda p: sum(p.values()))
    _hold("prune", parts, mend, "torch", "transformers")
    return bool(stream)


def _repair(found: Sizes, length: int) -> float:
    """Bytes of the dense model, in bfloat16 too, gradients, two moments, the best weights and a window's passes."""
    return 6.5 * found.weights + 4 * found.layers * found.window(length) + 4 * found.logits(length)


def holds_repair(model: str, length: int) -> bool:
    """Whether a repair of outputs, which nobody asked for, would fit beside the model that is in memory."""
    found = model_sizes(model)
    return found is None or _repair(found, length) + 2 * found.weights < room()[0]


def _layer(found: Sizes, by_norms: bool, folds: bool) -> float:
    """Bytes that solving the largest layer of a model takes; ``folds``: its shrinkage is chosen by folds."""
    d = max(found.hidden, found.inner)
    weight = 8 * found.hidden * d
    return 6 * weight if by_norms else 8 * d * d * (11 if folds else 6)


def is_shards(model: str) -> bool:
    """Whether a model is a folder of safetensors that prunopt did not write, whose blocks can be read one by one."""
    place = Path(model)
    return any(place.glob("*.safetensors")) and not (place / "prunopt.json").is_file()


def evaluate(model: str, *, length: int, speed: bool, texts: list[str]) -> None:
    """Refuse `prunopt evaluate` where there is too little memory for it."""
    if (found := model_sizes(model)) is None:
        return
    length = max(length, 256 if speed else 0)
    parts = {
        "weights, twice while they are read": 2 * found.weights,
        "a window's logits": found.logits(length),
        "a window's pass": found.window(length),
        "texts and tokens": 24 * _largest(texts),
    }
    _hold("evaluate", parts, "pass a smaller --length, or a smaller model", "torch")


def verify(folder: Path, original: str | None, *, windows: int, length: int, calibrated: bool) -> None:
    """Refuse `prunopt verify` of a transformer where there is too little memory for it."""
    found = model_sizes(str(folder))
    if found is None:
        return
    before = model_sizes(original) if original is not None else None
    parts = {"weights, twice while they are read": 2 * found.weights}
    if before is not None:
        d = max(before.hidden, before.inner)
        parts["weights of the original, twice while they are read"] = 2 * before.weights
        if calibrated:
            parts["activations of a block"] = 4 * FLOAT * windows * length * before.hidden
            parts["Hessians"] = 8 * d * d * 4
            parts["a window's pass"] = before.window(length)
    _hold("verify", parts, "leave out --calibration or --original, or pass fewer --windows", "torch")


def search(model: str, *, windows: int, length: int, measure: str, workers: int) -> None:
    """Refuse `prunopt search` where there is too little memory for it."""
    if (found := model_sizes(model)) is None:
        return
    parts = {
        "weights, with a copy and ranks": 3.5 * found.weights,
        "activations of a block": 2 * FLOAT * windows * length * found.hidden,
        "a window's logits": found.logits(length),
        "a window's pass": found.window(length),
        "Hessians": 8 * max(found.hidden, found.inner) ** 2 * 2,
    }
    if measure == "kl":
        parts["the dense model's probabilities (a mapped file)"] = FLOAT * windows * length * found.vocabulary
    if workers > 1:
        once = sum(parts.values()) + TORCH
        parts[f"{workers} workers"] = workers * once
    mend = "pass fewer --windows or --workers, a smaller --length, or --measure loss"
    _hold("search", parts, mend, "torch", "matplotlib", "numba")


def heads(model: str, *, examples: int, length: int) -> None:
    """Refuse `prunopt heads` where there is too little memory for it."""
    if (found := model_sizes(model)) is None:
        return
    parts = {
        "weights, with a copy": 3 * found.weights,
        "passes that are kept": 2.0**28,
        "gradients of a batch": 16 * found.layers * found.window(length),
        "logits of a batch": 16 * found.logits(length),
        "examples": 4 * FLOAT * examples * length * found.hidden,
    }
    _hold("heads", parts, "pass fewer --examples, a smaller --length, or a smaller model", "torch", "matplotlib")


def cnn(parameters: int, *, pictures: int, size: int, batch: int) -> None:
    """Refuse `prunopt cnn` where there is too little memory for it."""
    each = 3 * FLOAT * size * size
    parts = {
        "weights, with copies": 6 * FLOAT * parameters,
        "pictures": 2 * pictures * each,
        "layers' outputs": max(pictures, batch) * 32 * each,
    }
    _hold("cnn", parts, "pass a smaller --limit, --size or --batch", "torch")


def lottery(target: Path | None, epsilon: float, width: int | None) -> None:
    """Refuse `prunopt lottery` where there is too little memory for it."""
    try:
        weights = 2500 if target is None else _elements(target)
    except (OSError, ValueError, TypeError, KeyError, struct.error):
        return
    each = width or 12 * max(1.0, math.log2(1 / epsilon)) if epsilon > 0 else 1.0
    parts = {"random weights and choices": weights * each * 60, "inputs and outputs measured": 12_000 * 64 * 8 * 12}
    _hold("lottery", parts, "pass a greater --epsilon, a smaller --width, or a smaller network", "torch")


def forest(rows: int, features: int, trees: int, *, more: float = 0.0) -> None:
    """Refuse `prunopt forest` where there is too little memory for it; ``more`` bytes are for reading its table."""
    depth = 2 * max(1.0, math.log2(max(2, rows)))
    parts = {
        "the table": 3 * 8 * rows * features + more,
        "trees": trees * rows * 250,
        "features on the paths of all rows": rows * trees * min(features, depth) * 90,
    }
    _hold("forest", parts, "pass fewer --trees, or fewer rows", "sklearn", "matplotlib", "numba")


def table(data: str, trees: int) -> None:
    """The same by the size of a table, before it is read; other names are those of small tables."""
    from prunopt.forests.table_files import open_table

    try:
        with open_table(data) as file:
            header, rows = file.readline(2**20), 0
            while part := file.read(2**20):
                rows += part.count("\n")
    except OSError:
        return
    cells = max(header.count(c) for c in ",;\t|")
    forest(rows, cells, trees, more=rows * cells * CELL / 8)


def solve(file: Path) -> None:
    """Refuse `prunopt solve` where there is too little memory for it."""
    try:
        length = float(os.path.getsize(file))
        if file.suffix.lower() == ".npz":
            with zipfile.ZipFile(file) as archive:
                length = float(sum(part.file_size for part in archive.infolist()))
    except (OSError, ValueError, zipfile.BadZipFile):
        return
    factor = 12.0 if file.suffix.lower() == ".npz" else 40.0
    _hold("solve", {"the problem, its model and factors": factor * length}, "pass a smaller problem", "numba")


def _largest(texts: list[str]) -> float:
    return max((float(os.path.getsize(name)) for name in texts if os.path.isfile(name)), default=0.0)

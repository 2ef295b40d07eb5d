"""Weights and Hessians of real layers: SmolLM2-135M-Instruct on WikiText-2, kept as arrays in the benchmarks' cache.

Calibration is WikiText-2's validation text, held-out its test text: 64 and 32 random windows of 512 tokens each (seed
0), activations of the dense model. The text lies in the folder that ``PRUNOPT_DATA`` names (or ``../shared/data``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import cache_folder, data_folder
from prunopt.core.arrays import Floats
from prunopt.core.files import write_atomically

LAYERS = (0, 9, 19, 29)
MODULES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
WINDOWS = {"calibration": 64, "heldout": 32}
LENGTH = 512
PREFIXES = (4, 16, 32, 64)  # numbers of windows after which the sums are kept
TEXTS = {"calibration": "wikitext2_valid.txt", "heldout": "wikitext2_test.txt"}
HEAD, QUERY_HEADS = 64, 9


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer: its weight (out, in) and the mean over tokens of x x^T, on two texts."""

    name: str
    weight: Floats
    calibration: Floats
    heldout: Floats


def layer(number: int, module: str, windows: int = 64) -> Layer:
    """Return a layer of SmolLM2 from the cache, made where it is missing; 4, 16 or all 64 calibration windows."""
    target = _file(number, module)
    if not target.exists():
        _extract()
    with np.load(target, allow_pickle=False) as arrays:
        parts = [arrays[name].astype(np.float64) for name in ("weight", f"calibration-{windows}", "heldout-32")]
    return Layer(f"layers.{number}.{module}", *parts)


def _file(number: int, module: str) -> Path:
    return cache_folder() / "smollm2" / f"{number}-{module}.npz"


def text(name: str) -> str:
    """Return one of the two texts."""
    file = data_folder() / TEXTS[name]
    if not file.is_file():
        raise FileNotFoundError(f"{file}: set PRUNOPT_DATA to the folder that holds {TEXTS[name]}")
    return file.read_text(encoding="utf-8")


def _extract() -> None:
    import torch

    from prunopt.networks.transformers.reading import read_model

    model, tokenizer = read_model("smollm2")
    weights = dict(model.named_modules())
    names = {(i, m): f"model.layers.{i}.{m}" for i in LAYERS for m in MODULES}
    sums: dict[str, dict[tuple[int, str], dict[int, Floats]]] = {}
    for which in TEXTS:
        ids = tokenizer(text(which), return_tensors="pt").input_ids[0]
        start = np.random.default_rng(0).integers(0, len(ids) - LENGTH, WINDOWS[which])
        sums[which] = _hessians(model, names, [ids[s : s + LENGTH] for s in start.tolist()], torch)
    for key, name in names.items():
        weight = weights[name].weight.detach().numpy().astype(np.float32)
        with write_atomically(_file(*key)) as temporary:
            arrays: dict[str, Any] = {f"{w}-{n}": H for w in TEXTS for n, H in sums[w][key].items()}
            np.savez(temporary, weight=weight, **arrays)


def _hessians(
    model: Any, names: dict[tuple[int, str], str], windows: list[Any], torch: Any
) -> dict[tuple[int, str], dict[int, Floats]]:
    """Means over tokens after some numbers of windows: products in single precision, sums in double."""
    sums: dict[tuple[int, str], Any] = {key: 0.0 for key in names}
    kept: dict[tuple[int, str], dict[int, Floats]] = {key: {} for key in names}

    def watch(key: tuple[int, str]) -> Any:
        def hook(_: Any, inputs: Any) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[key] = sums[key] + (x.T @ x).double().numpy()

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_pre_hook(watch(key)) for key, name in names.items()]
    with torch.no_grad():
        for seen, window in enumerate(windows, 1):
            model.model(window[None])
            if seen in PREFIXES:
                for key, total in sums.items():
                    kept[key][seen] = (total + total.T) / (2 * seen * LENGTH)
    for hook in hooks:
        hook.remove()
    return kept

"""What `prunopt prune` and `prunopt verify` calibrate on: text, pairs of texts, pictures, arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunopt.commands.output import note
from prunopt.core import validate
from prunopt.networks.transformers.figures import CALIBRATION, SECOND

SCORED = 4  # windows of each text, before and after
PAIRS, ARRAY = ".tsv", ".npy"
IMAGENET = (
    "pixels are scaled by the means of ImageNet: the model's folder has no preprocessor_config.json that says more"
)


def sources_of(
    model: Any,
    tokenizer: Any,
    given: Sequence[str],
    *,
    length: int,
    count: int,
    seed: int,
    check: Path | None = None,
    folder: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return what a model is calibrated on, and what it is scored on before and after.

    Parameters
    ----------
    model
        The network, or the folder of one that is streamed.
    given
        Text files, perhaps with weights; one file of pairs (.tsv: a source and a target in each line), one folder or
        .zip of pictures, or one .npy array of what the model takes.
    length, count, seed
        Tokens of a window, how many windows (pairs, pictures), and the seed of those that are drawn.
    check
        A text of another domain that a causal model is scored on, too.
    folder
        The model's; its preprocessor_config.json says how pixels are scaled.
    """
    first = Path(given[0])
    if first.is_dir() or first.suffix.lower() in (".zip", PAIRS, ARRAY):
        validate.require(len(given) == 1, "--calibration", f"be {first} alone", list(given))
        validate.require(check is None, "--check", f"be left out with {first}", str(check))
        what = "be left out with pictures, pairs and arrays"
        validate.require(not isinstance(model, Path), "--stream", what, True, "pass --no-stream")
        if first.suffix.lower() == PAIRS:
            return _split(_pairs(tokenizer, first, length, count, seed), count)
        if first.suffix.lower() == ARRAY:
            return _split(_array(first)[: count + SCORED], count)
        return _split(_pictures(model, first, count, folder), count)
    takes = getattr(model, "main_input_name", "input_ids")
    mend = f"pass a folder of pictures, or a {ARRAY} file of the arrays"
    validate.require(takes == "input_ids", "--calibration", f"hold {takes}, which the model takes", str(first), mend)
    from prunopt.networks.transformers.text import source_windows

    sources = source_windows(tokenizer, given, length=length, count=count, seed=seed)
    return sources, _texts(model, tokenizer, given, length=length, count=count, seed=seed, check=check)


def repair_named(
    repair: str | None, minutes: float | None, model: Any, tokenizer: Any, given: Sequence[str], *, length: int,
    count: int, seed: int, method: str | None, alone: bool, fits: Callable[[], bool],
) -> Any:  # fmt: skip
    """Return ``repair`` as `prune_transformer` takes it: that of outputs learns from all of the calibration text.

    None is that of outputs, wherever it can be done within the work that it takes by default; else a note says why not.
    """
    if repair not in ("outputs", None):
        mend = "it says how long --repair outputs may take"
        validate.require(minutes is None, "--repair-minutes", "be left out", minutes, mend)
        return None if repair == "none" else repair
    from prunopt.networks.transformers.output_repair import LEAST, OutputRepair

    how = OutputRepair(minutes=minutes)
    if isinstance(model, Path):
        why = "the model is streamed"
    elif not alone:
        why = "it runs in one process"
    elif method == "maskllm":
        why = "maskllm holds the weights"
    else:
        text = tokenizer is not None and not Path(given[0]).is_dir()
        if text and Path(given[0]).suffix.lower() not in (".zip", PAIRS, ARRAY):
            from prunopt.networks.transformers.text import learning_windows

            windows = learning_windows(tokenizer, given, length=length, count=count, seed=seed, held_out=SCORED)
            how = replace(how, windows=windows) if len(windows) > count else how
        few = "fewer than 4 windows" if (count if how.windows is None else len(how.windows)) < 4 else ""
        long = "" if how.steps_for(model, length) >= LEAST else "it would take long for a model of this size"
        why = few or long or ("" if fits() else "it takes more memory than there is")
    if repair is None and why:
        note(f"the outputs are not repaired: {why}")
        return None
    return how


def _texts(
    model: Any, tokenizer: Any, texts: Sequence[str], *, length: int, count: int, seed: int, check: Path | None
) -> dict[str, Any]:
    """Return windows of the two texts that a model is scored on; a model with two stacks has one."""
    from prunopt.networks.transformers.calibration_inputs import two_sided
    from prunopt.networks.transformers.second_text import SECOND_TEXT
    from prunopt.networks.transformers.text import held_out_windows, read_text, tokens_of

    out: dict[str, Any] = {}
    held = held_out_windows(tokenizer, texts, length=length, count=count, seed=seed, most=SCORED)
    if held is None:
        note("no window of the calibration text is left to be held out: pass more text or fewer --windows")
    else:
        out[CALIBRATION] = held
    if check is None and not isinstance(model, Path) and two_sided(model):
        return out
    ids = tokens_of(tokenizer, SECOND_TEXT if check is None else read_text(check))
    size = min(length, len(ids))
    validate.require(size > 1, "--check", "be a file with some text", str(check))
    whole = ids[: len(ids) // size * size].view(-1, size)
    out[SECOND] = whole[:SCORED] if check is None else whole[-SCORED:]
    return out


def _split(values: Any, count: int) -> tuple[Any, dict[str, Any]]:
    """Return examples to calibrate on, and some, at even distances, that are held out."""
    whole = values if isinstance(values, dict) else {"": values}
    n = len(next(iter(whole.values())))
    validate.require(n >= 1, "--calibration", "hold something", validate.Shown("none"))
    held = max(min(SCORED, n // 4), min(SCORED, n - count))
    if not held:
        note("nothing is held out to be scored on: pass more examples or fewer --windows")
    out = {(2 * k + 1) * n // (2 * held) for k in range(held)}
    parts = [[k for k in range(n) if (k in out) is side] for side in (False, True)]
    used, scored = ({name: v[at] for name, v in whole.items()} for at in (parts[0][:count], parts[1]))
    if not isinstance(values, dict):
        used, scored = used[""], scored[""]
    return used, {CALIBRATION: scored} if held else {}


def _pictures(model: Any, path: Path, count: int, folder: Path | None) -> Any:
    """Return pictures as the model's own preprocessing scales them, (n, channels, height, width)."""
    import torch

    from prunopt.networks.cnn.models import MEAN, STD, read_pictures

    takes = getattr(model, "main_input_name", "input_ids")
    kind = type(model).__name__
    validate.require(takes == "pixel_values", "--calibration", f"hold {takes}, which {kind} takes", f"{path}, pictures")
    config: Any = model.config
    size, channels = getattr(config, "image_size", 224), int(getattr(config, "num_channels", 3))
    size = (size, size) if isinstance(size, int) else tuple(size)
    pixels, _ = read_pictures(path, limit=count + SCORED, size=size, channels=channels)
    found = None if folder is None else _preprocessing(folder)
    if found is None:
        note(IMAGENET)
        return pixels
    old = [torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD)]
    if channels == 1:
        old = [v.mean(0, keepdim=True) for v in old]
    mean, std = (torch.tensor(v[:channels]).view(-1, 1, 1) for v in found)
    return (pixels * old[1] + old[0] - mean) / std


def _preprocessing(folder: Path) -> tuple[list[float], list[float]] | None:
    try:
        raw = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        return [float(x) for x in raw["image_mean"]], [float(x) for x in raw["image_std"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _array(path: Path) -> Any:
    import numpy as np
    import torch

    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError) as error:
        raise validate.invalid("--calibration", "be a .npy file of numbers", str(path), str(error)) from None


def _pairs(tokenizer: Any, path: Path, length: int, count: int, seed: int) -> dict[str, Any]:
    """Return tokens of pairs of texts, padded, drawn at random: what a tokenizer returns, with labels."""
    import numpy as np

    from prunopt.networks.transformers.text import read_text

    if tokenizer is None:
        raise validate.invalid("tokenizer", "be given", None, "the model's folder has none, which text needs")
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    wrong = next((k for k, line in enumerate(lines, 1) if len(line) != 2), None)
    validate.require(
        wrong is None, str(path), "hold a source, a tab and a target in each line", validate.Shown(f"line {wrong}")
    )
    drawn = np.random.default_rng(seed).permutation(len(lines))[: count + SCORED]
    sides = []
    for k, name in enumerate(("text", "text_target")):
        texts = [lines[i][k] for i in drawn]
        # the last tokens of one side alone are padding, which neither side counts
        sides.append(tokenizer(**{name: texts}, padding=True, truncation=True, max_length=length, return_tensors="pt"))
    source, target = sides
    labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, -100)
    return {"input_ids": source["input_ids"], "attention_mask": source["attention_mask"], "labels": labels}

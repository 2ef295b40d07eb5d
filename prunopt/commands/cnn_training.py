"""``prunopt cnn --method s2h``: widths that are learned while the network is trained."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn


class Batches:
    """Shuffled batches of pictures in memory; ``generator`` says in which order.

    Batch norms cannot learn from a batch of one: it joins the batch before it.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, batch: int) -> None:
        import torch

        self.x, self.y, self.batch, self.generator = x, y, batch, torch.Generator()

    def __len__(self) -> int:
        whole, rest = divmod(len(self.x), self.batch)
        return max(1, whole + (rest > 1))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        order = torch.randperm(len(self.x), generator=self.generator)
        for k in range(len(self)):
            last = k + 1 == len(self)
            at = order[k * self.batch :] if last else order[k * self.batch : (k + 1) * self.batch]
            yield self.x[at], self.y[at]


def labelled(place: Path, size: int, name: str | None) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return pictures, labels and the names of the classes.

    Parameters
    ----------
    place
        A folder or a .zip with one folder of pictures for each class, or an .npz with ``x`` (n, channels, height,
        width) and ``y`` (n,), which are taken as they are.
    size
        Pictures are scaled and cropped to it; arrays are not.
    name
        Of the network, for the pictures' normalisation.
    """
    if not place.exists():
        raise ValueError(f"--train/--test {place}: there is no such file or folder")
    if place.suffix == ".npz":
        return _arrays(place)
    from prunopt.networks.cnn.models import picture

    sources = list(_sources(place))
    if not sources:
        raise ValueError(f"--train/--test {place}: no pictures there, one folder a class (.jpg, .jpeg, .png)")
    import torch

    classes = sorted({folder for folder, _ in sources})
    pictures = []
    for n, (folder, read) in enumerate(sources):
        try:
            pictures.append(picture(read(), name or "mobilenetv2", size=size, resize=size))
        except ValueError as error:
            raise ValueError(f"--train/--test {place}: picture {n + 1}, in {folder}: {error}") from error
    return torch.stack(pictures), torch.tensor([classes.index(folder) for folder, _ in sources]), classes


def _sources(place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    endings = (".jpg", ".jpeg", ".png")
    if place.is_dir():
        for file in sorted(place.glob("*/*")):
            if file.suffix.lower() in endings:
                yield file.parent.name, lambda file=file: file  # type: ignore[misc]
    elif zipfile.is_zipfile(place):
        archive = zipfile.ZipFile(place)
        for inside in sorted(archive.namelist()):
            if inside.lower().endswith(endings) and "/" in inside:
                yield inside.split("/")[-2], lambda inside=inside: archive.read(inside)  # type: ignore[misc]
    else:
        raise ValueError(f"--train/--test {place}: give a folder, a .zip or an .npz")


def _arrays(place: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    import torch

    try:
        with np.load(place, allow_pickle=False) as file:
            found = {k: file[k] for k in ("x", "y") if k in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"--train/--test {place}: cannot be read as .npz ({error})") from error
    x, y = found.get("x"), found.get("y")
    if x is None or y is None or x.ndim != 4 or y.shape != x.shape[:1] or y.dtype.kind not in "iu" or not len(y):
        raise ValueError(
            f"--train/--test {place}: needs arrays x (n, channels, height, width) and y (n,), whole labels"
        )
    if x.dtype.kind != "f" or not np.isfinite(x).all() or y.min() < 0:
        raise ValueError(f"--train/--test {place}: x has to be finite floats, labels >= 0; normalise pictures first")
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.int64)), []


def learn_widths(
    dense: nn.Module, name: str | None, tell: Callable[[str], None], *, train: Path | None, test: Path | None,
    budget: str, epochs: int, batch: int, rate: float, size: int, seed: int, checkpoints: Path | None,
    times: Any = None,
) -> tuple[nn.Module, dict[str, Any], torch.Tensor]:  # fmt: skip
    """Train with soft masks; return the smaller network, the report and an input."""
    if train is None:
        raise ValueError("--train: --method s2h trains the network; give pictures in one folder a class, or an .npz")
    if epochs < 1 or batch < 2 or not rate > 0:
        raise ValueError(
            f"--epochs {epochs}, --batch {batch}, --learning-rate {rate}: at least 1, 2 and > 0 are needed"
        )
    import torch

    from prunopt.networks.soft_mask import train_soft_mask

    tell("reading pictures")
    x, y, classes = labelled(train, size, name)
    if len(x) < 2:
        raise ValueError(f"--train {train}: {len(x)} picture; at least 2 are needed")
    held = None if test is None else labelled(test, size, name)
    if held is not None and (held[2] != classes or held[0].shape[1:] != x.shape[1:]):
        raise ValueError(f"--test {test}: other classes or another shape than in --train")
    dense.eval()
    with torch.no_grad():
        outputs = dense(x[:1])
    if outputs.ndim != 2 or outputs.shape[1] <= int(y.max()):
        raise ValueError(f"MODEL: outputs of shape {tuple(outputs.shape)}; (n, {int(y.max()) + 1}) or wider are needed")
    before = None if held is None else _accuracy(dense, *held[:2])
    loader = Batches(x, y, batch)
    steps = epochs * len(loader)
    optimizer = torch.optim.SGD(dense.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    found = train_soft_mask(
        dense, loader, budget=budget, epochs=epochs, optimizer=optimizer, table=times,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), folder=checkpoints, seed=seed,
        callback=lambda step, lesson: tell(f"step {step + 1} of {steps}: loss {lesson.hard:.3g}"),
    )  # fmt: skip
    solution = found.solution
    report: dict[str, Any] = {
        "model": name, "method": "s2h", "status": solution.status.name, "objective": solution.objective,
        "bound": None, "gap": None, "solver": solution.solver, "resource": budget.partition("=")[0],
        "used": found.used, "limit": found.limit, "total": found.total, "groups": found.groups,
        "history": [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in solution.stats["history"]],
        "notes": [solution.message],
    }  # fmt: skip
    if held is not None:
        report["accuracy"] = {"before training": before, "after": _accuracy(found.model, *held[:2])}
        report["notes"].append(f"accuracy on --test: {report['accuracy']['after']:.1%} ({before:.1%} before training)")
    return found.model, report, x[:1]


def _accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    import torch

    with torch.no_grad():
        right = [(model(a).argmax(1) == b).sum() for a, b in zip(torch.split(x, 64), torch.split(y, 64), strict=True)]
    return float(sum(right)) / len(y)

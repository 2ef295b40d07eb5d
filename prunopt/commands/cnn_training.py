"""What ``prunopt cnn`` works with, and ``--method s2h``: widths that are learned while the network is trained."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.core import validate

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prunopt.core.budget import Budget


@dataclass(frozen=True)
class Job:
    """What every method works with."""

    dense: nn.Module
    name: str | None
    pictures: torch.Tensor | None
    example: torch.Tensor
    times: Any
    tell: Callable[[str], None]
    budgets: tuple[Budget, ...]
    method: str
    loss: str
    taps: bool
    branches: bool
    seed: int
    distill_minutes: float | None = None

    @property
    def budget(self) -> Budget:
        """The first budget: the only one of methods that take one."""
        return self.budgets[0]

    def solved(self, solution: Any) -> dict[str, Any]:
        """Return what reports of all methods have in common."""
        return {
            "model": self.name,
            "method": self.method,
            "status": solution.status.name,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "solver": solution.solver,
            "notes": [],
        }


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
        Of the network, for the pictures' normalization.
    """
    validate.require(place.exists(), "--train/--test", "be a file or folder that is there", str(place))
    if place.suffix == ".npz":
        return _arrays(place)
    from prunopt.networks.cnn.models import picture

    sources = list(_sources(place))
    folders = "hold pictures (.jpg, .jpeg, .png), one folder a class"
    validate.require(sources, "--train/--test", folders, str(place))
    import torch

    classes = sorted({folder for folder, _ in sources})
    pictures = []
    for n, (folder, read) in enumerate(sources):
        try:
            pictures.append(picture(read(), name or "mobilenetv2", size=size, resize=size))
        except ValueError as error:
            where = f"picture {n + 1}, in {folder}"
            raise validate.invalid("--train/--test", "hold pictures that can be decoded", where, str(error)) from error
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
        raise validate.invalid("--train/--test", "be a folder, a .zip or an .npz", str(place))


def _arrays(place: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    import torch

    try:
        with np.load(place, allow_pickle=False) as file:
            found = {k: file[k] for k in ("x", "y") if k in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise validate.invalid("--train/--test", "be an .npz that can be read", str(place), str(error)) from error
    x, y = found.get("x"), found.get("y")
    if x is None or y is None or x.ndim != 4 or y.shape != x.shape[:1] or y.dtype.kind not in "iu" or not len(y):
        arrays = "hold arrays x (n, channels, height, width) and y (n,), whole labels"
        raise validate.invalid("--train/--test", arrays, str(place))
    finite = x.dtype.kind == "f" and np.isfinite(x).all() and y.min() >= 0
    numbers = "hold finite floats x and labels y >= 0"
    validate.require(finite, "--train/--test", numbers, str(place), "normalize pictures first")
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(np.int64)), []


@dataclass(frozen=True)
class Schedule:
    """The options of ``--method s2h``."""

    train: Path | None
    test: Path | None
    epochs: int
    batch: int
    rate: float
    size: int
    checkpoints: Path | None

    def __post_init__(self) -> None:
        validate.whole_number("--epochs", self.epochs, low=1)
        validate.whole_number("--batch", self.batch, low=2)
        validate.number("--learning-rate", self.rate, low=0, open_ends="(")


def learn_widths(job: Job, schedule: Schedule) -> tuple[nn.Module, dict[str, Any], torch.Tensor]:
    """Train with soft masks; return the smaller network, the report and an input."""
    if schedule.train is None:
        mend = "pass pictures in one folder a class, or an .npz"
        raise validate.invalid("--train", "be given, for --method s2h trains the network", None, mend)
    import torch

    from prunopt.networks.soft_mask import Gates, Training, train_soft_mask

    dense, name, tell = job.dense, job.name, job.tell
    tell("reading pictures")
    x, y, classes = labelled(schedule.train, schedule.size, name)
    validate.require(len(x) > 1, "--train", "hold at least 2 pictures", len(x))
    held = None if schedule.test is None else labelled(schedule.test, schedule.size, name)
    alike = held is None or (held[2] == classes and held[0].shape[1:] == x.shape[1:])
    validate.require(alike, "--test", "have the classes and the shape of --train", str(schedule.test))
    dense.eval()
    with torch.no_grad():
        outputs = dense(x[:1])
    wide = outputs.ndim == 2 and outputs.shape[1] > int(y.max())
    shape = validate.Shown(f"outputs of shape {tuple(outputs.shape)}")
    validate.require(wide, "MODEL", f"have outputs of shape (n, {int(y.max()) + 1}) or wider", shape)
    before = None if held is None else _accuracy(dense, *held[:2])
    loader = Batches(x, y, schedule.batch)
    steps = schedule.epochs * len(loader)
    optimizer = torch.optim.SGD(dense.parameters(), schedule.rate, momentum=0.9, weight_decay=5e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found = train_soft_mask(
        dense,
        loader,
        budget=job.budget,
        gates=Gates(table=job.times),
        seed=job.seed,
        training=Training(schedule.epochs, optimizer, cosine, folder=schedule.checkpoints),
        callback=lambda step, lesson: tell(f"step {step + 1} of {steps}: loss {lesson.hard:.3g}"),
    )
    solution = found.solution
    report = job.solved(solution) | {
        "bound": None,
        "gap": None,
        "resource": job.budget.resource,
        "used": found.used,
        "limit": found.limit,
        "total": found.total,
        "groups": found.groups,
        "history": [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in solution.stats["history"]],
        "notes": [solution.message],
    }
    if held is not None:
        report["accuracy"] = {"before_training": before, "after": _accuracy(found.model, *held[:2])}
        report["notes"].append(f"accuracy on --test: {report['accuracy']['after']:.1%} ({before:.1%} before training)")
    return found.model, report, x[:1]


def _accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    import torch

    with torch.no_grad():
        right = [(model(a).argmax(1) == b).sum() for a, b in zip(torch.split(x, 64), torch.split(y, 64), strict=True)]
    return float(sum(right)) / len(y)

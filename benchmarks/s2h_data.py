"""Data and networks of the soft-mask benchmark: digits on a larger canvas, and ResNet-20 with a slice of CIFAR-10."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

CANVAS, NOISE = 12, 0.5
SIZES = (600, 300, 897)  # to train on, to choose options on, to test on
TEST_COPIES = 4
DATA = Path(os.environ.get("PRUNOPT_DATA", Path(__file__).parents[2] / "shared" / "data"))
CIFAR_SIZES = (1500, 500, 1000)  # the first two of the training pictures, the last of the test pictures


class Shifted:
    """Batches of pictures at random places of a canvas, with noise; drawn again in every pass.

    Parameters
    ----------
    x : (n, 1, h, w) tensor
        Pictures.
    y : (n,) tensor
        Labels.
    batch
        Pictures in a batch; the last, smaller one is left out.
    """

    def __init__(self, x: Tensor, y: Tensor, batch: int = 50) -> None:
        self.x, self.y, self.batch = x, y, batch
        self.generator = torch.Generator()

    def __len__(self) -> int:
        return len(self.y) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.y), generator=self.generator)
        for k in range(len(self)):
            at = order[k * self.batch : (k + 1) * self.batch]
            yield placed(self.x[at], self.generator), self.y[at]


def placed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures at random places of a canvas of their background, with Gaussian noise."""
    n, _, height, width = x.shape
    out = torch.full((n, 1, CANVAS, CANVAS), float(x.min()))
    free = CANVAS - height + 1
    down = torch.randint(0, free, (n,), generator=generator)
    right = torch.randint(0, free, (n,), generator=generator)
    rows = down[:, None, None] + torch.arange(height)[None, :, None]
    columns = right[:, None, None] + torch.arange(width)[None, None, :]
    out[torch.arange(n)[:, None, None], 0, rows, columns] = x[:, 0]
    return out + NOISE * torch.randn(out.shape, generator=generator)


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Return the three parts of scikit-learn's digits; all but "train" are placed and noisy already."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.from_numpy(((data.data[order] - 4.9) / 6.0).astype(np.float32).reshape(-1, 1, 8, 8))
    y = torch.from_numpy(data.target[order].astype(np.int64))
    parts = dict(zip(("train", "choose", "test"), zip(x.split(SIZES), y.split(SIZES), strict=True), strict=True))
    generator = torch.Generator().manual_seed(1)
    for name in ("choose", "test"):
        several = [torch.cat([z] * TEST_COPIES) for z in parts[name]]
        parts[name] = (placed(several[0], generator), several[1])
    return parts


def separable(widths: tuple[int, ...] = (16, 32, 48, 64)) -> nn.Module:
    """Return a convolution and three depthwise-separable blocks; ``widths`` are its groups of channels."""

    def block(ins: int, outs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(ins, ins, 3, stride, 1, groups=ins, bias=False), nn.BatchNorm2d(ins), nn.ReLU(),
            nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(),
        ]  # fmt: skip

    a, b, c, d = widths
    first = [nn.Conv2d(1, a, 3, 1, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU()]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, 10)]
    return nn.Sequential(*first, *block(a, b, 2), *block(b, c, 2), *block(c, d, 1), *last)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut that is subsampled and filled up with zeros (option A)."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.stride, self.more = stride, outs - ins

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return torch.relu(out + x)


class ResNet(nn.Module):
    """ResNet for CIFAR-10; ``blocks`` of 3 make ResNet-20."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for k, (ins, outs, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)], 1):
            rest = [BasicBlock(outs, outs, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{k}", nn.Sequential(BasicBlock(ins, outs, stride), *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (batch, 10)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


class Flipped(Shifted):
    """Batches of pictures, half of them flipped, at random places of a canvas of 4 more black pixels on every side."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        wide, size = F.pad(self.x, (4, 4, 4, 4)), self.x.shape[-1]
        order = torch.randperm(len(self.y), generator=self.generator)
        for k in range(len(self)):
            at = order[k * self.batch : (k + 1) * self.batch]
            down, right, flip = torch.randint(0, 9, (3, len(at)), generator=self.generator).tolist()
            rows = [wide[i, :, d : d + size, r : r + size] for i, d, r in zip(at.tolist(), down, right, strict=True)]
            rows = [z.flip(-1) if f % 2 else z for z, f in zip(rows, flip, strict=True)]
            yield torch.stack(rows), self.y[at]


def cifar(sizes: tuple[int, int, int] = CIFAR_SIZES) -> dict[str, tuple[Tensor, Tensor]]:
    """Return three parts of the slice of CIFAR-10, normalized as the checkpoint of `resnet20` expects."""
    from PIL import Image

    archive = zipfile.ZipFile(DATA / "cifar10_jpeg_8k_2k.zip")
    names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
    classes = sorted({n.split("/")[1] for n in names})
    draw, chosen = np.random.default_rng(0), {}
    for part in ("train", "test"):
        own = [n for n in names if n.startswith(part)]
        chosen[part] = [own[k] for k in draw.permutation(len(own))]
    a, b, c = sizes
    parts = {"train": chosen["train"][:a], "choose": chosen["train"][a : a + b], "test": chosen["test"][:c]}
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    out = {}
    for part, own in parts.items():
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in own])
        x = torch.from_numpy(((pixels / 255 - mean) / spread).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
        out[part] = (x, torch.tensor([classes.index(n.split("/")[1]) for n in own]))
    return out


def resnet20(layers: int = 20) -> nn.Module:
    """Return ResNet-20, or ResNet-56, as trained on all of CIFAR-10."""
    state = torch.load(DATA / f"resnet{layers}_cifar10.th", map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet((layers - 2) // 6)
    model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    return model

"""``prunopt cnn``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from typer.testing import CliRunner  # noqa: E402

from prunopt.cli import app  # noqa: E402
from prunopt.networks.cnn.checkpoints import load_cnn  # noqa: E402

RUN = CliRunner()
SOURCE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4))

def number():
    return 3
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(SOURCE)
    return f"{tmp_path / 'nets.py'}:build"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(6):
        image.effect_noise((40 + k, 50), 60).convert("RGB").save(folder / f"{k}_x.png")
    return folder


def test_pictures_in_smaller_network_out(model: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = [
        "cnn",
        model,
        "--budget",
        "macs=0.6",
        "--images",
        str(pictures),
        "--size",
        "32",
        "--out",
        str(out),
        "--json",
    ]
    done = RUN.invoke(app, line)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["status"] == "OPTIMAL"
    assert report["used"] <= report["limit"]
    from prunopt.commands.cnn import read

    smaller = load_cnn(out, read(model)[0])
    with torch.no_grad():
        assert smaller(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    first: Any = smaller.get_submodule("0")
    last: Any = smaller.get_submodule("6")
    assert first.out_channels < 16 or last.out_channels < 24


def test_without_pictures(model: str) -> None:
    done = RUN.invoke(app, ["cnn", model, "--budget", "macs=0.7", "--size", "32"])
    assert done.exit_code == 0, done.output
    assert "optimal" in done.stdout
    assert "no --images" in done.stderr


def test_depthwise_layers(model: str) -> None:
    done = RUN.invoke(app, ["cnn", model, "--budget", "latency_ms=0.5x", "--method", "deprune", "--size", "32"])
    assert done.exit_code == 0, done.output
    assert "depthwise weights stay" in done.stdout


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--budget", "macs=0.0001", "--size", "32"], "the least that these widths allow"),
        (["--budget", "speed=2"], "budget"),
        (["--method", "luck"], "--method must be one of"),
        (["--method", "deprune"], "be a share of milliseconds"),
        (["--images", "nowhere.zip"], "nowhere.zip"),
    ],
)
def test_one_line_errors(model: str, line: list[str], says: str) -> None:
    done = RUN.invoke(app, ["cnn", model, *line])
    assert done.exit_code == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_models_that_are_none(model: str) -> None:
    for name, says in (
        ("alexnet", "FILE.py"),
        ("gone.py:build", "a file that is there"),
        (f"{model}ing", "a function of the file"),
    ):
        done = RUN.invoke(app, ["cnn", name])
        assert done.exit_code == 1
        assert says in done.stderr
    done = RUN.invoke(app, ["cnn", model.replace(":build", ":number")])
    assert done.exit_code == 1
    assert "int" in done.stderr


def test_grey_pictures_and_the_last_step(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "nets.py").write_text(SOURCE.replace("nn.Conv2d(3,", "nn.Conv2d(1,"))
    (tmp_path / "p").mkdir()
    for k in range(20):
        image.effect_noise((30, 40), 60 + k).save(tmp_path / "p" / f"{k:02}.png")
    line = ["cnn", f"{tmp_path / 'nets.py'}:build", "--budget", "macs=0.7", "--images", str(tmp_path / "p"), "--limit"]
    line += ["12", "--input-shape", "1,24,32", "--distill-minutes", "0.02", "--json"]
    done = RUN.invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "12 of 20 pictures" in done.stderr
    assert any("distilled for" in n for n in json.loads(done.stdout)["notes"])


def test_shapes_and_minutes_that_are_none(model: str) -> None:
    for more, says in (
        (["--input-shape", "3,32"], "channels, height and width"),
        (["--distill-minutes", "1"], "go with --images"),
        (["--distill-minutes", "-1", "--images", "x"], "--distill-minutes"),
    ):
        done = RUN.invoke(app, ["cnn", model, *more])
        assert done.exit_code == 1
        assert says in done.stderr


def test_a_network_that_cannot_be_run_or_measured_is_one_line(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    numbers = "\n\ndef classes():\n    class Classes(nn.Module):\n        def __init__(self):\n"
    numbers += "            super().__init__()\n            self.net = build()\n        def forward(self, x):\n"
    numbers += "            return self.net(x).argmax(1)\n    return Classes()\n"
    (tmp_path / "nets.py").write_text(SOURCE + numbers)
    (tmp_path / "p").mkdir()
    for k in range(12):
        image.effect_noise((32, 32), 60 + k).convert("RGB").save(tmp_path / "p" / f"{k:02}.png")
    for network, more, says in (
        ("build", ["--input-shape", "1,28,28"], "--input-shape must be what the network can be run on, got 1,28,28"),
        ("classes", ["--images", str(tmp_path / "p"), "--size", "32"], "MODEL must put out floating-point numbers"),
    ):
        done = RUN.invoke(app, ["cnn", f"{tmp_path / 'nets.py'}:{network}", *more])
        assert done.exit_code == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr

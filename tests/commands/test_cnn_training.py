"""``prunopt cnn --method s2h``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from typer.testing import CliRunner  # noqa: E402

from prunopt.cli import app  # noqa: E402
from prunopt.commands.cnn import read  # noqa: E402
from prunopt.commands.cnn_training import Batches, labelled  # noqa: E402
from prunopt.networks.cnn.checkpoints import load_cnn  # noqa: E402
from prunopt.networks.cnn.costs import measure  # noqa: E402

RUN = CliRunner()
SOURCE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(SOURCE)
    return f"{tmp_path / 'nets.py'}:build"


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    y = np.arange(60) % 3
    x = np.random.default_rng(0).standard_normal((60, 3, 8, 8)) * 0.3 + y[:, None, None, None]
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), y=y)
    return tmp_path / "data.npz"


def run(*words: Any) -> Any:
    return RUN.invoke(app, ["cnn", *(str(w) for w in words)])


def test_train_save_and_report(model: str, arrays: Path, tmp_path: Path) -> None:
    line = (model, "--method", "s2h", "--budget", "macs=0.5", "--train", arrays, "--test", arrays, "--epochs", 12)
    done = run(*line, "--batch", 10, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["used"] <= report["limit"] == pytest.approx(0.5 * report["total"])
    assert report["accuracy"]["after"] > 0.9
    smaller = load_cnn(tmp_path / "out", read(model)[0])
    assert measure(smaller, torch.zeros(1, 3, 8, 8), ["macs"])["macs"] == report["used"]
    assert "accuracy on --test" in run(*line, "--batch", 10).stdout


def test_checkpoints_are_those_of_the_same_call(model: str, arrays: Path, tmp_path: Path) -> None:
    line = (model, "--method", "s2h", "--train", arrays, "--epochs", 2, "--checkpoints", tmp_path / "kept")
    assert run(*line).exit_code == 0
    assert run(*line).exit_code == 0
    other = run(*line, "--seed", 1)
    assert other.exit_code == 1
    assert "must belong to this problem" in other.stderr


def test_a_folder_and_a_zip_with_a_folder_for_each_class(tmp_path: Path) -> None:
    import zipfile

    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "ant"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(2):
            image.new("RGB", (20, 16), (k * 90, 0, 0)).save(tmp_path / "set" / name / f"{k}.png")
    x, y, classes = labelled(tmp_path / "set", 16, None)
    assert (tuple(x.shape), y.tolist(), classes) == ((4, 3, 16, 16), [0, 0, 1, 1], ["ant", "cat"])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted((tmp_path / "set").glob("*/*")):
            archive.write(file, f"train/{file.parent.name}/{file.name}")
    again = labelled(tmp_path / "set.zip", 16, None)
    assert torch.equal(x, again[0])
    assert again[2] == classes


@pytest.mark.parametrize(("n", "batch", "sizes"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (6, 3, [3, 3]), (2, 5, [2])])
def test_no_batch_of_one(n: int, batch: int, sizes: list[int]) -> None:
    batches = Batches(torch.arange(n).float(), torch.arange(n), batch)
    seen = [y for _, y in batches]
    assert [len(y) for y in seen] == sizes
    assert len(batches) == len(sizes)
    assert sorted(torch.cat(seen).tolist()) == list(range(n))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ([], "--train"),
        (["--train", "gone.npz"], "a file or folder that is there"),
        (["--train", "DATA", "--budget", "macs=0.0001"], "budget must be >= 595"),
        (["--train", "DATA", "--epochs", "0"], "--epochs must be"),
        (["--train", "DATA", "--learning-rate", "1e30"], "not finite"),
        (["--train", "BAD"], "hold finite floats x"),
        (["--train", "FOLDER"], "hold pictures"),
    ],
)
def test_one_line_errors(model: str, arrays: Path, tmp_path: Path, line: list[str], says: str) -> None:
    np.savez(tmp_path / "bad.npz", x=np.full((4, 3, 8, 8), np.nan, np.float32), y=np.arange(4))
    (tmp_path / "empty").mkdir()
    places = {"DATA": str(arrays), "BAD": str(tmp_path / "bad.npz"), "FOLDER": str(tmp_path / "empty")}
    done = run(model, "--method", "s2h", *(places.get(w, w) for w in line))
    assert done.exit_code == 1, done.output
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_network_without_groups(model: str, arrays: Path) -> None:
    done = run(model.replace(":build", ":plain"), "--method", "s2h", "--train", arrays)
    assert done.exit_code == 1
    assert "have a group of channels" in done.stderr

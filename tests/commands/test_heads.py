"""``prunopt heads`` and its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

import matplotlib as mpl
import torch
from matplotlib import pyplot
from typer.testing import CliRunner

from prunopt import plots
from prunopt.cli import app
from prunopt.networks import load
from prunopt.networks.heads import Batch, head_layers
from prunopt.networks.heads.costs import HeadTimes, head_milliseconds
from prunopt.networks.heads.data import read_head_data
from prunopt.networks.transformers.tiny_models import tiny_transformer, write_tiny_model

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("heads")
    write_tiny_model(place / "llama", "llama")
    write_tiny_model(place / "bert", "bert")
    (place / "text.txt").write_text(" ".join(f"word {k} of a text;" for k in range(80)), "utf-8")
    (place / "lines.txt").write_text("\n".join(f"line {k} says {k % 7}" for k in range(24)), "utf-8")
    return place


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["heads", *map(str, arguments)])


def test_json_folder_and_pictures(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    done = run(
        folder / "llama",
        "--data",
        folder / "text.txt",
        "--keep",
        0.5,
        "--out",
        out,
        "--method",
        "greedy",
        "--examples",
        6,
        "--length",
        24,
        "--json",
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["heads_kept"] <= 12
    assert found["heads_kept"] == sum(found["kept"])
    kept = np.array(found["kept"]).reshape(-1, 2)
    assert (kept.all(axis=1) == kept.any(axis=1)).all()
    assert found["status"] == "FEASIBLE"
    assert found["bound"] is None
    assert set(found["curve"]) == {"example-abs", "example-abs, l2 (paper)", "greedy"}
    assert set(found["loss"]) == {"measure", "calibration", "held_out"}
    assert sorted(p.name for p in out.glob("*.png")) == ["curve.png", "importance.png"]
    assert json.loads((out / "heads.json").read_text("utf-8"))["heads_kept"] == found["heads_kept"]
    small = load(out)
    assert [a.n_heads for a in head_layers(small)] == np.array(found["kept"]).reshape(3, 8).sum(axis=1).tolist()


def test_encoder_by_embeddings_in_parameters(folder: Path, tmp_path: Path) -> None:
    line = (
        "--data",
        folder / "lines.txt",
        "--out",
        tmp_path / "e",
        "--method",
        "head-importance",
        "--examples",
        8,
        "--no-curve",
        "--one-per-layer",
    )
    old = run(folder / "bert", *line, "--keep", 0.6, "--resource", "parameters", "--json")
    assert old.exit_code == 0, old.output
    assert "use --budget parameters=" in old.stderr
    used = json.loads(old.stdout)["used"]
    done = run(folder / "bert", *line, "--budget", f"parameters={used:g}")
    assert done.exit_code == 0, done.output
    assert f"used {used:g}" in done.output
    assert "1 - cosine to the dense embedding" in done.output
    assert "head-importance: feasible" in done.output
    assert not (tmp_path / "e" / "curve.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "1.5"], "--keep must be a whole number, got 1.5"),
        ([], "--budget must be given, or --keep"),
        (["--budget", "heats=0.5"], 'did you mean "heads"'),
        (["--budget", "heads=2.5"], "--budget heads must be a whole number"),
        (["--keep", "0"], "--keep must be a finite number > 0, got 0"),
        (["--keep", "3", "--resource", "parameters"], "--keep must be a fraction within (0, 1) of parameters, got 3"),
        (["--keep", "0.5", "--method", "best"], "--method must be one of"),
        (["--keep", "0.5", "--resource", "heat"], "--resource must be one of"),
        (["--keep", "2", "--one-per-layer"], "budget must be at least 3 heads"),
        (["--keep", "0.5", "--examples", "1"], "examples must be a whole number >= 2, got 1"),
        (["--keep", "0.5", "--screen", "0"], "--screen must be a whole number >= 1, got 0"),
        (["--keep", "0.5", "--method", "enumeration", "--examples", "2"], "24 heads (groups) with 1.68e+07 selections"),
    ],
)
def test_bad_input_is_one_line(folder: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = run(folder / "bert", "--data", folder / "lines.txt", "--out", tmp_path / "x", *options)
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "x").exists()


def test_classifiers_need_labels(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from prunopt.networks.transformers._hugging_face import read_tokenizer

    config = tiny_transformer("bert").config
    model = transformers.BertForSequenceClassification(config).eval()
    tokenizer = read_tokenizer(folder / "bert")
    with pytest.raises(ValueError, match=r"line 1 of .*lines\.txt must be text<TAB>label"):
        read_head_data(model, tokenizer, folder / "lines.txt", examples=4)
    labelled = folder / "labelled.txt"
    labelled.write_text("good\t1\nbad\t0\nfine\t1\nawful\t0\n", "utf-8")
    data = read_head_data(model, tokenizer, labelled, examples=2)
    assert data.measure == "cross-entropy [nats]"
    assert data.calibration[0].target.tolist() == [1, 0]
    values = data.loss(data.held_out[0].run(model), data.held_out[0].target)
    assert values.shape == (2,)
    labelled.write_text("good\t1\nbad\t0\nfine\t1\nawful\t7\n", "utf-8")
    data = read_head_data(model, tokenizer, labelled, examples=2)
    with pytest.raises(ValueError, match=r"labels must be 0 to 1, the classes of the model, got 7"):
        data.loss(data.held_out[0].run(model), data.held_out[0].target)


def test_a_repair_that_raises_the_loss_is_said(folder: Path, tmp_path: Path) -> None:
    # the windows are noise to this model: heads whose removal lowers the loss come back with the repair
    done = run(
        folder / "llama",
        "--data",
        folder / "text.txt",
        "--keep",
        3,
        "--out",
        tmp_path / "r",
        "--method",
        "greedy",
        "--examples",
        6,
        "--length",
        24,
        "--no-curve",
        "--json",
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["loss"]["held_out"]["removed"] > found["loss"]["held_out"]["masked"]
    assert "--no-repair" in found["advice"]


def test_head_milliseconds_add_up() -> None:
    model = tiny_transformer("bert")
    batch = Batch({"input_ids": torch.ones(2, 8, dtype=torch.long)})
    times = head_milliseconds(model, batch, repeats=3)
    assert times.cost.shape == (24,)
    assert (times.cost >= 0).all()
    assert len(np.unique(times.cost)) == 1  # layers of one shape share a measurement
    assert times.dense > 0
    assert HeadTimes(5.0, np.array([1.0, 2.0])).fixed == 2.0


def test_pictures_of_heads() -> None:
    scores = np.arange(5.0)
    ax = plots.head_map(scores, [3, 2], kept=np.array([True, False, True, True, False]), label="worth")
    image = ax.get_images()[0].get_array()
    assert image is not None
    assert image.shape == (2, 3)
    assert np.ma.filled(image.astype(float), np.nan)[0, :3].tolist() == [0.0, 1.0, 2.0]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.get_lines()] == [(1, 0), (1, 0), (1, 1), (1, 1)]  # type: ignore[index]
    curves = plots.head_curves({"a": ([3, 2], [0.1, 0.2]), "b": ([3], [0.1])}, measure="nats", total=4)
    assert curves.get_xlabel() == "heads kept of 4"
    assert curves.get_ylabel() == "nats"
    assert [line.get_label() for line in curves.get_lines()] == ["a", "b"]
    with pytest.raises(ValueError, match=r"scores must have shape \(5,\)"):
        plots.head_map(np.ones(4), [3, 2])
    with pytest.raises(ValueError, match="curves must hold"):
        plots.head_curves({})

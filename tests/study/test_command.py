"""``prunopt search`` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np
from typer.testing import CliRunner

from prunopt.cli import app
from prunopt.networks.transformers.tiny_models import write_tiny_model

RUN = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    write_tiny_model(out / "model")
    (out / "text.txt").write_text(" ".join(f"word{i % 17} and {i % 5}" for i in range(800)))
    return out


def arguments(folder: Path, *more: str) -> list[str]:
    text = str(folder / "text.txt")
    sizes = ["--windows", "2", "--length", "16", "--trials", "8"]
    return ["search", str(folder / "model"), "--calibration", text, "--sparsity", "0.5", *sizes, *more]


def test_report_pictures_and_resume(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = RUN.invoke(app, arguments(folder, "--sparsity", "0.7", "--out", str(tmp_path / "o"), "--json"))
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    column = report["columns"][0]
    assert set(column["rows"]) == {"uniform", "owl", "log", "atp", "als", "als-row", "mckp", "search"}
    assert column["trials"] == 8
    for row in column["rows"].values():
        assert np.mean(row["allocation"]) >= 0.5 - 1e-9
    assert report["front"][0]["loss"] >= report["front"][-1]["loss"]
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert {"report.json", "allocation-0.5.json", "sparsity-by-layer-0.7.png", "front.png", "search.journal"} <= names
    again = RUN.invoke(
        app, arguments(folder, "--sparsity", "0.7", "--out", str(tmp_path / "o"), "--methods", "uniform")
    )
    assert again.exit_code == 0, again.output
    assert column["rows"]["search"]["found"] in again.stdout


def test_bad_input_is_one_line(folder: Path, tmp_path: Path) -> None:
    for more, words in (
        (["--fidelity", "2", "--out", str(tmp_path)], "--fidelity must be a finite number > 0 and <= 1, got 2.0"),
        ([], "--storage must be a journal file or a database"),
        (["--methods", "magic", "--out", str(tmp_path)], "allocation must be one of 'uniform'"),
        (["--solver", "choice-dp", "--methods", "", "--out", str(tmp_path)], "; pass "),
    ):
        done = RUN.invoke(app, arguments(folder, *more))
        assert done.exit_code == 1, done.output
        assert words in done.stderr
        assert "Traceback" not in done.stderr

"""``prunopt report``: the page of every kind of run, parsed, and looked at by a browser where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prunopt.cli import app

BROWSERS = "chromium", "chromium-browser", "google-chrome"
VOID = {"meta", "img", "br"}
NET = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
"""


class Parsed(HTMLParser):
    """Tags, attributes and text; an unbalanced tag is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def page_of(folder: Path) -> tuple[Parsed, dict[str, Any]]:
    done = invoke("report", folder, "--json")
    assert done.exit_code == 0, done.output
    page = Parsed((folder / "report.html").read_text("utf-8"))
    # Nothing is asked of a network, nothing runs, and no picture lies outside.
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("href", "srcset", "action")
        assert name != "src" or (tag == "img" and value.startswith("data:image/png;base64,"))
    told = json.loads(done.stdout)
    assert page.tags.count("img") == told["pictures"]
    return page, told


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    place = tmp_path_factory.mktemp("forest")
    rng = np.random.default_rng(0)
    rows = rng.random((60, 3)).round(3)
    lines = [f"{a},{b},{c},{'ill' if a + b > 1 else 'well'}" for a, b, c in rows]
    (place / "rows.csv").write_text("\n".join(["blood,age,pulse,label", *lines]), "utf-8")
    out = place / "out"
    done = invoke(
        "forest", "--data", place / "rows.csv", "--target", "label", "--trees", 3, "--splits", 0, "--out", out
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "transformers", "matplotlib"):
        pytest.importorskip(package)
    from prunopt.networks.transformers.tiny_models import write_tiny_model

    place = tmp_path_factory.mktemp("tiny")
    write_tiny_model(place / "model")
    (place / "text.txt").write_text(" ".join(f"word{i % 17} and {i % 5}" for i in range(800)), "utf-8")
    return place


def test_a_forest(forest: Path) -> None:
    page, told = page_of(forest)
    assert told["kind"] == "prunopt forest"
    assert told["pictures"] == 3
    text = " ".join(page.text)
    report = json.loads((forest / "report.json").read_text("utf-8"))
    assert "Proven: at its penalty" in text
    assert f"{report['chosen']['cost']:.2f}" in text
    assert page.tags.count("tr") == 2 + len(report["path"])  # the names of the columns, the forest before
    assert f"unpruned {report['unpruned']['nodes']}" in text
    # What the terminal says comes first, then every point, the pictures and the settings.
    order = [page.text.index(word) for word in ("What is proven", "Every optimal pruning", "Pictures", "The run")]
    assert order == sorted(order)


def test_text_of_a_run_stays_text(forest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(forest, folder)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    evil = "<script>alert(1)</script>\"'><img src=http://x onerror=alert(2)>&amp;"
    report["data"] = report["currency"] = evil
    report["path"][0]["features"] = [evil]
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
    page, told = page_of(folder)
    assert evil in "".join(page.text)
    assert page.tags.count("img") == told["pictures"] == 3


def test_pictures_are_drawn_where_none_was_saved_and_strange_ones_left_out(forest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(forest, folder)
    for name in ("pareto.png", "trees.png"):
        (folder / name).unlink()
    (folder / "features.png").write_bytes(b"<svg onload=alert(1)>")
    _, told = page_of(folder)
    assert told["pictures"] == 1
    assert "features.png is left out" in told["notes"][0]


def test_transformers_with_a_mask(tiny: Path) -> None:
    common = ["--calibration", tiny / "text.txt", "--windows", 2, "--length", 16, "--sparsity", 0.5]
    for name, more in (("masked", ["--pattern", "2:4"]), ("smaller", ["--method", "obs-greedy"])):
        done = invoke("prune", tiny / "model", *common, "--out", tiny / name, *more)
        assert done.exit_code == 0, done.output
        page, told = page_of(tiny / name)
        manifest = json.loads((tiny / name / "prunopt.json").read_text("utf-8"))
        assert f"{manifest['removed']:,} of {manifest['total']:,}" in " ".join(page.text)
        assert page.tags.count("tr") == 1 + len(manifest["report"])
        assert told["pictures"] == (2 if name == "masked" else 1)


def test_searches_and_heads(tiny: Path) -> None:
    text = tiny / "text.txt"
    done = invoke("search", tiny / "model", "--calibration", text, "--sparsity", 0.5, "--windows", 2, "--length", 16,
                  "--trials", 3, "--methods", "uniform,log", "--out", tiny / "search")  # fmt: skip
    assert done.exit_code == 0, done.output
    page, told = page_of(tiny / "search")
    assert told["pictures"] == 2
    assert "nothing is proven" in " ".join(page.text)
    done = invoke("heads", tiny / "model", "--data", text, "--keep", 0.5, "--method", "head-importance",
                  "--examples", 4, "--length", 16, "--no-curve", "--out", tiny / "heads")  # fmt: skip
    assert done.exit_code == 0, done.output
    page, told = page_of(tiny / "heads")
    assert told["pictures"] == 2
    kept = json.loads((tiny / "heads" / "heads.json").read_text("utf-8"))["heads_kept"]
    assert f"{kept} of 24" in " ".join(page.text)


def test_networks_of_convolutions_and_tickets(tiny: Path) -> None:
    (tiny / "net.py").write_text(NET, "utf-8")
    done = invoke("cnn", f"{tiny / 'net.py'}:net", "--budget", "macs=0.5", "--method", "magnitude", "--size", 16,
                  "--out", tiny / "cnn")  # fmt: skip
    assert done.exit_code == 0, done.output
    page, told = page_of(tiny / "cnn")
    assert told["pictures"] == 1
    report = json.loads((tiny / "cnn" / "prunopt.json").read_text("utf-8"))["report"]
    proven = "No bound" if report["bound"] is None else "lower bound"
    assert proven in " ".join(page.text)
    assert page.tags.count("tr") == 1 + len(report["groups"])
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({"0.weight": torch.randn(3, 4) / 4, "0.bias": torch.zeros(3)}, tiny / "target.safetensors")
    done = invoke("lottery", "--target", tiny / "target.safetensors", "--epsilon", 0.1, "--out", tiny / "ticket")
    assert done.exit_code == 0, done.output
    page, told = page_of(tiny / "ticket")
    assert told["pictures"] == 1
    assert "the outputs differ by at most" in " ".join(page.text)


@pytest.mark.parametrize(("files", "words"), [
    (None, "FOLDER must be a folder that a command wrote"),
    ({}, "FOLDER must hold what forest, prune, heads, cnn, search or lottery wrote"),
    ({"report.json": "{"}, "cannot be read as JSON"),
    ({"report.json": "[]"}, "must hold a JSON object, got list"),
    ({"report.json": '{"path": []}'}, "not as a command of this version writes it"),
    ({"prunopt.json": '{"kind": "cnn", "report": 3}'}, "not as a command of this version writes it"),
])  # fmt: skip
def test_bad_folders_are_one_line(tmp_path: Path, files: dict[str, str] | None, words: str) -> None:
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
    done = invoke("report", folder)
    assert done.exit_code == 1
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not (folder / "report.html").exists()


def test_a_browser_shows_it(forest: Path, tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no {', '.join(BROWSERS)} on this machine")
    image = pytest.importorskip("matplotlib.image")
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    assert invoke("report", forest, "--out", page).exit_code == 0
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,2600", page.as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    seen = image.imread(shot)[..., :3]
    assert seen.shape[:2] == (2600, 1000)
    blue = np.abs(seen - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=2) < 0.02
    # The blue of the pictures' lines and bars lies below the proof's box, whose border is blue, too.
    assert blue[700:].sum() > 2000
    assert (seen.std(axis=(1, 2)) > 0.02).mean() > 0.5

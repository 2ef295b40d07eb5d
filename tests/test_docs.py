"""Every code block of the documentation runs, in order, page by page; the reference has every public name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prunopt.cli import app, command_names
from prunopt.core.solver import _REGISTRY

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md") if p.parent.name != "reference")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXTRAS = {"torch": ("howto/transformer", "howto/masks", "howto/cnn", "howto/soft-masks", "howto/lottery", "tutorial",
                    "howto/allocation", "howto/search", "howto/heads", "howto/several-budgets"),
          "transformers": ("howto/transformer", "howto/masks", "howto/allocation", "howto/search", "howto/heads",
                           "howto/several-budgets", "tutorial"),
          "matplotlib": ("tutorial", "howto/masks", "howto/allocation", "howto/heads")}  # fmt: skip
NET = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    layers = []
    for before, after, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
"""


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text("utf-8"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: a table, its prices, a tiny model, a text, a small network, labelled pictures."""
    place = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    rows = rng.random((80, 3)).round(3)
    lines = [f"{a},{b},{c},{'ill' if a + b > 1 else 'well'}" for a, b, c in rows]
    (place / "patients.csv").write_text("\n".join(["age,blood,scan,diagnosis", *lines]), "utf-8")
    (place / "costs.json").write_text(json.dumps({"age": 1, "blood": 12.5, "scan": 103}), "utf-8")
    (place / "text.txt").write_text(" ".join(f"word{i % 17} and {i % 5}" for i in range(800)), "utf-8")
    (place / "net.py").write_text(NET, "utf-8")
    x = rng.normal(size=(64, 3, 32, 32)).astype(np.float32)
    np.savez(place / "digits.npz", x=x, y=rng.integers(0, 10, 64))
    if find_spec("transformers") and find_spec("torch"):
        from prunopt.networks.transformers.tiny_models import write_tiny_model

        write_tiny_model(place / "my-model")
    return place


@pytest.fixture
def desk(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own to run a page in; what the page registers or imports is forgotten afterwards."""
    place = tmp_path / "desk"
    shutil.copytree(files, place)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    known = set(_REGISTRY)
    yield place
    for name in set(_REGISTRY) - known:
        if _REGISTRY[name].__module__ == "page":
            del _REGISTRY[name]
    sys.modules.pop("net", None)


def run_console(text: str) -> None:
    for line in text.splitlines():
        assert line.startswith("$ prunopt "), f"a console block holds commands of prunopt, each behind '$ ': {line}"
        done = CliRunner().invoke(app, shlex.split(line)[2:])
        assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_runs(page: str, desk: Path) -> None:
    for package, pages in EXTRAS.items():
        if page.removesuffix(".md") in pages:
            pytest.importorskip(package)
    if find_spec("matplotlib"):
        import matplotlib as mpl

        mpl.use("Agg")
    names: dict[str, Any] = {"__name__": "page"}
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, page, "exec", dont_inherit=True), names)  # our own page
        elif kind == "console":
            run_console(text)
        elif kind == "json":
            json.loads(text)
        else:
            raise AssertionError(f"{page}: a block of kind {kind!r} is not executed; use python, console or json")
    if find_spec("matplotlib"):
        from matplotlib import pyplot

        pyplot.close("all")


def test_every_command_is_shown() -> None:
    shown = {line.split()[2] for page in PAGES for kind, text in blocks(page) if kind == "console"
             for line in text.splitlines()}  # fmt: skip
    assert set(command_names()) - {"bench"} <= shown  # bench needs the peers, and an hour


def test_the_reference_has_every_public_name() -> None:
    import prunopt
    from prunopt import forests, forms, networks, plots, problems

    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    found = {line.split(".")[-1] for line in text.splitlines() if line.startswith("::: ")}
    for package in (prunopt, forests, forms, networks, plots, problems):
        wanted = set(package.__all__) - {"COLOURS", "MARKERS", "points_of"}
        assert wanted - found == set(), package.__name__


def test_pages_are_in_the_menu_and_links_lead_somewhere() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    every = [p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")]
    assert [page for page in every if f": {page}\n" not in menu] == []
    for page in every:
        for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text("utf-8")):
            assert (DOCS / page).parent.joinpath(target).exists(), f"{page}: {target}"

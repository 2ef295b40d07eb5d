"""Every code block of the documentation runs, in order, page by page; the reference has every public name."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from prunopt.cli import command_names
from prunopt.core.solver import _REGISTRY
from tests.support.pages import blocks, give_files, run_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md") if p.parent.name != "reference")
NETWORKS = (
    "from/hugging-face",
    "howto/allocation",
    "howto/heads",
    "howto/masks",
    "howto/search",
    "howto/several-budgets",
    "howto/transformer",
    "tutorial",
)
EXTRAS = {
    "torch": (*NETWORKS, "howto/cnn", "howto/lottery", "howto/soft-masks"),
    "transformers": NETWORKS,
    "matplotlib": ("tutorial", "howto/masks", "howto/allocation", "howto/heads"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: a table, its prices, a tiny model, a text, a small network, labeled pictures."""
    place = tmp_path_factory.mktemp("given")
    give_files(place)
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


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_runs(page: str, desk: Path) -> None:
    for package, pages in EXTRAS.items():
        if page.removesuffix(".md") in pages:
            pytest.importorskip(package)
    if find_spec("matplotlib"):
        import matplotlib as mpl

        mpl.use("Agg")
    run_page(DOCS / page, {"__name__": "page"})
    if find_spec("matplotlib"):
        from matplotlib import pyplot

        pyplot.close("all")


def test_every_command_is_shown() -> None:
    shown = {line.split()[2] for page in PAGES for kind, text in blocks(DOCS / page) if kind == "console"
             for line in text.splitlines() if line.startswith("$ ")}  # fmt: skip
    assert set(command_names()) - {"bench"} <= shown  # bench needs the peers, and an hour


def test_the_reference_has_every_public_name() -> None:
    import prunopt
    from prunopt import forests, forms, networks, plots, problems

    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    found = {line.split(".")[-1] for line in text.splitlines() if line.startswith("::: ")}
    for package in (prunopt, forests, forms, networks, plots, problems):
        wanted = set(package.__all__) - {"COLOURS", "MARKERS", "points_of"}
        assert wanted - found == set(), package.__name__


def test_code_fits_the_width_of_the_site() -> None:
    wide = [
        f"{page}: {line}"
        for page in PAGES
        if not page.startswith("results")
        for kind, text in blocks(DOCS / page)
        if kind in ("python", "console")
        for line in text.splitlines()
        if len(line) > 84
    ]
    assert wide == []


def test_howtos_and_the_reference_lead_to_one_another() -> None:
    for page in DOCS.glob("howto/*.md"):
        assert "](../reference/" in page.read_text("utf-8"), f"{page.name}: no link to the reference"
    for page in set(DOCS.glob("reference/*.md")) - {DOCS / "reference" / "families.md"}:  # a generated table
        assert re.search(r"\]\(\.\./(howto|explanation)/", page.read_text("utf-8")), f"{page.name}: no link to a how-to"


def test_notebooks_ask_a_question_end_with_a_picture_and_are_linked() -> None:
    gallery = (DOCS / "gallery.md").read_text("utf-8")
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0]
        assert title.startswith("# "), file.name
        assert title.endswith("?"), f"{file.name}: {title}"
        assert any("image/png" in output.get("data", {}) for output in cells[-1]["outputs"]), f"{file.name}: no picture"
        assert f"{file.name}" in gallery, f"{file.name}: not in docs/gallery.md"


def test_pages_are_in_the_menu_and_links_lead_somewhere() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    every = [p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")]
    assert [page for page in every if f": {page}\n" not in menu] == []
    for page in every:
        for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text("utf-8")):
            assert (DOCS / page).parent.joinpath(target).exists(), f"{page}: {target}"


PUBLIC = (
    "prunopt", "prunopt.forests", "prunopt.forms", "prunopt.networks", "prunopt.networks.transformers",
    "prunopt.networks.cnn", "prunopt.networks.heads", "prunopt.networks.soft_mask", "prunopt.networks.lottery",
    "prunopt.plots", "prunopt.study", "prunopt.problems", "prunopt.testing",
)  # fmt: skip


def test_the_reference_names_what_users_import() -> None:
    """A heading is the path that is imported, not the file in which something is written."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib")
    packages = {name: importlib.import_module(name) for name in PUBLIC}
    wrong = []
    for page in (DOCS / "reference").glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            parent, _, name = path.rpartition(".")
            if parent in PUBLIC or (found := getattr(importlib.import_module(parent), name)) is None:
                continue
            offered = [p for p, m in packages.items() if name in dir(m) and getattr(m, name) is found]
            wrong += [f"{path}: {p}.{name}" for p in offered if find_spec(f"{p}.{name}") is None]  # no module's name
    assert not wrong

"""The results that the pages quote are those of the raw figures."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.results_page")


def test_the_pages_quote_the_raw_figures(page_of: Any) -> None:
    for page, text in page_of.pages(page_of.results()):
        assert page.read_text("utf-8") == text, f"{page.name}: run python -m benchmarks.results_page --write"


def test_each_row_links_a_page_that_exists(page_of: Any) -> None:
    found = page_of.results()
    assert [r.system[0] for r in found] == list("123456789")
    for row in found:
        assert (ROOT / "docs" / row.details).is_file()
        assert math.isfinite(row.ratio)


@pytest.mark.parametrize(("ratio", "word"), [(1.5, "ahead"), (1.05, "on par"), (0.95, "on par"), (0.5, "behind")])
def test_the_verdict_counts_the_standard_error(page_of: Any, ratio: float, word: str) -> None:
    assert page_of.Result("s", "", "", "", "", ratio, 0.1, "", "").verdict == word


def test_marks_that_are_missing_are_named(page_of: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n")
    assert page_of.put(page, "a", "new") == "before\n<!-- a: begin -->\nnew\n<!-- a: end -->\nafter\n"
    with pytest.raises(ValueError, match="marks"):
        page_of.put(page, "b", "new")

"""Every block of the README runs, on small stand-ins of its files, and prints what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import give_files, run_page

ROOT = Path(__file__).parents[1]


def test_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model, in the place of the 135 million parameters of the real one."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from prunopt import networks

    give_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny = networks.read_model(tmp_path / "my-model")
    monkeypatch.setattr(networks, "read_model", {"smollm2": tiny}.__getitem__)
    short = networks.token_windows
    monkeypatch.setattr(
        networks, "token_windows", lambda *a, length, count: short(*a, length=length // 8, count=count // 4)
    )
    names: dict[str, Any] = {"__name__": "readme", "text": "To be, or not to be: that is the question. " * 60}
    run_page(ROOT / "README.md", names)
    assert names["result"].removed > 0
    assert type(names["model"]) is type(tiny[0])


def test_the_first_screen_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\n") <= 130
    assert text.index("Install") < 3000

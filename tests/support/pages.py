"""Run the code blocks of a page, in order, and compare what they print with the page."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from prunopt.cli import app

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return kind and text of every block of a page."""
    return BLOCK.findall(page.read_text("utf-8"))


def give_files(place: Path) -> None:
    """Write what the pages speak of: a table, its costs, a tiny model, a text, a small network, labeled pictures."""
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


def run_console(text: str) -> str:
    """Run the commands of a block, and return what they print; a line that ends in a backslash goes on."""
    printed = []
    for line in text.replace("\\\n", "").splitlines():
        assert line.startswith("$ prunopt "), f"a console block holds commands of prunopt, each behind '$ ': {line}"
        done = CliRunner().invoke(app, shlex.split(line)[2:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        printed.append(done.stdout)
    return "".join(printed)


def run_page(page: Path, names: dict[str, Any]) -> None:
    """Run a page's blocks in the current folder; a ``text`` block is what the one before it prints."""
    checker, printed = doctest.OutputChecker(), ""
    for kind, text in blocks(page):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(text, page.name, "exec", dont_inherit=True), names)  # our own page
            printed = out.getvalue()
        elif kind == "console":
            printed = run_console(text)
        elif kind == "text":
            same = checker.check_output(text, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            assert same, f"{page.name} shows\n{text}\nbut the block before it prints\n{printed}"
        elif kind == "json":
            json.loads(text)
        else:
            installs = all(line.startswith(("pip ", "make ", "docker ")) for line in text.splitlines())
            known = not kind and installs
            assert known, f"{page.name}: a block of kind {kind!r} is not executed; use python, console, text or json"

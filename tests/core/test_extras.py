"""A missing module names the extra that brings it: in the library, and in commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prunopt.cli import command_names
from prunopt.commands.output import message
from prunopt.core.extras import EXTRAS, how_to_get, require
from tests.support.absent import code_without

ROOT = Path(__file__).parents[2]


def blocked(modules: list[str], code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code_without(modules) + code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def test_every_module_is_in_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for module, extra in EXTRAS.items():
        assert any(line.replace("-", "_").startswith(module) for line in extras[extra]), module


def test_the_command_to_type() -> None:
    assert how_to_get("torch", "safetensors") == "pip install 'prunopt[torch]'"
    assert how_to_get("transformers.models") == "pip install 'prunopt[hf]'"
    assert how_to_get("no_such_module") == "pip install no_such_module"
    assert how_to_get("ortools.graph", "PIL.Image") == "pip install 'prunopt[bench]' pillow"
    assert require("json").dumps([]) == "[]"
    with pytest.raises(ImportError, match="no_such_module is not installed: pip install no_such_module"):
        require("no_such_module")
    error = ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")
    assert message(error) == "this needs matplotlib.figure: pip install 'prunopt[plot]'"


@pytest.mark.parametrize(("modules", "code", "words"), [
    (["torch"], "import prunopt.networks.heads", "prunopt[torch]"),
    (["torch"], "import prunopt.networks.soft_mask", "prunopt[torch]"),
    (["torch"], "from prunopt.networks import load", "prunopt[torch]"),
    (["torch"], "sys.argv = ['prunopt', 'evaluate', 'm', '--text', 't']; from prunopt.cli import app; app()",
     "prunopt[torch]"),
    (["matplotlib"], "import prunopt.plots as p; p.latency({'a': 1})", "prunopt[plot]"),
])  # fmt: skip
def test_without_the_extra(modules: list[str], code: str, words: str) -> None:
    said = blocked(modules, code).stderr
    assert words in said.splitlines()[-1]


COMMANDS = {
    "prune": ["model", "--calibration", "text.txt", "--out", "out"],
    "evaluate": ["model", "--text", "text.txt"],
    "heads": ["model", "--data", "text.txt", "--keep", "0.5", "--out", "out"],
    "search": ["model", "--calibration", "text.txt", "--sparsity", "0.5", "--out", "out"],
    "verify": ["model"],
    "cnn": ["mobilenetv2", "--budget", "macs=0.5"],
    "lottery": [],
}  # fmt: skip
ALONE = {"forest", "predict", "solve", "solvers", "report", "bench", "warm-up"}  # need no extra


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_its_extra_is_one_line(name: str, tmp_path: Path) -> None:
    arguments = ["prunopt", name, *COMMANDS[name], "--json"]
    done = blocked(["torch"], f"sys.argv = {arguments!r}; from prunopt.__main__ import main; main()", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "pip install 'prunopt[torch]'" in done.stderr


def test_every_command_is_known_here() -> None:
    assert COMMANDS.keys() | ALONE == set(command_names())


def test_a_forest_needs_no_extra(tmp_path: Path) -> None:
    rows = "\n".join(f"{k % 7},{k % 5},{'ill' if k % 7 > 3 else 'well'}" for k in range(40))
    (tmp_path / "rows.csv").write_text(f"age,blood,label\n{rows}", "utf-8")
    arguments = ["prunopt", "forest", "--data", str(tmp_path / "rows.csv"), "--target", "label", "--trees", "2"]
    arguments += ["--splits", "0", "--out", str(tmp_path / "out")]
    missing = ["torch", "transformers", "matplotlib", "onnx", "gguf", "safetensors", "cmaes", "pandas"]
    said = blocked(missing, f"sys.argv = {arguments!r}; from prunopt.cli import app; app()").stderr
    assert (tmp_path / "out" / "forest.skops").is_file(), said
    assert "no pictures: they need matplotlib (pip install 'prunopt[plot]')" in said


def test_names_that_moved_are_found_for_one_release() -> None:
    pytest.importorskip("torch")
    from prunopt import networks
    from prunopt.networks import transformers

    assert len(networks.__all__) <= 16
    with pytest.warns(
        DeprecationWarning, match=r"networks\.token_losses is deprecated.*use prunopt\.networks\.transformers\."
    ):
        assert networks.token_losses is transformers.token_losses
    for module, names in networks._MOVED.items():
        for name in names.split():
            with pytest.warns(DeprecationWarning, match=f"use {module}.{name}"):
                assert getattr(networks, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match="no attribute 'prune_everything'"):
        networks.prune_everything  # noqa: B018

"""A missing module names the extra that brings it: in the library, and in commands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prunopt.commands.output import message
from prunopt.core.extras import EXTRAS, how_to_get, require

ROOT = Path(__file__).parents[2]
# Finders that do not find some modules: like an environment without them.
BLOCKED = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def blocked(modules: list[str], code: str) -> str:
    command = [sys.executable, "-c", BLOCKED.format(modules=modules) + code]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_every_module_is_in_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for module, extra in EXTRAS.items():
        assert any(line.replace("-", "_").startswith(module) for line in extras[extra]), module


def test_the_command_to_type() -> None:
    assert how_to_get("torch", "safetensors") == "pip install 'prunopt[torch]'"
    assert how_to_get("transformers.models") == "pip install 'prunopt[hf]'"
    assert how_to_get("no_such_module") == "pip install no_such_module"
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
    said = blocked(modules, code)
    assert words in said.splitlines()[-1]


def test_a_forest_needs_no_extra(tmp_path: Path) -> None:
    rows = "\n".join(f"{k % 7},{k % 5},{'ill' if k % 7 > 3 else 'well'}" for k in range(40))
    (tmp_path / "rows.csv").write_text(f"age,blood,label\n{rows}", "utf-8")
    arguments = ["prunopt", "forest", "--data", str(tmp_path / "rows.csv"), "--target", "label", "--trees", "2"]
    arguments += ["--splits", "0", "--out", str(tmp_path / "out")]
    missing = ["torch", "transformers", "matplotlib", "onnx", "gguf", "safetensors", "cmaes", "pandas"]
    said = blocked(missing, f"sys.argv = {arguments!r}; from prunopt.cli import app; app()")
    assert (tmp_path / "out" / "forest.skops").is_file(), said
    assert "no pictures: they need matplotlib (pip install 'prunopt[plot]')" in said


def test_names_that_moved_are_found_for_one_release() -> None:
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

"""Names of packages that are loaded when they are first used: type checkers and Python see the same ones."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lazy_packages() -> list[str]:
    """Packages that find their names by `prunopt.core.extras.lazy`."""
    files = sorted((ROOT / "prunopt").rglob("__init__.py"))
    found = [file.parent.relative_to(ROOT) for file in files if "= lazy(__name__" in file.read_text("utf-8")]
    return [".".join(place.parts) for place in found]


def seen_by_type_checkers(source: str) -> set[str]:
    """Names that are imported under ``if TYPE_CHECKING``, each with its module, and outside of it."""
    tree = ast.parse(source)
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imports = [n for block in blocks for n in block.body if isinstance(n, ast.ImportFrom)]
    assert all(alias.asname == alias.name for n in imports for alias in n.names), "import X as X, to re-export it"
    return {f"{n.module}.{alias.name}" for n in imports for alias in n.names}


@pytest.mark.parametrize("package", lazy_packages())
def test_type_checkers_see_what_python_finds(package: str) -> None:
    if package.startswith("prunopt.networks"):
        pytest.importorskip("torch")
    module = importlib.import_module(package)
    found = {f"{place}.{name}" for place, names in module._PLACES.items() for name in names.split()}
    if "prunopt.solvers" in module._PLACES:  # the package itself, which lists the solvers when it is called
        found.add("prunopt.api.solvers")
    assert module.__file__ is not None
    assert seen_by_type_checkers(Path(module.__file__).read_text("utf-8")) == found
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    assert {*module.__all__} <= {*dir(module)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_there_are_lazy_packages() -> None:
    assert {"prunopt", "prunopt.forests", "prunopt.networks"} <= {*lazy_packages()}


def test_a_name_that_one_list_lacks_is_caught() -> None:
    source = "if TYPE_CHECKING:\n    from a.b import C as C\n    from a.b import D as D\nfrom a import E as E"
    assert seen_by_type_checkers(source) == {"a.b.C", "a.b.D"}
    with pytest.raises(AssertionError, match="import X as X"):
        seen_by_type_checkers("if TYPE_CHECKING:\n    from a.b import C")

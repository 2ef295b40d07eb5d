"""transformers: the module, the class of a model, its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def require_transformers() -> Any:
    """Return the transformers module; ImportError names the extra.

    Whatever reads a folder with it passes ``local_files_only=True``: nothing is downloaded.
    """
    try:
        import transformers
    except ImportError:
        raise ImportError("transformers is not installed: pip install 'prunopt[hf]'") from None
    return transformers


def config_errors() -> tuple[type[Exception], ...]:
    """Return what the validation of a configuration raises."""
    from huggingface_hub.errors import StrictDataclassError

    return StrictDataclassError, ValueError, TypeError


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars of its own."""
    logging = require_transformers().utils.logging
    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()


def model_class(config: dict[str, Any]) -> Any:
    """Return the transformers class that a configuration names, or the automatic one of its kind."""
    transformers = require_transformers()
    names = config.get("architectures") or []
    found = getattr(transformers, names[0], None) if names and isinstance(names[0], str) else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    return transformers.AutoModelForCausalLM


def read_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Return the tokenizer of a folder, or None if it has none."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
    if not any((Path(folder) / name).is_file() for name in names):
        return None
    return require_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)

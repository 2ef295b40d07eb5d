"""transformers: the module, the class of a model, its tokenizer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunopt.core.validate import invalid

HUB_NAME = re.compile(r"[\w.-]+/([\w.-]+)")


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


def folder_of(source: str | os.PathLike[str], *, names: str = "") -> Path:
    """Return a model's folder: the one that is named, or that of a name on the Hub which its cache holds.

    Nothing is downloaded: of a name that the cache does not hold, ValueError says how to get it.
    """
    text, folder = os.fspath(source), Path(source)
    if folder.is_dir():
        return folder
    hub = HUB_NAME.fullmatch(text)
    if hub is not None and not folder.parent.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(text, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError):
            mend = f"get it with: hf download {text} --local-dir {hub[1]}, and pass {hub[1]}"
            raise invalid("model", "be a folder, or a model in the cache of the Hub", text, mend) from None
    raise invalid("model", f"be an existing folder{names}", text)


def read_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """Return the tokenizer of a folder, or None if it has none."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
    if not any((Path(folder) / name).is_file() for name in names):
        return None
    return require_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)

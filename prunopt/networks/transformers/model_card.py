"""What lies beside a model's weights: files copied from the model before, and a card that says what was done."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunopt.core.files import write_text
from prunopt.networks.io.folders import MANIFEST
from prunopt.networks.transformers.figures import figure_rows

CARD = "README.md"
# Of the model before, not of the one that is written: weights in any form, what is rewritten, the base's own card.
NOT_COPIED = re.compile(
    r"\..*|.*\.(safetensors|bin|pt|pth|h5|msgpack|onnx|gguf|index\.json|py)|(config|generation_config|prunopt)\.json"
    rf"|{re.escape(CARD)}|recipe\.yaml|report\.html|training_args.*",
    re.IGNORECASE,
)


def copy_beside(source: Path, place: Path) -> None:
    """Copy the files of a model's folder that pruning leaves as they are: tokenizer, chat template, license."""
    for file in sorted(source.iterdir()) if source.is_dir() else ():
        if file.is_file() and not NOT_COPIED.fullmatch(file.name) and not (place / file.name).exists():
            shutil.copy(file, place / file.name)  # of a link, what it leads to


def write_card(place: Path, manifest: Mapping[str, Any], base: str | os.PathLike[str] | None) -> None:
    """Write the model card of a folder: what was done and how, figures, the license of the base."""
    o, found = manifest["options"], manifest["evaluation"]
    about = _front_matter(base)
    name = None if base is None else Path(base).resolve().name
    head = ["---", "library_name: transformers", "tags:", "- prunopt", "- pruning"]
    head += [f"license: {json.dumps(about['license'])}"] if "license" in about else []
    head += [f"base_model: {json.dumps(about['base_model'])}"] if "base_model" in about else []
    what = o["pattern"] or "whole " + " and ".join(o["units"])
    remote = " with `trust_remote_code=True` (blocks differ in shape)" if manifest.get("remote_code") else ""
    lines = [
        *head, "---", "", f"# {name or 'A transformer'}, pruned by prunopt", "",
        f"**What:** {manifest['removed']:,} of {manifest['total']:,} weights of the blocks' linear layers removed "
        f"({manifest['sparsity']:.2%}): {what}.", "",
        f"**How:** method `{o['method']}`, allocation `{o.get('allocation', 'given')}`, "
        + ("weights that stay re-solved layer by layer" if o.get("refit", True) else "nothing re-solved")
        + f", seed {o.get('seed', 0)}. No training.", "",
    ]  # fmt: skip
    # Not the speed, which is the machine's: equal runs write equal cards.
    table = figure_rows({name: row for name, row in found.items() if name != "tokens_per_second"})
    if table:
        lines += ["| measured | before | after |", "|---|---:|---:|", *(f"| {' | '.join(row)} |" for row in table), ""]
    lines += [
        "**Load it:** "
        + (f"`from_pretrained` of transformers{remote}, or " if manifest["stock"] or remote else "")
        + '`prunopt.networks.load("FOLDER")`.', "",
        f"**License:** that of the base model{' (' + about['license'] + ')' if 'license' in about else ''}.", "",
        f"`{MANIFEST}` holds the report of every layer, digests and versions; `prunopt verify FOLDER` checks them.",
    ]  # fmt: skip
    write_text(place / CARD, "\n".join(lines) + "\n")


def _front_matter(base: str | os.PathLike[str] | None) -> dict[str, str]:
    """Return the license and the name of a base model, as far as its own card says them."""
    out: dict[str, str] = {}
    if base is None:
        return out
    try:
        text = (Path(base) / CARD).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return out
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    for key in ("license", "base_model") if head else ():
        found = re.search(rf"^{key}:[ \t]*([\w./-]+)[ \t]*$", head[1] if head else "", re.MULTILINE)
        if found:
            out[key] = found[1]
    return out

"""Recipes: the options of a run in a YAML file, read before the command line's own and saved beside the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from prunopt.core.extras import require as module
from prunopt.core.files import write_text
from prunopt.core.validate import Shown, invalid, require

RECIPE = "recipe.yaml"
NOT_KEPT = ("out", "resume", "config", "as_json", "uniform")  # where it goes and how it is told, not what is done


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the options of a recipe by their parameters' names; JSON is YAML, too."""
    yaml = module("yaml")
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise invalid("--config", "be a YAML file", str(path), " ".join(str(error).split())[:200]) from None
    named = isinstance(found, dict) and all(isinstance(name, str) for name in found)
    require(named, "--config", "hold options by their names", str(path), "write lines such as sparsity: 0.2")
    return {name.replace("-", "_"): value for name, value in dict(found).items()}


def as_defaults(ctx: typer.Context, path: Path | None) -> Path | None:
    """Let a recipe's options stand where the command line gives none: the callback of ``--config``."""
    if path is None:
        return None
    try:
        found = read_recipe(path)
        known = {str(p.name) for p in ctx.command.params} - {"help", "config"}
        given = {"json" if name == "as_json" else name for name in known}
        for name in found:
            mend = f"options are {', '.join(sorted(n.replace('_', '-') for n in given))}"
            require(name in given, f"an option of {path}", "be one of the command", name, mend)
        lists = {str(p.name) for p in ctx.command.params if getattr(p, "multiple", False)}
        for name, value in found.items():
            if name in lists and not isinstance(value, list):
                found[name] = [value]
            one = name in lists or isinstance(value, str | int | float | None)
            require(one, f"{name} of {path}", "be one value", Shown(type(value).__name__))
    except (ValueError, ImportError) as error:
        typer.echo(f"prunopt: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None
    ctx.default_map = {("as_json" if name == "json" else name): value for name, value in found.items()}
    return path


def recipe_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was asked for, as YAML has it: its options without those that only say where it goes."""
    out: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None and name not in NOT_KEPT:
            out[name] = [str(v) for v in value] if isinstance(value, list) else value
            out[name] = str(value) if isinstance(value, Path) else out[name]
    return out


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """Write a recipe, which ``--config`` reads."""
    text = module("yaml").safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    write_text(path, f"# prunopt prune --config {path.name} --out FOLDER\n{text}")

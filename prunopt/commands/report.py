"""``prunopt report``: one HTML file of a saved run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunopt.commands.output import guarded, print_json


@guarded
def report(
    folder: Annotated[Path, typer.Argument(help="What a command wrote with --out.")],
    out: Annotated[Path | None, typer.Option(help="The file. [default: FOLDER/report.html]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write one web page of a run: what was asked, what is proven, its pictures and tables.

    Reads the folders of forest, prune, heads, cnn, search and lottery. The file needs no network and nothing beside it:
    pictures and style are inside.
    """
    from prunopt.commands.report_runs import read_run
    from prunopt.core.files import write_text
    from prunopt.core.validate import Shown, require

    page = read_run(folder)
    target = folder / "report.html" if out is None else out
    require(not target.is_dir(), "--out", "be a file", Shown(target), "it is a folder")
    text = page.html()
    size = len(text.encode())
    write_text(target, text)
    if as_json:
        told = {"file": str(target), "kind": page.kind, "bytes": size, "pictures": len(page.pictures)}
        print_json({**told, "notes": page.notes})
        return
    print(f"Written: {target} ({size / 1e6:.1f} MB, {len(page.pictures)} pictures); open it in a browser.")
    for line in page.notes:
        print(line)

"""A page of a run: what it holds, and how it becomes one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

Column: TypeAlias = str | Callable[[Any], str]
PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 16_000_000  # of a picture
# Nothing is loaded and nothing runs, whatever the text of a run holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d9d9d9; --back: #ffffff; --card: #f4f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a8a8a8; --line: #3a3a3a; --back: #161718; --card: #1f2224; }
  img { background: #ffffff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; color: var(--ink); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p.kind, figcaption, caption, footer { color: var(--soft); }
section.proof { background: var(--card); border-left: 4px solid #0072b2; padding: .2rem 1rem; margin-top: 1.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
div.wide { overflow-x: auto; margin: 1.4rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
td.text:last-child { white-space: normal; min-width: 14rem; }
tr.chosen { font-weight: 600; background: var(--card); }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; }
footer { margin-top: 3rem; font-size: .85rem; }
"""


@dataclass(frozen=True)
class Sheet:
    """One table; ``left`` are the columns of text, ``chosen`` the rows to stand out."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    chosen: Sequence[int] = ()

    @classmethod
    def of(
        cls,
        caption: str,
        rows: Sequence[Any],
        columns: Mapping[str, Column],
        left: Sequence[int],
        chosen: Sequence[int] = (),
    ) -> Sheet:
        """Return a table of rows; a column is a key of the rows, or a function of one."""
        cells = [[str(row[c]) if isinstance(c, str) else c(row) for c in columns.values()] for row in rows]
        return cls(caption, tuple(columns), cells, left, chosen)


@dataclass(frozen=True)
class Picture:
    """One picture, PNG, and what it shows."""

    caption: str
    data: bytes


@dataclass
class Page:
    """What is told of a run."""

    title: str
    kind: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    certificate: list[str] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def picture(
        self, folder: Path, name: str, caption: str, draw: Callable[[Any], Any] | None = None, height: float = 4.4
    ) -> None:
        """Take a picture of the run's folder, or draw it on axes where it is not there."""
        file = folder / name
        if name and file.is_file():
            data = file.read_bytes()
            if not data.startswith(PNG) or len(data) > MOST_BYTES:
                self.notes.append(f"{name} is left out: no PNG, or larger than {MOST_BYTES:,} bytes")
                return
            self.pictures.append(Picture(caption, data))
        elif draw is not None:
            try:
                self.pictures.append(Picture(caption, drawn(draw, height)))
            except ImportError:
                note = "pictures are missing: they need matplotlib (pip install 'prunopt[plot]')"
                self.notes += [] if note in self.notes else [note]

    def html(self) -> str:
        """Return the whole file."""
        parts = [
            f"<h1>{escape(self.title)}</h1>",
            f'<p class="kind">{escape(self.kind)}</p>',
            "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(text)}</dd>" for n, text in self.facts) + "</dl>",
        ]
        if self.certificate:
            lines = "".join(f"<p>{escape(line)}</p>" for line in self.certificate)
            parts.append(f'<section class="proof"><h2>What is proven</h2>{lines}</section>')
        parts += [_figure(picture) for picture in self.pictures]
        parts += [_table(sheet) for sheet in self.sheets]
        if self.notes:
            parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(n)}</li>" for n in self.notes) + "</ul>")
        from prunopt import __version__

        parts.append(f"<footer>prunopt {escape(__version__)}, prunopt report</footer>")
        body = "\n".join(parts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )


def drawn(draw: Callable[[Any], Any], height: float) -> bytes:
    """Return as PNG what ``draw`` draws on new axes, 7.2 by ``height`` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode("ascii")
    text = escape(picture.caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _table(sheet: Sheet) -> str:
    def line(cells: Sequence[str], tag: str, chosen: bool = False) -> str:
        marks = (' class="text"' if i in sheet.left else "" for i in range(len(cells)))
        inside = "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
        return f'<tr class="chosen">{inside}</tr>' if chosen else f"<tr>{inside}</tr>"

    rows = "".join(line(row, "td", i in sheet.chosen) for i, row in enumerate(sheet.rows))
    head = line(sheet.heads, "th")
    caption = f"<caption>{escape(sheet.caption)}</caption>"
    return f'<div class="wide"><table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table></div>'

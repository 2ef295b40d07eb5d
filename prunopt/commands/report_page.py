"""A page of a run: what it holds, and how it becomes one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

Column: TypeAlias = str | Callable[[Any], str]
PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 16_000_000  # of a picture
# Nothing is loaded and nothing runs, whatever the text of a run holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Sheet:
    """One table; ``left`` are the columns of text, ``chosen`` the rows to stand out; ``folded`` opens on a click."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    chosen: Sequence[int] = ()
    folded: bool = False

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

    @property
    def base64(self) -> str:
        """The picture as text, for the address of an image."""
        return base64.b64encode(self.data).decode("ascii")


@dataclass
class Page:
    """What is told of a run; ``lead`` are its main figures: a name, a value, and what to compare it with."""

    title: str
    kind: str
    lead: list[tuple[str, str, str]] = field(default_factory=list)
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
        from jinja2 import Environment, StrictUndefined

        from prunopt import __version__

        text = resources.files(__package__).joinpath(TEMPLATE).read_text("utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(text).render(page=self, policy=POLICY, version=__version__)


def drawn(draw: Callable[[Any], Any], height: float) -> bytes:
    """Return as PNG what ``draw`` draws on new axes, 7.2 by ``height`` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()

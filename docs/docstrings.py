"""For the site: reStructuredText of docstrings as Markdown, formulas as MathML.

No script runs in the browser, and nothing is loaded from a network.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

BLOCK = re.compile(
    r"^( *)\.\. math::(.*(?:\n(?:\1 +\S.*| *(?=\n\1 +\S)))*)", re.MULTILINE
)


class Formulas(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """Return a docstring with formulas as MathML and references as plain text."""
    text = BLOCK.sub(
        lambda found: f"\n{found[1]}{formula(found[2], 'block')}\n", text
    )
    text = re.sub(
        r":math:`([^`]+)`", lambda found: formula(found[1], "inline"), text
    )
    text = re.sub(r"\[(\d+)\]_", r"\\[\1\\]", text)
    return re.sub(r"^( *)\.\. \[(\d+)\] ", r"\1\\[\2\\] ", text, flags=re.MULTILINE)


def formula(latex: str, display: str) -> str:
    """Return one formula as MathML on one line."""
    lines = " ".join(latex.split()).replace(r"\;", r"\ ")
    return " ".join(convert(lines, display=display).split())

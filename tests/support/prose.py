"""Where a file of the project speaks to people: its text without code, names and keys."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator

# What is not prose within prose: code spans, fields of f-strings, names of parameters on a line of their own, links.
CODE = re.compile(
    r"``[^`]*``|`[^`\n]*`|\{[^{}\n]*\}|\]\([^)\s]*\)|https?://\S+"
    r"|^[ \t]*\*{0,2}\w+(?:, \*{0,2}\w+)*(?: : .*)?$",
    re.MULTILINE,
)
FENCE = re.compile(r"^[ \t]*```.*?^[ \t]*```", re.MULTILINE | re.DOTALL)


def prose(name: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of a file, ``text[start:stop]``, that are prose."""
    parts = _of_code(text) if name.endswith(".py") else _without(FENCE, text, 0, len(text))
    for start, stop in parts:
        yield from _without(CODE, text, start, stop)


def _without(pattern: re.Pattern[str], text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text, start, stop):
        if start < match.start():
            yield start, match.start()
        start = match.end()
    if start < stop:
        yield start, stop


def _of_code(text: str) -> Iterator[tuple[int, int]]:
    """Comments, and strings of more than one word: one word is a key or an option."""
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    strings = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in strings and " " in token.string.strip():
            yield lines[token.start[0] - 1] + token.start[1], lines[token.end[0] - 1] + token.end[1]

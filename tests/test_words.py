"""How the project writes: phrases that readers stumbled over, and one word for one thing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prose import prose

ROOT = Path(__file__).parents[1]
TEXTS = {".py", ".md", ".ipynb", ".toml", ".yml", ".cff"}
# The record of what was, this list, and the aliases of old names with their tests.
EXEMPT = {"CHANGELOG.md", "tests/test_words.py", "tests/forests/test_old_names.py"} | {
    "prunopt/networks/transformers/second_text.py"  # prose that models are scored on
}
ALIAS = re.compile(r"renamed_\w+\(.*")

PHRASES = {
    r"\bthe house\b": "the project, or say which part",
    r"\bdear(est|er)?\b": "costly, costlier, expensive",
    r"\bin company\b": "say with what",
    r"\bby the word of\b": "as X reports",
    r"\btaken anew\b|\banew\b": "again, from scratch, rebuilt",
    r"\bstands? in (for|front)\b": "replaces, is a surrogate for, lies before",
    r"\bnone claimed\b": "no bound",
    r"\b(a|an) (weight|patient|row) \d|\d(\.\d+)? (bits?|bytes?|dollars?|CAD) an? \w+": "per weight, per patient",
    r"\bnats a token\b": "nats per token",
    r"\blevel with\b": "on par with",
    r"\bshares? out\b": "allocates",
    r"\btariffs?\b": "price list, cost list",
    r"\bsaid plainly\b": "Limitations",
    r"\bas it was pruned with\b": "used when pruning",
    r"(?<!there )\b(is|are) no (form|number|part|search|journal|block|leaves|features|integers|model)\b": "is not a",
    r"\blayers bear\b|\bbears? (the|its|more|less)\b": "tolerate, carry",
    r"\bleaves the house\b": "is exported, is removed",
}

# What the forests' world calls things, and the words that it left.
GLOSSARY = {
    r"\bpurchases?\b|\bbuys a feature\b": "acquire, acquisition",
    r"\bfeature prices?\b": "feature cost",
    r"\blambda price\b": "penalty",
}

# British spellings; names of the code may have them, prose may not.
STEMS = (
    "normal|optim|minim|maxim|regular|random|penal|recogn|initial|standard|linear|quant|parametr|summar|general|organ|"
    "special|serial|token|discret|synchron|custom"
)
BRITISH = {
    rf"\b(un|re|de)?({STEMS})is(e|ed|es|er|ers|ing|ation|ations)\b(?![=(])": "-ize",
    r"\b(un)?centr(e|ed|es|ing)\b": "center",
    r"(?<!')\b(behavi|col|fav|hon|lab|neighb)our\w*": "-or",
    r"\b(label|model|cancel|travel)l(ed|ing)\b": "one l",
    r"\blicences?\b": "license",
    r"\bgrey\b": "gray",
    r"\b(artefact|judgement|learnt|catalogue)s?\b": "artifact, judgment, learned, catalog",
}


def texts() -> Iterator[tuple[str, str]]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, found.split("\0")):
        file = ROOT / name
        if (
            file.suffix in TEXTS
            and name not in EXEMPT
            and file.is_file()
            and not name.startswith("benchmarks/results/")
        ):
            yield name, ALIAS.sub("", file.read_text(encoding="utf-8"))


def hits(patterns: dict[str, str], pages: Iterator[tuple[str, str]]) -> list[str]:
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}: write {better}"
        for name, text in pages
        for pattern, better in patterns.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


@pytest.fixture(scope="module")
def pages() -> list[tuple[str, str]]:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: the list of files is git's")
    return list(texts())


def test_phrases(pages: list[tuple[str, str]]) -> None:
    assert hits(PHRASES, iter(pages)) == []


def test_glossary(pages: list[tuple[str, str]]) -> None:
    assert hits(GLOSSARY, iter(pages)) == []


def test_spelling_is_american(pages: list[tuple[str, str]]) -> None:
    """Notebooks are lists of strings of code and prose alike, results pages are generated: both are left out."""
    suspect = re.compile("|".join(BRITISH), re.IGNORECASE)
    said = (
        (f"{name}:{text.count(chr(10), 0, start) + 1}", text[start:stop])
        for name, text in pages
        if suspect.search(text)
        and name.endswith((".py", ".md"))
        and not name.startswith(("docs/results", "benchmarks/"))
        for start, stop in prose(name, text)
    )
    found = [f"{place}: {match.group()}" for place, text in said for match in suspect.finditer(text)]
    assert found == []


def test_a_phrase_is_found() -> None:
    planted = [("a.md", "one\nThe model leaves the house at 4 bytes a weight, by the word of CBC.\n")]
    assert [line.split(":")[1] for line in hits(PHRASES, iter(planted))] == ["2"] * 4

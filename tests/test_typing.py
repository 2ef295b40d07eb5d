"""Type checkers see the signatures of what is loaded lazily: a misspelt keyword is an error, the right call is none."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")
ROOT = Path(__file__).parents[1]
# Other packages are not read, which would take minutes; of torch only what keeps the type of a decorated function.
TORCH = """
from typing import Any, TypeVar
F = TypeVar("F")
class no_grad:
    def __call__(self, function: F) -> F: ...
def __getattr__(name: str) -> Any: ...
"""
CALLS = """
from typing import Any
import prunopt as po
from prunopt.forests import budget_path
from prunopt.networks import prune_cnn, prune_transformer

def right(x: Any) -> None:
    po.solve(x, "highs", seed=1)
    po.search(x, trials=3)
    po.verify(x, x)
    budget_path(x, x, x, feature_costs=x)
    prune_transformer(x, x, sparsity=0.3)
    prune_cnn(x, x, budget=x)

def wrong(x: Any) -> None:
    po.solve(x, "highs", sede=1)
    po.search(x, trails=3)
    budget_path(x, x, x, feature_cost=x)
    prune_transformer(x, x, sparcity=0.3)
    prune_cnn(x, x, bugdet=x)
    po.solve(x).gapp
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says of each line of `CALLS`."""
    place = tmp_path_factory.mktemp("typed")
    (place / "stubs" / "torch").mkdir(parents=True)
    (place / "stubs" / "torch" / "__init__.pyi").write_text(TORCH)
    (place / "calls.py").write_text(CALLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", os.pathsep.join(map(str, (place / "stubs", ROOT))))
        words = ["--config-file=", "--no-site-packages", "--ignore-missing-imports", "--explicit-package-bases"]
        words += ["--follow-imports=silent", "--cache-dir", str(place / "cache"), str(place / "calls.py")]
        said, faults, _ = api.run(words)
    assert not faults, faults
    lines = [re.match(r".*calls\.py:(\d+): error: (.*)", line) for line in said.splitlines()]
    return {int(line[1]): line[2] for line in lines if line}


@pytest.mark.parametrize("call", re.findall(r"^    (\S.*)$", CALLS, re.MULTILINE))
def test_keywords_are_checked(errors: dict[int, str], call: str) -> None:
    number = next(n for n, line in enumerate(CALLS.splitlines(), 1) if line.strip() == call)
    wrong = number > CALLS.splitlines().index("def wrong(x: Any) -> None:")
    said = errors.get(number, "")
    assert bool(said) == wrong, said
    if wrong:
        assert re.search(r'keyword argument|has no attribute "gapp"', said), said

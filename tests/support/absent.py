"""A process without some packages, as if they were not installed."""

from __future__ import annotations

from collections.abc import Sequence

_CODE = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def code_without(modules: Sequence[str]) -> str:
    """Return the Python lines after which no import finds ``modules``."""
    return _CODE.format(modules=tuple(modules))

"""Searches that are kept: storages, workers, and what is read back from them; `prunopt.search` opens one."""

from prunopt.study.results import SearchRun as SearchRun
from prunopt.study.results import SearchTrial as SearchTrial

__all__ = ["SearchRun", "SearchTrial"]

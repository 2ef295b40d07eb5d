"""Every registered solver on every instance of its form."""

from __future__ import annotations

import pytest

from prunopt.testing import Case, check, conformance_cases


@pytest.mark.parametrize("case", conformance_cases(), ids=str)
def test_conformance(case: Case) -> None:
    check(case)

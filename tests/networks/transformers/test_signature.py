"""Signatures stay short."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from prunopt.networks import transformers


@pytest.mark.parametrize("name", transformers.__all__)
def test_no_function_has_more_than_ten_parameters(name: str) -> None:
    found = getattr(transformers, name)
    if inspect.isfunction(found):
        assert len(inspect.signature(found).parameters) <= 10

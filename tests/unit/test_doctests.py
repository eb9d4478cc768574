"""The examples in docstrings run."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["errors", "expressions", "pipeline", "spreadsheet"])
def test_examples(name: str) -> None:
    failed, tried = doctest.testmod(import_module(f"nightjar.core.{name}"))
    assert (failed, tried > 0) == (0, True)

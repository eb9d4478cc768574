"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The main module of a worker of pytest-xdist has neither a file nor a spec: pyspark takes that for
# its own doctests, and leaves.
if not hasattr(sys.modules["__main__"], "__file__"):
    sys.modules["__main__"].__file__ = __file__


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, a folder's tests stay together: they share sessions and trained projects."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            folder = item.path.relative_to(Path(__file__).parent).parts[0]
            item.add_marker(pytest.mark.xdist_group(folder))

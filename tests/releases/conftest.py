from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from forge import PIPELINE, Batch

from nightjar.core.releases import ReleaseLog


@pytest.fixture(scope="session")
def batches(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Batch]:
    """Nights 0-5, runs a-c, each of two files."""
    root = tmp_path_factory.mktemp("batches")
    return {(n, run): Batch(root, n, run).write() for n in range(6) for run in "abc"}


@pytest.fixture
def log(tmp_path: Path) -> ReleaseLog:
    return ReleaseLog(tmp_path, PIPELINE)

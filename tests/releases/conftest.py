from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
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
def place() -> Iterator[Path]:
    """A folder in memory where there is one: fsync is called as ever, and does not wait."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made) / "w"


@pytest.fixture
def log(tmp_path: Path) -> ReleaseLog:
    return ReleaseLog(tmp_path, PIPELINE)

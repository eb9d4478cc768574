"""A small project whose files a test may change, and faults as plain pairs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightjar.core.project import Project

Edit = Callable[[str, str, str], int]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    shutil.copytree(Path(__file__).parent / "project", root)
    return Project(root, tmp_path / "warehouse")


@pytest.fixture
def edit(project: Project) -> Edit:
    """Replace the one place in a file that holds `old`; the answer is its line number."""

    def replace(file: str, old: str, new: str) -> int:
        path = project.root / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))
        return text[: text.index(old)].count("\n") + 1

    return replace

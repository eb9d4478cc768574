"""A small copy of the project: real flights of a few weeks, models that train in seconds."""

import shutil
from pathlib import Path

import pytest
from tests.e2e.project import AS_OF, HISTORY, NIGHT, Shell, copy_project, relocate

from nightjar.demo import PIPELINE, land


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two weeks of history loaded and a champion. Copy it; do not change it."""
    project = tmp_path_factory.mktemp("flights") / "project"
    copy_project(project)
    land(project / "warehouse")
    shell = Shell(project)
    first, last = map(str, HISTORY)
    shell.nightjar("load", PIPELINE, "--from", first, "--to", last)
    shell.nightjar("train", PIPELINE, "--as-of", str(AS_OF))
    return project


@pytest.fixture
def copy_of_trained(trained: Path, tmp_path: Path) -> Path:
    project = tmp_path / "project"
    shutil.copytree(trained, project, symlinks=True)
    relocate(trained, project)
    return project


@pytest.fixture(scope="session")
def released(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained project with the night released."""
    project = tmp_path_factory.mktemp("released") / "project"
    shutil.copytree(trained, project, symlinks=True)
    relocate(trained, project)
    Shell(project).nightjar("run", PIPELINE, "--ds", str(NIGHT))
    return project

"""Tests in the orchestrator environment: .venv-orchestrator/bin/pytest tests/dags."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HAS_AIRFLOW = importlib.util.find_spec("airflow") is not None
collect_ignore_glob = [] if HAS_AIRFLOW else ["test_*.py"]

if HAS_AIRFLOW:  # Airflow reads its settings when it is imported
    HOME = tempfile.mkdtemp(prefix="nightjar-airflow-")
    os.environ.update(
        {
            "AIRFLOW_HOME": HOME,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        }
    )


def pytest_unconfigure() -> None:
    if HAS_AIRFLOW:
        shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's own files."""
    for folder in ("pipelines", "schemas", "dags", "jobs", "spark-conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def settings(project: Path):
    """Puts a section `orchestration` into the flights pipeline of the copy."""

    def write(text: str) -> Path:
        path = project / "pipelines" / "flight_delays.yaml"
        body, _, _ = path.read_text().partition("\norchestration:")
        path.write_text(f"{body}\norchestration: {text}\n")
        return project

    return write
